"""Reading every image once: what its file says, whether it can be decoded, and 32x32 pixels of it to compare by.

60,000 JPEGs of 32x32 pixels took 26 s on one core. Where all would take longer than a minute, so many images are drawn
at random (from a fixed seed) as take one, and the page says so.
"""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from mlcli.data.check.collection import FilePictures, HeldPictures, Pictures
from mlcli.data.decode import Preparation, opened, upright_size
from mlcli.errors import DataError

SIDE = 32
"""Pixels of the sides of what is kept of an image: enough to recognise it by; 3 kB, so 300 MB of 100,000."""
READ_S = 50.0
LEAST_READ, MAX_READ = 1_000, 100_000
CHUNK = 64  # images read at once
THREADS_PAY_S = 5e-4  # an image; below, threads would wait for each other (measured in data/inspection.py)
MAX_THREADS = 16
SEED = 0  # of the sample, where there is one


@dataclass(frozen=True)
class Look:
    """What the header of one file says.

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
    """What was read.

    read: sorted positions in the data set of the images looked at: int64 [M].
    ok: of those, which could be decoded: bool [M].
    looks: what each header says, None where it could not be read.
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

    @property
    def complete(self) -> bool:
        return len(self.read) == self.total


def scan(pictures: Pictures) -> Scan:
    """Look at all images, or at as many as can be read in about `READ_S` seconds."""
    started = time.perf_counter()
    if isinstance(pictures, HeldPictures):
        indices = _sample(len(pictures), MAX_READ)
        parts: Iterator[Part] = (_held(pictures, chunk) for chunk in _chunks(indices))
    else:
        assert isinstance(pictures, FilePictures)
        indices, parts = _planned(pictures)
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


def _planned(pictures: FilePictures) -> tuple[np.ndarray, Iterator[Part]]:
    """What will be read, and its parts. How long an image takes is tried on a chunk drawn from all over."""
    trial = _sample(len(pictures), CHUNK)
    started = time.perf_counter()
    _files(pictures, trial)
    each_s = (time.perf_counter() - started) / max(1, len(trial))
    cpus = min(MAX_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    threads = cpus if each_s > THREADS_PAY_S else 1
    affordable = int(READ_S * threads / max(each_s, 1e-6))
    indices = _sample(len(pictures), min(MAX_READ, max(LEAST_READ, affordable)))
    return indices, _in_threads(pictures, indices, threads)


def _in_threads(pictures: FilePictures, indices: np.ndarray, threads: int) -> Iterator[Part]:
    """In order; a progress bar on terminals if it takes more than 2 s."""
    chunks = _chunks(indices)
    pool = ThreadPoolExecutor(threads)
    try:
        work = (pictures for _ in chunks)
        results = map(_files, work, chunks) if threads == 1 else pool.map(_files, itertools.repeat(pictures), chunks)
        yield from tqdm(results, "reading images", len(chunks), delay=2, leave=False, disable=not sys.stderr.isatty())
    finally:
        pool.shutdown(cancel_futures=True)


def _sample(total: int, limit: int) -> np.ndarray:
    if total <= limit:
        return np.arange(total)
    return np.sort(np.random.default_rng(SEED).choice(total, limit, replace=False))


def _chunks(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]


# --- one chunk -------------------------------------------------------------------------------------------------------


def _files(pictures: FilePictures, indices: np.ndarray) -> Part:
    preparation = Preparation((SIDE, SIDE), "stretch", 3)
    pixels = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
    looks: list[Look | None] = []
    faults = {}
    for index, out in zip(indices.tolist(), pixels, strict=True):
        path, look = pictures.path(index), None
        try:
            look = _look(path)
            preparation.decode(path, out)
        except DataError as error:
            faults[index] = error.what.removeprefix("cannot read image: ")
            out[...] = 0
        looks.append(look)
    return looks, pixels, faults


def _look(path: str) -> Look:
    with opened(path) as image:
        width, height = upright_size(image)
        orientation = 1 if image.format == "PNG" and "exif" not in image.info else image.getexif().get(0x0112, 1)
        frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "TIFF", "PNG", "MPO") else 1
        rotated = orientation in range(2, 9)
        return Look(image.format or "", image.mode, width, height, frames, rotated, image.has_transparency_data)


def _held(pictures: HeldPictures, indices: np.ndarray) -> Part:
    looks: list[Look | None] = []
    pixels = np.zeros((len(indices), 3, SIDE, SIDE), dtype=np.uint8)
    for index, out in zip(indices.tolist(), pixels, strict=True):
        held = pictures.pixels(index)
        channels, height, width = held.shape
        looks.append(Look("", "L" if channels == 1 else "RGB", width, height))
        out[...] = held if (height, width) == (SIDE, SIDE) else _stretched(held)
    return looks, pixels, {}


def _stretched(pixels: np.ndarray) -> np.ndarray:
    """[C, h, w] to [C, 32, 32]"""
    planes = [Image.fromarray(plane).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for plane in pixels]
    return np.stack([np.asarray(plane) for plane in planes])
