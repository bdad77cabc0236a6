"""Strides of the maps that predict, and the sizes of objects that they fit. No torch."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from mlcli.tasks.detection.data.config import STRIDES
from mlcli.text import plural, share

USUAL_STRIDES = (8, 16, 32)
"""Of the models' maps where no key sets them."""
REACH = 15
"""Cells that the sides of a box can be away from the cell that finds it (the bins of `models.yolo`)."""
SPAN = 8
"""Cells that an object spans at most on the coarsest map that is proposed for it, which sees it whole."""
MANY = 0.05
"""Share of the objects that must not fit for it to be said."""


def fitting_strides(sides_wh: np.ndarray) -> tuple[int, ...]:
    """Return strides, each twice the one before, that objects of these sizes fit: all but the smallest and largest.

    sides_wh: [n, 2], in pixels of the model's input.
    """
    small, large = np.quantile(sides_wh.min(axis=1), MANY), np.quantile(sides_wh.max(axis=1), 1 - MANY)
    finest = STRIDES[0] if small < STRIDES[1] else STRIDES[1]
    coarsest = next((stride for stride in STRIDES if SPAN * stride >= large), STRIDES[-1])
    return tuple(stride for stride in STRIDES if finest <= stride <= max(coarsest, 2 * finest))


class Misfit(NamedTuple):
    """kind: "small" or "large". rows: int64, the objects that are, the worst first. what: for people. fix: how to mend
    it."""

    kind: Literal["small", "large"]
    rows: np.ndarray
    what: str
    fix: str


def misfits(sides_wh: np.ndarray, strides: Sequence[int], in_tiles: bool = False) -> list[Misfit]:
    """Return the objects that are too small or too large for strides, where there are many.

    sides_wh: [n, 2], in pixels of the model's input. in_tiles: whether that shows tiles, whose side decides.
    """
    larger, smaller = "a larger data.image_size", "a smaller data.image_size"
    if in_tiles:
        larger, smaller = "a smaller side of random_tile", "a larger side of random_tile"
    narrow, long, reach = sides_wh.min(axis=1), sides_wh.max(axis=1), REACH * strides[-1]
    small, large = np.flatnonzero(narrow < strides[0]), np.flatnonzero(long > reach)
    found = []
    if len(small) > MANY * len(sides_wh):
        what = f"narrower than {strides[0]} pixels of the input, a cell of the finest map"
        found.append(Misfit("small", small[narrow[small].argsort()], what, larger))
    if len(large) > MANY * len(sides_wh):
        what = f"longer than {reach} pixels of the input, {REACH} cells of the coarsest map"
        found.append(Misfit("large", large[(-long[large]).argsort()], what, smaller))
    fitting = fitting_strides(sides_wh) if found else ()
    mends = {"small": bool(fitting) and fitting[0] < strides[0], "large": bool(fitting) and fitting[-1] > strides[-1]}
    said = f"'model.strides={[*fitting]}'".replace(", ", ",")
    for place, one in enumerate(found):
        counted = f"{plural(len(one.rows), 'object')} ({share(len(one.rows), len(sides_wh))})"
        fix = f"{said} would fit, or {one.fix}" if mends[one.kind] else one.fix
        found[place] = one._replace(what=f"{counted} {one.what}: hard to detect", fix=fix)
    return found
