"""Batches of held samples that worker processes change, while this process trains on those before.

What a sample becomes follows from its key, so the batches are those that this process would have made. A worker's batch
comes as bytes, a row for each sample, with all tensors of inputs and targets one behind the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mlcli.data.batches import InputStream, Part
from mlcli.data.source import Samples
from mlcli.engine.contract import Batch

ALIGNED = 16
"""Bytes that each tensor of a row begins at a multiple of; the first of them say of which type the inputs are."""


@dataclass(frozen=True)
class Changer:
    """What a worker does with a part: take the samples, change them, make rows of bytes of the batch.

    held: where samples are taken from. change: makes a batch of inputs of a part.
    rows: how bytes are laid out.
    """

    samples: Samples
    held: InputStream
    change: Callable[[Tensor, Part], Batch]
    rows: "Rows"

    def __call__(self, part: Part) -> Tensor:
        ((_, inputs),) = self.held.fetch([part])
        return self.rows.packed(self.change(inputs, part).tensors())


class Rows:
    """The layout of batches as bytes; those that come after may have uint8 inputs in place of float32 ones.

    example: the tensors of a batch, [B, ...] each, the inputs first. `unpacked(packed(tensors))` are the same tensors.
    """

    def __init__(self, example: Sequence[Tensor]) -> None:
        self._shapes = [one.shape[1:] for one in example]
        self._types = [one.dtype for one in example]
        sizes = [prod(one.shape[1:]) * (4 if not place else one.element_size()) for place, one in enumerate(example)]
        self._starts = [ALIGNED]
        for size in sizes:
            self._starts.append(self._starts[-1] + -(-size // ALIGNED) * ALIGNED)

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return self._starts[-1]

    def packed(self, tensors: Sequence[Tensor]) -> Tensor:
        """[B, ...] each -> uint8 [B, width]."""
        rows = torch.zeros(len(tensors[0]), self.width, dtype=torch.uint8)
        rows[:, 0] = tensors[0].is_floating_point()
        for start, one in zip(self._starts, tensors, strict=False):
            own = one.reshape(len(one), prod(one.shape[1:])).contiguous().view(torch.uint8)
            rows[:, start : start + own.shape[1]] = own
        return rows

    def unpacked(self, rows: Tensor) -> list[Tensor]:
        """uint8 [B, width] -> copies of the tensors that went in."""
        types = [torch.float32 if rows[0, 0] else torch.uint8, *self._types[1:]]
        found = []
        for start, shape, dtype in zip(self._starts, self._shapes, types, strict=False):
            own = rows[:, start : start + prod(shape) * dtype.itemsize].clone()
            found.append(own.view(dtype).view(len(rows), *shape))
        return found
