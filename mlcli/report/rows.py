"""Samples as classical models take them: rows of standardised numbers, few enough and small enough for the time."""

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mlcli.engine.contract import Info, Samples

LARGEST_SIDE, SMALLEST_SIDE, PIXELS_TIMES_CLASSES = 16, 8, 20_000
"""Pixels of an image's sides as the classical models see it; smaller where many classes make them slow."""
CHUNK = 256
FEWEST_READ = 200
"""However slow the files are."""


def input_shape(info: "Info") -> tuple[int, ...]:
    """(channels, height, width) of images as the classical models get them, or (features,)."""
    if info.kind != "image":
        return tuple(info.input_shape)
    channels, height, width = info.input_shape
    fits = (PIXELS_TIMES_CLASSES / (channels * max(1, info.num_classes))) ** 0.5
    side = int(min(LARGEST_SIDE, max(SMALLEST_SIDE, fits)))
    return channels, min(height, side), min(width, side)


def readable(samples: "Samples", wanted: int, seconds: float) -> int:
    """How many samples can be read in that time: what is wanted, or fewer if the files are slow to decode."""
    probe = np.arange(min(32, len(samples)))
    samples.read(probe[:1])  # the first read opens files and loads decoders
    began = time.perf_counter()
    samples.read(probe)
    each_s = (time.perf_counter() - began) / len(probe)
    rows = int(seconds / max(each_s, 1e-9))
    return wanted if rows >= wanted else max(min(wanted, FEWEST_READ), rows // 100 * 100)


def spread(targets: np.ndarray, count: int, is_classes: bool) -> np.ndarray:
    """`count` positions, int64, in random order but the same each time; any first part has the classes' shares."""
    order = np.random.default_rng(len(targets)).permutation(len(targets))
    if not is_classes:
        return order[:count]
    labels = targets[order]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort((rank + 0.5) / counts[inverse], kind="stable")][:count]


def inputs_of(info: "Info", samples: "Samples", rows: np.ndarray) -> np.ndarray:
    """Standardised inputs float32 [N, F] as the network sees them, images averaged down to `input_shape`."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from mlcli.models.normalized import Normalized

    normalize, shape, parts = Normalized(torch.nn.Identity(), info), input_shape(info), []
    with torch.inference_mode():
        for first in range(0, len(rows), CHUNK):
            part = normalize(samples.read(rows[first : first + CHUNK]))
            parts.append((adaptive_avg_pool2d(part, (shape[1], shape[2])) if len(shape) == 3 else part).flatten(1))
    return torch.cat(parts).numpy()
