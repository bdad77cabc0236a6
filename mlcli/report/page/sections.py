"""Sections of the page: each takes a run's record and returns the arguments of its macro, or None where it has nothing.

They come in the order in which a person asks: how good, how it got there, what it confuses, what it was made of.
"""

import json
import re
import shlex
import statistics
from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from mlcli.engine.documents import TRAIN_MEASURED, UNFINISHED
from mlcli.report.evidence import Evidence
from mlcli.report.page import svg
from mlcli.report.page.answers import Values, classes, confusion, errors, importance, pictures, quality, residuals
from mlcli.report.record import SHARES, SPLITS, Record, in_words, is_number, mapping, score_text
from mlcli.report.summary import command_for, layer_troubles
from mlcli.report.verdict import judge
from mlcli.show.charts import Axis, Bar, BarChart, Line, LineChart, Rule, axis, log_axis
from mlcli.text import ABSENT, command_line, duration, number, shown, whole

Make = Callable[[Record], Values | None]

TONES = {"good fit": "good", "diverged": "bad", "worse than a baseline": "bad"}
"""Colour of a verdict; the others are worth a second look."""
PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "other")
MOST_METRICS, MOST_ROWS, MOST_LAYERS = 12, 200, 80
JARGON = {
    "macro": "Macro: the mean over classes, each counting the same however rare it is.",
    "top5": "Top5 accuracy: the truth is among the five most probable classes.",
    "ece": "ECE, the expected calibration error: the mean gap between probability and share of right answers.",
    "map": "mAP, the mean average precision: the area under precision over recall, averaged over classes and overlaps.",
    "map50": "mAP50: the same, where boxes that overlap by half (IoU 0.5) count as found.",
    "rmse": "RMSE: the root of the mean squared error, in units of the target, as is MAE, the mean absolute error.",
    "r2": "R2: the share of the target's variance that is explained; 1 is perfect, 0 is as good as its mean.",
}
"""By the words in names of metrics: what they mean."""
YAML_PARTS = re.compile(r"""(?P<comment>(?:^|(?<=\s))\#.*)|(?P<string>"(?:\\.|[^"\\])*"|'(?:''|[^'])*')
    |(?P<key>(?<![\w.+-])[\w.+-]+(?=\s*:(?:\s|$)))|(?P<value>\b(?:true|false|null)\b|(?<![\w.])[+-]?\d[\d_.]*(?:e[+-]?\d+)?(?![\w.]))""",
    re.VERBOSE)  # fmt: skip
LONGEST_COLOURED = 300
"""Characters of a line; the time for one that looks for ends which are not there grows with their square."""


# --- the top ---------------------------------------------------------------------------------------------------------


def header(record: Record) -> Values:
    """Name, kind and date of the run; its state, and why, where it did not finish."""
    state, error = str(record.status.get("state", "unknown")), record.status.get("error")
    notice = f"It ended early: {error}" if error else ""
    if not notice and state in ("interrupted", "killed"):
        notice = f"It was {state}; what is shown is what it had reached."
    named = []
    for part in map(mapping, (record.config.get("model"), record.config.get("data"))):
        words = [part.get(key) for key in ("name", "arch", "depth")]
        named.append(" ".join(str(word) for word in words if word is not None))
    try:
        started = datetime.fromisoformat(record.status.get("started", "")).strftime("%-d %B %Y, %H:%M UTC")
    except (TypeError, ValueError):
        started = ""
    return {
        "name": record.path.parent.name,
        "about": " · ".join(filter(None, [record.task, " on ".join(filter(None, named))])),
        "subtitle": " · ".join(filter(None, [record.path.name, started])),
        "state": state,
        "notice": notice,
    }


def hero(record: Record) -> Values | None:
    """The score as a figure with its sampling interval, and the verdict next to it."""
    evidence, split, metric = Evidence.of(record), record.split, record.metric
    verdict, value, samples = judge(evidence), record.scores.get(split, {}).get(metric), record.samples(split)
    if value is None and verdict is None:
        return None
    interval = ""
    if error := evidence.score_error:  # 95 % of the same model's scores on as many other samples lie within
        size = f"{200 * error:.1f} points" if metric in SHARES else number(2 * error)
        interval = f"± {size}, 95 % sampling interval"
    figure, _, unit = score_text(metric, value).partition(" ")
    on = (
        f"{in_words(metric)} on {split}, {samples:,} samples" if samples else f"{in_words(metric)} on the {split} split"
    )
    return {
        "figure": figure,
        "unit": unit,
        "on": on,
        "interval": interval,
        "kind": _sentence(verdict.kind, stop="") if verdict else "",
        "tone": TONES.get(verdict.kind, "look") if verdict else "",
        "reasons": [_sentence(reason) for reason in verdict.reasons] if verdict else [],
        "advice": [(command_for(record, a.override), a.why) for a in verdict.advice] if verdict else [],
    }


def facts(record: Record) -> Values:
    """Return what else is asked first, as a row of small figures."""
    status, parameters = record.status, record.summary.get("parameters")
    device = str(mapping(record.environment.get("choices")).get("device", "")).partition(":")[0]
    pairs = [
        ("best epoch", record.best.get("epoch")),
        ("epochs", f"{status.get('epoch', 0)} of {status['epochs']}" if status.get("epochs") else status.get("epoch")),
        ("time", duration(status["seconds"]) if is_number(status.get("seconds")) else None),
        ("parameters", whole(parameters) if isinstance(parameters, int) else None),
        ("device", device or None),
        ("seed", mapping(record.config.get("train")).get("seed")),
    ]
    return {"values": [(name, value) for name, value in pairs if value is not None]}


# --- scores and curves -----------------------------------------------------------------------------------------------


def scores(record: Record) -> Values | None:
    """All metrics of all splits."""
    known = {split: record.scores[split] for split in reversed(SPLITS) if split in record.scores}
    measured = list(dict.fromkeys(name for values in known.values() for name in values))
    names = measured[:MOST_METRICS]
    if not names:
        return None
    rows = [
        [Markup("<b>{}</b>").format(split), *(number(values.get(name)) for name in names), whole(record.samples(split))]
        for split, values in known.items()
    ]
    explained = "".join(f" {text}" for word, text in JARGON.items() if any(word in name.split("_") for name in names))
    more = f" {len(measured) - len(names)} more are in status.json." if len(measured) > len(names) else ""
    lede = f"Of the best model, by split.{explained}{more}"
    return {"lede": lede, "header": ["split", *map(in_words, names), "samples"], "rows": rows}


def curves(record: Record) -> Values | None:
    """Loss, watched metric, learning rate and speed by epoch; the evaluations as a table."""
    watched, metric, entries = str(record.best.get("split", "val")), record.metric, record.entries
    ends = [e for e in entries if e["split"] != "train"] or entries[-1:]  # an evaluation comes at the end of an epoch
    per_epoch = max(1.0, ends[-1]["step"] / max(1, ends[-1]["epoch"])) if ends else 1.0

    def line(split: str, key: str) -> list[tuple[float, float]]:
        """Epochs (with fractions) and values."""
        return [
            (e["step"] / per_epoch, float(e[key])) for e in entries if e["split"] == split and is_number(e.get(key))
        ]

    def chart(title: str, lines: list[Line], y: Axis | None = None, **more: Any) -> LineChart:
        points = [point for line in lines for point in line.points]
        x = axis([x for x, _ in points], "epoch", count=6, tight=True)
        return LineChart(title, lines, x, y or axis([y for _, y in points]), **more)

    train, val = line("train", "loss"), line(watched, "loss")
    score = line(watched, metric) if metric != "loss" else []
    if len(train) < 2 and len(val) < 2 and len(score) < 2:
        return None
    best, charts = record.best.get("epoch"), []
    rules = [Rule(float(best), "best")] if isinstance(best, int) and len(val or score) > 1 else []
    if train or val:
        losses = [Line("train", train, "quiet"), *([Line(watched, val)] if watched != "train" else [])]
        scale = log_axis([value for points in (train, val) for _, value in points])
        charts.append(chart("Loss", losses, scale, rules=rules, note="logarithmic scale" if scale else ""))
    if score:
        title = in_words(metric) if len(metric) <= 4 else _sentence(in_words(metric), stop="")  # rmse, mae, r2, map
        trained, note = line(TRAIN_MEASURED, metric), "train: some of the samples learned from"
        at_best = record.scores.get("train", {}).get(metric)
        if not trained and watched != "train" and isinstance(best, int) and at_best is not None:
            trained, note = [(float(best), at_best)], "train: the best model, measured at the end"
        lines = [Line("train", trained, "quiet", dots=len(trained) == 1), Line(watched, score)]
        note = note if trained else ""
        charts.append(chart(title, lines, rules=rules, note=note, shown=lambda value: score_text(metric, value)))
    if rate := line("train", "lr"):
        charts.append(chart("Learning rate", [Line("lr", rate, "quiet")], shown="{:.3g}".format))
    if speed := line("train", "samples_per_s"):
        from_zero = axis([value for _, value in speed], zero=True)
        charts.append(chart("Samples per second", [Line("train", speed, "quiet")], from_zero, shown="{:,.0f}".format))
    evaluations = [e for e in entries if e["split"] == watched and watched != "train"]
    about = ("split", "step", "epoch", "time", "seconds")
    names = [key for key in (evaluations[-1] if evaluations else {}) if key not in about]
    every = -(-len(evaluations) // MOST_ROWS) or 1
    rows = [[e["epoch"], *(number(e.get(name)) for name in names)] for e in evaluations[::every]] if names else []
    return {
        "drawn": [svg.drawn(found) for found in charts],
        "title": f"All {watched} scores by epoch" + (f", every {every} evaluations" if every > 1 else ""),
        "header": ["epoch", *map(in_words, names)],
        "rows": rows,
    }


def baselines(record: Record) -> Values | None:
    """The run's score and those of simple models on the same split; None where they cannot be compared."""
    simple, metric = record.baselines, record.metric
    known = [entry for entry in simple.entries if metric in entry.scores] if simple else []
    own = record.scores.get(simple.split, {}).get(metric) if simple else None
    if simple is None or own is None or not known:
        return None
    bars = [Bar("this model", own, score_text(metric, own), role="main")]
    for entry in known:
        rows = f"on {entry.rows:,} of {simple.rows_there:,} rows" if entry.rows < simple.rows_there else ""
        value = entry.scores[metric]
        bars.append(Bar(entry.name, value, score_text(metric, value), ", ".join(filter(None, [entry.note, rows]))))
    more = record.direction == "max"
    bars.sort(key=lambda bar: -bar.value if more else bar.value)
    scored = f" They answered {simple.samples:,} of its {simple.samples_there:,} samples." if (
        simple.samples < simple.samples_there) else ""  # fmt: skip
    notes = "".join(f" {_sentence(note)}" for note in simple.notes)
    lede = (f"By {in_words(metric)} on the {simple.split} split; {'more' if more else 'less'} is better. Their "
            f"settings were chosen by cross-validation on training rows.{scored}{notes}")  # fmt: skip
    most = max(1.0 if more else 0.0, *(bar.value for bar in bars))
    return {"lede": lede, "bars": svg.drawn(BarChart("", bars, most))}


# --- the network and the run -----------------------------------------------------------------------------------------


def layers(record: Record) -> Values | None:
    """A row per layer: gradient norm and update ratio over time, and the share of zeros after its activation."""
    looks = record.layers
    by_name: dict[str, list[dict[str, Any]]] = {}
    for look in looks:
        for layer in look["layers"]:
            if isinstance(layer, dict) and layer.get("name"):
                by_name.setdefault(str(layer["name"]), []).append(layer)
    if not by_name:
        return None
    left_out = f" The first {MOST_LAYERS} of {len(by_name)} layers." if len(by_name) > MOST_LAYERS else ""
    seen = f"{len(looks)} measurements" if len(looks) != 1 else "One measurement"
    rows = []
    for name, history in list(by_name.items())[:MOST_LAYERS]:
        row: list[object] = [Markup("<code>{}</code>").format(name)]
        for key, what in (("gradient_norm", "gradient norm"), ("update_ratio", "update over weights")):
            values = [float(layer[key]) for layer in history if is_number(layer.get(key))]
            typical = f"{statistics.median(values):.2g}" if values else ABSENT
            row += [svg.sparkline(values, f"{what} of {name}", log=True), typical]
        zeros = mapping(history[-1].get("activation")).get("zero_share")
        rows.append([*row, f"{zeros:.0%}" if is_number(zeros) else ABSENT])
    return {
        "lede": f"{seen} between step {looks[0].get('step')} and {looks[-1].get('step')}; lines on a logarithmic "
        "scale, numbers are medians, as the last steps of a schedule are small; zeros of the last measurement."
        f"{left_out} An update of about a thousandth of the weights is normal.",
        "notes": layer_troubles(looks),
        "rows": rows,
    }


def time(record: Record) -> Values | None:
    """One bar of all the time there was."""
    spent = mapping(record.status.get("times"))
    known = {name: float(spent[name]) for name in PHASES if is_number(spent.get(name)) and spent[name] > 0}
    total = sum(known.values())
    if not total:
        return None
    rates = sorted(e["samples_per_s"] for e in record.entries if is_number(e.get("samples_per_s")))
    memory_mb = mapping(record.status.get("memory_mb"))
    lede = [
        f"{duration(total)} in all",
        f"{rates[len(rates) // 2]:,.0f} samples/s while training" if rates else "",
        f"{max(memory_mb.values()):,.0f} MB of memory at most" if memory_mb else "",
    ]
    parts = [
        {"name": name, "place": PHASES.index(name), "width": f"{100 * seconds / total:.2f}",
         "title": f"{name}: {duration(seconds)}", "share": f"{seconds / total:.0%}",
         "time": f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)}
        for name, seconds in known.items()
    ]  # fmt: skip
    return {"lede": "; ".join(filter(None, lede)), "parts": parts}


# --- what it was made of, and how to go on ---------------------------------------------------------------------------


def data(record: Record) -> Values | None:
    """Return what was shown about the data and the model before training."""
    rows, last = [], ""
    for subject, text in record.summary.get("describe") or []:
        rows.append((subject if subject != last else "", text))
        last = subject or last
    return {"rows": rows} if rows else None


def config(record: Record) -> Values | None:
    """The resolved YAML, coloured."""
    return {"yaml": highlighted(record.config_text)} if record.config_text else None


def highlighted(yaml: str) -> Markup:
    """Keys, strings, numbers and comments marked; everything escaped."""
    lines = []
    for line in yaml.splitlines():
        parts, done = [], 0
        for found in YAML_PARTS.finditer(line) if len(line) <= LONGEST_COLOURED else ():
            marked = Markup('<span class="{}">{}</span>').format(found.lastgroup, found.group())
            parts += [escape(line[done : found.start()]), marked]
            done = found.end()
        lines.append(Markup("").join([*parts, escape(line[done:])]))
    return Markup("\n").join(lines)


def environment(record: Record) -> Values | None:
    """Versions and choices of the machine."""
    rows = []
    for name, value in record.environment.items():
        inner = value if isinstance(value, dict) else {name: value}
        rows += [
            (key, v if isinstance(v, str) else json.dumps(v)) for key, v in inner.items() if v not in ([], "", None)
        ]
    return {"rows": rows} if rows else None


def next_commands(record: Record) -> Values:
    """Return the commands to go on with."""
    unfinished = record.status.get("state") in UNFINISHED
    return {
        "commands": [
            (command_line("train", "--resume", record.name), "continue where it stopped")
            if unfinished
            else (command_line("evaluate", record.name, "--split", record.split), "measure it again, with every class"),
            (command_line("predict", record.name, "FILES"), "predictions for your own files"),
            (command_line("runs compare", record.path.parent.name), "compare with the runs of the same name"),
            (f"tensorboard --logdir {shlex.quote(shown(record.path.parent.parent))}", "histograms, graph and more"),
            (command_line("report", record.name), "write this page again"),
        ]
    }


TOP: tuple[tuple[str, Make], ...] = (("header", header), ("hero", hero), ("facts", facts))
SECTIONS: tuple[tuple[str, Make], ...] = (
    *((make.__name__, make) for make in (scores, curves, baselines, confusion, residuals, errors, importance, classes)),
    *((make.__name__, make) for make in (quality, pictures, layers, time, data, config, environment)),
    ("next", next_commands),
)
"""By the names of their macros, which are the anchors on the page."""


def _sentence(words: str, stop: str = ".") -> str:
    return words[:1].upper() + words[1:] + stop
