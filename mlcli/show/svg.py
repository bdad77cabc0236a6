"""The page's pen: charts as HTML with SVG inside, coloured by the page's stylesheet, light and dark.

Type keeps its size at any width: lines lie in an SVG that stretches, words in HTML around it. All text is escaped.
"""

import json
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from mlcli.show.charts import Axis, Bar, BarChart, Chart, Line, LineChart, Matrix, Points, apart, thinned
from mlcli.text import ABSENT, truncated

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


def drawn(chart: Chart) -> Markup:
    """The chart as an HTML element."""
    match chart:
        case LineChart():
            note = Markup("<span>{}</span>").format(chart.note) if chart.note else ""
            caption = Markup("<figcaption><strong>{}</strong>{}</figcaption>").format(chart.title, note)
            return Markup('<figure class="chart">{}{}</figure>').format(caption, _lines(chart))
        case BarChart():
            return Markup('<div class="bars">{}</div>').format(_joined(_bar(bar, chart.most) for bar in chart.bars))
        case Matrix():
            return _matrix(chart.only(LARGEST))


def sparkline(values: Sequence[float], what: str, *, log: bool = False) -> Markup:
    """A word-sized line; `log` by powers of ten, where zeros are left out."""
    points: Points = [(float(i), math.log10(v) if log else v) for i, v in enumerate(values) if v > 0 or not log]
    if not points:
        return Markup('<span class="none">{}</span>').format(ABSENT)
    points = thinned(points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    rim = 0.5 * max(0.0, 1.0 - (high - low)) if log else 0.0  # less than a power of ten must not look like a storm
    xs, ys = (
        Axis(0, max(1, len(values) - 1), ()),
        Axis(low - rim, high + rim if high + rim > low - rim else low + 1, ()),
    )
    return Markup(
        '<svg viewBox="0 -60 {0} {1}" preserveAspectRatio="none" class="spark" role="img"><title>{2}</title>{3}</svg>'
    ).format(SIZE, SIZE + 120, what, _path(Line("", points), xs, ys))


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup("").join(parts)


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> Markup:
    """The plot with its labels around it, and the values for the script that shows them under the pointer."""
    lines = [Line(line.name, thinned(line.points), line.role, line.dots) for line in chart.lines if line.points]
    xs, ys = chart.x, chart.y
    ends = [f"{line.name} ends at {chart.shown(line.points[-1][1])}" for line in lines if line.name]
    grid = [_rule("grid", ys.share(tick), across=True) for tick in ys.ticks]
    rules = [
        _rule("mark", (xs if rule.axis == "x" else ys).share(rule.at), across=rule.axis == "y") for rule in chart.rules
    ]
    svg = Markup('<svg viewBox="0 0 {0} {0}" preserveAspectRatio="none" role="img"><title>{1}</title>{2}</svg>').format(
        SIZE,
        f"{chart.title}: {', '.join(ends)}".removesuffix(": "),
        _joined([*grid, *rules, *(_path(line, xs, ys) for line in lines)]),
    )
    words = [_label("y", "bottom", ys.share(t), text) for t, text in zip(ys.ticks, ys.written(), strict=True)]
    words += [_label("x", "left", xs.share(t), text) for t, text in zip(xs.ticks, xs.written(), strict=True)]
    words += [_label("marked", "left", xs.share(rule.at), rule.name) for rule in chart.rules if rule.axis == "x"]
    if chart.named:
        words += _end_labels(chart, lines)
    data = [
        {"name": line.name, "role": line.role, "x": [x for x, _ in line.points],
         "shown": [chart.shown(y) for _, y in line.points]}
        for line in lines
        if chart.named and line.name
    ]  # fmt: skip
    return Markup(
        '<div class="{}" data-lines="{}" data-low="{}" data-high="{}" data-x="{}">'
        '{}{}<span class="x-name">{}</span></div>'
    ).format(
        "plot" if chart.named else "plot bare", json.dumps(data), xs.low, xs.high, xs.name, svg, _joined(words), xs.name
    )


def _path(line: Line, xs: Axis, ys: Axis) -> Markup:
    places = [f"{SIZE * xs.share(x):.1f},{SIZE * (1 - ys.share(y)):.1f}" for x, y in line.points]
    if line.dots or len(places) == 1:  # a line of no length with round ends is a dot that is not stretched
        return Markup('<path d="{}" class="dots {}"></path>').format("".join(f"M{at}h0" for at in places), line.role)
    return Markup('<path d="M{}" class="line {}"></path>').format("L".join(places), line.role)


def _rule(kind: str, share: float, *, across: bool) -> Markup:
    path = f"M0,{SIZE * (1 - share):.1f}H{SIZE}" if across else f"M{SIZE * share:.1f},0V{SIZE}"
    return Markup('<path d="{}" class="{}"></path>').format(path, kind)


def _label(kind: str, side: str, share: float, text: object) -> Markup:
    return Markup('<span class="{}" style="{}:{:.2f}%">{}</span>').format(kind, side, 100 * share, text)


def _end_labels(chart: LineChart, lines: Sequence[Line]) -> list[Markup]:
    """Name and last value of each line where it ends, moved apart where they would lie on each other."""
    wanted = [(chart.y.share(line.points[-1][1]), i) for i, line in enumerate(lines) if line.name]
    wanted.sort(reverse=True)
    found = []
    for (_, i), place in zip(wanted, apart([share for share, _ in wanted], LABEL_GAP), strict=True):
        words = Markup("<b>{}</b> {}").format(lines[i].name, chart.shown(lines[i].points[-1][1]))
        found.append(_label(f"end {lines[i].role}", "bottom", place, words))
    return found


# --- bars ------------------------------------------------------------------------------------------------------------


def track(share: float) -> Markup:
    """A bar that is filled to this share of its length."""
    return Markup('<span class="track"><i style="width:{:.2f}%"></i></span>').format(100 * max(0.0, min(1.0, share)))


def _bar(bar: Bar, most: float) -> Markup:
    return Markup(
        '<div class="{}"><span class="name">{}</span>{}<span class="value">{}</span><span class="note">{}</span></div>'
    ).format(
        "bar own" if bar.role == "main" else "bar", bar.name, track(bar.value / (most or 1.0)), bar.shown, bar.note
    )


# --- matrices --------------------------------------------------------------------------------------------------------


def _matrix(chart: Matrix) -> Markup:
    """Cells by the share of their row; mistakes grow visible early, by the root of their share."""
    count = len(chart.names)
    narrowest, widest = NARROWEST_CELL_PX * count, max(380, min(1040, 64 * count))
    size, rim = _lettering(chart.names, widest if count > WIDE else min(widest, HALF_PX))
    whole = count * CELL
    return Markup(
        '<div class="scroll" tabindex="0"><svg viewBox="{0:.1f} {0:.1f} {1:.1f} {1:.1f}" class="matrix" role="img"'
        ' style="min-width:{2:g}px;max-width:{3}px"><title>{4}: rows are the truth, columns the answers</title>'
        '<rect x="0" y="0" width="{5}" height="{5}" class="empty"></rect>{6}{7}</svg></div>'
    ).format(
        -rim, whole + rim, narrowest, widest, chart.title, whole - GAP,
        _joined(_cells(chart, size if count <= MOST_NUMBERS else None)),
        _joined(_names_of(name, place, size) for place, name in enumerate(chart.names)),
    )  # fmt: skip


def _lettering(names: Sequence[str], width_px: float) -> tuple[float, float]:
    """Type size of the names, and room for the longest, in the drawing's units; LETTERS_PX if it gets that width."""
    longest = min(max(map(len, names)), LONGEST_NAME) * LETTER_WIDTH
    # As units per pixel = (cells + room) / width, and room = longest * size + a margin:
    size = LETTERS_PX * (len(names) + 0.4) * CELL / max(1.0, width_px - LETTERS_PX * longest)
    size = min(0.8 * CELL, size)
    return size, longest * size + 0.4 * CELL


def _cells(chart: Matrix, size: float | None) -> list[Markup]:
    """The counts that are not 0, written in type of this size, or not at all."""
    cells, middle, shares = [], (CELL - GAP) / 2, chart.shares()
    for row, column in zip(*chart.counts.nonzero(), strict=True):
        n, share, hit = int(chart.counts[row, column]), float(shares[row, column]), row == column
        x, y, strength = int(column) * CELL, int(row) * CELL, 0.12 + 0.88 * (share if hit else share**0.5)
        about = f"{chart.names[row]} → {chart.names[column]}: {n:,} of {chart.support[row]:,} ({share:.0%})"
        cells.append(Markup(
            '<rect x="{0}" y="{1}" width="{2}" height="{2}" class="{3}" fill-opacity="{4:.2f}">'
            '<title>{5}</title></rect>'
        ).format(x, y, CELL - GAP, "hit" if hit else "miss", strength, about))  # fmt: skip
        if size:
            type_size = min(1.1 * size, 0.36 * CELL) * (1.0 if n < 1000 else 0.85)
            cells.append(Markup(
                '<text x="{:.1f}" y="{:.2f}" font-size="{:.2f}" class="{}">{}</text>'
            ).format(x + middle, y + middle + 0.36 * type_size, type_size,
                     "inside strong" if strength > STRONG else "inside",
                     f"{n:,}" if n < 10_000 else f"{n / 1000:.0f}k"))  # fmt: skip
    return cells


def _names_of(name: str, place: int, size: float) -> Markup:
    """A class's name before its row and, turned, above its column."""
    middle = place * CELL + CELL / 2 + size * 0.33
    words = Markup("<title>{}</title>{}").format(name, truncated(name, LONGEST_NAME))
    return Markup(
        '<text x="{0}" y="{1:.2f}" class="row" font-size="{2:.2f}">{3}</text>'
        '<text transform="translate({1:.2f},{4}) rotate(-90)" class="column" font-size="{2:.2f}">{3}</text>'
    ).format(-0.15 * CELL, middle, size, words, -0.18 * CELL)
