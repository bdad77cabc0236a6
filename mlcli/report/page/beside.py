"""The run's score beside those of simple models on the same split, as bars."""

from mlcli.report.page.markup import Html, el, join, section
from mlcli.report.record import Record, score_text


def baselines(record: Record) -> Html | None:
    """The section of baselines; None where none were fitted, or not for what is shown."""
    simple, metric = record.baselines, record.metric
    if simple is None or simple.split not in record.scores:
        return None
    if metric not in record.scores[simple.split]:
        return None
    known = [e for e in simple.entries if metric in e.scores]
    if not known:
        return None
    own = record.scores[simple.split][metric]
    rows = [("this model", own, "", True)]
    for entry in known:
        rows_note = f"on {entry.rows:,} of {simple.rows_there:,} rows" if entry.rows < simple.rows_there else ""
        rows.append((entry.name, entry.scores[metric], ", ".join(filter(None, [entry.note, rows_note])), False))
    better_first = -1 if record.direction == "max" else 1
    rows.sort(key=lambda row: better_first * row[1])
    scale = max(1.0 if record.direction == "max" else 0.0, *(value for _, value, _, _ in rows)) or 1.0
    bars = [_bar(name, value, metric, max(0.0, value) / scale, note, own) for name, value, note, own in rows]
    scored = f" They answered {simple.samples:,} of its {simple.samples_there:,} samples." if (
        simple.samples < simple.samples_there) else ""  # fmt: skip
    notes = "".join(f" {note[0].upper()}{note[1:]}." for note in simple.notes)
    better = "more is better" if record.direction == "max" else "less is better"
    lede = (f"By {metric.replace('_', ' ')} on the {simple.split} split; {better}. What they may choose was "
            f"chosen by cross-validation on training rows.{scored}{notes}")  # fmt: skip
    return section("baselines", "Beside simple models", lede, el("div", *bars, class_="bars"))


def _bar(name: str, value: float, metric: str, share: float, note: str, own: bool) -> Html:
    return el(
        "div",
        el("span", name, class_="name"),
        el("span", el("i", style=f"width:{100 * share:.2f}%"), class_="track"),
        el("span", score_text(metric, value), class_="value"),
        el("span", join([note]), class_="note"),
        class_="bar own" if own else "bar",
    )
