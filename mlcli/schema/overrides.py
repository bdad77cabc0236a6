"""`optimizer.lr=0.01` on the command line: changes to what a YAML says, held to the same rules as the file."""

from collections.abc import Sequence
from typing import Any

from mlcli.schema.places import ConfigErrors, Origin, Place, Problem
from mlcli.schema.yaml12 import MAX_DEPTH, KeyPath, Tree, parse

SHOWN_OVERRIDE = 60
"""Characters of an override that a message shows."""


def apply(tree: Tree, overrides: Sequence[str]) -> None:
    """Change `tree` in place by `key.sub=value` texts in their order, so the last of several on one key wins.

    The value is YAML 1.2 (`model.hidden=[256,128]`), a number in the key counts list elements from 0
    (`augment.0.p=0.3`), and sections that the file leaves out are made. Raises ConfigErrors, all of them at once.
    """
    problems: list[Problem] = []
    for number, override in enumerate(overrides, start=1):
        shown = override if len(override) <= SHOWN_OVERRIDE else f"{override[:SHOWN_OVERRIDE]}..."
        place = Place(Origin(f"override {number} ({shown})", (override,), number), 0, 0)
        try:
            _apply(tree, override, place)
        except ConfigErrors as error:
            problems.extend(error.problems)
    if problems:
        raise ConfigErrors(problems)


def _apply(tree: Tree, override: str, place: Place) -> None:
    dotted, equals, value = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigErrors([Problem("an override is written key.sub=value, such as optimizer.lr=0.01", place)])
    section: Any = tree.data
    path: KeyPath = ()
    for key in keys[:-1]:
        section, path = _enter(tree, section, path, key, place)
    if isinstance(section, list):
        last: str | int = _index(section, path, keys[-1], place)
    else:
        last = keys[-1]
    section[last] = _graft(tree, (*path, last), value, place)


def _enter(tree: Tree, section: Any, path: KeyPath, key: str, place: Place) -> tuple[Any, KeyPath]:
    """One step down; a section that is missing or null is made."""
    step: Any = _index(section, path, key, place) if isinstance(section, list) else key
    here = (*path, step)
    inner = section[step] if isinstance(section, list) else section.get(step)
    if inner is None:
        inner = section[step] = {}
        tree.keys[here] = tree.values[here] = place
    if not isinstance(inner, dict | list):
        dotted = ".".join(map(str, here))
        raise ConfigErrors([Problem(f"{dotted} is the value {inner!r}, so nothing can be set inside it", place)])
    return inner, here


def _index(items: list[Any], path: KeyPath, key: str, place: Place) -> int:
    if key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(items):
        return int(key)
    dotted, count = ".".join(map(str, path)), len(items)
    bound = f"0 to {count - 1}" if count else f"none; write {dotted}=[...]"
    raise ConfigErrors([Problem(f"{dotted} is a list: '{key}' is none of its elements ({bound})", place)])


def _graft(tree: Tree, path: KeyPath, value: str, place: Place) -> Any:
    """The override's value, all of whose parts are said to stand at `place`; what stood there before is forgotten."""
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
