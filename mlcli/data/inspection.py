"""Looking at data before training: sizes and damage of image files, on all usable cores; mean and standard deviation.

Threads, not processes: Pillow lets go of the interpreter while it decodes and resizes, and threads start at once.
Images so small that most of the time is Python's are read one after the other: threads would wait for each other.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mlcli.data.decode import read_image
from mlcli.data.source import ImageFilesSamples
from mlcli.engine.limits import usable_cpus
from mlcli.errors import DataError
from mlcli.show.terminal import progress
from mlcli.text import first_few

MAX_HEADERS = 20_000  # about 2 s of reading
MAX_COUNTED = 5_000  # images; the mean of 5,000 is within 1.5 % of a standard deviation
CHUNK = 64  # files handed to a thread at once
THREADS_PAY_S = 5e-4  # an image; two threads on 32x32 JPEGs (1e-4) took 1.6 times as long as one
MAX_THREADS = 16  # more would wait for the interpreter: opening an image takes it 50 us

Result = TypeVar("Result")


def find_damaged(samples: ImageFilesSamples) -> dict[int, str]:
    """Decode every image; what is wrong with those that fail, by index."""

    def failures(indices: np.ndarray) -> list[tuple[int, str]]:
        found = []
        for index in indices.tolist():
            try:
                read_image(samples.source(index), samples.preparation.channels, name=samples.name(index))
            except DataError as error:
                found.append((index, error.what))
        return found

    return dict(failure for part in in_chunks(failures, np.arange(len(samples)), "checking") for failure in part)


def common_size(samples: Sequence[ImageFilesSamples], seed: int) -> tuple[int, int]:
    """Height and width that all images share, as the headers (of a sample, if there are many files) say.

    Raises DataError naming the sizes found if they differ.
    """
    counts: dict[tuple[int, int], int] = {}
    examples: dict[tuple[int, int], str] = {}
    total = sum(map(len, samples))
    for split in samples:
        indices = drawn(len(split), max(1, MAX_HEADERS * len(split) // total), seed)
        for chunk, found in zip(chunks_of(indices), in_chunks(split.sizes, indices, "reading sizes"), strict=True):
            for index, (width, height) in zip(chunk.tolist(), found.tolist(), strict=True):
                if (width, height) not in counts:
                    counts[width, height], examples[width, height] = 0, split.name(index)
                counts[width, height] += 1
    if len(counts) > 1:
        sizes = sorted(counts, key=lambda size: -counts[size])
        shorter = sorted(min(size) for size in counts for _ in range(counts[size]))
        listed = first_few([f"{width}x{height} ({counts[width, height]})" for width, height in sizes])
        where = f"{examples[sizes[0]]} and {examples[sizes[1]]}"
        fix = f"set the size they are brought to: data.image_size={min(224, shorter[len(shorter) // 2])}"
        raise DataError(f"images are of {len(counts)} different sizes: {listed}", where=where, fix=fix)
    width, height = next(iter(counts))
    return height, width


def count_pixels(samples: ImageFilesSamples, seed: int) -> tuple[np.ndarray, int]:
    """Count each pixel value in each channel, int64 [C, 256]; return also the number of images counted."""
    indices = drawn(len(samples), MAX_COUNTED, seed)
    parts = in_chunks(lambda chunk: pixel_counts(samples.read(chunk).numpy()), indices, "measuring pixels")
    return sum(parts, start=np.zeros(1, dtype=np.int64)), len(indices)


def drawn(from_: np.ndarray | int, limit: int, seed: int) -> np.ndarray:
    """Sorted indices (or how many there are): all, or `limit` of them drawn without replacement."""
    indices = np.arange(from_) if isinstance(from_, int) else from_
    return (
        indices if len(indices) <= limit else np.sort(np.random.default_rng(seed).choice(indices, limit, replace=False))
    )


def chunks_of(indices: np.ndarray) -> list[np.ndarray]:
    """CHUNK at a time."""
    return [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]


def in_chunks(work: Callable[[np.ndarray], Result], indices: np.ndarray, title: str) -> Iterator[Result]:
    """`work` on 64 indices at a time, results in order; a progress bar in terminals if it takes more than 2 s."""
    chunks = chunks_of(indices)
    started = time.perf_counter()
    first = work(chunks[0])
    slow = time.perf_counter() - started > THREADS_PAY_S * len(chunks[0])
    pool = ThreadPoolExecutor(min(MAX_THREADS, usable_cpus()))
    try:
        rest = pool.map(work, chunks[1:]) if slow else map(work, chunks[1:])
        results = itertools.chain([first], rest)
        yield from progress(results, title, total=len(chunks))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not finish the rest first


# --- statistics ------------------------------------------------------------------------------------------------------


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training set; what torchvision's pretrained weights were trained with."""
_COUNTED = 256  # images counted at once: bincount widens each byte to 8

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""mean, std"""


def pixel_counts(pixels: np.ndarray) -> np.ndarray:
    """Count each value in each channel: uint8 [N, C, H, W] -> int64 [C, 256]. Counts may be added up."""
    counts = np.zeros((pixels.shape[1], 256), dtype=np.int64)
    for start in range(0, len(pixels), _COUNTED):
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[start : start + _COUNTED, channel].ravel(), minlength=256)
    return counts


def pixel_statistics(counts: np.ndarray) -> Statistics:
    """Per channel, for pixels divided by 255; exact, being made of counts."""
    values, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    # A constant channel is left as it is (minus its mean); dividing by rounding noise would blow it up.
    return _plain(mean, np.where(variance > 1e-16, np.sqrt(variance), 1.0))


def imagenet_statistics(channels: int) -> Statistics:
    """For grey images, the means of the three channels' values."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return _plain(np.mean(IMAGENET_MEAN, keepdims=True), np.mean(IMAGENET_STD, keepdims=True))


def feature_statistics(rows: np.ndarray, numeric: np.ndarray) -> Statistics:
    """Per column of float [N, F]. Columns that are not numeric (one-hot) get mean 0 and std 1: they stay 0 or 1."""
    mean = np.where(numeric, rows.mean(axis=0, dtype=np.float64), 0.0)
    std = np.where(numeric, rows.std(axis=0, dtype=np.float64), 1.0)
    constant = (rows.min(axis=0) == rows.max(axis=0)) | (std < np.finfo(np.float32).tiny)
    return _plain(mean, np.where(constant, 1.0, std))


def _plain(mean: np.ndarray, std: np.ndarray) -> Statistics:
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
