"""How good a saved model is: on a split of its run's data or on new data, over several views, on changed images."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from mlcli.data.changes import KINDS, Change, changed
from mlcli.data.inputs import in_tiles
from mlcli.engine.contract import Batch, HasViews, MeasuresInTiles, Metrics
from mlcli.engine.evaluate import as_json, evaluate_split, evaluation_record
from mlcli.engine.membership import NEW, Changes
from mlcli.engine.predicting import Predictor
from mlcli.engine.run import RunFolder
from mlcli.engine.terms import Terms
from mlcli.errors import ConfigError, DataError
from mlcli.saved import SavedTask, computing, load_task
from mlcli.show.details import Evaluation, Robustness
from mlcli.text import listed


@dataclass(frozen=True)
class Asked:
    """What is measured: the model of a run's checkpoint, on one split of its data or on all of new data.

    path: of the checkpoint. split: train, val or test; None for test, or for val where there is no test split.
    overrides: `key=value` changes to the run's config, such as where the data now are. on: labelled data of the kind of
    the run's. size: pixels of the longer side that images are brought to; None for that of training.
    """

    folder: RunFolder
    path: Path
    split: str | None = None
    overrides: Sequence[str] = ()
    on: Path | None = None
    size: int | None = None


def measure(asked: Asked, *, views: Sequence[str] = (), tiles: tuple[int, float] | None = None) -> Evaluation:
    """Measure a model.

    Args:
        views: of each image, whose answers are made one, flip, scale and shift (`mlcli.data.changes.views`); there is
            no loss then.
        tiles: side in pixels of the original images and overlap of the tiles that the model looks at, in place of whole
            images; there is no loss then.

    Raises CheckpointError if the data found are not those the model was made for, DataError for a missing split,
    ConfigError.
    """
    loaded, split, notes = _ready(asked)
    task, changes = loaded.task, loaded.known.changes if loaded.known else None
    answer = None
    if views:
        refuse_unless(views, task.views if isinstance(task, HasViews) else (), "--tta")
        assert isinstance(task, HasViews)

        def answer(net: nn.Module, batch: Batch) -> tuple[Terms, Any]:
            return {}, task.evaluate_views(net, batch, views)

        notes.append(f"answers are those of several views of each image together: {', '.join(views)}")
        if "flip" in views:
            notes.append("flip is only right where a mirrored image means the same, unlike with letters and digits")
    if tiles is not None:
        compute = in_tiles(task, computing(cast(Predictor, task), loaded.runtime), tiles)
        assert isinstance(task, MeasuresInTiles)

        def answer(net: nn.Module, batch: Batch) -> tuple[Terms, Any]:
            return {}, task.found_in_tiles(compute, split, batch.indices)

    scores, metrics = _scores(loaded, split, answer)
    result = evaluation_record(
        asked.folder.name, asked.path.name, loaded.saved, task, split, loaded.runtime, scores, metrics
    )
    result["overrides"] = list(asked.overrides)
    result["on"] = None if asked.on is None else str(asked.on)
    result["notes"] = notes
    result["changes"] = asdict(changes) if changes else None
    if views:
        result["tta"] = list(views)
    if tiles is not None:
        result["tiles"] = {"side": tiles[0], "overlap": tiles[1]}
    return result


def measure_changed(asked: Asked, kind: Change, amounts: Sequence[float]) -> Robustness:
    """Measure a model on images changed by each of several amounts; raises what `measure` does."""
    loaded, split, notes = _ready(asked)
    task = loaded.task
    refuse_unless((kind,), task.changes if isinstance(task, HasViews) else (), f"--{kind}")
    found = list[dict[str, float | None]]()
    for amount in amounts:

        def answer(net: nn.Module, batch: Batch, amount: float = amount) -> tuple[Terms, Any]:
            return task.evaluate(net, replace(batch, inputs=changed(batch.inputs, kind, amount, batch.indices)))

        found.append({"amount": amount, **as_json(_scores(loaded, split, answer)[0])})
    return {
        "run": asked.folder.name,
        "checkpoint": asked.path.name,
        "split": split,
        "samples": task.splits[split],
        "notes": notes,
        "change": kind,
        "unit": KINDS[kind].unit,
        "metric": task.primary,
        "scores": found,
    }


def refuse_unless(asked: Sequence[str], known: Sequence[str], option: str) -> None:
    """Raise ConfigError for a view or a change of images that a task cannot be measured on."""
    if unknown := [name or "nothing" for name in asked if name not in known]:
        fix = f"it can be measured with {listed(known)}" if known else "leave it out: it is for models of images"
        raise ConfigError(f"{listed(unknown)} makes no sense for this model", where=option, fix=fix)


def _scores(
    loaded: SavedTask, split: str, answer: Callable[[nn.Module, Batch], tuple[Terms, Any]] | None
) -> tuple[dict[str, float], Metrics]:
    with contextlib.closing(loaded.feed()) as feed:
        return evaluate_split(loaded.task, loaded.task.model, feed, split, loaded.runtime, answer=answer)


def _ready(asked: Asked) -> tuple[SavedTask, str, list[str]]:
    """The task with its model, the split to measure, and what a person should hear."""
    loaded = load_task(asked.folder, asked.path, asked.overrides, on=asked.on, size=asked.size)
    task, changes = loaded.task, loaded.known.changes if loaded.known else None
    notes, now = list(loaded.notes), loaded.runtime.precision
    if (then := asked.folder.environment_or_empty().get("precision", now)) != now:
        notes.append(f"measured in {now}, as predict answers; training measured in {then} (train.precision={then})")
    if asked.on is not None:
        if asked.split is not None:
            raise ConfigError("--on measures all of the data", where="--split", fix="leave it out")
        split = NEW
    else:
        split, note = chosen_split(asked.split, task.splits if changes is None else changes.members)
        notes += [note] if note else []
    if loaded.is_other_data:
        total = sum(task.splits.values())
        notes.append(f"other data than the run's, and {split} is {task.splits[split]:,} of their {total:,} samples; "
                     f"mlcli evaluate {asked.folder.name} --on DATA measures all")  # fmt: skip
    notes += _said(changes, split, asked.folder.name) if changes else []
    return loaded, split, notes


def chosen_split(asked: str | None, splits: Mapping[str, int]) -> tuple[str, str]:
    """Return the split to measure, and what a person should hear about the choice.

    asked: train, val or test; None for test if there is one. Raises ConfigError or DataError for one there is not.
    """
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


def _said(changes: Changes, split: str, run: str) -> list[str]:
    """What a person should hear of data that have changed since training. Raises DataError if nothing is left of a
    split."""
    new_data = f"mlcli evaluate {run} --on DATA"
    if not changes.found(split):
        what = f"none of the run's {changes.members[split]:,} {split} samples is there any more"
        fix = f"restore the data; {new_data} measures all of new data"
        raise DataError(what, where="; ".join(changes.lines()), fix=fix)
    told = changes.lines()
    if changes.new:
        told[-1] += f"; {new_data} measures new data"
    if judged := changes.judged.get(split):
        told.append(f"dividing the data anew would have counted {judged:,} of the training samples as {split}")
    return told
