"""How sure the model is, and how rightly: precision over recall, the threshold, and confidence beside the truth."""

from itertools import pairwise
from typing import Any

from mlcli.report.page.markup import Html, el, section
from mlcli.report.page.plot import Axis, Line, line_chart
from mlcli.report.record import Record

MOST_CURVES = 30
NAMED_CURVES = 3
FEW = 10
"""Samples below which the share of right ones among them says little."""
WHOLE = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def quality(record: Record) -> Html | None:
    """Curves over the threshold and over the confidence."""
    drawn = (_precision_recall(record.detail), _by_threshold(record.detail), _calibration(record))
    charts = [chart for chart in drawn if chart]
    return section("quality", "How sure it is", None, el("div", *charts, class_="charts")) if charts else None


def _precision_recall(detail: dict[str, Any]) -> Html | None:
    """A line per class; the three with the least area below them are named."""
    found = detail.get("pr_curves")
    lines = []
    for name, c in found.items() if isinstance(found, dict) else ():
        both = {(float(r), float(p)) for r, p in zip(c["recall"], c["precision"], strict=True)}
        if points := _stairs(sorted(both, key=lambda point: (point[0], -point[1]))):
            lines.append((_area(points), str(name), points))
    if not lines:
        return None
    lines = sorted(lines, key=lambda line: line[0])[:MOST_CURVES]
    drawn = [
        Line(f"{name} ({area:.2f})", points, "main" if i < NAMED_CURVES else "faint")
        for i, (area, name, points) in enumerate(lines)
    ]
    weakest = ", ".join(f"{name} ({area:.2f})" for area, name, _ in lines[:NAMED_CURVES])
    return line_chart("Precision over recall", drawn[::-1], x_name="recall", x_axis=WHOLE, y_axis=WHOLE, labels=False,
                      shown="{:.2f}".format, note=f"weakest: {weakest}")  # fmt: skip


def _by_threshold(detail: dict[str, Any]) -> Html | None:
    """Precision, recall and F1 of all objects, by the least score that counts."""
    found = detail.get("f1_curve")
    if not isinstance(found, dict) or not found.get("threshold"):
        return None
    lines = [
        Line(name, list(zip(found["threshold"], found[name], strict=True)), "main" if name == "f1" else "quiet")
        for name in ("precision", "recall", "f1")
    ]
    best = detail.get("best_threshold")
    mark = (float(best), f"best {best:.2f}") if isinstance(best, int | float) and 0 <= best <= 1 else None
    return line_chart("By the least score that counts", lines, x_name="threshold", x_axis=WHOLE, y_axis=WHOLE,
                      shown="{:.2f}".format, mark=mark)  # fmt: skip


def _area(points: list[tuple[float, float]]) -> float:
    """Below stairs: the average precision, where the points are those of all thresholds."""
    return sum((x - before) * y for (before, _), (x, y) in pairwise(points))


def _stairs(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """From recall to recall at the precision of the higher one, as average precision counts it."""
    found, reached = [(0.0, points[0][1])] if points else [], 0.0
    for recall, precision in points:
        if recall > reached:
            found += [(reached, precision), (recall, precision)]
            reached = recall
    return found


def _calibration(record: Record) -> Html | None:
    """How often answers are right, by the probability they are given (Guo et al. 2017, figure 1)."""
    bins = [b for b in record.detail.get("calibration") or [] if b["samples"]]
    if not bins:
        return None
    many = [(b["confidence"], b["accuracy"]) for b in bins if b["samples"] >= FEW]
    few = [(b["confidence"], b["accuracy"]) for b in bins if b["samples"] < FEW]
    ideal = Line("exact", [(0.0, 0.0), (1.0, 1.0)], "quiet")
    lines = [ideal, Line("few", few, "quiet", dots=True), Line("many", many, "main", dots=True)]
    error = record.scores.get(record.split, {}).get("ece")
    note = f"grey: under {FEW} samples" + (f"; mean gap {error:.3f}" if error is not None else "")
    return line_chart("Right, by how sure it is", lines, x_name="probability it gives", x_axis=WHOLE, y_axis=WHOLE,
                      labels=False, shown="{:.2f}".format, note=note)  # fmt: skip
