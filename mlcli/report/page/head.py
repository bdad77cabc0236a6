"""The top of the page: what was trained, how good it is, what that means, and what to try."""

from datetime import datetime
from typing import Any

from mlcli.report.evidence import Evidence
from mlcli.report.page.markup import Html, command, data_table, el, join, section
from mlcli.report.record import SHARES, SPLITS, Record, score_text
from mlcli.report.summary import command_for
from mlcli.report.verdict import Verdict, judge
from mlcli.text import duration, number, whole

TONES = {"good fit": "good", "diverged": "bad", "worse than a baseline": "bad"}
"""Colour of a verdict; the others are worth a second look."""
MOST_METRICS = 12


def header(record: Record) -> Html:
    """Name, kind and date of the run; its state where it did not finish."""
    state = str(record.status.get("state", "unknown"))
    pill = el("span", state, class_="pill") if state != "finished" else None
    model, data = _named(record.config.get("model")), _named(record.config.get("data"))
    parts = [record.task, f"{model} on {data}" if model and data else model or data]
    return el(
        "header",
        el("p", " · ".join(filter(None, parts)), class_="overline"),
        el("h1", record.path.parent.name, pill),
        el("p", join([record.path.name, _when(record.status.get("started"))], " · "), class_="muted"),
        _trouble(record),
    )


def hero(record: Record) -> Html | None:
    """The score as a figure, and the verdict beside it."""
    verdict, split = judge(Evidence.of(record)), record.split
    value = record.scores.get(split, {}).get(record.metric)
    if value is None and verdict is None:
        return None
    return el("div", _score(record, split, value), _verdict(record, verdict), class_="hero")


def facts(record: Record) -> Html:
    """What else is asked first, as a row of small figures."""
    best, status = record.best, record.status
    parameters = record.summary.get("parameters")
    epochs = f"{status.get('epoch', 0)} of {status['epochs']}" if status.get("epochs") else status.get("epoch")
    device = str(_mapping(record.environment.get("choices")).get("device", "")).partition(":")[0]
    pairs = [
        ("best epoch", best.get("epoch")),
        ("epochs", epochs),
        ("time", duration(status["seconds"]) if isinstance(status.get("seconds"), int | float) else None),
        ("parameters", f"{parameters:,}" if isinstance(parameters, int) else None),
        ("device", device or None),
        ("seed", _mapping(record.config.get("train")).get("seed")),
    ]
    return el(
        "dl",
        *(el("div", el("dt", name), el("dd", value)) for name, value in pairs if value is not None),
        class_="facts",
    )


def scores(record: Record) -> Html | None:
    """All metrics of all splits."""
    known = {split: record.scores[split] for split in reversed(SPLITS) if split in record.scores}
    names = list(dict.fromkeys(name for values in known.values() for name in values))[:MOST_METRICS]
    if not names:
        return None
    rows = [
        [el("b", split), *(number(known[split].get(name)) for name in names), whole(record.samples(split))]
        for split in known
    ]
    table = data_table(["split", *(name.replace("_", " ") for name in names), "samples"], rows)
    return section("scores", "Scores", "Of the best model, by split.", table)


def _score(record: Record, split: str, value: float | None) -> Html:
    evidence, samples = Evidence.of(record), record.samples(split)
    on = f"{record.metric.replace('_', ' ')} on {'the ' if not samples else ''}{split}"
    on += f", {samples:,} samples" if samples else " split"
    figure, unit = score_text(record.metric, value), None
    if record.metric in SHARES and value is not None:
        figure, unit = f"{100 * value:.1f}", el("small", "%")
    error = evidence.score_error
    give = _give(record.metric, 2 * error) if error else None
    return el("div", el("p", figure, unit, class_="figure"), el("p", on, class_="on"),
              el("p", give, class_="muted") if give else None, class_="score")  # fmt: skip


def _give(metric: str, twice: float) -> str:
    """95 % of the same model's scores on as many other samples would lie within."""
    size = f"{100 * twice:.1f} points" if metric in SHARES else number(twice)
    return f"± {size}, by the luck of the draw (95 %)"


def _verdict(record: Record, verdict: Verdict | None) -> Html | None:
    if verdict is None:
        return None
    tone = TONES.get(verdict.kind, "look")
    advice = [command(command_for(record, a.override), a.why) for a in verdict.advice]
    return el(
        "div",
        el("p", el("i", class_=f"dot {tone}"), _sentence(verdict.kind, stop=""), class_="kind"),
        el("ul", *(el("li", _sentence(reason)) for reason in verdict.reasons)),
        el("p", "try next", class_="overline") if advice else None,
        *advice,
        class_="verdict",
    )


def _trouble(record: Record) -> Html | None:
    """Why a run did not finish, as far as its folder says."""
    state, error = record.status.get("state"), record.status.get("error")
    if error:
        return el("p", f"It ended early: {error}", class_="notice")
    if state in ("interrupted", "killed"):
        return el("p", f"It was {state}; what is shown is what it had reached.", class_="notice")
    return None


def _sentence(words: str, stop: str = ".") -> str:
    return words[:1].upper() + words[1:] + stop


def _named(section: Any) -> str:
    """The model or data of a config in a word or two."""
    about = _mapping(section)
    parts = [about.get("name"), about.get("arch"), about.get("depth")]
    return " ".join(str(part) for part in parts if part is not None)


def _when(started: Any) -> str | None:
    try:
        return datetime.fromisoformat(started).strftime("%-d %B %Y, %H:%M UTC")
    except (TypeError, ValueError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
