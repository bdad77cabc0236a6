"""The image pen: charts as pictures by matplotlib, for files and TensorBoard; dark on white, one look for all.

Without a window and without matplotlib's global state. Reading this module does not import matplotlib: that takes long.
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mlcli.show.charts import Axis, BarChart, Chart, Line, LineChart, Matrix, Rule, apart, thinned
from mlcli.show.palette import BLUE, FAINT, GRID, INK, ORANGE, PAPER, RULE, SERIES
from mlcli.text import truncated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
EMPTY = "#f6f7f8"
"""A cell of a matrix in which nothing is."""
LABEL_GAP = 0.062
"""Share of a chart's height that two names keep between them."""
LONGEST_NAME, LONGEST_TEXT = 26, 40
"""Letters of a name, and of a remark."""
LARGEST, MOST_NUMBERS = 100, 25
"""Classes of a matrix; up to how many the counts can be read in the cells."""
COLOURS = {"main": BLUE, "quiet": RULE, "faint": "#d5d9df", "warn": ORANGE}
WIDTHS = {"main": 2.0, "quiet": 1.0, "faint": 0.9, "warn": 2.0}


def image(*charts: Chart, prefix: str = "", title: str = "") -> Image.Image:
    """Charts side by side as an RGB picture. prefix: of the first one's title; title: above all of them."""
    charts = tuple(chart.only(LARGEST) if isinstance(chart, Matrix) else chart for chart in charts)
    sizes = [_size(chart) for chart in charts]
    widths = [width for width, _ in sizes]
    figure = new_figure(sum(widths), max(height for _, height in sizes) + (0.5 if title else 0.0))
    panels = figure.subplots(1, len(charts), squeeze=False, width_ratios=widths)[0]
    for place, (axes, chart) in enumerate(zip(panels, charts, strict=True)):
        match chart:
            case LineChart():
                _lines(axes, chart)
            case BarChart():
                _bars(axes, chart)
            case Matrix():
                _matrix(axes, chart)
        letters = round(13 * sizes[place][0])
        heading = truncated((prefix if place == 0 else "") + chart.title, round(0.7 * letters))
        headline(axes, heading, truncated(chart.note, letters))
    if title:
        figure.suptitle(title, fontsize=11, color=INK, parse_math=False)
    return image_of(figure)


def _size(chart: Chart) -> tuple[float, float]:
    """Width and height in inches."""
    match chart:
        case LineChart():
            return (5.4, 5.2) if (chart.x.low, chart.x.high) == (chart.y.low, chart.y.high) else (6.6, 4.4)
        case BarChart():
            return 6.6, 1.3 + 0.36 * max(4, len(chart.bars))
        case Matrix():
            side = _side(chart) + 0.55 + 0.085 * max(len(truncated(name, LONGEST_NAME)) for name in chart.names)
            return side + 0.3, side + 0.7


# --- lines -----------------------------------------------------------------------------------------------------------


def _lines(axes: "Axes", chart: LineChart) -> None:
    ends: list[tuple[float, Line, str]] = []
    for line in chart.lines:
        points = thinned(line.points)
        if not points:
            continue
        colour = COLOURS[line.role] if line.group is None else SERIES[line.group % len(SERIES)]
        pale = line.role == "quiet" and line.group is not None
        style: dict[str, Any] = {"linewidth": WIDTHS[line.role], "alpha": 0.55 if pale else 1.0}
        if line.dots or len(points) == 1:
            crowd = float(np.interp(len(points), [50, 500, 2000], [0.8, 0.45, 0.25]))  # fainter, so that crowds show
            style = {"linestyle": "", "marker": "o", "markersize": 5, "markeredgewidth": 0, "alpha": crowd}
        label = truncated(line.name, LONGEST_NAME) if line.role != "faint" and not chart.named else ""
        inside = all(chart.y.low <= y <= chart.y.high for _, y in points)  # then dots on the edge are drawn whole
        axes.plot(*zip(*points, strict=True), color=colour, clip_on=not inside, label=label or None, **style)
        ends.append((chart.y.share(points[-1][1]), line, colour))
    plain_axes(axes)
    _scale(axes, "x", chart.x)
    _scale(axes, "y", chart.y)
    for place, rule in enumerate(chart.rules):
        _rule(axes, rule, first=place % 2 == 0)
    if chart.named:
        _name_ends(axes, chart, [end for end in ends if end[1].name])
    elif axes.get_legend_handles_labels()[0]:
        legend = axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
        for text in legend.get_texts():
            text.set_parse_math(False)


def _scale(axes: "Axes", which: str, axis: Axis) -> None:
    if axis.log:
        getattr(axes, f"set_{which}scale")("log")
        getattr(axes, f"{which}axis").minorticks_off()
    getattr(axes, f"set_{which}lim")(axis.low, axis.high)
    getattr(axes, f"set_{which}ticks")(axis.ticks, axis.written())
    getattr(axes, f"set_{which}label")(truncated(axis.name, LONGEST_TEXT), parse_math=False)


def _rule(axes: "Axes", rule: Rule, *, first: bool) -> None:
    """A dotted line across the chart with its name along it, on alternate sides, so that neighbours stay apart."""
    name = truncated(rule.name, LONGEST_TEXT)
    style: dict[str, Any] = {"color": FAINT, "fontsize": 8.5, "parse_math": False, "textcoords": "offset points",
                             "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0, "alpha": 0.8}}  # fmt: skip
    if rule.axis == "x":
        axes.axvline(rule.at, color=RULE, linewidth=1.2, linestyle=":")
        axes.annotate(name, (rule.at, 0.98), xycoords=("data", "axes fraction"), xytext=(-3 if first else 3, 0),
                      ha="right" if first else "left", va="top", rotation=90, **style)  # fmt: skip
    else:
        axes.axhline(rule.at, color=RULE, linewidth=1.2, linestyle=":")
        axes.annotate(name, (0.02, rule.at), xycoords=("axes fraction", "data"), xytext=(0, 3 if first else -3),
                      va="bottom" if first else "top", **style)  # fmt: skip


def _name_ends(axes: "Axes", chart: LineChart, ends: list[tuple[float, Line, str]]) -> None:
    """Names right of the chart at the height their lines end, moved apart where they would lie on each other."""
    ends = sorted(ends, key=lambda end: -end[0])
    for place, (_, line, colour) in zip(apart([share for share, _, _ in ends], LABEL_GAP), ends, strict=True):
        words = f"{truncated(line.name, LONGEST_NAME)}  {chart.shown(line.points[-1][1])}"
        colour = FAINT if colour == RULE else colour
        axes.annotate(words, (1.015, place), xycoords="axes fraction", color=colour, fontsize=9, va="center",
                      parse_math=False, annotation_clip=False)  # fmt: skip


# --- bars ------------------------------------------------------------------------------------------------------------


def _bars(axes: "Axes", chart: BarChart) -> None:
    places = range(len(chart.bars))
    axes.barh(places, [bar.value for bar in chart.bars], height=0.62, color=[COLOURS[bar.role] for bar in chart.bars])
    for place, bar in enumerate(chart.bars):
        text = truncated(f"{bar.shown}   {bar.note}".rstrip(), LONGEST_TEXT)
        axes.annotate(text, (max(0.0, bar.value), place), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize=8.5, color=INK, parse_math=False)  # fmt: skip
    plain_axes(axes)
    axes.grid(axis="y", visible=False)
    axes.set_yticks(places, [truncated(bar.name, LONGEST_NAME) for bar in chart.bars], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * (chart.most or 1.0))
    axes.set_xlabel(truncated(chart.x_name, LONGEST_TEXT), parse_math=False)


# --- matrices --------------------------------------------------------------------------------------------------------


def _side(chart: Matrix) -> float:
    return float(np.interp(len(chart.names), [2, 10, 25, 100], [3, 5, 9, 12.5]))  # inches


def _matrix(axes: "Axes", chart: Matrix) -> None:
    """Right answers blue, wrong ones orange, by their share of the row; rare mistakes by the root of it."""
    from matplotlib.colors import to_rgb

    count, shares, names = len(chart.names), chart.shares(), [truncated(name, LONGEST_NAME) for name in chart.names]
    diagonal = np.eye(count, dtype=bool)
    strength = np.where(diagonal, shares, np.sqrt(shares))[..., None]
    empty, right, wrong = (np.array(to_rgb(colour)) for colour in (EMPTY, BLUE, ORANGE))
    axes.imshow(empty + (np.where(diagonal[..., None], right, wrong) - empty) * strength, interpolation="nearest")
    size, longest = float(np.interp(count, [10, 25, 100], [9, 8, 5.5])), max(map(len, names))
    turned = 90 if 0.09 * longest > _side(chart) / count else 0
    axes.set_xticks(range(count), names, rotation=turned, fontsize=size, color=INK, parse_math=False)
    axes.set_yticks(range(count), names, fontsize=size, color=INK, parse_math=False)
    axes.set_xlabel("answer", fontsize=9, color=FAINT)
    axes.set_ylabel("truth", fontsize=9, color=FAINT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for draw in (axes.hlines, axes.vlines):
        draw(np.arange(count + 1) - 0.5, -0.5, count - 0.5, color="white", linewidth=min(1.5, 20 / count))
    if count <= MOST_NUMBERS:
        smaller = size - 1 if chart.counts.max() < 1000 else size - 2
        for row, column in zip(*chart.counts.nonzero(), strict=True):
            dark = shares[row, column] > (0.55 if row == column else 0.35)
            axes.text(column, row, f"{chart.counts[row, column]:,}", ha="center", va="center", fontsize=smaller,
                      color="white" if dark else INK)  # fmt: skip


# --- for any figure --------------------------------------------------------------------------------------------------


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor=PAPER)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr, call-arg]
    return figure


def headline(axes: "Axes", title: str, note: str = "") -> None:
    """A title to the left in bold, and a faint note below it, as on the sheets."""
    axes.set_title(
        title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=24 if note else 8, parse_math=False
    )
    axes.annotate(note, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points", fontsize=8.5,
                  color=FAINT, parse_math=False)  # fmt: skip


def plain_axes(axes: "Axes") -> None:
    """Only what is needed: two thin spines, faint ticks, a light grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(colors=FAINT, labelsize=8.5, length=3)
    axes.xaxis.label.set(color=FAINT, fontsize=9)
    axes.yaxis.label.set(color=FAINT, fontsize=9)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def image_of(figure: "Figure") -> Image.Image:
    """The figure as an RGB picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names may be in any script; a box stands for a letter
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3].copy())
