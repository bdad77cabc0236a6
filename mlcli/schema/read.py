"""Read a YAML file and overrides as plain data with places, and these as a typed section or all of its errors.

An override, `optimizer.lr=0.01` on the command line, changes what the YAML says and is held to the same rules.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlcli.schema.explain import closest, explain, not_one_of
from mlcli.schema.places import ConfigErrors, ConfigProblem, Origin, Position
from mlcli.schema.yaml12 import MAX_DEPTH, KeyPath, Tree, parse, read_text

SHOWN_OVERRIDE = 60
"""Characters of an override that a message shows."""

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A configuration as read, not yet checked."""

    text: str
    """The file as given."""
    tree: Tree
    """The data after overrides."""
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
        message = "a configuration is a mapping: lines of 'key: value'"
        if tree.data is None:
            message = "the file is empty; mlcli init digits writes a configuration to start from"
        raise ConfigErrors([ConfigProblem(message, tree.values.get((), Position(origin, 0, 0)))])
    apply_overrides(tree, overrides)
    return Document(text, tree, Path.cwd() if str(path) == "-" else path.absolute().parent)


# --- overrides -------------------------------------------------------------------------------------------------------


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Change `tree` in place by `key.sub=value` texts in their order, so the last of several on one key wins.

    The value is YAML 1.2 (`model.hidden=[256,128]`), a number in the key counts list elements from 0
    (`augment.0.p=0.3`), and sections that the file leaves out are made. Raises ConfigErrors, all of them at once.
    """
    problems: list[ConfigProblem] = []
    for number, override in enumerate(overrides, start=1):
        shown = override if len(override) <= SHOWN_OVERRIDE else f"{override[:SHOWN_OVERRIDE]}..."
        place = Position(Origin(f"override {number} ({shown})", (override,), number), 0, 0)
        try:
            _apply(tree, override, place)
        except ConfigErrors as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigErrors(problems)


def _apply(tree: Tree, override: str, place: Position) -> None:
    dotted, equals, value = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigErrors([ConfigProblem("an override is written key.sub=value, such as optimizer.lr=0.01", place)])
    section: Any = tree.data
    path: KeyPath = ()
    for key in keys[:-1]:
        step = _step(section, path, key, place)
        path = (*path, step)
        inner = section[step] if isinstance(section, list) else section.get(step)
        if inner is None:  # a section that is missing or null is made
            inner = section[step] = {}
            tree.keys[path] = tree.values[path] = place
        if not isinstance(inner, dict | list):
            message = f"{'.'.join(map(str, path))} is the value {inner!r}, so nothing can be set inside it"
            raise ConfigErrors([ConfigProblem(message, place)])
        section = inner
    last = _step(section, path, keys[-1], place)
    section[last] = _graft(tree, (*path, last), value, place)


def _step(section: Any, path: KeyPath, key: str, place: Position) -> Any:
    """The key itself in a mapping, the index it means in a list."""
    if not isinstance(section, list):
        return key
    if key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(section):
        return int(key)
    dotted, count = ".".join(map(str, path)), len(section)
    bound = f"0 to {count - 1}" if count else f"none; write {dotted}=[...]"
    raise ConfigErrors([ConfigProblem(f"{dotted} is a list: '{key}' is none of its elements ({bound})", place)])


def _graft(tree: Tree, path: KeyPath, value: str, place: Position) -> Any:
    """The override's value; every part gets the position `place`, and what stood there before is forgotten."""
    for places in (tree.keys, tree.values):
        for old in [old for old in places if old[: len(path)] == path]:
            del places[old]
    grown = parse(value, place.origin)
    tree.keys[path] = place
    tree.keys |= {(*path, *inner): place for inner in grown.keys}
    tree.values |= {path: place} | {(*path, *inner): place for inner in grown.values}
    if grown.problems:
        raise ConfigErrors(grown.problems)
    return grown.data


# --- the typed form --------------------------------------------------------------------------------------------------


def choose(tree: Tree, key: str, choices: Sequence[str]) -> str:
    """The value of a top-level key that decides how all the rest is read. Raises ConfigErrors if it is none of them."""
    if key in tree.data:
        value = tree.data[key]
        if value in choices:
            return value
        problem = ConfigProblem(f"{key}: {not_one_of(value, choices)}", tree.values.get((key,)))
    elif typo := closest(key, tree.data):
        problem = ConfigProblem(f"unknown key '{typo}' (did you mean '{key}'?)", tree.keys.get((typo,)))
    else:
        problem = ConfigProblem(f"missing key '{key}' (one of {', '.join(choices)})", tree.values.get(()))
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
