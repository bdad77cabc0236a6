"""The errors in a configuration in plain words: where, what is wrong with which value, what was meant."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mlcli.schema.places import ConfigProblem
from mlcli.schema.words import Slot, Spot, bounds, follow, in_words, walk, with_article
from mlcli.schema.yaml12 import MAX_KEY, KeyPath, Tree, scalar

SHOWN_VALUE = 60
"""Characters of an offending value that a message shows."""
EXPLAINED = 60
"""Mistakes that are looked into, three times as many as are shown: a guess takes some milliseconds, and a hostile file
has ten thousand mistakes. The others are only counted."""

_BOUNDS = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
    "multiple_of": "multiple_of",
}
SYNONYMS = {"learning_rate": "lr", "lr0": "lr", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size",
            "num_workers": "workers", "num_epochs": "epochs", "max_epochs": "epochs", "imgsz": "image_size",
            "img_size": "image_size"}  # fmt: skip
"""Names that other trainers use for our keys."""


@dataclass
class Meant:
    """Guesses at what was meant: other keys and, where a name chooses a section, other values, by their paths."""

    keys: dict[KeyPath, str] = field(default_factory=dict)
    values: dict[KeyPath, str] = field(default_factory=dict)
    unknown: dict[KeyPath, list[str]] = field(default_factory=dict)
    """Where a name chooses a section and none is near: those there are."""


def explain(error: ValidationError, root: type[BaseModel], tree: Tree) -> tuple[list[ConfigProblem], Meant]:
    """Every mistake pydantic found in `tree.data`, each at its place in the YAML, one a place; and what was meant."""
    guesses = Meant()
    found = [(follow(root, details["loc"]), details) for details in error.errors(include_url=False)]
    found.sort(key=lambda pair: _order(pair[0].path, tree))
    paths = {spot.path for spot, _ in found}
    places = {spot.path: tree.keys.get(spot.path) or tree.values.get(spot.path) for spot, _ in found[EXPLAINED:]}
    problems = {path: ConfigProblem("one more mistake", place) for path, place in places.items() if place}
    meant: set[KeyPath] = set()
    """Keys that a misspelt one was probably meant to be; they are not also reported as missing."""
    for spot, details in found[:EXPLAINED]:
        if details["type"] == "extra_forbidden":
            message, suggestion = _unknown_key(spot, root, tree)
            problems[spot.path] = ConfigProblem(message, tree.keys.get(spot.path))
            meant.add((*spot.path[:-1], suggestion))
            guesses.keys[spot.path] = suggestion
    for spot, details in found[:EXPLAINED]:
        kind, path = details["type"], spot.path
        if kind == "value_error":
            message = str(details["ctx"]["error"])
            # A check across keys points at the first of them that its message names and the YAML has.
            words = message.replace("(", " ").replace(",", " ").split()
            path = next(((*path, word) for word in words if (*path, word) in tree.keys), path)
            problems[path] = ConfigProblem(_titled(spot.path, message), tree.keys.get(path))
        elif kind == "union_tag_not_found":
            path, problem = _nameless(spot, tree)
            problems[path] = problem
            if path in tree.keys:
                guesses.keys[path] = "name"
        elif kind == "missing" and isinstance(path[-1], str):
            if path not in meant:
                problems[path] = _missing(path, with_article(in_words(spot.slot)), tree)
        elif kind == "too_short" and any(path == other[: len(path)] != other for other in paths):
            continue  # pydantic leaves wrong elements out, and then finds the list too short
        elif kind != "extra_forbidden":
            path, message = _wrong_value(kind, spot, root, details["loc"], tree)
            problems.setdefault(path, ConfigProblem(_titled(path, message), tree.values.get(path)))
            if kind == "union_tag_invalid":
                names = list(spot.slot.values[0].sections)
                near = closest(tree.at(path), names) if isinstance(tree.at(path), str) else ""
                guesses.values |= {path: near} if near else {}
                guesses.unknown |= {} if near else {path: names}
    guesses.keys = {path: key for path, key in guesses.keys.items() if key and (*path[:-1], key) not in tree.keys}
    return list(problems.values()), guesses


def _order(path: KeyPath, tree: Tree) -> tuple[int, int, int]:
    """Position of a mistake in the list: its key's place, or that of the nearest section around a missing one."""
    while path and path not in tree.keys:
        path = path[:-1]
    place = tree.keys.get(path)
    return place.order if place else (-1, 0, 0)


# --- keys ------------------------------------------------------------------------------------------------------------


def _unknown_key(spot: Spot, root: type[BaseModel], tree: Tree) -> tuple[str, str]:
    """The message on a key that its section does not have, and the key that was probably meant ("" if none)."""
    key, parent, known = str(spot.path[-1]), spot.path[:-1], list(spot.section.model_fields)
    if same := _same_spelling(SYNONYMS.get(key, key), known):
        return f"unknown key '{key}'{_did_you_mean(same)}", same
    relatives = ", ".join(name for name, section in spot.alternatives.items() if key in section.model_fields)
    if relatives:
        return _belongs_to_a_relative(key, parent, relatives, tree), ""
    if key != "name" and (sections := homes(root).get(key)):
        return f"unknown key '{key}' (it belongs in {' or '.join(sections[:3])})", ""
    open_ones = [name for name in known if (*parent, name) not in tree.keys]  # a name filled in stands nowhere
    guess = closest(key, open_ones) or closest(key, known)
    keys = ", ".join(sorted(known, key=lambda key: key != "name"))
    there_are = f" (there are: {keys})" if len(known) <= 16 else ""
    return f"unknown key '{key}'{_did_you_mean(guess) or there_are}", guess


def _belongs_to_a_relative(key: str, parent: KeyPath, relatives: str, tree: Tree) -> str:
    """The key is right for another `name` of this section, which an override may have changed under it."""
    name, where = tree.at((*parent, "name")), ".".join(map(str, parent))
    chosen_at, key_at = tree.values.get((*parent, "name")), tree.keys.get((*parent, key))
    if chosen_at and key_at and chosen_at.origin.number > key_at.origin.number:
        return (
            f"key '{key}' does not fit {where} '{name}', which {chosen_at} chose; it belongs to {relatives} "
            f"(remove it, or replace the whole section: '{where}={{name: {name}}}')"
        )
    return f"unknown key '{key}' in {where} '{name}' (it belongs to {relatives})"


@cache
def homes(root: type[BaseModel]) -> dict[str, list[str]]:
    """Each key there is, and the dotted sections it belongs in."""
    found: dict[str, dict[str, None]] = {}
    for path, section in walk(root):
        for key in section.model_fields:
            found.setdefault(key, {})[".".join(path) or "the top level"] = None
    return {key: list(sections) for key, sections in found.items()}


def _nameless(spot: Spot, tree: Tree) -> tuple[KeyPath, ConfigProblem]:
    """A section without the `name` that says which it is, or with a misspelt one."""
    sections = spot.slot.values[0].sections
    known = {key for section in sections.values() for key in section.model_fields}
    if typo := closest("name", [key for key in tree.at(spot.path) if key not in known]):
        path = (*spot.path, typo)
        return path, ConfigProblem(f"unknown key '{typo}' (did you mean 'name'?)", tree.keys.get(path))
    path = (*spot.path, "name")
    return path, _missing(path, f"one of {', '.join(sections)}", tree)


def _missing(path: KeyPath, expected: str, tree: Tree) -> ConfigProblem:
    section = path[:-1]
    place = tree.keys.get(section) or tree.values.get(section)
    return ConfigProblem(_titled(section, f"missing key '{path[-1]}' ({expected})"), place)


# --- values ----------------------------------------------------------------------------------------------------------


def _wrong_value(
    kind: str, spot: Spot, root: type[BaseModel], location: tuple[str | int, ...], tree: Tree
) -> tuple[KeyPath, str]:
    """The path and the message of a wrong value."""
    path, slot = spot.path, spot.slot
    if kind == "missing":  # an element short of a list of fixed length: the list is what is wrong
        path, slot = path[:-1], follow(root, location[:-1]).slot
    given = tree.at(path)
    if kind == "union_tag_invalid":
        return (*path, "name"), not_one_of(given["name"], slot.values[0].sections)
    if isinstance(given, float) and not math.isfinite(given):
        return path, f"must be a finite number, got {show(given)}"
    if len(slot.values) == 1 and kind == "literal_error":
        return path, not_one_of(given, slot.choices)
    if len(slot.values) == 1 and kind in _BOUNDS:
        limit = _BOUNDS[kind]
        limits = bounds({limit: slot.values[0].limits[limit]}).replace(" (a multiple", " a multiple").rstrip(")")
        return path, f"must be{limits}, got {show(given)}"
    if kind == "too_short" and given == []:
        return path, "must not be empty"
    return path, f"must be {with_article(in_words(slot))}, got {show(given)}{_hint(given, slot)}"


def not_one_of(given: Any, choices: Iterable[Any]) -> str:
    choices = [show(choice, quotes=False) for choice in choices]
    guess = closest(given, choices) if isinstance(given, str) else ""
    return f"{show(given)} is not one of {', '.join(choices)}{_did_you_mean(guess)}"


def _hint(given: Any, slot: Slot) -> str:
    """Return what to write instead, if the value shows what was meant."""
    if written := _rewritten(given, slot):
        return f" (write {written})"
    if isinstance(given, str):
        return _did_you_mean(closest(given, [choice for choice in slot.choices if isinstance(choice, str)]))
    for mapping in (member for member in slot.values if member.is_mapping and isinstance(given, dict)):
        names = Slot.of(get_args(mapping.type)[0]).choices
        stray = next((key for key in given if names and key not in names), None)
        if stray is not None:  # the first key that a mapping of fixed names does not know
            return f" with '{stray}'{_did_you_mean(closest(stray, names))}"
    return ""


def _rewritten(given: Any, slot: Slot) -> str:
    value = slot.values[0]
    text = given.lower() if isinstance(given, str) else None
    if slot.nullable and text in ("none", "nil", ""):
        return "null"
    if slot.takes(bool) and (text in ("yes", "on", "y", "true") or given in (1,)):
        return "true"
    if slot.takes(bool) and (text in ("no", "off", "n", "false") or given in (0,)):
        return "false"
    if slot.takes(int, float) and text and isinstance(number := _number(text), int | float):
        return f"{number:g}, without quotes" if "_" not in text else f"{number}"
    if slot.takes(int) and isinstance(given, float) and given.is_integer():
        return str(int(given))
    if slot.takes(str) and isinstance(given, int | float):
        return f"'{show(given)}', in quotes"
    if value.is_list and given is not None and not isinstance(given, list):
        return "a list: [{...}]" if isinstance(given, dict) else f"[{show(given, quotes=False)}]"
    if value.discriminator and given in list(value.sections):
        return f"{{name: {given}}}"
    return ""


def _number(text: str) -> Any:
    try:
        number = scalar(text.strip().replace("_", ""))
    except OverflowError:
        return None
    return None if isinstance(number, bool) else number


def show(value: Any, *, quotes: bool = True) -> str:
    """A value as a YAML would have it, shortened."""
    if isinstance(value, dict):
        return "a section"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        text = f"[{', '.join(show(item) for item in value[:SHOWN_VALUE])}]"
    else:
        text = repr(value) if quotes else str(value)
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}..."


# --- suggestions -----------------------------------------------------------------------------------------------------


MEANT = {"gpu": "cuda", "nvidia": "cuda", "apple": "mps", "metal": "mps"}
"""Other words for known ones, which spelling does not tell: gpu is nearer to cpu than to cuda."""


def closest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, "" if none is near."""
    known = list(known)
    if len(word) > MAX_KEY:  # nothing known is so long, and comparing takes time that grows with the word
        return ""
    # difflib's usual 0.6 finds nothing for a wrong letter in a word of two.
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.6 if len(word) > 3 else 0.5)
    containing = [name for name in known if len(word) > 2 and word.lower() in name]
    other = MEANT.get(word.lower())
    return other if other in known else _same_spelling(word, known) or "".join(near or containing[:1])


def _same_spelling(word: str, known: Iterable[str]) -> str:
    """The known word that differs in nothing but case, hyphens and underscores."""
    bare, *others = (name.lower().replace("_", "").replace("-", "") for name in (word, *known))
    return next((name for name, other in zip(known, others, strict=True) if other == bare), "")


def _did_you_mean(guess: str) -> str:
    return f" (did you mean '{guess}'?)" if guess else ""


def _titled(path: KeyPath, message: str) -> str:
    return f"{'.'.join(map(str, path))}: {message}" if path else message
