"""Inputs that lie in memory: batches are rows of one tensor, and no worker is needed."""

import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from mlcli.data.disk_cache import READ_BATCH, DiskCache
from mlcli.data.order import Part, in_order
from mlcli.data.reading import Inputs


class HeldInputs:
    """Batches from a tensor [N, ...] that lies in RAM, in a file mapped into it, or already on the device."""

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
        reader: reads the files, READ_BATCH at once, into RAM; closed when it is through.
        shape: [N, C, H, W] of the whole split.
        held_on: where the pixels lie, RAM or the device.
        device: where batches are wanted.
        label: the split's name, for the progress bar.
        disk: where they lie instead, and perhaps did before: then no file is read.
    """

    def __init__(
        self,
        reader: Inputs,
        shape: tuple[int, ...],
        held_on: torch.device,
        device: torch.device,
        label: str,
        disk: DiskCache | None = None,
    ) -> None:
        self._reader, self._shape, self._held_on, self._device, self._label = reader, shape, held_on, device, label
        self._disk = disk

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        return self._held.fetch(parts)

    def close(self) -> None:
        self._reader.close()

    @cached_property
    def _held(self) -> HeldInputs:
        if self._disk is not None:
            pixels = self._disk.open()
            if pixels is None:
                pixels = self._disk.fill(images for _, images in self._read())
        else:
            pixels = torch.empty(self._shape, dtype=torch.uint8)
            for part, images in self._read():
                pixels[part.indices[0] : part.indices[0] + len(part)] = images
        return HeldInputs(pixels.to(self._held_on), self._device)

    def _read(self) -> Iterator[tuple[Part, Tensor]]:
        """Every sample once, in order."""
        from tqdm import tqdm

        num = self._shape[0]
        # disable=None: no bar where standard error is not a terminal.
        what = f"reading {self._label}"
        with tqdm(total=num, desc=what, unit="img", disable=None, file=sys.stderr, leave=False) as bar:
            for part, images in self._reader.fetch(in_order(num, READ_BATCH)):
                yield part, images
                bar.update(len(part))
        self._reader.close()
