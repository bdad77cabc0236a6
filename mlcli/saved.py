"""A saved model to be used again: its checkpoint is read and checked, and its predictor or its task made from it."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from mlcli import __version__
from mlcli.data.info import PlainInfo
from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.contract import Feed, HasMembership, Predictor, Task
from mlcli.engine.documents import Saved, refuse_unlike
from mlcli.engine.membership import KnownData, OtherData
from mlcli.engine.resume import differences
from mlcli.engine.run import RunFolder, open_run
from mlcli.engine.runtime import Runtime, decide_runtime
from mlcli.errors import CheckpointError, ConfigError, OutOfMemoryError
from mlcli.experiment import Experiment
from mlcli.models.build import weights_within
from mlcli.models.weights import load_saved
from mlcli.text import first_few, size

SPARE_BYTES = 2**28
"""Of weights that a model may make and drop on its way, such as a layer of a thousand classes that is replaced."""


def load_predictor(run: str, checkpoint: str, root: Path) -> tuple[Predictor, Runtime]:
    """Return the model of a run, ready to predict, and where it does. Raises CheckpointError.

    It computes in fp32 on this machine's device, not the one of training: answers should not depend on the machine.
    """
    path = open_run(run, root).checkpoint(checkpoint)
    saved = load_whole(path)
    with newer_version_named(saved):
        experiment = Experiment.from_plain(saved["config"])
        refuse_other_task(saved, experiment.config.task)
        weights = model_weights(saved)
        size_bytes = sum(weight.nbytes for weight in weights.values())
        try:
            with weights_within(2 * size_bytes + SPARE_BYTES):
                predictor = experiment.builder.build_predictor(experiment.config, saved["facts"])
        except OutOfMemoryError as error:
            what = f"the weights do not fit the model of the config: they have {size(size_bytes)}; {error.what}"
            raise CheckpointError(what, where=str(path)) from error
        load_saved(predictor.model, weights, path)
    config = experiment.config
    anywhere = {"device": "auto", "precision": "fp32", "threads": None, "deterministic": False}
    runtime = decide_runtime(config.model_copy(update={"train": config.train.model_copy(update=anywhere)}))
    runtime.place(predictor.model).eval()
    return predictor, runtime


@dataclass(frozen=True)
class SavedTask:
    """A task with the model of a checkpoint, on data found now.

    experiment: of the run, with overrides. runtime: where it computes. saved: what the checkpoint holds.
    known: how the data compare with those of the run; None where they cannot be, or are other data altogether.
    notes: what a person should hear about the data.
    """

    task: Task
    experiment: Experiment
    runtime: Runtime
    saved: dict[str, Any]
    known: KnownData | None
    notes: tuple[str, ...]

    def feed(self) -> Feed:
        """Return where its batches come from; of data smaller than a training batch, smaller ones."""
        train, samples = self.experiment.config.train, self.task.splits["train"]
        small = isinstance(train.batch_size, int) and train.batch_size * train.accumulate > samples
        smaller = train.model_copy(update={"batch_size": samples, "accumulate": 1})
        return self.task.feed(self.runtime, train=smaller if small else train)


def load_task(folder: RunFolder, path: Path, overrides: Sequence[str]) -> SavedTask:
    """Return the task of a run with the model of a checkpoint, on the data there are now, each sample in its split.

    overrides: `key=value` changes to the run's config, such as where the data now are. Raises CheckpointError if the
    data found are not those the model was made for, or its weights do not fit.
    """
    saved = load_whole(path)
    with newer_version_named(saved):
        experiment = Experiment.of_run(folder.path, overrides)
    refuse_other_task(saved, experiment.config.task)
    experiment = replace(experiment, config=experiment.config.from_scratch())
    moved = any(override.strip().startswith("data.") for override in overrides)
    members, notes = folder.membership(), list[str]()
    known = KnownData("evaluate", members, saved["facts"]["data"], elsewhere=moved) if members else None
    try:
        task = experiment.build(known)
    except OtherData as error:
        known, task = None, experiment.build()
        refuse_other_data(saved["facts"]["data"], task.facts["data"])
        if not moved:
            error.fix = (
                error.fix or f"restore the data; mlcli evaluate {folder.name} --on DATA measures all of new data"
            )
            raise
        notes.append("other data than the run's, of which this is the split alone; all of them: --on DATA")
    refuse_other_data(saved["facts"]["data"], task.facts["data"])
    if members is None and isinstance(task, HasMembership):
        notes.append("the run has not kept its splits: that none of these was trained on cannot be checked")
    return _with_model(task, experiment, path, saved, known, notes)


def _with_model(
    task: Task, experiment: Experiment, path: Path, saved: dict[str, Any], known: KnownData | None, notes: list[str]
) -> SavedTask:
    """Put the checkpoint's model into a task that was built for it."""
    runtime = decide_runtime(experiment.config)
    task.adopt(saved["facts"])
    with newer_version_named(saved), models_named(saved["config"], experiment.plain()):
        load_saved(task.model, model_weights(saved), path)
    runtime.place(task.model)
    return SavedTask(task, experiment, runtime, saved, known, tuple(notes + (known.notes if known else [])))


def load_whole(path: Path) -> dict[str, Any]:
    """Return a checkpoint with all that its model needs: config, facts about its data, weights by name.

    Raises CheckpointError. A checksum can be right for anything, so what others may have written is checked before use.
    """
    saved = load_checkpoint(path)
    refuse_unlike(saved, Saved, "the checkpoint", path)
    refuse_unlike(saved["facts"]["data"], PlainInfo, "the checkpoint's facts.data", path)
    return saved


@contextlib.contextmanager
def newer_version_named(saved: dict[str, Any]) -> Iterator[None]:
    """Let an error about the config or the weights of a checkpoint say that a newer mlcli wrote it, if one did."""
    try:
        yield
    except (CheckpointError, ConfigError) as error:
        theirs = saved.get("versions", {}).get("mlcli", "")
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


@contextlib.contextmanager
def models_named(saved: dict[str, Any], config: dict[str, Any]) -> Iterator[None]:
    """Let an error about weights that do not fit say how the model was when it was saved, and how it is now."""
    try:
        yield
    except CheckpointError as error:
        changed = differences(saved.get("model", {}), config["model"])
        sides = [f"{key} is {was!r} in the checkpoint, {now!r} in the config" for key, (was, now) in changed.items()]
        sides.sort(key=lambda side: not side.startswith("name "))
        error.where = f"model: {'; '.join(sides[:4])}" if sides else error.where
        raise


def refuse_other_task(saved: dict[str, Any], task: str) -> None:
    """Raise CheckpointError, naming both sides, if the model was made for another task than the config's."""
    theirs = saved["facts"].get("task", saved["config"].get("task"))
    if theirs != task:
        raise CheckpointError(
            f"the checkpoint is of a {theirs}, the config of a {task}",
            where="task",
            fix="evaluate a model with the task it was trained for; only its data and loader may differ",
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
