"""The last lines of a training run: how good, by what, where it lies, and what to type next."""

from pathlib import Path
from typing import Any

from mlcli.engine.log import read_metrics
from mlcli.engine.trainer import Training
from mlcli.machine.verdict import TOLERATED_WAIT
from mlcli.report.tables import duration, number, table


def closing_lines(t: Training, outcome: str, scores: dict[str, dict[str, float]], seconds: float) -> str:
    """Scores of the best model by split, files, three next commands. `outcome` as returned by `fit`."""
    progress, run, metric = t.state.progress, t.run, t.watch.metric
    done = "done" if outcome == "finished" else outcome
    names = list(dict.fromkeys(name for values in scores.values() for name in values))
    header = ["", *(name.replace("_", " ") for name in names)]
    rows = [[split, *(number(values.get(name)) for name in names)] for split, values in scores.items()]
    split = "test" if "test" in scores else t.watch.split
    folder, epochs = shown(run.path), progress.step // t.steps_per_epoch
    return f"""
{done} in {duration(seconds)}; best epoch {progress.best_epoch} of {epochs} by {t.watch.split} {metric}

{table(header, rows)}

files  {folder}/   config.yaml, metrics.jsonl, checkpoints/, model.safetensors, tensorboard/
next   mlcli evaluate {run.name} --split {split}
       mlcli predict {run.name} FILES
       tensorboard --logdir {shown(run.path.parent.parent)}{waiting_line(t)}"""


def waiting_line(t: Training) -> str:
    """A further line, naming bench-io, if the model waited for batches too long; empty otherwise."""
    share = wait_share(read_metrics(t.run.path / "metrics.jsonl"), t.settings.train.batch_size)
    if share <= TOLERATED_WAIT:
        return ""
    in_memory = any(what == "cache" and value != "none" for what, value, _ in t.feed.choices)
    spent = "was spent making batches (the data are in memory)" if in_memory else "was spent waiting for data"
    config = shown(t.run.path / "resolved.yaml")
    return f"\nwait   {share:.0%} of the training time {spent}; why: mlcli bench-io {config}"


def wait_share(entries: list[dict[str, Any]], batch_size: int) -> float:
    """Part of the time in training steps, 0 to 1, in which no batch was ready, over all log windows of a run.

    entries: of metrics.jsonl, as `read_metrics` returns them.
    """
    wait_s, total_s, step = 0.0, 0.0, 0
    for entry in entries:
        if entry["split"] == "train" and entry.get("samples_per_s"):
            seconds = (entry["step"] - step) * batch_size / entry["samples_per_s"]
            total_s, wait_s, step = total_s + seconds, wait_s + seconds * entry["wait_share"], entry["step"]
    return wait_s / total_s if total_s else 0.0


def shown(path: Path) -> str:
    """A path as a person here would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
