"""Charts as data: lines over two axes, bars and matrices. Two pens draw them: `figure` images, report/page/svg.py HTML.

Names stand at the ends of lines instead of in a legend, grid lines are few, there is no frame: Tufte 1983, "The Visual
Display of Quantitative Information", chapters 4 and 6.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from mlcli.text import number

MOST_POINTS = 400
"""Of a line; more cannot be seen apart on a screen, and only make the file larger."""
WIDE_SPAN, MOST_POWERS = 30.0, 5
"""Largest over smallest value from which a logarithmic scale shows more, and powers of ten it may carry."""

Points = Sequence[tuple[float, float]]
Role = Literal["main", "quiet", "faint", "warn"]
"""Role of a line, which sets colour and width: the subject, a comparison, one of many, something wrong."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` with `ticks`; `log` gives each power of ten the same space.

    labels: written at the ticks instead of their values.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    name: str = ""
    log: bool = False
    labels: tuple[str, ...] = ()

    def share(self, value: float) -> float:
        """The position of a value on the axis, 0 at the low end to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def written(self) -> list[str]:
        """The texts at the ticks, with as few decimals as these need."""
        return list(self.labels) or [_tick(value, self) for value in self.ticks]


@dataclass(frozen=True)
class Line:
    """Points joined by a line, or not where they are `dots`. group: lines of one group share their colour."""

    name: str
    points: Points
    role: Role = "main"
    dots: bool = False
    group: int | None = None


class Rule(NamedTuple):
    """A straight line at a value of an axis, x or y, with a name."""

    at: float
    name: str
    axis: Literal["x", "y"] = "x"


@dataclass(frozen=True)
class LineChart:
    """Lines over common axes. `shown` writes their values for people; `named` puts name and last value at each end."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    note: str = ""
    rules: Sequence[Rule] = ()
    shown: Callable[[float], str] = number
    named: bool = True


@dataclass(frozen=True)
class Bar:
    """A length with its name, its value as text, and a remark. role: "main" for the one that is looked at."""

    name: str
    value: float
    shown: str
    note: str = ""
    role: Role = "quiet"


@dataclass(frozen=True)
class BarChart:
    """Bars from 0, the longest possible `most`."""

    title: str
    bars: Sequence[Bar]
    most: float
    note: str = ""
    x_name: str = ""


@dataclass(frozen=True)
class Confusion:
    """`count` samples of class `truth` were answered with `answer`; `of` is how many samples that class has."""

    truth: str
    answer: str
    count: int
    of: int


@dataclass(frozen=True)
class Matrix:
    """Counts by truth (row) and answer (column), int64 [K, K], the K names, and how many samples each truth has [K]."""

    names: tuple[str, ...]
    counts: np.ndarray
    support: np.ndarray
    title: str = "Confusion matrix"
    note: str = ""

    def pairs(self, most: int) -> list[Confusion]:
        """The pairs most often confused, the worst first; of equals, in the order of the names."""
        wrong = self._wrong()
        cells = np.argsort(-wrong, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(cells, wrong.shape)
        return [
            Confusion(self.names[row], self.names[column], int(wrong[row, column]), int(self.support[row]))
            for row, column in zip(rows, columns, strict=True)
            if wrong[row, column]
        ]

    def only(self, most: int) -> "Matrix":
        """The `most` names that take part in most mistakes, in their order; everything if there are no more."""
        if len(self.names) <= most:
            return self
        wrong = self._wrong()
        worst = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:most])
        names, note = (
            tuple(self.names[i] for i in worst),
            f"the {most} of {len(self.names):,} classes with most mistakes",
        )
        note = f"{self.note}; {note}" if self.note else note
        return Matrix(names, self.counts[np.ix_(worst, worst)], self.support[worst], self.title, note)

    def shares(self) -> np.ndarray:
        """Each count as a share of its row's support, float64 [K, K]; 0 in rows without samples."""
        return self.counts / np.maximum(self.support, 1)[:, None]

    def _wrong(self) -> np.ndarray:
        return self.counts - np.diag(np.diag(self.counts))


Chart = LineChart | BarChart | Matrix


def axis(
    values: Sequence[float],
    name: str = "",
    *,
    count: int = 4,
    zero: bool = False,
    tight: bool = False,
    whole: bool = False,
) -> Axis:
    """Round ticks around some values.

    count: about how many steps; zero: begin at 0; tight: end where the values end; whole: ticks without fractions.
    """
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    step = nice((high - low) / count)
    step = math.ceil(step) if whole else step
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Axis(low, high, ticks, name) if tight else Axis(ticks[0], ticks[-1], ticks, name)


def log_axis(values: Sequence[float], name: str = "") -> Axis | None:
    """Powers of ten around some values; None unless they are above 0 and span so much that it pays."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < WIDE_SPAN:
        return None
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = -(-(last - first) // MOST_POWERS)
    return Axis(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, every)), name, log=True)


def nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9)) * power


def thinned(points: Points) -> Points:
    """At most MOST_POINTS: means of neighbours, which keep the shape."""
    if len(points) <= MOST_POINTS:
        return points
    size = -(-len(points) // MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def apart(shares: Sequence[float], gap: float) -> list[float]:
    """Positions for shares that descend: at least `gap` apart and not below 0, the others where they are."""
    places: list[float] = []
    for share in shares:
        places.append(min(share, places[-1] - gap) if places else share)
    lowest = 0.0
    for i in reversed(range(len(places))):  # what was pushed out at the bottom pushes back
        places[i] = max(places[i], lowest)
        lowest = places[i] + gap
    return places


def _tick(value: float, axis: Axis) -> str:
    step = axis.ticks[1] - axis.ticks[0] if len(axis.ticks) > 1 else abs(value) or 1.0
    if axis.log:
        return f"{value:g}"
    if axis.high >= 10_000:
        return f"{value / 1000:,g}k"
    if max(abs(axis.low), abs(axis.high)) < 1e-3:
        return f"{value:.2g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) % 1 > 0  # 2.5, 0.25
    return f"{value:,.{decimals}f}"
