"""The page's pen: charts as HTML with SVG inside (charts.html), coloured by the page's stylesheet, light and dark.

Type keeps its size at any width: lines lie in an SVG that stretches, words in HTML around it.
"""

import json
import math
from collections.abc import Sequence

from markupsafe import Markup

from mlcli.report.page.templates import macros
from mlcli.show.charts import Axis, BarChart, Chart, Line, LineChart, Matrix, Points, apart, thinned
from mlcli.text import truncated

SIZE = 1000
"""Units of a line chart in both directions; it is stretched to the space there is."""
LABEL_GAP = 0.085
"""Share of the height that two labels keep between them."""

LARGEST = 100
"""Classes that a matrix shows; of more, those with most mistakes."""
MOST_NUMBERS = 20
"""Classes up to which the cells carry their counts."""
WIDE = 30
"""Classes from which a matrix has the page's width for itself; below, at most HALF_PX."""
CELL, GAP = 10, 0.4
"""Units of a cell, and of what is left free between two."""
NARROWEST_CELL_PX, HALF_PX = 10.4, 560
"""100 of these cells fill the page. Narrower, the names next to them could not be read: the matrix scrolls instead."""
LETTERS_PX, LETTER_WIDTH, LONGEST_NAME = 13, 0.56, 14
"""Size of the names' type, the width of a letter as a share of it, and letters of a name."""
STRONG = 0.55
"""Opacity of a cell from which its number is written in the colour of the paper."""

Word = tuple[str, str, float, str, str]
"""Words beside a plot: their class, the side they are placed from, the share of it, a name and a text."""


def drawn(chart: Chart) -> Markup:
    """The chart as an HTML element."""
    match chart:
        case LineChart():
            return _lines(chart)
        case BarChart():
            return macros("charts.html").bars(chart.bars, chart.most or 1.0)
        case Matrix():
            return _matrix(chart.only(LARGEST))


def sparkline(values: Sequence[float], what: str, *, log: bool = False) -> Markup:
    """A word-sized line; `log` by powers of ten, where zeros are left out."""
    points: Points = [(float(i), math.log10(v) if log else v) for i, v in enumerate(values) if v > 0 or not log]
    if not points:
        return macros("charts.html").spark(what, SIZE, None)
    points = thinned(points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    rim = 0.5 * max(0.0, 1.0 - (high - low)) if log else 0.0  # less than a power of ten must not look like a storm
    across = Axis(0, max(1, len(values) - 1), ())
    up = Axis(low - rim, high + rim if high + rim > low - rim else low + 1, ())
    return macros("charts.html").spark(what, SIZE, _path(Line("", points), across, up))


def track(share: float) -> Markup:
    """A bar that is filled to this share of its length."""
    return macros("charts.html").track(max(0.0, min(1.0, share)))


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> Markup:
    """The plot with its labels around it."""
    lines = [Line(line.name, thinned(line.points), line.role, line.dots) for line in chart.lines if line.points]
    xs, ys = chart.x, chart.y
    ends = [f"{line.name} ends at {chart.shown(line.points[-1][1])}" for line in lines if line.name]
    about = f"{chart.title}: {', '.join(ends)}".removesuffix(": ")
    straight = [("grid", ys.share(tick), True) for tick in ys.ticks]
    straight += [("mark", (xs if r.axis == "x" else ys).share(r.at), r.axis == "y") for r in chart.rules]
    paths = [
        (f"M0,{SIZE * (1 - share):.1f}H{SIZE}" if is_level else f"M{SIZE * share:.1f},0V{SIZE}", kind)
        for kind, share, is_level in straight
    ]
    paths += [_path(line, xs, ys) for line in lines]
    words: list[Word] = [("y", "bottom", ys.share(t), "", text) for t, text in zip(ys.ticks, ys.written(), strict=True)]
    words += [("x", "left", xs.share(t), "", text) for t, text in zip(xs.ticks, xs.written(), strict=True)]
    words += [("marked", "left", xs.share(rule.at), "", rule.name) for rule in chart.rules if rule.axis == "x"]
    named = [line for line in lines if chart.named and line.name]
    named_ends = sorted(named, key=lambda line: -ys.share(line.points[-1][1]))
    places = apart([ys.share(line.points[-1][1]) for line in named_ends], LABEL_GAP)  # none on another
    for line, place in zip(named_ends, places, strict=True):
        words.append((f"end {line.role}", "bottom", place, line.name, chart.shown(line.points[-1][1])))
    values = [
        {"name": line.name, "role": line.role, "x": [x for x, _ in line.points],
         "shown": [chart.shown(y) for _, y in line.points]}
        for line in named
    ]  # fmt: skip
    return macros("charts.html").lines(chart, about, SIZE, paths, words, json.dumps(values))


def _path(line: Line, xs: Axis, ys: Axis) -> tuple[str, str]:
    """The shape of a line, and its classes."""
    places = [f"{SIZE * xs.share(x):.1f},{SIZE * (1 - ys.share(y)):.1f}" for x, y in line.points]
    if line.dots or len(places) == 1:  # a line of no length with round ends is a dot that is not stretched
        return "".join(f"M{at}h0" for at in places), f"dots {line.role}"
    return f"M{'L'.join(places)}", f"line {line.role}"


# --- matrices --------------------------------------------------------------------------------------------------------


def _matrix(chart: Matrix) -> Markup:
    """Cells by the share of their row; mistakes grow visible early, by the root of their share."""
    count, shares = len(chart.names), chart.shares()
    widest = max(380, min(1040, 64 * count))
    size, rim = _lettering(chart.names, widest if count > WIDE else min(widest, HALF_PX))
    cells = []
    for row, column in zip(*chart.counts.nonzero(), strict=True):
        n, share, hit = int(chart.counts[row, column]), float(shares[row, column]), row == column
        strength = 0.12 + 0.88 * (share if hit else share**0.5)
        about = f"{chart.names[row]} → {chart.names[column]}: {n:,} of {chart.support[row]:,} ({share:.0%})"
        text = (f"{n:,}" if n < 10_000 else f"{n / 1000:.0f}k") if count <= MOST_NUMBERS else ""
        letters = min(1.1 * size, 0.36 * CELL) * (1.0 if n < 1000 else 0.85)
        x, y, kind = int(column) * CELL, int(row) * CELL, "hit" if hit else "miss"
        cells.append((x, y, kind, strength, about, text, strength > STRONG, letters))
    middles = [place * CELL + CELL / 2 + size * 0.33 for place in range(count)]
    names = [(at, name, truncated(name, LONGEST_NAME)) for at, name in zip(middles, chart.names, strict=True)]
    widths_px = NARROWEST_CELL_PX * count, widest
    return macros("charts.html").matrix(chart.title, rim, count * CELL, widths_px, GAP, CELL - GAP, cells, size, names)


def _lettering(names: Sequence[str], width_px: float) -> tuple[float, float]:
    """Type size of the names, and room for the longest, in the drawing's units; LETTERS_PX if it gets that width."""
    longest = min(max(map(len, names)), LONGEST_NAME) * LETTER_WIDTH
    # As units per pixel = (cells + room) / width, and room = longest * size + a margin:
    size = LETTERS_PX * (len(names) + 0.4) * CELL / max(1.0, width_px - LETTERS_PX * longest)
    size = min(0.8 * CELL, size)
    return size, longest * size + 0.4 * CELL
