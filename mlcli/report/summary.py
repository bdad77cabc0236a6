"""The last lines of a training run: how good, by what, where it lies, and what to type next."""

from pathlib import Path

from mlcli.engine.trainer import Training
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
       tensorboard --logdir {shown(run.path.parent.parent)}"""


def shown(path: Path) -> str:
    """A path as a person here would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
