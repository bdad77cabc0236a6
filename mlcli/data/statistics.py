"""Mean and standard deviation of the training split, which `DataInfo` carries and `Normalized` applies."""

import numpy as np

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training set; what torchvision's pretrained weights were trained with."""
CHUNK = 256  # images counted at once: bincount widens each byte to 8

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""mean, std"""


def pixel_counts(pixels: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel: uint8 [N, C, H, W] -> int64 [C, 256]. Counts may be added up."""
    counts = np.zeros((pixels.shape[1], 256), dtype=np.int64)
    for start in range(0, len(pixels), CHUNK):
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[start : start + CHUNK, channel].ravel(), minlength=256)
    return counts


def pixel_statistics(counts: np.ndarray) -> Statistics:
    """Per channel, for pixels divided by 255; exact, being made of counts."""
    values, total = np.arange(256) / 255, counts.sum(axis=1)
    mean = counts @ values / total
    variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    return _plain(mean, np.sqrt(variance))


def imagenet_statistics(channels: int) -> Statistics:
    """For grey images, the means of the three channels' values."""
    if channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return _plain(np.mean(IMAGENET_MEAN, keepdims=True), np.mean(IMAGENET_STD, keepdims=True))


def feature_statistics(rows: np.ndarray, numeric: np.ndarray) -> Statistics:
    """Per column of float [N, F]. Columns that are not numeric (one-hot) get mean 0 and std 1: they stay 0 or 1."""
    mean = np.where(numeric, rows.mean(axis=0, dtype=np.float64), 0.0)
    std = np.where(numeric, rows.std(axis=0, dtype=np.float64), 1.0)
    return _plain(mean, std)


def _plain(mean: np.ndarray, std: np.ndarray) -> Statistics:
    # A constant channel or column is left as it is (minus its mean); dividing by rounding noise would blow it up.
    std = np.where(std > 1e-8 * np.maximum(1.0, np.abs(mean)), std, 1.0)
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
