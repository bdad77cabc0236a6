"""The charts of an evaluation, from its details: for the page and as pictures alike, under one name each.

A chart whose keys are not there is not drawn.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from mlcli.show.charts import Axis, Bar, BarChart, Chart, Line, LineChart, Matrix, Points, Rule, axis
from mlcli.show.details import Curve, Details, Evaluation, Robustness
from mlcli.text import plural

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_CURVES, NAMED_CURVES = 30, 3
MOST_COLUMNS = 20
FEW = 10
"""Samples below which the share of right ones among them says little."""
KINDS = {
    "localisation": "right class, loose box",
    "class": "right box, wrong class",
    "duplicate": "found twice",
    "background": "nothing there",
    "both": "wrong class, loose box",
    "missed": "not found",
}
"""Explanations of the kinds of a detector's mistakes."""


def confusion(details: Details) -> tuple[Matrix, ...]:
    """The confusion matrix; none unless it is square and has a name for each row."""
    classes = details.get("classes")
    names = details.get("confusion_names") or [
        row.get("name") for row in (classes if isinstance(classes, list) else []) if isinstance(row, dict)
    ]
    try:
        counts = np.array(details.get("confusion", []), dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        return ()
    if counts.ndim != 2 or counts.shape != (len(names), len(names)) or not counts.size:
        return ()
    note = f"{counts.trace():,} of {counts.sum():,} right; colour by share of the row"
    return (Matrix(tuple(map(str, names)), counts, counts.sum(axis=1), note=note),)


def calibration(details: Details) -> tuple[Chart, ...]:
    """Draw the reliability diagram (Guo et al. 2017, figure 1), and the number of answers by confidence."""
    bins = [b for b in details.get("calibration") or [] if b["samples"]]
    if not bins:
        return ()
    points = [[(b["confidence"], b["accuracy"]) for b in bins if (b["samples"] < FEW) == few] for few in (True, False)]
    lines = [
        Line("exact", [(0.0, 0.0), (1.0, 1.0)], "quiet"),
        Line(f"under {FEW} samples", points[0], "quiet", dots=True),
        Line(f"{FEW} samples or more", points[1], "main", dots=True),
    ]
    total = sum(b["samples"] for b in bins)
    error = sum(b["samples"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / total
    note = f"below the line: overconfident; mean gap {error:.3f}; grey: under {FEW} samples"
    shares = [(b["confidence"], b["samples"] / total) for b in bins]
    stems = [Line("", [(x, 0.0), (x, y)], "main") for x, y in shares]
    reached = axis([y for _, y in shares], "share of samples", zero=True)
    return (
        LineChart("Calibration", lines, _unit("predicted probability"), _unit("accuracy"), note, shown="{:.2f}".format,
                  named=False),
        LineChart("Confidence of the answers", stems, _unit("predicted probability"), reached, shown="{:.2f}".format,
                  named=False),
    )  # fmt: skip


def precision_recall(details: Details) -> tuple[LineChart, ...]:
    """A line per class, from recall to recall at the precision of the higher one; those with the least area named."""
    found, lines = details.get("pr_curves"), []
    for name, curve in found.items() if isinstance(found, dict) else ():
        both = {(float(r), float(p)) for r, p in zip(curve["recall"], curve["precision"], strict=True)}
        if points := _stairs(sorted(both, key=lambda point: (point[0], -point[1]))):
            # The area is the average precision, where the points are those of all thresholds.
            area = sum((x - before) * y for (before, _), (x, y) in pairwise(points))
            lines.append((area, str(name), points))
    if not lines:
        return ()
    lines = sorted(lines, key=lambda line: line[0])[:MOST_CURVES]
    named = [Line(f"{name} ({area:.2f})", p, group=i) for i, (area, name, p) in enumerate(lines[:NAMED_CURVES])]
    faint = [Line("", points, "faint") for _, _, points in lines[NAMED_CURVES:]]
    rows = [row for row in details.get("classes") or [] if row.get("threshold") is not None]  # so are its scores
    best_points = {row["name"]: (row["recall"] or 0.0, row["precision"] or 0.0) for row in rows}
    best = [
        Line("", [best_points[name]], dots=True, group=i)
        for i, (_, name, _) in enumerate(lines[:NAMED_CURVES])
        if name in best_points
    ]
    note = "weakest: " + ", ".join(line.name for line in named) + ("; dots where F1 is best" if best else "")
    return (
        LineChart("Precision and recall", [*faint, *named[::-1], *best], _unit("recall"), _unit("precision"), note,
                  shown="{:.2f}".format),
    )  # fmt: skip


def by_threshold(details: Details) -> tuple[LineChart, ...]:
    """Precision, recall and F1 of all objects, by the least score that counts."""
    found = details.get("f1_curve")
    if not isinstance(found, dict) or not found.get("threshold"):
        return ()
    curves = details.get("pr_curves") or {}
    lines = [Line("", _points(c, "f1"), "faint") for c in list(curves.values())[:MOST_CURVES] if "f1" in c]
    lines += [
        Line(key, _points(found, key), "main" if key == "f1" else "quiet") for key in ("precision", "recall", "f1")
    ]
    best = details.get("best_threshold")
    rules = [Rule(float(best), f"best {best:.2f}")] if isinstance(best, int | float) and 0 <= best <= 1 else []
    note = "faint: F1 of each class" if len(lines) > 3 else ""
    return (LineChart("F1 by threshold", lines, _unit("threshold"), _unit(""), note, rules, "{:.2f}".format),)


def mistakes(details: Details) -> tuple[BarChart, ...]:
    """The kinds of mistakes of a detector, by what fixing each alone would add to the mean average precision."""
    kinds = details.get("breakdown")
    if not kinds:
        return ()
    most = max(1e-9, *(float(kind["delta_map50"]) for kind in kinds))
    bars = [
        Bar(KINDS.get(kind["name"], str(kind["name"])), float(kind["delta_map50"]), f"+{kind['delta_map50']:.3f}",
            plural(kind["count"], "time"), "main" if kind["delta_map50"] == most else "quiet")
        for kind in kinds
    ]  # fmt: skip
    return (BarChart("Kinds of mistakes", bars, most, "gain in mean AP50 if that kind alone were fixed"),)


def importance(evaluation: Evaluation) -> tuple[BarChart, ...]:
    """The columns of a table, by how much worse the answers become when one's values are dealt out anew."""
    found = evaluation.get("importance")
    if not found or not (columns := found["columns"]):
        return ()
    most, left_out = max(1e-9, float(columns[0]["mean"])), len(columns) - MOST_COLUMNS
    bars = [
        Bar(str(c["name"]), max(0.0, float(c["mean"])), f"{c['mean']:.3g} ± {c['std']:.2g}", "",
            "main" if c["mean"] > 2 * c["std"] else "quiet")
        for c in columns[:MOST_COLUMNS]
    ]  # fmt: skip
    note = f"how much worse {found['metric']} is: mean and standard deviation of {found['repeats']} shuffles"
    note += f" of {found['samples']:,} samples"
    more = f"; {left_out:,} columns of less are not shown" if left_out > 0 else ""
    return (BarChart("Importance of columns", bars, most, note + more),)


def robustness(found: Robustness) -> tuple[LineChart, ...]:
    """The score by the amount by which images are changed."""
    metric, rows = found["metric"], found["scores"]
    pairs = ((row["amount"], row.get(metric)) for row in rows)
    points = [(amount, score) for amount, score in pairs if amount is not None and score is not None]
    lines = [Line("", points), Line("", points, dots=True)]
    note = f"{found['split']}, {found['samples']:,} samples; {found['unit']}"
    across = axis([x for x, _ in points] or [0.0], found["change"], tight=True)
    return (
        LineChart(f"{metric.replace('_', ' ')} by {found['change']}", lines, across, _unit(metric.replace("_", " ")),
                  note, shown="{:.3f}".format, named=False),
    )  # fmt: skip


def predicted_and_true(details: Details) -> tuple[LineChart, ...]:
    """Predictions of a regression over the truth, with the diagonal on which they are equal."""
    if not (pairs := _answers(details)):
        return ()
    unit = str(details.get("unit") or "target")
    both = axis([value for pair in pairs for value in pair], f"true {unit}", count=5)
    scores = {name: details.get("metrics", {}).get(name) for name in ("rmse", "r2")}
    note = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None)
    note = "; ".join(filter(None, [note, f"{details['residuals'].get('count', len(pairs)):,} samples"]))
    ideal = Line("", [(both.low, both.low), (both.high, both.high)], "quiet")
    return (
        LineChart("Predicted and true", [ideal, Line("", pairs, "main", dots=True)], both,
                  Axis(both.low, both.high, both.ticks, f"predicted {unit}"), note, named=False),
    )  # fmt: skip


def residuals(details: Details) -> tuple[LineChart, ...]:
    """Predicted minus true over predicted values, and how often each miss occurs."""
    if not (pairs := _answers(details)):
        return ()
    misses = [(answer, answer - truth) for truth, answer in pairs]
    reach = max(1e-12, *(abs(miss) for _, miss in misses))
    across, up = axis([x for x, _ in misses], f"predicted {details.get('unit') or 'target'}"), axis([-reach, reach])
    up = Axis(up.low, up.high, up.ticks, "predicted - true")
    counts, edges = np.histogram([miss for _, miss in misses], bins=int(np.clip(len(misses) ** 0.5, 5, 40)))
    steps = [(float(x), float(y)) for i, y in enumerate(counts) for x in edges[i : i + 2]]
    level = Line("", [(across.low, 0.0), (across.high, 0.0)], "quiet")
    how_often = axis([0.0, float(counts.max())], "samples", whole=True)
    quantiles, rules, note = details["residuals"].get("quantiles"), [], ""
    if isinstance(quantiles, dict) and {"5 %", "50 %", "95 %"} <= quantiles.keys():
        low, middle, high = (quantiles[key] for key in ("5 %", "50 %", "95 %"))
        note = f"nine of ten lie between {low:.3g} and {high:.3g}; the middle one is {middle:.3g}"
        rules = [Rule(low, "5 %", "y"), Rule(high, "95 %", "y")]
    return (
        LineChart("Residuals", [level, Line("", misses, dots=True)], across, up, "above the line: too high", rules,
                  named=False),
        LineChart("Distribution of residuals", [Line("", steps)], axis([*edges], "predicted - true"), how_often, note,
                  named=False),
    )  # fmt: skip


CHARTS: dict[str, Callable[[Details], Sequence[Chart]]] = {
    "confusion": confusion,
    "calibration": calibration,
    "precision and recall": precision_recall,
    "f1 by threshold": by_threshold,
    "kinds of mistakes": mistakes,
    "predicted and true": predicted_and_true,
    "residuals": residuals,
}
"""By the names under which they are kept as pictures: the charts that stand in one picture, none where keys miss."""


def pictures(details: Details, prefix: str = "") -> "dict[str, Image]":
    """All the charts that there are, as pictures by name. prefix: of their titles."""
    from mlcli.show.figure import image

    return {name: image(*charts, prefix=prefix) for name, make in CHARTS.items() if (charts := make(details))}


def _unit(name: str) -> Axis:
    return Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), name)


def _answers(details: Details) -> Points:
    """Pairs (truth, answer)."""
    found = details.get("residuals")
    if not isinstance(found, dict) or not found.get("truth"):
        return []
    return [(float(t), float(a)) for t, a in zip(found["truth"], found["answer"], strict=False)]


def _points(curve: Curve, key: Literal["precision", "recall", "f1"]) -> Points:
    return list(zip(curve["threshold"], curve[key], strict=True))


def _stairs(points: Points) -> list[tuple[float, float]]:
    """Return the points of a step curve, each step at its right end's precision, as average precision counts it."""
    found, reached = [(0.0, points[0][1])] if points else [], 0.0
    for recall, precision in points:
        if recall > reached:
            found += [(reached, precision), (recall, precision)]
            reached = recall
    return found
