"""The picture of `runs compare`: the curves of a few runs in one picture, each with its name at its end."""

from collections.abc import Sequence

from mlcli.report.evidence import Curve, curve
from mlcli.report.record import Record, in_words
from mlcli.show.charts import Line, LineChart, axis, log_axis
from mlcli.text import as_text

MOST_RUNS = 8
"""More lines cannot be seen apart."""


def comparison(records: Sequence[Record]) -> list[LineChart]:
    """The watched metric and the loss by epoch; empty if no run has logged an evaluation.

    records: up to MOST_RUNS are drawn. A run that watched another metric than the first is in the chart of losses only.
    """
    records = list(records)[:MOST_RUNS]
    metric = next((r.metric for r in records if r.metric != "loss" and _watched(r, r.metric)), "")
    scores, losses = [], []
    short = [as_text(record.path.parent.name) for record in records]
    for group, record in enumerate(records):
        name = short[group] if short.count(short[group]) == 1 else record.name  # where two share it, with the time
        name = record.path.name if len(set(short)) == 1 < len(short) else name
        loss, train = _watched(record, "loss"), curve(record.entries, "train", "loss")
        scores.append(Line(name, _watched(record, metric) if metric else (), group=group))
        losses.append(Line("" if loss else name, train, "quiet", group=group))
        losses.append(Line(name, loss, group=group))
    charts = [_chart(in_words(metric), scores), _chart("loss", losses, "thin: training")]
    return [chart for chart in charts if chart]


def _watched(record: Record, metric: str) -> Curve:
    return curve(record.entries, str(record.best.get("split", "val")), metric)


def _chart(title: str, lines: list[Line], note: str = "") -> LineChart | None:
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    epochs, values = zip(*(point for line in lines for point in line.points), strict=True)
    scale = log_axis(values) if title == "loss" else None
    if scale:
        note += "; logarithmic scale"
    return LineChart(title, lines, axis(epochs, "epoch", count=6, tight=True, whole=True), scale or axis(values), note)
