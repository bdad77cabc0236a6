"""All images of a data set in one row, whichever split they are in, readable one by one: in files or in memory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from mlcli.data.decode import read_image
from mlcli.data.source import Arrays, Samples
from mlcli.errors import DataError

UNLABELLED = -1


class Pictures(Protocol):
    """The images themselves, in one row."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The file, relative to the data set's folder, or the place in the data set."""

    def picture(self, index: int) -> Image.Image:
        """The whole upright image at its own size, RGB. Raises DataError."""


@dataclass(frozen=True, eq=False)
class FilePictures:
    """Image files: paths (bytes [N], relative to root)."""

    root: str
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[index])))

    def name(self, index: int) -> str:
        return bytes(self.paths[index]).decode(errors="backslashreplace")

    def picture(self, index: int) -> Image.Image:
        return read_image(self.path(index), 3, name=self.name(index))


@dataclass(frozen=True, eq=False)
class HeldPictures:
    """Images that lie in memory: the splits' uint8 [n, C, H, W] one after the other."""

    splits: Sequence[Arrays]

    def __len__(self) -> int:
        return sum(map(len, self.splits))

    def name(self, index: int) -> str:
        part, at = self._at(index)
        return part.name(at)

    def picture(self, index: int) -> Image.Image:
        return to_picture(self.pixels(index))

    def pixels(self, index: int) -> np.ndarray:
        """uint8 [C, H, W]"""
        part, at = self._at(index)
        return part.inputs[at].numpy()

    def _at(self, index: int) -> tuple[Arrays, int]:
        for part in self.splits:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)


def to_picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [1 or 3, H, W] as an RGB image."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    return image.convert("RGB")


@dataclass(frozen=True, eq=False)
class Collection:
    """What is known of each image without looking at it.

    labels: int64 [N], UNLABELLED where there is none (object detection).
    split_of: int8 [N], positions in `splits`.
    unit: what `labels` is one of each.
    """

    pictures: Pictures
    labels: np.ndarray
    class_names: tuple[str, ...]
    split_of: np.ndarray
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return self.pictures.name(index)

    def names(self, indices: np.ndarray) -> tuple[str, ...]:
        return tuple(map(self.name, np.asarray(indices).tolist()))

    def label(self, index: int) -> str:
        """The class's name; empty where there is no label."""
        label = self.labels[index]
        return self.class_names[label] if label >= 0 else ""

    def split(self, index: int) -> str:
        return self.splits[self.split_of[index]]

    def counts(self) -> dict[str, int]:
        return {split: int((self.split_of == number).sum()) for number, split in enumerate(self.splits)}


def held_collection(splits: dict[str, Samples], class_names: tuple[str, ...]) -> Collection:
    """A data set that lies in memory."""
    parts = [part for part in splits.values() if isinstance(part, Arrays)]
    assert len(parts) == len(splits)
    return Collection(
        HeldPictures(parts),
        np.concatenate([part.targets.numpy() for part in parts]),
        class_names,
        np.repeat(np.arange(len(parts), dtype=np.int8), [len(part) for part in parts]),
        tuple(splits),
    )


def readable(pictures: Pictures, index: int) -> Image.Image | None:
    """The image, or None if it cannot be read."""
    try:
        return pictures.picture(index)
    except DataError:
        return None
