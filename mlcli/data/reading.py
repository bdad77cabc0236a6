"""Reading micro-batches of image files in this process; `workers` does the same ahead of time in others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mlcli.data.augment.crop import sample_crop_boxes
from mlcli.data.augmentations import RandomResizedCrop
from mlcli.data.order import Part
from mlcli.data.randomness import KeyedRandom
from mlcli.data.source import Samples
from mlcli.errors import UserError
from mlcli.text import first_few


class Inputs(Protocol):
    """Where the inputs of micro-batches come from."""

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Each part with its inputs, in order. `parts` may be asked ahead of what is taken. One round at a time."""

    def close(self) -> None:
        """Stop what runs in the background."""


class FileSamples(Samples, Protocol):
    """A split of image files, whose original pixels can be read in parts."""

    def aspect_ratios(self, indices: np.ndarray) -> np.ndarray:
        """Width / height of each original: float32 [B]."""

    def read_crops(self, indices: np.ndarray, crops: np.ndarray) -> Tensor:
        """Parts of the originals, resized: uint8 [B, C, H, W]. crops: (top, left, height, width) in shares, [B, 4]."""


@dataclass(frozen=True)
class FileReader:
    """Reads the inputs of a micro-batch: uint8 [B, C, H, W] on the CPU. Raises DataError, naming the file.

    crop: a random resized crop to be cut from the original pixels, and the stream its boxes are drawn from.
    """

    samples: FileSamples
    crop: tuple[RandomResizedCrop, int] | None = None

    def __call__(self, part: Part) -> Tensor:
        indices = part.indices.numpy()
        if self.crop is None:
            return self.samples.read(indices)
        config, stream = self.crop
        aspects = torch.from_numpy(self.samples.aspect_ratios(indices))
        boxes = sample_crop_boxes(KeyedRandom(part.keys, stream), config, aspects)
        return self.samples.read_crops(indices, boxes.numpy())


class ReadHere:
    """No workers: read when asked.

    copy: moves a batch to where it is wanted.
    """

    def __init__(self, read: FileReader, copy: Callable[[Tensor], Tensor]) -> None:
        self._read, self._copy = read, copy

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        for part in parts:
            try:
                images = self._read(part)
            except UserError:
                raise
            except Exception as error:  # a bug; which file brought it to light is half of finding it
                error.add_note(f"while reading {some_of(part, self._read.samples.name)}")
                raise
            yield part, self._copy(images)

    def close(self) -> None:
        pass


def some_of(part: Part, name: Callable[[int], str]) -> str:
    """`a.png, b.png, c.png and 61 more`"""
    return first_few([name(index) for index in part.indices.tolist()], 3)
