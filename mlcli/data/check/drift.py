"""Whether the splits look alike: brightness, contrast, sizes; columns of tables. What differs was gathered differently.

Two samples are compared by the Kolmogorov-Smirnov statistic: the largest distance between their cumulative
distributions, 0 to 1. With many samples any difference is significant, so it has to be large as well.
"""

from collections.abc import Iterator

import numpy as np

from mlcli.data.check.collection import Collection
from mlcli.data.check.finding import Finding
from mlcli.data.check.images import sizes_read
from mlcli.data.check.scan import Scan

LARGE = 0.2
SIGNIFICANT = 1e-4
"""Probability of such a distance by chance, after Bonferroni for all comparisons made."""
FEWEST = 20  # samples of a split below which nothing is compared


def image_drift(collection: Collection, scan: Scan) -> list[Finding]:
    """Splits beside train, by three properties of their images."""
    pixels = scan.pixels.reshape(len(scan.pixels), -1)
    level, spread = np.empty(len(pixels)), np.empty(len(pixels))
    for start in range(0, len(pixels), 4096):
        chunk = pixels[start : start + 4096].astype(np.float32)
        level[start : start + 4096], spread[start : start + 4096] = chunk.mean(axis=1), chunk.std(axis=1)
    at, sizes = sizes_read(scan)
    side, aspect = np.full(len(pixels), np.nan), np.full(len(pixels), np.nan)
    side[at], aspect[at] = sizes.min(axis=1), sizes[:, 0] / sizes[:, 1]
    level[~scan.ok] = spread[~scan.ok] = np.nan
    properties = {"brightness": level, "contrast": spread, "shorter side": side, "width/height": aspect}
    split_of = np.array([collection.split(int(index)) for index in scan.read.tolist()])
    places = tuple(shifts(properties, split_of))
    if not places:
        return []
    what = "the splits look different from train"
    return [Finding("note", "drift", what, places, "the score is of data unlike what was learned from; is that meant?")]


def shifts(columns: dict[str, np.ndarray], split_of: np.ndarray) -> Iterator[str]:
    """`test: brightness 121 in the median, 87 in train` for each column and split that differ. Gaps are NaN."""
    from scipy.stats import ks_2samp

    others = [split for split in dict.fromkeys(split_of.tolist()) if split != "train"]
    limit = SIGNIFICANT / max(1, len(columns) * len(others))
    for name, values in columns.items():
        known = ~np.isnan(values)
        train = values[known & (split_of == "train")]
        for split in others:
            there = values[known & (split_of == split)]
            if min(len(train), len(there)) < FEWEST:
                continue
            result = ks_2samp(train, there, method="asymp")
            if result.statistic > LARGE and result.pvalue < limit:
                yield f"{split}: {name} {np.median(there):.3g} in the median, {np.median(train):.3g} in train"
