"""Inputs that lie in memory: batches are rows of one tensor, and no worker is needed."""

import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from mlcli.data.order import Part, in_order
from mlcli.data.reading import Inputs

READ_BATCH = 64  # files a worker reads at once: much work for a message, little for a split


class HeldInputs:
    """Batches from a tensor [N, ...] that lies in RAM or already on the device."""

    def __init__(self, inputs: Tensor, device: torch.device) -> None:
        self._inputs, self._device = inputs, device

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        for part in parts:
            yield part, self._rows(part.indices)

    def close(self) -> None:
        pass

    def _rows(self, indices: Tensor) -> Tensor:
        inputs, device = self._inputs, self._device
        if inputs.device.type == device.type:
            return inputs.index_select(0, indices.to(device, non_blocking=True))
        # Gathered straight into page-locked memory, from which a GPU copies while this process goes on.
        pinned = device.type == "cuda"
        rows = torch.empty((len(indices), *inputs.shape[1:]), dtype=inputs.dtype, pin_memory=pinned)
        return torch.index_select(inputs, 0, indices, out=rows).to(device, non_blocking=pinned)


class DecodedInputs:
    """All files of a split, read when the first batch is asked for and held from then on.

    Args:
        reader: reads the files, READ_BATCH at once; closed when it is through.
        shape: [N, C, H, W] of the whole split.
        held_on: where the pixels lie, RAM or the device.
        device: where batches are wanted.
        label: the split's name, for the progress bar.
    """

    def __init__(
        self, reader: Inputs, shape: tuple[int, ...], held_on: torch.device, device: torch.device, label: str
    ) -> None:
        self._reader, self._shape, self._held_on, self._device, self._label = reader, shape, held_on, device, label

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        return self._held.fetch(parts)

    def close(self) -> None:
        self._reader.close()

    @cached_property
    def _held(self) -> HeldInputs:
        from tqdm import tqdm

        pixels = torch.empty(self._shape, dtype=torch.uint8)
        # disable=None: no bar where standard error is not a terminal.
        what = f"reading {self._label}"
        with tqdm(total=len(pixels), desc=what, unit="img", disable=None, file=sys.stderr, leave=False) as bar:
            for part, images in self._reader.fetch(in_order(len(pixels), READ_BATCH)):
                pixels[part.indices[0] : part.indices[0] + len(part)] = images
                bar.update(len(part))
        self._reader.close()
        return HeldInputs(pixels.to(self._held_on), self._device)
