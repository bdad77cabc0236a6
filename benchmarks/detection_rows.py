"""Measured detectors as tables and charts: what detection_minutes.py shows of its rows."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rounds import table

Row = dict[str, Any]
"""One trained detector: data, name, seconds, seed, map, map50, ms, parameters, cpu_s, epochs, best_epoch, machine."""
LINE = 11.0
"""Points of type from one text of the charts to the next above it."""
DOT = 12.0
"""Points of type from the left edge of a dot to its text."""
HEAD = ("detector", "CPU s", "epochs", "test mAP", "mAP@0.5", "ms a picture", "parameters")


def sections(rows: Sequence[Row]) -> Iterator[str]:
    """Tables by data and time, the best first."""
    kinds = dict.fromkeys((row["data"], row["seconds"]) for row in rows)
    for data, seconds in sorted(kinds, key=lambda kind: (kind[0] != "scenes", *kind)):
        own = sorted((row for row in rows if (row["data"], row["seconds"]) == (data, seconds)),
                     key=lambda row: -row["map"])  # fmt: skip
        lines = [
            [title(row), f"{row['cpu_s']:.0f}", f"{row['best_epoch']} of {row['epochs']}", f"{row['map']:.3f}",
             f"{row['map50']:.3f}", f"{row['ms']:.1f}", f"{row['parameters']:,}"]
            for row in own
        ]  # fmt: skip
        yield f"{data}, {seconds:g} CPU seconds of training ({days(own)})\n\n{table(HEAD, lines)}"


def title(row: Row) -> str:
    """`yolo`, or of other than the first seed `yolo, seed 1`."""
    return row["name"] + (f", seed {row['seed']}" if row["seed"] else "")


def days(rows: Sequence[Row]) -> str:
    found = sorted({row["machine"].split(",")[0] for row in rows})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"


def draw(rows: Sequence[Row], path: Path, peers: Collection[str]) -> None:
    """Three charts beside each other for each data set: mAP by training minutes, time a picture, and parameters.

    peers: names that are drawn in orange. A stepped line runs along what nothing cheaper is better than. Of the two
    costs that do not depend on the length of the training, each detector's best is shown.
    """
    from mlcli.show.figure import image_of, new_figure

    sets = sorted({row["data"] for row in rows}, key=lambda data: (data != "scenes", data))
    figure = new_figure(13, 5.2 * len(sets))
    for data, charts in zip(sets, figure.subplots(len(sets), 3, sharey="row", squeeze=False), strict=True):
        shown = sorted((row for row in rows if row["data"] == data), key=lambda row: row["map"])
        best = list({row["name"]: row for row in shown}.values())
        _chart(charts[0], f"Training, {data}", "CPU minutes", shown, lambda row: row["cpu_s"] / 60, peers)
        _chart(charts[1], f"Looking, {data}", "CPU milliseconds a picture", best, lambda row: row["ms"], peers)
        _chart(charts[2], f"Size, {data}", "million parameters", best, lambda row: row["parameters"] / 1e6, peers)
    image_of(figure).save(path)


def _chart(
    axes: Any, title_of: str, unit: str, shown: Sequence[Row], cost: Callable[[Row], float], peers: Collection[str]
) -> None:
    from mlcli.show.figure import headline, plain_axes
    from mlcli.show.palette import BLUE, INK, ORANGE, PAPER, RULE

    axes.set(xscale="log", xlabel=unit, xlim=(0.8 * min(map(cost, shown)), 2.2 * max(map(cost, shown))))
    axes.xaxis.set_major_locator(_locator(axes))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.margins(y=0.08)
    edge = frontier(shown, cost)
    axes.step([cost(row) for row in edge], [row["map"] for row in edge], where="post", color=RULE, linewidth=1.2)
    for row in shown:
        axes.plot(cost(row), row["map"], "o", color=ORANGE if row["name"] in peers else BLUE, zorder=4)
    headline(axes, title_of, "test mAP; up and to the left is better")
    plain_axes(axes)
    places = labels([(math.log(cost(row)), row["map"], short(row)) for row in shown], axes)
    for row, lift in zip(shown, places, strict=True):
        axes.annotate(short(row), (cost(row), row["map"]), xytext=(6, lift), textcoords="offset points",
                      va="center", fontsize=8, color=INK, parse_math=False, zorder=3,
                      bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5, "alpha": 0.8})  # fmt: skip


def short(row: Row) -> str:
    return (
        row["name"]
        .replace("_mobilenet_v3_large", "")
        .replace("in torchvision's loop", "(their loop)")
        .replace(" of ImageNet", "")
    )


def _locator(axes: Any) -> Any:
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0))


def labels(points: Sequence[tuple[float, float, str]], axes: Any) -> list[float]:
    """Return how many points of type each text is lifted so that none lies on another or on a dot.

    points: x, y and text, by y.
    """
    width, height = 300.0, 330.0  # of the axes in points of type, about
    low, high = (math.log(edge) for edge in axes.get_xlim())
    tall = max(y for _, y, _ in points) - min(y for _, y, _ in points) or 1.0
    places = [(width * (x - low) / (high - low), height * y / tall) for x, y, _ in points]
    taken = [(left - DOT, left, level) for left, level in places]
    for (left, level), (_, _, text) in zip(places, points, strict=True):
        right = left + 5.0 * len(text)
        for other_left, other_right, other in sorted(taken, key=lambda one: one[2]):
            if left < other_right and other_left < right and abs(level - other) < LINE:
                level = other + LINE
        taken.append((left, right, level))
    return [level - own for (_, _, level), (_, own) in zip(taken[len(points) :], places, strict=True)]


def frontier(rows: Sequence[Row], cost: Callable[[Row], float]) -> list[Row]:
    """Return the rows of which none that costs as little or less is better, the cheapest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (cost(row), -row["map"])):
        if not found or row["map"] > found[-1]["map"]:
            found.append(row)
    return found
