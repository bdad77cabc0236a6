"""One YAML file as one typed, frozen Experiment, and the table of tasks. No torch in here.

A task is a package with a configuration and a module `build`; one entry in `TASKS` makes it known. Packages installed
outside of mlcli offer theirs as entry points of the group "mlcli.tasks", each naming a `TaskEntry`.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from yaml import YAMLError

from mlcli.engine.settings import TaskSettings, TrainerSettings
from mlcli.errors import CheckpointError, ConfigError
from mlcli.schema.places import ConfigErrors
from mlcli.schema.read import certain, choose, document, read, validate
from mlcli.schema.yaml12 import Tree, dump

if TYPE_CHECKING:
    from mlcli.data.check.examination import Examination
    from mlcli.data.draft import Draft
    from mlcli.data.survey import Place
    from mlcli.engine.contract import Task
    from mlcli.engine.membership import KnownData
    from mlcli.engine.predicting import Predictor
    from mlcli.tasks.classification import build as of_classification
    from mlcli.tasks.classification import start as start_of_classification
    from mlcli.tasks.classification.config import Classification
    from mlcli.tasks.detection import build as of_detection
    from mlcli.tasks.detection import start as start_of_detection
    from mlcli.tasks.detection.config import Detection
    from mlcli.tasks.regression import build as of_regression
    from mlcli.tasks.regression import start as start_of_regression
    from mlcli.tasks.regression.config import Regression

Settings = TypeVar("Settings", bound=TaskSettings, contravariant=True)
Same = TypeVar("Same", bound=TaskSettings)


class TaskBuilder(Protocol[Settings]):
    """Interface of a task's module `build`, where its configuration and its modules meet."""

    def build_task(self, config: Settings, known: "KnownData | None" = None) -> "Task":
        """Find the data and make the task. Raises DataError, ConfigError or CheckpointError for what does not fit.

        known: what a run knows of the data; given only of a run whose task was an `engine.contract.HasMembership`, or
            to a `TakesNewData`.
        """

    def build_predictor(self, config: Settings, facts: dict[str, Any]) -> "Predictor":
        """Make what predicts with a saved model, from the facts in its checkpoint; the data are not touched."""

    def examine(self, config: Settings) -> "Examination":
        """Look for everything that is wrong with the data (`mlcli data check`). Raises nothing but bugs."""


@runtime_checkable
class Converter(Protocol[Settings]):
    """A task's module `build` that can write the data in another format (`mlcli data convert`)."""

    def convert(self, config: Settings, to: str, folder: Path, shard_bytes: int | None = None) -> list[str]:
        """Write the data to a new folder in the format `to`, the task's usual one where it is empty.

        shard_bytes: the most that a shard has. Returns lines for people. Raises UserError.
        """


@runtime_checkable
class TakesNewData(Protocol[Same]):
    """A task's module `build` that can measure a model on new labelled data (`mlcli evaluate --on`)."""

    def on_new_data(self, config: Same, path: Path, facts: dict[str, Any]) -> Same:
        """Return the configuration with all of new data in place of its own. facts: of the checkpoint. Raises
        ConfigError for data of another kind."""


@runtime_checkable
class TakesSizes(Protocol[Same]):
    """A task's module `build` whose models may take inputs of another size than in training (`--size`)."""

    def at_size(
        self, config: Same, facts: dict[str, Any], side: int, with_data: bool = False
    ) -> tuple[Same, dict[str, Any]]:
        """Return the configuration and the facts of a checkpoint for inputs whose longer side has so many pixels.

        with_data: whether the configuration's data are going to be read. Raises ConfigError for a size that cannot be.
        """


class Starter(Protocol):
    """A task's module `start`: what `mlcli init` writes for it."""

    @property
    def TEMPLATES(self) -> Mapping[str, Path]:  # noqa: N802 - a constant of the module
        """By name, a YAML for a data set that needs no files; its first line, a comment, describes it."""

    def propose(self, place: "Place") -> "Draft | None":
        """Return a YAML for what lies at a place; None if that is not recognised as the task's.

        Tasks are asked in the order of `TaskEntry.asked`. Raises DataError if it is the task's and nothing can be
        learned of it.
        """


def is_override_of(section: str, override: str) -> bool:
    """Return whether a `key=value` sets the section, or a key in it."""
    return override.partition("=")[0].strip().partition(".")[0] == section


@dataclass(frozen=True)
class TaskEntry:
    """Names of a task's modules, so that nothing of it is imported before it is needed.

    config: "package.module:Class", a `TaskSettings` in a module that imports no torch.
    build: "package.module", which is a `TaskBuilder`.
    start: "package.module", which is a `Starter` and imports no torch; empty if the task has none.
    answers: "package.module:Class", a `mlcli.tasks.exporting.ExportedAnswers` in a module that imports no torch; empty
        if the task's models cannot be exported.
    asked: the lower, the earlier `mlcli init` asks the task: annotated pictures lie in folders, as labelled ones do.
    """

    config: str
    build: str
    start: str = ""
    answers: str = ""
    asked: int = 1

    @property
    def config_type(self) -> type[TaskSettings]:
        return _named(self.config)

    @property
    def answers_type(self) -> Any:
        return _named(self.answers)

    @property
    def builder(self) -> TaskBuilder[Any]:
        module: Any = import_module(self.build)
        return module


def _named(text: str) -> Any:
    """Return the class that "package.module:Class" names."""
    module, _, name = text.partition(":")
    return getattr(import_module(module), name)


TASKS = {
    "classification": TaskEntry(
        "mlcli.tasks.classification.config:Classification",
        "mlcli.tasks.classification.build",
        "mlcli.tasks.classification.start",
        "mlcli.tasks.classification.answers:ClassAnswers",
    ),
    "detection": TaskEntry(
        "mlcli.tasks.detection.config:Detection",
        "mlcli.tasks.detection.build",
        "mlcli.tasks.detection.start",
        "mlcli.tasks.detection.answers:ObjectAnswers",
        asked=0,
    ),
    "regression": TaskEntry(
        "mlcli.tasks.regression.config:Regression",
        "mlcli.tasks.regression.build",
        "mlcli.tasks.regression.start",
        "mlcli.tasks.regression.answers:NumberAnswers",
    ),
}
"""The tasks by the name that the YAML's key `task` gives."""

if TYPE_CHECKING:  # mypy compares the modules with the protocol
    _classification: TaskBuilder[Classification] = of_classification
    _detection: TaskBuilder[Detection] = of_detection
    _classification_converts: Converter[Classification] = of_classification
    _detection_converts: Converter[Detection] = of_detection
    _regression: TaskBuilder[Regression] = of_regression
    _starters: list[Starter] = [start_of_classification, start_of_detection, start_of_regression]


def find_installed_tasks() -> None:
    """Add the tasks of installed packages to `TASKS`."""
    for found in entry_points(group="mlcli.tasks"):
        if found.name not in TASKS:
            TASKS[found.name] = found.load()


def starters(task: str = "") -> list[Starter]:
    """Return what the tasks, or the one named, offer for `mlcli init`, also those of installed packages."""
    find_installed_tasks()
    asked = [entry for name, entry in TASKS.items() if entry.start and task in ("", name)]
    modules: list[Any] = [import_module(entry.start) for entry in sorted(asked, key=lambda entry: entry.asked)]
    return modules


def config_type(task: str) -> type[TaskSettings]:
    """Return the class of a task's configuration; only the chosen task's is built, which takes a tenth of a second."""
    return TASKS[task].config_type


def _config(tree: Tree, base: Path, *, saved: bool = False) -> TaskSettings:
    """Check plain data, perhaps a configuration that some version has saved, as that of the task it names.

    Raises ConfigErrors."""
    if tree.data.get("task") not in [*TASKS]:  # a list, as what a YAML says may be unhashable
        find_installed_tasks()
    if task := choose(tree, "task", [*TASKS]):
        kind = config_type(task)
        if saved:
            kind.complete_saved(tree.data)
        return validate(tree, kind, base)
    kinds = {task: config_type(task) for task in TASKS}
    raise ConfigErrors(tree.problems + certain(tree, ("task",), kinds, base))


@dataclass(frozen=True)
class Experiment:
    """The complete configuration of a run.

    config: the typed configuration, defaults filled in, paths absolute.
    source_text: the YAML as given, without the overrides.
    path: the YAML file; None for standard input and for what comes out of a checkpoint.
    overrides: the `key=value` texts that were applied, in order.
    """

    config: TaskSettings
    source_text: str
    path: Path | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, path: Path, overrides: Sequence[str] = (), *, base: Path | None = None, saved: bool = False
    ) -> "Experiment":
        """Read a YAML file, or standard input for `-`.

        `base` is what relative paths start from, the YAML's folder unless given; `saved`, whether some version of mlcli
        wrote it. Raises ConfigError, with every mistake at its line and column.
        """
        found = read(path, overrides)
        config = _config(found.tree, base or found.base, saved=saved)
        return cls(config, found.text, None if str(path) == "-" else path, tuple(overrides))

    @classmethod
    def of_mapping(cls, plain: Mapping[str, Any], overrides: Sequence[str] = ()) -> "Experiment":
        """Read what a YAML would hold; relative paths start from the working folder. Raises ConfigError."""
        try:
            text = dump(dict(plain))
        except YAMLError as error:
            fix = "use dicts, lists, texts, numbers, true, false and None"
            raise ConfigError(f"the configuration holds what no YAML can: {error}", fix=fix) from error
        found = document(text, "<dict>", Path.cwd(), overrides)
        return cls(_config(found.tree, found.base), found.text, overrides=tuple(overrides))

    @classmethod
    def of_run(cls, folder: Path, overrides: Sequence[str] = ()) -> "Experiment":
        """Read the configuration of a run, changed by overrides; relative paths in these are relative to the working
        folder, not to the run's."""
        return cls.load(folder / "resolved.yaml", overrides, base=Path.cwd(), saved=True)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Experiment":
        """The inverse of `plain()`. Raises CheckpointError if this version of mlcli does not understand it."""
        try:
            config = _config(Tree(deepcopy(plain)), Path.cwd(), saved=True)
        except ConfigErrors as error:
            what = "the configuration stored in the checkpoint does not fit this version of mlcli"
            raise CheckpointError(what, where=str(error.problems[0].message)) from None
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the checkpoint holds no configuration: {error}") from None
        return cls(config, dump(plain))

    @property
    def name(self) -> str:
        """The YAML's name without its ending; data and model where there is no file."""
        return self.path.stem if self.path else f"{self.config.name_in('data')}-{self.config.name_in('model')}"

    @property
    def builder(self) -> TaskBuilder[Any]:
        """The task's module `build`."""
        return TASKS[self.config.task].builder

    def build(self, known: "KnownData | None" = None) -> "Task":
        """Find the data and make the task; known: see `TaskBuilder.build_task`, which says what is raised."""
        if known and known.is_of_old_version and not isinstance(self.builder, TakesNewData):
            known = None  # a task of others, which keeps no splits
        return self.builder.build_task(self.config, known) if known else self.builder.build_task(self.config)

    def with_batch_size(self, size: int) -> "Experiment":
        """The same with another train.batch_size."""
        train = self.config.train.model_copy(update={"batch_size": size})
        return replace(self, config=self.config.model_copy(update={"train": train}))

    def plain(self) -> dict[str, Any]:
        """The whole configuration as JSON's types: `Experiment.from_plain(e.plain()).config == e.config`."""
        plain = {key: _name_first(value) for key, value in self.config.model_dump(mode="json").items()}
        return {key: plain[key] for key in section_order([type(self.config)])}

    def to_yaml(self) -> str:
        """The whole configuration as a YAML that loads back equal, wherever it lies."""
        return dump(self.plain())


def section_order(kinds: Iterable[type[TaskSettings]]) -> list[str]:
    """Return the order in which configurations are written out and explained: the task's own sections, the first two of
    machine learning's three steps among them, then how and where it is trained."""
    order: list[str] = []
    shared = list(TrainerSettings.model_fields)
    for kind in kinds:
        keys = [key for key in kind.model_fields if key not in shared]
        for before, key in pairwise(["", *keys, *shared]):
            if key not in order:
                order.insert(order.index(before) + 1 if before else 0, key)
    return order


def _name_first(value: Any) -> Any:
    """Move the key that chooses a section's class to its front, also if it was inherited from another class."""
    if isinstance(value, list):
        return [_name_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _name_first(value[key]) for key in sorted(value, key=lambda key: key != "name")}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of every task's YAML, for editors."""
    from mlcli.schema.reference import json_schema

    find_installed_tasks()
    return json_schema({task: config_type(task) for task in TASKS})


def reference() -> str:
    """Return a Markdown page with every key of every task's YAML."""
    from mlcli.schema.reference import reference

    find_installed_tasks()
    kinds = {task: config_type(task) for task in TASKS}
    return reference(dict(kinds), tuple(section_order(kinds.values())))
