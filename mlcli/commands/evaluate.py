"""`mlcli evaluate`: how good the saved model of a run is on one split of its data."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli import __version__
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.experiment import Experiment
from mlcli.text import first_few, number, table, truncated

if TYPE_CHECKING:
    from mlcli.engine.contract import Metrics, Task
    from mlcli.engine.runtime import Runtime

MOST_CLASSES = 30
"""Rows of the table of classes on the screen; the JSON has them all."""
LARGEST_MATRIX = 20
"""Classes up to which a confusion matrix is printed."""


def run(
    run: str,
    split: str | None = None,
    overrides: Sequence[str] = (),
    *,
    checkpoint: str = "best",
    root: Path = Path("runs"),
    as_json: bool = False,
) -> None:
    """Measure a run's model, print the result and write it as evaluation-<split>.json into the run folder.

    Args:
        run: folder or name of a run.
        split: train, val or test; None for test, or for val where there is no test split.
        overrides: `key=value` changes to the run's config, such as where the data now are.
        checkpoint: "best" or "last".

    Raises CheckpointError if the data found are not those the model was made for, DataError for a missing split.
    """
    from mlcli.engine.conclude import evaluation_record
    from mlcli.engine.run import open_run
    from mlcli.engine.runtime import decide_runtime

    folder = open_run(run, root)
    path = folder.checkpoint(checkpoint)
    saved = load_whole(path)
    with newer_named(saved):
        experiment = Experiment.of_run(folder.path, overrides)
    config = experiment.config.from_scratch()
    refuse_other_task(saved, config.task)
    runtime = decide_runtime(config)
    task = config.build()
    refuse_other_data(saved["facts"]["data"], task.facts["data"])
    task.adopt(saved["facts"])
    split, note = _chosen_split(split, task.splits)
    scores, metrics = _measure(task, saved, experiment.plain(), split, runtime, path)
    result = evaluation_record(folder, path.name, saved, task, split, runtime, scores, metrics)
    result["overrides"] = list(overrides)
    text = json.dumps(result, indent=2)
    folder.write_text(f"evaluation-{split}.json", text + "\n")
    print(text if as_json else _page(result, note, folder.path / f"evaluation-{split}.json"))


def load_whole(path: Path) -> dict[str, Any]:
    """A checkpoint with all that its model needs to be used again: config, facts about its data, weights by name.

    Raises CheckpointError. A checksum can be right for anything, so what strangers write is looked at before it is
    used.
    """
    from pydantic import TypeAdapter
    from torch import Tensor

    from mlcli.data.info import DataInfo
    from mlcli.engine.checkpoint import load_checkpoint

    saved = load_checkpoint(path)
    try:
        TypeAdapter(DataInfo).validate_python(saved["facts"]["data"])
        TypeAdapter(dict[str, Any]).validate_python(saved["config"])
        weights = saved["model"] | saved.get("ema", {})
        strangers = [f"'{name}'" for name, weight in weights.items() if not isinstance(weight, Tensor)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(lines[1:3] or lines)
        raise CheckpointError(f"the checkpoint is not as mlcli writes them: {reason}", where=str(path)) from error
    if strangers:
        what = f"the checkpoint is not as mlcli writes them: {first_few(strangers)} among the weights are no tensors"
        raise CheckpointError(what, where=str(path))
    return saved


@contextlib.contextmanager
def newer_named(saved: dict[str, Any]) -> Iterator[None]:
    """Let an error about the config or the weights of a checkpoint say that a newer mlcli wrote it, if one did."""
    from packaging.version import InvalidVersion, Version

    try:
        yield
    except (CheckpointError, ConfigError) as error:
        theirs = str((saved.get("versions") or {}).get("mlcli", ""))
        try:
            newer = Version(theirs) > Version(__version__)
        except InvalidVersion:
            newer = False
        if not newer:
            raise
        raise CheckpointError(
            f"the checkpoint was written by mlcli {theirs}, and this is {__version__}: {str(error).splitlines()[0]}",
            fix="pip install --upgrade mlcli",
        ) from error


def refuse_other_task(saved: dict[str, Any], task: str) -> None:
    """Raise CheckpointError, naming both sides, if the model was made for another task than the config's."""
    theirs = saved["facts"].get("task", saved["config"].get("task"))
    if theirs != task:
        raise CheckpointError(
            f"the checkpoint is of a {theirs}, the config of a {task}",
            where="task",
            fix="evaluate a model as what it was trained for; only its data and loader may be others",
        )


def refuse_other_data(saved: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise CheckpointError, naming both sides, if the model was made for other classes, shapes or columns.

    saved, found: `DataInfo.to_plain()` of the checkpoint and of the data there are now.
    """
    for name, was, now in (
        ("classes", saved["class_names"], found["class_names"]),
        ("features", saved["preparation"].get("features", []), found["preparation"].get("features", [])),
    ):
        if was != now:
            sides = {"the checkpoint": [n for n in was if n not in now], "the data": [n for n in now if n not in was]}
            differ = "; ".join(f"only in {side}: {first_few(names)}" for side, names in sides.items() if names)
            raise CheckpointError(
                f"the model knows {len(was)} {name}, the data have {len(now)}; {differ or 'their order differs'}",
                where=name,
                fix="evaluate on the data set the model was trained for",
            )
    for key in ("kind", "input_shape", "target"):
        if saved[key] != found[key]:
            raise CheckpointError(
                f"the checkpoint has {key} {saved[key]}, the data {found[key]}",
                where=key,
                fix="evaluate on data of the same form; key=value arguments change the run's config",
            )


def _chosen_split(asked: str | None, splits: dict[str, int]) -> tuple[str, str]:
    """The split to measure, and what a person should hear about the choice."""
    if asked is None:
        if "test" in splits:
            return "test", ""
        fallback = "val" if "val" in splits else "train"
        return fallback, f"the data have no test split, so this is {fallback}"
    if asked not in ("train", "val", "test"):
        raise ConfigError(f"'{asked}' is no split", where="--split", fix="train, val or test")
    if asked not in splits:
        known = ", ".join(f"{name} ({count:,})" for name, count in splits.items())
        where, fix = f"splits there are: {known}", f"--split {next(iter(splits))}"
        raise DataError(f"there is no split '{asked}'", where=where, fix=fix)
    return asked, ""


@contextlib.contextmanager
def models_named(saved: dict[str, Any], config: dict[str, Any]) -> Iterator[None]:
    """Let an error about weights that do not fit say how the model was when it was saved, and how it is now."""
    from mlcli.engine.resume import differences

    try:
        yield
    except CheckpointError as error:
        changed = differences(saved.get("model", {}), config["model"])
        sides = [f"{key} is {was!r} in the checkpoint, {now!r} in the config" for key, (was, now) in changed.items()]
        sides.sort(key=lambda side: not side.startswith("name "))
        error.where = f"model: {'; '.join(sides[:4])}" if sides else error.where
        raise


def _measure(
    task: "Task", saved: dict[str, Any], config: dict[str, Any], split: str, runtime: "Runtime", path: Path
) -> tuple[dict[str, float], "Metrics"]:
    from mlcli.engine.checkpoint import model_weights
    from mlcli.engine.evaluate import evaluate_split
    from mlcli.models.start import load_saved

    with newer_named(saved), models_named(saved["config"], config):
        load_saved(task.model, model_weights(saved), path)
    runtime.place(task.model)
    feed = task.feed(runtime)
    try:
        return evaluate_split(task, task.model, feed, split, runtime)
    finally:
        feed.close()


def _page(result: dict[str, Any], note: str, path: Path) -> str:
    """The result as text for a terminal."""
    head = [
        ["run", f"{result['run']} ({result['checkpoint']}, epoch {result['epoch']})"],
        ["split", f"{result['split']}, {result['samples']:,} samples" + (f" ({note})" if note else "")],
        ["device", f"{result['device']}, {result['precision']}"],
    ]
    if result["caveat"]:
        head.append(["caveat", result["caveat"]])
    scores = [[name.replace("_", " "), number(value)] for name, value in result["metrics"].items()]
    parts = [table(head[0], head[1:], left=2), table(scores[0], scores[1:])]
    if "classes" in result:
        parts.append(_class_table(result["classes"]))
        if len(result["classes"]) <= LARGEST_MATRIX:
            names = result.get("confusion_names") or [c["name"] for c in result["classes"]]
            parts.append(_matrix(names, result["confusion"]))
    if "breakdown" in result:
        rows = [[kind["name"], f"{kind['count']:,}", number(kind["delta_map50"])] for kind in result["breakdown"]]
        parts.append(table(["mistakes", "count", "map50 lost to them"], rows))
    return "\n\n".join([*parts, f"written: {path}"])


def _class_table(classes: list[dict[str, Any]]) -> str:
    keys = [key for key in ("ap", "ap50", "precision", "recall", "f1") if key in classes[0]]
    rows = [[c["name"], *(number(c[key]) for key in keys), f"{c['support']:,}"] for c in classes[:MOST_CLASSES]]
    text = table(["class", *keys, "samples"], rows)
    left_out = len(classes) - len(rows)
    return text + (f"\n... and {left_out} more classes; all of them with --json" if left_out else "")


def _matrix(names: list[str], confusion: list[list[int]]) -> str:
    """Counts with a dot for zero, so that mistakes stand out."""
    short = [truncated(name, 12) for name in names]
    counts = [[str(count) if count else "·" for count in row] for row in confusion]
    rows = [[name, *row] for name, row in zip(short, counts, strict=True)]
    return "confusion: rows are the truth, columns what the model said\n" + table(["", *short], rows)
