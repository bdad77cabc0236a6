"""What the model answers on the headline's split: class by class, by kind of mistake, and how far numbers miss."""

import math
from typing import Any

from mlcli.report.page.markup import Html, data_table, el, fold, section
from mlcli.report.page.plot import Line, axis, line_chart
from mlcli.report.record import Record
from mlcli.text import number

MOST_CLASS_ROWS = 40


def classes(record: Record) -> Html | None:
    """A row per class with every number there is on it, the weakest first."""
    rows = [c for c in record.detail.get("classes") or [] if isinstance(c, dict) and "name" in c]
    keys = [k for k, v in (rows[0] if rows else {}).items() if k != "name" and isinstance(v, int | float)]
    if not keys:
        return None
    by = next((key for key in ("ap", "f1", "recall") if key in keys), keys[0])
    rows = sorted(rows, key=lambda c: _value(c.get(by)))
    written = [[c["name"], *(_meter(c.get(k)) if k == by else _plain(c.get(k)) for k in keys)] for c in rows]
    header = ["class", *(key.replace("_", " ") for key in keys)]
    first, rest = written[:MOST_CLASS_ROWS], written[MOST_CLASS_ROWS:]
    more = fold(f"{len(rest)} more classes", data_table(header, rest)) if rest else None
    lede = f"On the {_split(record)} split, the weakest first by {by.replace('_', ' ')}."
    return section("classes", "Class by class", lede, data_table(header, first), more)


def breakdown(record: Record) -> Html | None:
    """Kinds of mistakes of a detector, by what mending each would add to the score."""
    kinds = record.detail.get("breakdown")
    if not kinds:
        return None
    most = max(1e-9, *(_value(kind["delta_map50"]) for kind in kinds))
    lede = "What mending one kind of mistake alone would add to the mean average precision at an overlap of a half."
    return section(
        "errors", "Where the score is lost", lede, el("div", *(_kind(k, most) for k in kinds), class_="bars")
    )


def _kind(kind: dict[str, Any], most: float) -> Html:
    gain = _value(kind["delta_map50"])
    return el(
        "div",
        el("span", kind["name"], class_="name"),
        el("span", el("i", style=f"width:{100 * gain / most:.2f}%"), class_="track"),
        el("span", f"+{gain:.3f}", class_="value"),
        el("span", f"{kind['count']:,} times", class_="note"),
        class_="bar own" if gain == most else "bar",
    )


def residuals(record: Record) -> Html | None:
    """Answers of a regression over the truth, and how far they miss."""
    found = record.detail.get("residuals")
    if not isinstance(found, dict) or not found.get("truth"):
        return None
    truth, answer = ([float(v) for v in found[key]] for key in ("truth", "answer"))
    pairs = list(zip(truth, answer, strict=False))
    unit = str(_facts(record).get("target", "")) or "target"
    both = axis([*truth, *answer], count=5)
    ideal = Line("exact", [(both.low, both.low), (both.high, both.high)], "quiet")
    points = Line("samples", pairs, "main", dots=True)
    against = line_chart("Answer over truth", [ideal, points], x_name=f"true {unit}", x_axis=both, y_axis=both,
                         labels=False, note="on the line: exact")  # fmt: skip
    missed = [(t, a - t) for t, a in pairs]
    reach = max(1e-12, *(abs(m) for _, m in missed))
    level = Line("exact", [(both.low, 0.0), (both.high, 0.0)], "quiet")
    miss = line_chart("Miss over truth", [level, Line("samples", missed, "main", dots=True)], x_name=f"true {unit}",
                      x_axis=both, y_axis=axis([-reach, reach], count=4), labels=False,
                      note="above the line: too high")  # fmt: skip
    quantiles = found.get("quantiles") if isinstance(found.get("quantiles"), dict) else {}
    table = data_table([*map(str, quantiles)], [[number(v) for v in quantiles.values()]], left=0) if quantiles else None
    lede = f"Misses on the {_split(record)} split; a slope or a funnel shows what the model does not know."
    shares = fold("Share of misses below", table) if table else None
    return section("residuals", "How far it misses", lede, el("div", against, miss, class_="charts"), shares)


def _meter(value: Any) -> Html:
    """A share as a number with a bar below it."""
    share = _value(value)
    bar = el("span", el("i", style=f"width:{100 * max(0.0, min(1.0, share)):.1f}%"), class_="track")
    return el("span", _plain(value), bar, class_="meter")


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value if isinstance(value, float) else None)


def _value(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _split(record: Record) -> str:
    return str(record.detail.get("split", record.split))


def _facts(record: Record) -> dict[str, Any]:
    data = record.summary.get("facts", {}).get("data") if isinstance(record.summary.get("facts"), dict) else None
    return data if isinstance(data, dict) else {}
