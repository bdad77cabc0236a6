"""All images of a data set in one row, and one look at each: its header, whether it can be decoded, 32x32 pixels of it.

60,000 JPEGs of 32x32 pixels took 26 s on one core. Where all would take longer than a minute, so many images are drawn
at random (from a fixed seed) as take one, which the page states.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from PIL import Image

from mlcli.data import places
from mlcli.data.decode import ImageSource, Preparation, opened, orientation, read_image, upright_size
from mlcli.data.inspection import CHUNK, MAX_THREADS, THREADS_PAY_S, chunks_of, drawn, in_chunks
from mlcli.data.source import Arrays, Samples
from mlcli.engine.limits import usable_cpus
from mlcli.errors import DataError

SIDE = 32
"""Pixels of the sides of what is kept of an image: enough to recognise it by; 3 kB, so 300 MB of 100,000."""
READ_S = 50.0
LEAST_READ, MAX_READ = 1_000, 100_000
SEED = 0  # of the sample, where there is one
BLANK_SPREAD = 3
"""Grey levels between the darkest and the brightest pixel that dust and JPEG make of an empty picture."""
GREY_SPREAD = 6
"""Levels between the channels that JPEG makes of a grey picture stored as colour."""


# --- the images ----------------------------------------------------------------------------------------------------


class Pictures(Protocol):
    """The images themselves, in one row."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The file, relative to the data set's folder, or the place in the data set."""

    def picture(self, index: int) -> Image.Image:
        """The whole upright image at its own size, RGB. Raises DataError."""


@dataclass(frozen=True, eq=False)
class FilePictures:
    """Image files: paths are bytes [N], relative to root; or rows of shards."""

    root: places.Root
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return places.relative(self.root, self.paths[index])

    def picture(self, index: int) -> Image.Image:
        return read_image(places.source(self.root, self.paths[index]), 3, name=self.name(index))


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
        pixels = self.pixels(index)
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")

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


@dataclass(frozen=True, eq=False)
class Collection:
    """Facts about each image that need no decoding.

    labels: int64 [N], UNLABELLED where there is none (object detection).
    split_of: int8 [N], positions in `splits`.
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
        """Images of each split."""
        return {split: int((self.split_of == number).sum()) for number, split in enumerate(self.splits)}

    def label_counts(self) -> dict[str, np.ndarray]:
        """Images of each class in each split, int64 [C]; empty where there are no labels."""
        table = {}
        for number, split in enumerate(self.splits):
            labels = self.labels[self.split_of == number]
            table[split] = np.bincount(labels[labels >= 0], minlength=len(self.class_names))
        return table if any(counts.any() for counts in table.values()) else {}


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


# --- a look at each -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The header of one file.

    width, height: of the upright image, in pixels.
    frames: more than one in animations and files of several pages.
    rotated: whether the EXIF orientation turns or mirrors it.
    """

    format: str
    mode: str
    width: int
    height: int
    frames: int = 1
    rotated: bool = False
    alpha: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """The images that were looked at.

    read: sorted positions in the data set of the images looked at: int64 [M].
    ok: of those, which could be decoded: bool [M].
    looks: of each header, None where it could not be read.
    pixels: uint8 [M, 3, 32, 32], each image stretched to it; zeros where it could not be decoded.
    faults: what is wrong with those that could not be decoded, by position in the data set.
    """

    read: np.ndarray
    ok: np.ndarray
    looks: list[Look | None]
    pixels: np.ndarray
    faults: dict[int, str]
    total: int
    seconds: float
    """The time it took."""

    @property
    def complete(self) -> bool:
        return len(self.read) == self.total


def scan(pictures: Pictures, *, everything: bool = False) -> Scan:
    """Look at all images, or unless `everything` is wanted at as many as can be read in about `READ_S` seconds."""
    started = time.perf_counter()
    if isinstance(pictures, HeldPictures):
        indices = drawn(len(pictures), MAX_READ, SEED)
        parts: Iterator[Part] = (_held(pictures, chunk) for chunk in chunks_of(indices))
    else:
        assert isinstance(pictures, FilePictures)
        trial = drawn(len(pictures), CHUNK, SEED)  # from all over: how long an image takes
        _files(pictures, trial)
        each_s = (time.perf_counter() - started) / max(1, len(trial))
        threads = min(MAX_THREADS, usable_cpus()) if each_s > THREADS_PAY_S else 1
        affordable = int(READ_S * threads / max(each_s, 1e-6))
        most = len(pictures) if everything else min(MAX_READ, max(LEAST_READ, affordable))
        indices = drawn(len(pictures), most, SEED)
        parts = in_chunks(partial(_files, pictures), indices, "reading images")
    pixels = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
    ok = np.zeros(len(indices), dtype=bool)
    looks: list[Look | None] = []
    faults: dict[int, str] = {}
    for chunk_looks, chunk_pixels, wrong in parts:
        here = slice(len(looks), len(looks) + len(chunk_looks))
        looks += chunk_looks
        pixels[here] = chunk_pixels
        ok[here] = [index not in wrong for index in indices[here].tolist()]
        faults |= wrong
    return Scan(indices, ok, looks, pixels, faults, len(pictures), time.perf_counter() - started)


Part = tuple[list[Look | None], np.ndarray, dict[int, str]]
"""Looks, pixels and faults of a chunk."""


# --- one chunk -------------------------------------------------------------------------------------------------------


def _files(pictures: FilePictures, indices: np.ndarray) -> Part:
    preparation = Preparation((SIDE, SIDE), "stretch", 3)
    pixels = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
    looks: list[Look | None] = []
    faults = {}
    for index, out in zip(indices.tolist(), pixels, strict=True):
        look = None
        try:
            found = places.source(pictures.root, pictures.paths[index])
            look = _look(found)
            preparation.decode(found, out)
        except DataError as error:
            faults[index] = error.what.removeprefix("cannot read image: ")
            out[...] = 0
        looks.append(look)
    return looks, pixels, faults


def _look(source: ImageSource) -> Look:
    with opened(source) as image:
        width, height = upright_size(image)
        rotated = orientation(image) in range(2, 9)
        frames = getattr(image, "n_frames", 1)  # formats of one picture have none
        return Look(image.format or "", image.mode, width, height, frames, rotated, image.has_transparency_data)


def _held(pictures: HeldPictures, indices: np.ndarray) -> Part:
    looks: list[Look | None] = []
    pixels = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
    for index, out in zip(indices.tolist(), pixels, strict=True):
        held = pictures.pixels(index)
        channels, height, width = held.shape
        looks.append(Look("", "L" if channels == 1 else "RGB", width, height))
        if (height, width) != (SIDE, SIDE):
            planes = [Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for plane in held]
            held = np.stack([np.asarray(plane) for plane in planes])
        out[...] = held
    return looks, pixels, {}


def blank_images(scan: Scan) -> np.ndarray:
    """bool [M]: of one colour everywhere (in every channel)."""
    flat = scan.pixels.reshape(len(scan.pixels), 3, -1).astype(np.int16)
    return (flat.max(axis=2) - flat.min(axis=2) <= BLANK_SPREAD).all(axis=1)
