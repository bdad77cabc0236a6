"""Charts that keep their type size at any width: lines in an SVG that stretches, words in HTML beside it.

Direct labels at the ends of lines instead of a legend, few grid lines, no frame: Tufte 1983, "The Visual Display of
Quantitative Information", chapters 4 and 6.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlcli.report.page.markup import Html, el, figure
from mlcli.text import ABSENT, number

SIZE = 1000
"""Units of the drawing in both directions; it is stretched to the place there is."""
MOST_POINTS = 400
"""Of a line; more cannot be told apart on a screen, and only make the file larger."""
LABEL_GAP = 0.085
"""Share of the height that two labels keep between them."""
WIDE_SPAN, MOST_POWERS = 30.0, 5
"""Largest over smallest value from which a logarithmic scale shows more, and powers of ten it may carry."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One line of a chart. role: of "main", "quiet", "warn" or "faint", which decides its colour."""

    name: str
    points: Points
    role: str = "main"
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, shown at `ticks`; `log` gives each power of ten the same room."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end to 1."""
        if self.log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis(values: Sequence[float], *, count: int = 4, zero: bool = False, tight: bool = False) -> Axis:
    """Round ticks around some values; `zero` begins at 0, `tight` ends where the values end."""
    low, high = min(values), max(values)
    low = min(low, 0.0) if zero else low
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    step = nice((high - low) / count)
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Axis(low, high, ticks) if tight else Axis(ticks[0], ticks[-1], ticks)


def log_axis(values: Sequence[float]) -> Axis | None:
    """Powers of ten around some values; None unless they are above 0 and span so much that it pays."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < WIDE_SPAN:
        return None
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    every = -(-(last - first) // MOST_POWERS)
    return Axis(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, every)), log=True)


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


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str,
    note: object = None,
    shown: Callable[[float], str] = number,
    mark: tuple[float, str] | None = None,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
    labels: bool = True,
    shown_x: Callable[[float], str] = "{:g}".format,
) -> Html:
    """Lines over a common axis. mark: an x worth a vertical line, and its name. `shown` writes values for people."""
    lines = [Line(line.name, thinned(line.points), line.role, line.dots) for line in lines if line.points]
    xs = x_axis or axis([x for line in lines for x, _ in line.points], count=6, tight=True)
    ys = y_axis or axis([y for line in lines for _, y in line.points])
    marks = [_rule(xs.share(mark[0]), "mark")] if mark else []
    drawing = el(
        "svg",
        el("title", f"{title}: {', '.join(f'{line.name} ends at {shown(line.points[-1][1])}' for line in lines)}"),
        *(_grid(ys.share(tick)) for tick in ys.ticks),
        *marks,
        *(_path(line, xs, ys) for line in lines),
        viewBox=f"0 0 {SIZE} {SIZE}",
        preserveAspectRatio="none",
        role="img",
    )
    y_labels = [el("span", _tick(t, ys), class_="y", style=f"bottom:{_percent(ys.share(t))}") for t in ys.ticks]
    x_labels = [el("span", shown_x(t), class_="x", style=f"left:{_percent(xs.share(t))}") for t in xs.ticks]
    extra = [el("span", mark[1], class_="marked", style=f"left:{_percent(xs.share(mark[0]))}")] if mark else []
    ends = _end_labels(lines, ys, shown) if labels else []
    data = json.dumps([{"name": line.name, "role": line.role, "x": [x for x, _ in line.points],
                        "shown": [shown(y) for _, y in line.points]} for line in lines])  # fmt: skip
    plot = el("div", drawing, *y_labels, *x_labels, *extra, *ends, el("span", x_name, class_="x-name"),
              class_="plot" if labels else "plot bare", data_lines=data, data_low=xs.low, data_high=xs.high,
              data_x=x_name)  # fmt: skip
    return figure(title, plot, note=note)


def _path(line: Line, xs: Axis, ys: Axis) -> Html:
    places = [f"{SIZE * xs.share(x):.1f},{SIZE * (1 - ys.share(y)):.1f}" for x, y in line.points]
    if line.dots or len(places) == 1:  # a line of no length with round ends is a dot that is not stretched
        path = "".join(f"M{place}h0" for place in places)
        return el("path", d=path, class_=f"dots {line.role}")
    return el("path", d="M" + "L".join(places), class_=f"line {line.role}")


def _grid(share: float) -> Html:
    y = f"{SIZE * (1 - share):.1f}"
    return el("path", d=f"M0,{y}H{SIZE}", class_="grid")


def _rule(share: float, class_: str) -> Html:
    return el("path", d=f"M{SIZE * share:.1f},0V{SIZE}", class_=class_)


def _end_labels(lines: Sequence[Line], ys: Axis, shown: Callable[[float], str]) -> list[Html]:
    """Name and last value of each line where it ends, moved apart where they would lie on each other."""
    wanted = sorted(((ys.share(line.points[-1][1]), i) for i, line in enumerate(lines)), reverse=True)
    places = apart([share for share, _ in wanted], LABEL_GAP)
    return [
        el("span", el("b", lines[i].name), " ", shown(lines[i].points[-1][1]), class_=f"end {lines[i].role}",
           style=f"bottom:{_percent(place)}")
        for (_, i), place in zip(wanted, places, strict=True)
    ]  # fmt: skip


def apart(shares: Sequence[float], gap: float) -> list[float]:
    """Places for shares that descend: at least `gap` apart and not below 0, the others where they are."""
    places: list[float] = []
    for share in shares:
        places.append(min(share, places[-1] - gap) if places else share)
    lowest = 0.0
    for i in reversed(range(len(places))):  # what was pushed out at the bottom pushes back
        places[i] = max(places[i], lowest)
        lowest = places[i] + gap
    return places


def sparkline(values: Sequence[float], what: str, *, log: bool = False) -> Html:
    """A word-sized line; `log` by powers of ten, where zeros are left out."""
    points: Points = [(float(i), math.log10(v) if log else v) for i, v in enumerate(values) if v > 0 or not log]
    if not points:
        return el("span", ABSENT, class_="none")
    points = thinned(points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    room = 0.5 * max(0.0, 1.0 - (high - low)) if log else 0.0  # less than a power of ten must not look like a storm
    scale_x = Axis(0, max(1, len(values) - 1), ())
    scale_y = Axis(low - room, high + room if high + room > low - room else low + 1, ())
    return el(
        "svg",
        el("title", what),
        _path(Line("", points), scale_x, scale_y),
        viewBox=f"0 -60 {SIZE} {SIZE + 120}",
        preserveAspectRatio="none",
        class_="spark",
        role="img",
    )


def _tick(value: float, ys: Axis) -> str:
    """As few decimals as the ticks need."""
    step = ys.ticks[1] - ys.ticks[0] if len(ys.ticks) > 1 else abs(value) or 1.0
    if ys.high >= 10_000:
        return f"{value / 1000:,g}k"
    if ys.log:
        return f"{value:g}"
    if max(abs(ys.low), abs(ys.high)) < 1e-3 or max(abs(ys.low), abs(ys.high)) >= 1e6:
        return f"{value:.2g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step * 10**decimals, 6) % 1 > 0  # 2.5, 0.25
    return f"{value:,.{decimals}f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
