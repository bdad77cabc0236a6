"""The closing screen of a training run: scores and baselines, verdict, time, files, and what to type next."""

import shlex
from typing import Any

from mlcli.engine.log import read_metrics
from mlcli.engine.meter import TOLERATED_WAIT
from mlcli.engine.trainer import Training
from mlcli.report.evidence import Evidence
from mlcli.report.record import SPLITS, Record, in_words
from mlcli.report.verdict import Verdict, judge
from mlcli.show.evaluation import confusion
from mlcli.text import command_line, commands, duration, number, paragraphs, screen_width, shown, table, truncated

INDENT = 10
MOST_PAIRS, MOST_NOTES, MOST_REASONS, LONGEST_NAME = 4, 2, 3, 24
BLOCKS = "█▒▓░▚·"
"""One for each thing that takes time; neighbours look different."""
BAR = 60
FILES = ("report.html", "model.safetensors", "pictures", "checkpoints")
"""Of a run folder, worth naming; the page that shows everything first."""


def closing_lines(t: Training, outcome: str, scores: dict[str, dict[str, float]], seconds: float) -> str:
    """Return the text for the end of a run, from its folder, whose status.json already has the scores.

    `outcome` as returned by `fit`.
    """
    progress = t.state.progress
    done = "done" if outcome == "finished" else outcome
    epochs = progress.step // t.steps_per_epoch
    best = f"best epoch {progress.best_epoch} of {epochs} by {t.select_by.split} {t.select_by.metric}"
    return f"\n{done} in {duration(seconds)}; {best}\n\n{results(Record.read(t.run), scores)}{waiting_line(t)}"


def results(record: Record, scores: dict[str, dict[str, float]]) -> str:
    """Return scores, verdict, problems of layers, time, files and commands; 25 lines unless names are long."""
    verdict = judge(Evidence.of(record))
    reasons = [reason[0].lower() + reason[1:] for reason in (verdict.reasons[:MOST_REASONS] if verdict else ())]
    lines = [
        *_labelled("verdict", [f"{verdict.kind}: {reasons[0]}", *reasons[1:]] if verdict else []),
        *_confused_lines(record),
        *_labelled("layers", layer_troubles(record.layers)[-MOST_NOTES:]),
        *time_lines(record.status.get("times")),
        *memory_lines(record.status.get("memory_mb"), record.environment.get("choices")),
        *_file_lines(record),
        *_next_lines(record, verdict),
    ]
    return f"{score_table(record, scores)}\n\n" + "\n".join(lines)


def score_table(record: Record, scores: dict[str, dict[str, float]]) -> str:
    """A row per split, then one per classical model on the headline's split; metrics that do not fit are left out."""
    names = list(dict.fromkeys(name for split in scores.values() for name in split))
    simple = record.baselines if record.baselines and record.baselines.split in scores else None
    notes = {
        e.name: f"on {e.rows:,} of {simple.rows_there:,} rows"
        for e in (simple.entries if simple else ())
        if simple and e.rows < simple.rows_there
    }
    order = [split for split in reversed(SPLITS) if split in scores]
    while True:
        rows = [[split, *(number(scores[split].get(name)) for name in names)] for split in order]
        if simple:
            sign = -1 if record.direction == "max" else 1
            entries = sorted(simple.entries, key=lambda e: sign * e.scores.get(record.metric, 0.0))
            rows += [[f"  {e.name}", *(number(e.scores.get(n)) for n in names), notes.get(e.name, "")] for e in entries]
            rows = [[*row, ""] if len(row) <= len(names) + 1 else row for row in rows]
            rows.insert(len(order), [f"{simple.split}, for comparison", *[""] * (len(names) + 1)])
        text = table(["", *map(in_words, names), *([""] if simple else [])], rows)
        if len(names) <= 2 or max(map(len, text.splitlines())) <= screen_width():
            return text
        names.remove(next(name for name in reversed(names) if name != record.metric))


def _confused_lines(record: Record) -> list[str]:
    pairs = [pair for matrix in confusion(record.detail) for pair in matrix.pairs(MOST_PAIRS)]
    words = [
        f"{truncated(p.truth, LONGEST_NAME)} -> {truncated(p.answer, LONGEST_NAME)} ({p.count} of {p.of})"
        for p in pairs
    ]
    return _labelled("confused", [" · ".join(words)]) if words else []


def layer_troubles(looks: list[dict[str, Any]]) -> list[str]:
    """Return what was wrong with layers, each kind of problem where it was seen last, in the order of these steps."""
    last: dict[str, str] = {}
    for look in looks:
        for note in look.get("notes") or []:
            kind = str(note).partition(" (")[0]
            last.pop(kind, None)
            last[kind] = f"{note} at step {look.get('step')}"
    return list(last.values())


def time_lines(times: Any) -> list[str]:
    """Draw how the time was spent: a bar of blocks, and its legend. times: seconds by what they were spent on."""
    if not isinstance(times, dict) or not (total := sum(times.values())):
        return []
    parts = [(str(name), seconds / total) for name, seconds in times.items()]
    marks = {name: BLOCKS[i % len(BLOCKS)] for i, (name, _) in enumerate(parts)}
    bar, drawn = "", 0.0
    for name, share in parts:
        drawn += share
        bar += marks[name] * (round(BAR * drawn) - len(bar))
    legend = "  ".join(f"{marks[name]}\N{NO-BREAK SPACE}{name} {share:.0%}" for name, share in parts)
    return [f"{'time':<{INDENT}}{bar}", *(line.replace("\N{NO-BREAK SPACE}", " ") for line in _labelled("", [legend]))]


def memory_lines(memory_mb: Any, choices: Any) -> list[str]:
    """Name the peak memory of each phase of the run. memory_mb: by phase; choices: of the run's environment."""
    if not isinstance(memory_mb, dict) or not memory_mb:
        return []
    device = str(choices.get("device", "")) if isinstance(choices, dict) else ""
    whose = "on the GPU" if device.startswith("cuda") else "by the process"
    phases = " · ".join(f"{phase} {megabytes:,.0f} MB" for phase, megabytes in memory_mb.items())
    return _labelled("memory", [f"{phases}, held {whose}"])


def _file_lines(record: Record) -> list[str]:
    there = [name + "/" * (record.path / name).is_dir() for name in FILES if (record.path / name).exists()]
    return _labelled("files", [f"{shown(record.path)}/", ", ".join(there)])


def _next_lines(record: Record, verdict: Verdict | None) -> list[str]:
    tries = [command_for(record, advice.override) for advice in (verdict.advice if verdict else ())]
    return commands(
        *tries[:2],
        command_line("evaluate", record.name, "--split", record.split),
        command_line("predict", record.name, "FILES"),
        f"tensorboard --logdir {shlex.quote(shown(record.path.parent.parent))}",
    ).splitlines()


def command_for(record: Record, override: str) -> str:
    """Return the command that trains again with one change: as it was typed, or of the resolved config.

    An `override` that is itself a command, such as `mlcli lr-find`, is given the config.
    """
    resolved, typed = shown(record.path / "resolved.yaml"), record.environment.get("arguments")
    arguments = [str(word) for word in typed] if isinstance(typed, list) else []
    if arguments[:1] != ["train"] or "--resume" in arguments:
        arguments = ["train", resolved, "--name", record.path.parent.name]
    if override.startswith("mlcli "):
        config = next((word for word in arguments if word.endswith((".yaml", ".yml"))), resolved)
        return command_line(override.removeprefix("mlcli "), config)
    return command_line("train", *arguments[1:], *shlex.split(override))


def _labelled(label: str, texts: list[str]) -> list[str]:
    """Texts under a label, wrapped."""
    return paragraphs([(label, text) for text in texts], INDENT).splitlines()


def waiting_line(t: Training) -> str:
    """Return a further line, naming bench-io, if the model waited for batches too long; empty otherwise."""
    share = wait_share(read_metrics(t.run.path / "metrics.jsonl"), t.settings.train.samples_per_step)
    if share <= TOLERATED_WAIT:
        return ""
    in_memory = any(what == "cache" and value != "none" for what, value, _ in t.feed.choices)
    spent = "was spent making batches (the data are in memory)" if in_memory else "was spent waiting for data"
    why = command_line("bench-io", shown(t.run.path / "resolved.yaml"))
    return "\n" + paragraphs([("wait", f"{share:.0%} of the training time {spent};"), ("", f"why: {why}")], INDENT)


def wait_share(entries: list[dict[str, Any]], batch_size: int) -> float:
    """Return the share of the time in training steps, 0 to 1, in which no batch was ready, over all log windows.

    entries: of metrics.jsonl, as `read_metrics` returns them.
    """
    wait_s, total_s, step = 0.0, 0.0, 0
    for entry in entries:
        if entry.get("split") == "train" and entry.get("samples_per_s"):
            seconds = (entry["step"] - step) * batch_size / entry["samples_per_s"]
            total_s += seconds
            wait_s += seconds * (entry.get("wait_share") or 0.0)
            step = entry["step"]
    return wait_s / total_s if total_s else 0.0
