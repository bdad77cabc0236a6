"""How the run learned: loss, watched metric and learning rate by epoch, training beside validation."""

from typing import Any

from mlcli.report.page.markup import Html, data_table, el, fold, section
from mlcli.report.page.plot import Line, axis, line_chart, log_axis
from mlcli.report.record import SHARES, Record, score_text
from mlcli.text import number

MOST_ROWS = 200
"""Of the table below the charts."""


def curves(record: Record) -> Html | None:
    """The section of curves; None for a run that logged nothing twice."""
    watched, metric = str(record.best.get("split", "val")), record.metric
    per_epoch = _steps_per_epoch(record.entries)
    train, val = _line(record, "train", "loss", per_epoch), _line(record, watched, "loss", per_epoch)
    score = _line(record, watched, metric, per_epoch) if metric != "loss" else []
    rate = _line(record, "train", "lr", per_epoch)
    if len(train) < 2 and len(val) < 2 and len(score) < 2:
        return None
    best = record.best.get("epoch")
    mark = (float(best), "best") if isinstance(best, int) and len(val or score) > 1 else None
    losses = [Line("train", train, "quiet")]
    losses += [Line(watched, val)] if watched != "train" else []
    scale = log_axis([value for line in losses for _, value in line.points]) if train or val else None
    said = "logarithmic scale" if scale else None
    charts = [line_chart("Loss", losses, x_name="epoch", mark=mark, y_axis=scale, note=said)] if train or val else []
    if score:
        lines = [Line(watched, score)]
        charts.append(line_chart(_title(metric), lines, x_name="epoch", mark=mark, shown=_shown(metric)))
    if rate:
        lines = [Line("lr", rate, "quiet")]
        charts.append(line_chart("Learning rate", lines, x_name="epoch", shown="{:.3g}".format))
    if speed := _line(record, "train", "samples_per_s", per_epoch):
        whole = axis([value for _, value in speed], zero=True)
        charts.append(line_chart("Samples per second", [Line("train", speed, "quiet")], x_name="epoch", y_axis=whole,
                                 shown="{:,.0f}".format))  # fmt: skip
    lede = "Training loss is a mean over the steps between two log points, with dropout and augmentation at work."
    return section("curves", "How it learned", lede, el("div", *charts, class_="charts"), _values(record, watched))


def _line(record: Record, split: str, key: str, per_epoch: float) -> list[tuple[float, float]]:
    """Epochs (with fractions) and values."""
    return [
        (entry["step"] / per_epoch, float(entry[key]))
        for entry in record.entries
        if entry["split"] == split and isinstance(entry.get(key), int | float)
    ]


def _steps_per_epoch(entries: list[dict[str, Any]]) -> float:
    """From an evaluation, which comes at the end of an epoch; otherwise from the last log point, about."""
    ends = [e for e in entries if e["split"] != "train"] or entries[-1:]
    return max(1.0, ends[-1]["step"] / max(1, ends[-1]["epoch"])) if ends else 1.0


def _values(record: Record, watched: str) -> Html | None:
    """The evaluations as a table, for whoever cannot see or wants to copy."""
    entries = [e for e in record.entries if e["split"] == watched and watched != "train"]
    names = [k for k in (entries[-1] if entries else {}) if k not in ("split", "step", "epoch", "time", "seconds")]
    if not names:
        return None
    every = -(-len(entries) // MOST_ROWS)
    rows = [[e["epoch"], *(number(e.get(name)) for name in names)] for e in entries[::every]]
    title = f"All {watched} scores by epoch" + (f", every {every} evaluations" if every > 1 else "")
    return fold(title, data_table(["epoch", *(n.replace("_", " ") for n in names)], rows, left=0))


def _title(metric: str) -> str:
    words = metric.replace("_", " ")
    return words if len(words) <= 4 else words[0].upper() + words[1:]  # rmse, mae, r2, map


def _shown(metric: str):
    return (lambda value: score_text(metric, value)) if metric in SHARES else number
