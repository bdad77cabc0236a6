"""Read a YAML file and overrides as plain data with places, and these as a typed section or all of its errors.

An override, `optimizer.lr=0.01` on the command line, changes what the YAML says and is held to the same rules.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mlcli.schema.explain import Meant, closest, explain, not_one_of
from mlcli.schema.places import SHOWN_PROBLEMS, ConfigErrors, ConfigProblem, Origin, Position
from mlcli.schema.yaml12 import MAX_DEPTH, KeyPath, Tree, parse, read_text

SHOWN_OVERRIDE = 60
"""Characters of an override that a message shows."""
MOST_ROUNDS = 4
"""Times that a configuration is mended as it was probably meant, to find the mistakes behind mistakes."""
MOST_UNKNOWN = 3
"""Names that stand for nothing which every possible meaning is tried of; a file of 10,000 must not take minutes."""

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True)
class YamlDocument:
    """A configuration as read, not yet checked."""

    text: str
    """The file as given."""
    tree: Tree
    """The data after overrides."""
    base: Path
    """Folder that relative paths in it start from."""


def read(path: Path, overrides: Sequence[str] = ()) -> YamlDocument:
    """Read a YAML file (`-`: standard input, its paths relative to the working directory) and apply overrides.

    Raises ConfigError if there is nothing to read, ConfigErrors if it is not the YAML of one mapping.
    """
    is_stdin = str(path) == "-"
    base = Path.cwd() if is_stdin else path.absolute().parent
    return document(read_text(path), "<stdin>" if is_stdin else str(path), base, overrides)


def document(text: str, name: str, base: Path, overrides: Sequence[str] = ()) -> YamlDocument:
    """Parse the text of a YAML, called `name` in messages, and apply overrides. Raises ConfigErrors."""
    origin = Origin(name, tuple(text.splitlines()))
    tree = parse(text, origin)
    if not isinstance(tree.data, dict):
        message = "a configuration is a mapping: lines of 'key: value'"
        if tree.data is None:
            message = "the file is empty; mlcli init digits writes a configuration to start from"
        raise ConfigErrors([ConfigProblem(message, tree.values.get((), Position(origin, 0, 0)))])
    apply_overrides(tree, overrides)
    return YamlDocument(text, tree, base)


# --- overrides -------------------------------------------------------------------------------------------------------


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Change `tree` in place by `key.sub=value` texts in their order, so the last of several on one key wins.

    The value is YAML 1.2 (`'model.hidden=[256,128]'`), a number in the key counts list elements from 0
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
    """Return the value of a top-level key that decides how all the rest is read, or what was probably meant by it.

    What is wrong with it is written down in `tree.problems`.
    """
    value, place, near = tree.data.get(key), tree.values.get((key,)), ""
    if key not in tree.data and (typo := closest(key, tree.data)):
        tree.problems.append(ConfigProblem(f"unknown key '{typo}' (did you mean '{key}'?)", tree.keys.get((typo,))))
        value, place = tree.data.pop(typo), tree.values.get((typo,))
    elif key not in tree.data:
        problem = ConfigProblem(f"missing key '{key}' (one of {', '.join(choices)})", tree.values.get(()))
        tree.problems.append(problem)
    if value in choices:
        near = value
    elif value is not None or key in tree.data:
        tree.problems.append(ConfigProblem(f"{key}: {not_one_of(value, choices)}", place))
        near = closest(value, choices) if isinstance(value, str) else ""
    tree.data[key] = near
    return near


def fill_in_names(tree: Tree, kind: type[BaseModel]) -> None:
    """Let `optimizer: {lr: 0.1}` mean the optimizer there would be without the section: its `name` may be left out."""
    for key, name in default_names(kind).items():
        section = tree.data.get(key)
        if isinstance(section, dict) and "name" not in section and not closest("name", section):
            tree.data[key] = {"name": name, **section}


def default_names(kind: type[BaseModel]) -> dict[str, str]:
    """{"optimizer": "sgd", ...} for the sections of a configuration that may be left out."""
    defaults = {key: field.default for key, field in kind.model_fields.items()}
    return {key: default.name for key, default in defaults.items() if hasattr(default, "name")}


def validate(tree: Tree, kind: type[Section], base: Path) -> Section:
    """The typed form of plain data. Raises ConfigErrors with every mistake in it."""
    fill_in_names(tree, kind)
    problems, section = list(tree.problems), None
    for _ in range(MOST_ROUNDS):
        try:
            section = _checked(tree.data, kind, base)
            break
        except ValidationError as error:
            found, meant = explain(error, kind, tree)
            problems = list(dict.fromkeys([*problems, *found]))
        for path, names in [*meant.unknown.items()][:MOST_UNKNOWN]:
            if len(problems) >= SHOWN_PROBLEMS:  # more are only counted, and each try explains them all anew
                break
            problems += certain(tree, path, dict.fromkeys(names, kind), base)
        if not (meant.keys or meant.values) or len(problems) >= SHOWN_PROBLEMS:
            break
        tree = _mended(tree, meant)  # and look again: a wrong name hides what is wrong in its section
        fill_in_names(tree, kind)
    if problems or section is None:
        raise ConfigErrors(problems)
    return section


def _checked(data: Any, kind: type[Section], base: Path) -> Section:
    """Raises ValidationError."""
    # Strictly, so that true is no 1 and "5" no 5; as JSON, from whose arrays and text strict tuples and paths come.
    return kind.model_validate_json(json.dumps(data), strict=True, context={"base": base})


def certain(tree: Tree, path: KeyPath, kinds: Mapping[str, type[BaseModel]], base: Path) -> list[ConfigProblem]:
    """Return the mistakes beside a name that stands for nothing, as far as they are mistakes whichever name is meant.

    kinds: the class of the whole configuration for each name that may stand at `path`.
    """
    common: dict[ConfigProblem, None] | None = None
    for name, kind in kinds.items():
        problems: list[ConfigProblem] = []
        tried = _mended(tree, Meant(values={path: name}))
        fill_in_names(tried, kind)
        try:
            _checked(tried.data, kind, base)
        except ValidationError as error:
            problems, _ = explain(error, kind, tried)
        common = {problem: None for problem in problems if common is None or problem in common}
    return [*(common or {})]


def _mended(tree: Tree, meant: Meant) -> Tree:
    """A copy with other keys and values, each at its old place."""
    data, keys, values = json.loads(json.dumps(tree.data)), dict(tree.keys), dict(tree.values)
    copy = Tree(data, keys, values)
    for path, value in meant.values.items():
        copy.at(path[:-1])[path[-1]] = value
    for path, key in sorted(meant.keys.items(), key=lambda pair: -len(pair[0])):  # inner keys first
        section = copy.at(path[:-1])
        section[key] = section.pop(path[-1])
        for places in (keys, values):
            for old in [old for old in places if old[: len(path)] == path]:
                places[(*path[:-1], key, *old[len(path) :])] = places.pop(old)
    return copy
