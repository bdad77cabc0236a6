"""Inside the network and the run: each layer's gradients and steps over time, and where the time went."""

from typing import Any

from mlcli.report.page.markup import Html, data_table, el, join, section
from mlcli.report.page.plot import sparkline
from mlcli.report.record import Record
from mlcli.report.summary import layer_troubles
from mlcli.text import ABSENT, duration

MOST_LAYERS = 80
PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")


def layers(record: Record) -> Html | None:
    """A row per layer: gradient norm and update ratio as they went, what its activation lets through."""
    looks = record.layers
    names = list(dict.fromkeys(_name(layer) for look in looks for layer in look["layers"] if _name(layer)))
    if not names:
        return None
    history: dict[str, dict[str, list[float]]] = {name: {"gradient_norm": [], "update_ratio": []} for name in names}
    last: dict[str, dict[str, Any]] = {}
    for look in looks:
        for layer in look["layers"]:
            if name := _name(layer):
                last[name] = layer
                for key, values in history[name].items():
                    if isinstance(layer.get(key), int | float):
                        values.append(float(layer[key]))
    rows = [_row(name, history[name], last[name]) for name in names[:MOST_LAYERS]]
    header = ["layer", "gradient norm", "", "step / weights", "", "zeros after it"]
    troubles = layer_troubles(looks)
    notes = el("ul", *(el("li", note) for note in troubles), class_="notice") if troubles else None
    seen = f"{len(looks)} looks" if len(looks) != 1 else "One look"
    left_out = f" The first {MOST_LAYERS} of {len(names)} layers." if len(names) > MOST_LAYERS else ""
    span = f"{seen} between step {looks[0].get('step')} and {looks[-1].get('step')}"
    lede = f"{span}; lines on a logarithmic scale, figures of the last.{left_out}"
    lede += " A step of about a thousandth of the weights is in order."
    return section("layers", "Inside the network", lede, notes, data_table(header, rows, class_="data layers"))


def times(record: Record) -> Html | None:
    """One bar of all the time there was."""
    spent = record.status.get("times")
    if not isinstance(spent, dict):
        return None
    numbers = {name: spent[name] for name in PHASES if isinstance(spent.get(name), int | float)}
    known = {name: float(seconds) for name, seconds in numbers.items() if seconds > 0}
    total = sum(known.values())
    if not total:
        return None
    parts = [
        el("i", class_=f"part-{PHASES.index(name)}",
           style=f"width:{100 * seconds / total:.2f}%", title=f"{name}: {duration(seconds)}")
        for name, seconds in known.items()
    ]  # fmt: skip
    legend = [
        el("li", el("i", class_=f"part-{PHASES.index(name)}"), el("b", f"{seconds / total:.0%}"), f" {name} ",
           el("span", _time(seconds), class_="muted"))
        for name, seconds in known.items()
    ]  # fmt: skip
    rates = [e["samples_per_s"] for e in record.entries if isinstance(e.get("samples_per_s"), int | float)]
    middle = sorted(rates)[len(rates) // 2] if rates else None
    memory_mb = record.status.get("memory_mb")
    most_mb = max(memory_mb.values()) if isinstance(memory_mb, dict) and memory_mb else None
    lede = join(
        [
            f"{duration(total)} in all",
            f"{middle:,.0f} samples/s while training" if middle else None,
            f"{most_mb:,.0f} MB of memory at most" if most_mb else None,
        ],
        "; ",
    )
    return section("time", "Where the time went", lede, el("div", *parts, class_="stack", role="img",
                   aria_label="shares of the time"), el("ul", *legend, class_="legend"))  # fmt: skip


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def _name(layer: Any) -> str:
    return str(layer.get("name") or "") if isinstance(layer, dict) else ""


def _row(name: str, history: dict[str, list[float]], last: dict[str, Any]) -> list[object]:
    activation = last.get("activation")
    zeros = activation.get("zero_share") if isinstance(activation, dict) else None
    return [
        el("code", name),
        sparkline(history["gradient_norm"], f"gradient norm of {name}", log=True),
        _short(last.get("gradient_norm")),
        sparkline(history["update_ratio"], f"step over weights of {name}", log=True),
        _short(last.get("update_ratio")),
        f"{zeros:.0%}" if isinstance(zeros, int | float) else ABSENT,
    ]


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, int | float) else ABSENT
