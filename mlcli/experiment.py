"""One YAML file as one typed, frozen Experiment, and the table of tasks. No torch in here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mlcli.errors import CheckpointError
from mlcli.schema.places import ConfigErrors
from mlcli.schema.read import choose, read, validate
from mlcli.schema.yaml12 import Tree, dump

if TYPE_CHECKING:
    from mlcli.tasks.classification.config import Classification
    from mlcli.tasks.detection.config import Detection
    from mlcli.tasks.regression.config import Regression

TaskName = Literal["classification", "detection", "regression"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
SECTIONS = (
    "task",
    "data",
    "augment",
    "min_visibility",
    "model",
    "loss",
    "finetune",
    "optimizer",
    "schedule",
    "train",
    "loader",
)
"""The order in which a configuration is written out and explained: the three steps, then how and where."""


def config_type(task: str) -> "type[Classification] | type[Detection] | type[Regression]":
    """What the YAML of a task may say; only the chosen task's classes are built, which takes a tenth of a second."""
    match task:
        case "classification":
            from mlcli.tasks.classification.config import Classification

            return Classification
        case "detection":
            from mlcli.tasks.detection.config import Detection

            return Detection
        case "regression":
            from mlcli.tasks.regression.config import Regression

            return Regression
        case _:
            raise AssertionError(f"{task} is in no table")


@dataclass(frozen=True)
class Experiment:
    """Everything a run is told to do.

    config: the typed configuration, defaults filled in, paths absolute; `config.build()` makes the task.
    source_text: the YAML as given, without the overrides.
    path: the YAML file; None for standard input and for what comes out of a checkpoint.
    overrides: the `key=value` texts that were applied, in order.
    """

    config: "Classification | Detection | Regression"
    source_text: str
    path: Path | None = None
    overrides: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = (), *, base: Path | None = None) -> "Experiment":
        """Read a YAML file, or standard input for `-`.

        `base` is what relative paths start from, the YAML's folder unless given. Raises ConfigError, with every mistake
        at its line and column.
        """
        document = read(path, overrides)
        kind = config_type(choose(document.tree, "task", TASKS))
        config = validate(document.tree, kind, base or document.base)
        return cls(config, document.text, None if str(path) == "-" else path, tuple(overrides))

    @classmethod
    def of_run(cls, folder: Path, overrides: Sequence[str] = ()) -> "Experiment":
        """What a run was told to do, changed by overrides; relative paths in these start from the working directory,
        for nobody means them to start inside the run folder."""
        return cls.load(folder / "resolved.yaml", overrides, base=Path.cwd())

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Experiment":
        """The inverse of `plain()`. Raises CheckpointError if this version of mlcli does not understand it."""
        try:
            tree = Tree(plain)
            config = validate(tree, config_type(choose(tree, "task", TASKS)), Path.cwd())
        except ConfigErrors as error:
            raise CheckpointError(
                "the configuration stored in the checkpoint does not fit this version of mlcli",
                where=str(error.problems[0].message),
            ) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"the checkpoint holds no configuration: {error}") from None
        return cls(config, dump(plain))

    @property
    def name(self) -> str:
        """The YAML's name without its ending; data and model where there is no file."""
        return self.path.stem if self.path else f"{self.config.data.name}-{self.config.model.name}"

    def plain(self) -> dict[str, Any]:
        """The whole configuration as JSON's types: `Experiment.from_plain(e.plain()).config == e.config`."""
        plain = {key: _name_first(value) for key, value in self.config.model_dump(mode="json").items()}
        return {key: plain[key] for key in sorted(plain, key=SECTIONS.index)}

    def to_yaml(self) -> str:
        """The whole configuration as a YAML that loads back equal, wherever it lies."""
        return dump(self.plain())


def _name_first(value: Any) -> Any:
    """Sections begin with the name that says which they are, whatever class their keys were inherited from."""
    if isinstance(value, list):
        return [_name_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _name_first(value[key]) for key in sorted(value, key=lambda key: key != "name")}


def json_schema() -> dict[str, Any]:
    """The JSON schema of every task's YAML, for editors."""
    from mlcli.schema.reference import json_schema

    return json_schema({task: config_type(task) for task in TASKS})


def reference() -> str:
    """Every key of every task's YAML as a Markdown page."""
    from mlcli.schema.reference import reference

    return reference({task: config_type(task) for task in TASKS}, SECTIONS)
