"""The picture of `runs compare`: the curves of a few runs in one chart, each with its name at its end."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlcli.report.evidence import Curve, curve
from mlcli.report.page.plot import apart
from mlcli.report.record import Record
from mlcli.text import number, truncated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_RUNS = 8
"""More lines cannot be told apart."""
COLOURS = ("#2b5fd0", "#d1720f", "#2f855a", "#b83280", "#6b46c1", "#0e7c86", "#8a6d1d", "#5a3e2b")
"""Dark enough on white for a thin line, and apart in hue and lightness for most colour-blind eyes."""
INK, SOFT, RULE = "#1b1d22", "#63676f", "#e4e1da"
GAP = 0.062
"""Share of a panel's height that two names keep between them."""
WIDE_SPAN = 30.0
"""Largest over smallest loss from which a logarithmic scale shows more."""
LONGEST_NAME = 26


@dataclass(frozen=True)
class Drawn:
    """One run's lines in one panel, main and thin."""

    name: str
    main: Curve
    thin: Curve = ()


def comparison(records: Sequence[Record]) -> bytes | None:
    """A PNG of two panels, the watched metric and the loss by epoch; None if no run has logged an evaluation.

    records: up to MOST_RUNS are drawn. A run that watched another metric than the first is in the loss panel only.
    """
    records = list(records)[:MOST_RUNS]
    metric = next((r.metric for r in records if r.metric != "loss" and _watched(r, r.metric)), "")
    names = _names(records)
    scores = [Drawn(n, _watched(r, metric)) for n, r in zip(names, records, strict=True)] if metric else []
    losses = [
        Drawn(n, _watched(r, "loss"), curve(r.entries, "train", "loss")) for n, r in zip(names, records, strict=True)
    ]
    panels = [(metric.replace("_", " "), scores), ("loss (thin: training)", losses)]
    panels = [(title, drawn) for title, drawn in panels if any(line.main or line.thin for line in drawn)]
    return _picture(panels) if panels else None


def _watched(record: Record, metric: str) -> Curve:
    return curve(record.entries, str(record.best.get("split", "val")), metric)


def _names(records: Sequence[Record]) -> list[str]:
    """The name of a run, or where two share it, the time that tells them apart."""
    short = [record.path.parent.name for record in records]
    return [
        record.path.name if len(set(short)) == 1 and len(short) > 1 else name if short.count(name) == 1 else record.name
        for name, record in zip(short, records, strict=True)
    ]


def _picture(panels: list[tuple[str, list[Drawn]]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.25, h_pad=0.2)
    figure = Figure(figsize=(6.6 * len(panels), 4.4), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    for axes, (title, drawn) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _panel(axes, title, drawn)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=130)
    return target.getvalue()


def _panel(axes: "Axes", title: str, drawn: list[Drawn]) -> None:
    from matplotlib.ticker import MaxNLocator

    ends: list[tuple[float, str, str, float]] = []
    for line, colour in zip(drawn, COLOURS, strict=False):
        for points, width, alpha in ((line.thin, 1.0, 0.55), (line.main, 2.0, 1.0)):
            if points:
                style: dict[str, Any] = {"marker": "o", "markersize": 4} if len(points) == 1 else {}
                axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, alpha=alpha, **style)
        if line.main or line.thin:
            last = (line.main or line.thin)[-1]
            ends.append((last[1], line.name, colour, last[0]))
    values = [v for line in drawn for _, v in (*line.main, *line.thin)]
    if title.startswith("loss") and min(values) > 0 and max(values) / min(values) >= WIDE_SPAN:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        title += ", logarithmic"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel("epoch", color=SOFT, fontsize=9, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(which="both", length=0, colors=SOFT, labelsize=9)
    axes.margins(x=0.02)
    _name_ends(axes, ends)


def _name_ends(axes: "Axes", ends: list[tuple[float, str, str, float]]) -> None:
    """Names right of the panel at the height their lines end, moved apart where they would lie on each other."""
    axes.autoscale_view()  # otherwise done at the first drawing, after which heights would be others
    to_share = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: -end[0])
    shares = [float(to_share.transform((epoch, value))[1]) for value, _, _, epoch in ends]
    for share, (value, name, colour, _) in zip(apart(shares, GAP), ends, strict=True):
        label = f"{truncated(name, LONGEST_NAME)}  {number(value)}"
        axes.annotate(label, (1.015, share), xycoords="axes fraction", color=colour,
                      fontsize=9, va="center", parse_math=False, annotation_clip=False)  # fmt: skip
