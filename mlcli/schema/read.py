"""From a YAML file and overrides to plain data with places, and from there to a typed section or all of its errors."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mlcli.schema.explain import closest, explain, not_one_of
from mlcli.schema.overrides import apply
from mlcli.schema.places import ConfigErrors, Origin, Place, Problem
from mlcli.schema.yaml12 import Tree, parse, read_text

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A configuration as read, not yet checked."""

    text: str
    """The file as given."""
    tree: Tree
    """What it says once overridden."""
    base: Path
    """Folder that relative paths in it start from."""


def read(path: Path, overrides: Sequence[str] = ()) -> Document:
    """Read a YAML file (`-`: standard input, its paths relative to the working directory) and apply overrides.

    Raises ConfigError if there is nothing to read, ConfigErrors if it is not the YAML of one mapping.
    """
    text = read_text(path)
    origin = Origin("<stdin>" if str(path) == "-" else str(path), tuple(text.splitlines()))
    tree = parse(text, origin)
    if not isinstance(tree.data, dict):
        if tree.data is None:
            message = "the file is empty; mlcli init digits writes a configuration to start from"
        else:
            message = "a configuration is a mapping: lines of 'key: value'"
        raise ConfigErrors([Problem(message, tree.values.get((), Place(origin, 0, 0)))])
    apply(tree, overrides)
    return Document(text, tree, Path.cwd() if str(path) == "-" else path.absolute().parent)


def choose(tree: Tree, key: str, choices: Sequence[str]) -> str:
    """The value of a top-level key that decides how all the rest is read. Raises ConfigErrors if it is none of them."""
    if key in tree.data:
        value = tree.data[key]
        if value in choices:
            return value
        problem = Problem(f"{key}: {not_one_of(value, choices)}", tree.values.get((key,)))
    elif typo := closest(key, tree.data):
        problem = Problem(f"unknown key '{typo}' (did you mean '{key}'?)", tree.keys.get((typo,)))
    else:
        problem = Problem(f"missing key '{key}' (one of {', '.join(choices)})", tree.values.get(()))
    raise ConfigErrors([*tree.problems, problem])


def fill_in_names(tree: Tree, kind: type[BaseModel]) -> None:
    """Let `optimizer: {lr: 0.1}` mean the optimizer there would be without the section: its `name` may be left out."""
    for key, name in default_names(kind).items():
        section = tree.data.get(key)
        if isinstance(section, dict) and "name" not in section:
            tree.data[key] = {"name": name, **section}


def default_names(kind: type[BaseModel]) -> dict[str, str]:
    """{"optimizer": "sgd", ...} for the sections of a configuration that may be left out."""
    defaults = {key: field.default for key, field in kind.model_fields.items()}
    return {key: default.name for key, default in defaults.items() if hasattr(default, "name")}


def validate(tree: Tree, kind: type[Section], base: Path) -> Section:
    """The typed form of plain data. Raises ConfigErrors with every mistake in it."""
    problems = list(tree.problems)
    fill_in_names(tree, kind)
    try:
        # Strictly, so that true is no 1 and "5" no 5; as JSON, from whose arrays and text strict tuples and paths come.
        section = kind.model_validate_json(json.dumps(tree.data), strict=True, context={"base": base})
    except ValidationError as error:
        problems += explain(error, kind, tree)
    if problems:
        raise ConfigErrors(problems)
    return section
