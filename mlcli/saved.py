"""A saved model to be used again: its checkpoint is read and checked, and its predictor or its task made from it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from mlcli.data.info import PlainInfo
from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.contract import Feed, HasMembership, Task
from mlcli.engine.documents import Saved, refuse_unlike
from mlcli.engine.membership import KnownData, OtherData
from mlcli.engine.predicting import Predictor
from mlcli.engine.resume import differences
from mlcli.engine.run import RunFolder, open_run
from mlcli.engine.runtime import Runtime, decide_runtime
from mlcli.errors import CheckpointError, ConfigError, DataError, OutOfMemoryError
from mlcli.experiment import Experiment, TakesNewData, TakesSizes, is_override_of
from mlcli.models.build import weights_within
from mlcli.models.weights import load_saved
from mlcli.text import first_few, sides
from mlcli.text import size as size_text
from mlcli.version import __version__

SPARE_BYTES = 2**28
"""Of weights that a model may make and drop on its way, such as a layer of a thousand classes that is replaced."""


def load_predictor(run: str, checkpoint: str, root: Path, side: int | None = None) -> tuple[Predictor, Runtime]:
    """Return the model of a run, ready to predict, and where it does. Raises CheckpointError.

    side: pixels of the longer side of its input; None for that of training. Raises ConfigError if it cannot take it.
    It computes in fp32 on this machine's device, not the one of training: answers should not depend on the machine.
    """
    path = open_run(run, root).checkpoint(checkpoint)
    saved = load_whole(path)
    with newer_version_named(saved):
        experiment = Experiment.from_plain(saved["config"])
        refuse_other_task(saved, experiment.config.task)
        weights = model_weights(saved)
        size_bytes, facts = sum(weight.nbytes for weight in weights.values()), saved["facts"]
        if side is not None:
            experiment, facts = _at_size(experiment, facts, side)
        try:
            with weights_within(2 * size_bytes + SPARE_BYTES):
                predictor = experiment.builder.build_predictor(experiment.config, facts)
        except OutOfMemoryError as error:
            what = f"the weights do not fit the model of the config: they have {size_text(size_bytes)}; {error.what}"
            raise CheckpointError(what, where=str(path)) from error
        with _size_named(side):
            load_saved(predictor.model, weights, path)
    config = experiment.config
    runtime = decide_runtime(_with(config, device="auto", precision="fp32", threads=None, deterministic=False))
    runtime.place(predictor.model).eval()
    return predictor, runtime


def _with(config: Any, **train: Any) -> Any:
    """The configuration with other settings in its train section."""
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def computing(predictor: Predictor, runtime: Runtime) -> Callable[[Any], Any]:
    """Return the function from inputs, an array or a tensor as in `Inputs.read`, to the model's predictions."""

    def compute(inputs: Any) -> Any:
        with torch.inference_mode(), runtime.autocast():
            return predictor.predict(predictor.model, torch.as_tensor(inputs).to(runtime.device))

    return compute


@dataclass(frozen=True)
class SavedTask:
    """A task with the model of a checkpoint, on data found now.

    experiment: of the run, with overrides. runtime: where it computes. saved: what the checkpoint holds.
    known: how the data compare with those of the run; None where they cannot be, or are other data altogether.
    notes: what a person should hear about the data. is_other_data: none of the run's samples is among them.
    """

    task: Task
    experiment: Experiment
    runtime: Runtime
    saved: dict[str, Any]
    known: KnownData | None
    notes: tuple[str, ...]
    is_other_data: bool = False

    def feed(self) -> Feed:
        """Return where its batches come from; of data smaller than a training batch, smaller ones."""
        train, samples = self.experiment.config.train, self.task.splits["train"]
        small = isinstance(train.batch_size, int) and train.batch_size * train.accumulate > samples
        smaller = train.model_copy(update={"batch_size": samples, "accumulate": 1})
        return self.task.feed(self.runtime, train=smaller if small else train)


def load_task(
    folder: RunFolder,
    path: Path,
    overrides: Sequence[str] = (),
    *,
    on: Path | None = None,
    size: int | None = None,
) -> SavedTask:
    """Return the task of a run with the model of a checkpoint, on the data there are now, each sample in its split.

    It computes in fp32, as what predicts does, unless an override names a precision.

    overrides: `key=value` changes to the run's config, such as where the data now are. on: new data to be all of the
    split `NEW`. size: pixels of the longer side of the inputs, if not that of training. Raises CheckpointError if
    the data found are not those the model was made for, or its weights do not fit.
    """
    saved = load_whole(path)
    with newer_version_named(saved):
        experiment = Experiment.of_run(folder.path, overrides)
    refuse_other_task(saved, experiment.config.task)
    experiment = replace(experiment, config=experiment.config.from_scratch())
    members, facts, notes = folder.membership(), saved["facts"], list[str]()
    if on is not None:
        experiment = _on_new_data(experiment, on, facts)
    if size is not None:
        trained = sides(facts["data"]["input_shape"][1:])
        experiment, facts = _at_size(experiment, facts, size, with_data=True)
        notes.append(
            f"images are brought to {sides(facts['data']['input_shape'][1:])} pixels, in training to {trained}"
        )
    known: KnownData | None = None
    is_other_data = False
    if on is not None:
        known = KnownData("measure", members, facts["data"])
        task = experiment.build(known)
        if known.trained:
            notes.append(f"{known.trained:,} of these samples were trained on, and say little about new ones")
    elif members is None:
        task = experiment.build()
        if isinstance(task, HasMembership):
            notes.append("the run has not kept its splits: that none of these was trained on cannot be checked")
    else:
        moved = any(is_override_of("data", override) for override in overrides)
        known = KnownData("evaluate", members, facts["data"], elsewhere=moved)
        try:
            task = experiment.build(known)
        except OtherData as error:
            known, task, is_other_data = None, experiment.build(), True
            refuse_other_data(facts["data"], task.facts["data"])
            if not moved:
                new_data = f"mlcli evaluate {folder.name} --on DATA"
                error.fix = error.fix or f"restore the data; {new_data} measures all of new data"
                raise
    refuse_other_data(facts["data"], task.facts["data"])
    asked = any(is_override_of("train", override) and "precision" in override for override in overrides)
    runtime = decide_runtime(experiment.config if asked else _with(experiment.config, precision="fp32"))
    task.adopt(facts)
    with newer_version_named(saved), models_named(saved["config"], experiment.plain()), _size_named(size):
        load_saved(task.model, model_weights(saved), path)
    runtime.place(task.model)
    notes += known.notes if known else []
    return SavedTask(task, experiment, runtime, saved, known, tuple(notes), is_other_data)


def _at_size(
    experiment: Experiment, facts: dict[str, Any], side: int, *, with_data: bool = False
) -> tuple[Experiment, dict[str, Any]]:
    """The experiment and the checkpoint's facts for inputs of another size. with_data: the data are read, too."""
    if not isinstance(experiment.builder, TakesSizes):
        what = f"a {experiment.config.task} takes inputs of the one size that it was trained with"
        raise ConfigError(what, where="--size", fix="leave it out: it is for models that find objects")
    config, facts = experiment.builder.at_size(experiment.config, facts, side, with_data)
    return replace(experiment, config=config), facts


@contextlib.contextmanager
def _size_named(side: int | None) -> Iterator[None]:
    """Let weights that do not fit because the input has another size say so."""
    try:
        yield
    except CheckpointError as error:
        if side is None:
            raise
        what = f"this model has other weights for inputs of {side} pixels: {error.what}"
        raise ConfigError(
            what, where="--size", fix="a size nearer to that of training, or train one of this size"
        ) from error


def _on_new_data(experiment: Experiment, on: Path, facts: dict[str, Any]) -> Experiment:
    """The experiment with new data in place of its own. Raises ConfigError or DataError for what cannot be that."""
    if not isinstance(experiment.builder, TakesNewData):
        raise ConfigError(f"a {experiment.config.task} takes no new data", where="--on", fix="data.KEY=VALUE overrides")
    if not on.exists():
        raise DataError("there is no such file or folder", where=f"--on {on}", fix="check the spelling")
    return replace(experiment, config=experiment.builder.on_new_data(experiment.config, on.absolute(), facts))


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
        what = f"the checkpoint was written by mlcli {theirs}, and this is {__version__}: {str(error).splitlines()[0]}"
        raise CheckpointError(what, fix="pip install --upgrade mlcli") from error


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
        what = f"the checkpoint is of a {theirs}, the config of a {task}"
        fix = "evaluate a model with the task it was trained for; only its data and loader may differ"
        raise CheckpointError(what, where="task", fix=fix)


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
            what = f"the model knows {len(was)} {name}, the data have {len(now)}; {differ or 'their order differs'}"
            raise CheckpointError(what, where=name, fix="evaluate on the data set the model was trained for")
    for key in ("kind", "input_shape", "target"):
        if saved[key] != found[key]:
            what = f"the checkpoint has {key} {saved[key]}, the data {found[key]}"
            fix = "evaluate on data of the same form; key=value arguments change the run's config"
            raise CheckpointError(what, where=key, fix=fix)
