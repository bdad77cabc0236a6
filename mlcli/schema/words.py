"""Permitted values of a section's keys, read from its pydantic class, and their description in plain words.

The words stand in error messages ("must be a whole number above 0") and in the reference of all keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlcli.schema.yaml12 import KeyPath

LIMITS = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length")


@dataclass(frozen=True)
class Slot:
    """Permitted values at one place in a configuration: a type, its limits, and the key that chooses among sections."""

    type: Any
    limits: dict[str, Any] = field(default_factory=dict)
    discriminator: str | None = None

    @classmethod
    def of(cls, annotation: Any, metadata: tuple[Any, ...] = (), discriminator: Any = None) -> "Slot":
        """Return the shape that a type annotation describes, `Annotated` taken apart."""
        while get_origin(annotation) is Annotated:
            annotation, *extra = get_args(annotation)
            metadata = (*extra, *metadata)
        limits: dict[str, Any] = {}
        for item in metadata:
            if isinstance(item, FieldInfo):
                discriminator = discriminator or item.discriminator
            for part in item.metadata if isinstance(item, FieldInfo) else [item]:
                limits |= {name: limit for name in LIMITS if (limit := getattr(part, name, None)) is not None}
        return cls(annotation, limits, discriminator)

    @cached_property
    def members(self) -> tuple["Slot", ...]:
        """The alternatives of a union, itself where there are none; a union of sections counts as one alternative."""
        if self.discriminator or get_origin(self.type) not in (Union, UnionType):
            return (self,)
        return tuple(inner for part in get_args(self.type) for inner in Slot.of(part).members)

    @property
    def nullable(self) -> bool:
        return any(member.type is NoneType for member in self.members)

    @cached_property
    def values(self) -> tuple["Slot", ...]:
        """The alternatives without null."""
        return tuple(member for member in self.members if member.type is not NoneType)

    @cached_property
    def sections(self) -> dict[str, type[BaseModel]]:
        """The sections that may stand here by the name that chooses each, or {"": section} for a single one."""
        if self.discriminator:
            kinds = get_args(self.type) or (self.type,)
            return {tag: kind for kind in kinds for tag in get_args(kind.model_fields[self.discriminator].annotation)}
        return {"": self.type} if isinstance(self.type, type) and issubclass(self.type, BaseModel) else {}

    @property
    def choices(self) -> tuple[Any, ...]:
        """The literal values that may stand here."""
        return tuple(v for m in self.members if get_origin(m.type) is Literal for v in get_args(m.type))

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) in (tuple, list)

    @property
    def is_mapping(self) -> bool:
        return get_origin(self.type) is dict

    @cached_property
    def element(self) -> "Slot":
        """Return the permitted values of each item of a list, or of each value of a mapping."""
        return Slot.of(get_args(self.type)[1 if self.is_mapping else 0])

    def takes(self, *kinds: type) -> bool:
        return any(member.type in kinds for member in self.members)


@cache
def slots(section: type[BaseModel]) -> dict[str, Slot]:
    """Return the permitted values of each key of a section."""
    return {
        key: Slot.of(info.annotation, tuple(info.metadata), info.discriminator)
        for key, info in section.model_fields.items()
    }


# --- walking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spot:
    """A pydantic error's location: the path in the YAML, what may stand there and which section it is in."""

    path: KeyPath
    slot: Slot
    """Of type None for a key that the section does not know."""
    section: type[BaseModel]
    alternatives: dict[str, type[BaseModel]]
    """The sections that could stand in the section's place, by name."""


def follow(root: type[BaseModel], location: tuple[str | int, ...]) -> Spot:
    """Walk a pydantic location, which also names the chosen section and the tried member of each union."""
    path: KeyPath = ()
    slot, section, alternatives = Slot(root), root, {"": root}
    for part in location:
        if len(slot.values) != 1:
            break  # alternatives that no key tells apart are judged together
        slot = slot.values[0]
        if slot.discriminator:
            alternatives = slot.sections
            slot, section = Slot(alternatives[str(part)]), alternatives[str(part)]
            continue
        if slot.is_list or slot.is_mapping:
            path, slot = (*path, part), slot.element
            continue
        if not slot.sections:
            break
        if slot.type is not section:
            section, alternatives = slot.type, slot.sections
        path = (*path, part)
        if part not in section.model_fields:
            return Spot(path, Slot(None), section, alternatives)
        slot = slots(section)[str(part)]
    return Spot(path, slot, section, alternatives)


def walk(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Every section below (and with) this one, each with the keys that lead to it; lists add no index."""
    yield path, section
    for key, slot in slots(section).items():
        for value in slot.values:
            inner = value.element if value.is_list else value
            for kind in dict.fromkeys(inner.sections.values()):
                yield from walk(kind, (*path, key))


# --- words -----------------------------------------------------------------------------------------------------------


def in_words(slot: Slot) -> str:
    """`whole number above 0`, `auto, cpu or cuda`, `list of 2 numbers above 0, or null`, ..."""
    words = [_one(member, plural=False) for member in slot.values]
    return _either([*words, "null"] if slot.nullable else words)


def with_article(words: str) -> str:
    return f"a {words}" if words.startswith(("whole", "number", "list", "mapping", "path", "section")) else words


def bounds(limits: dict[str, Any]) -> str:
    """` above 0`, ` from 0 to 1`, ...; empty without limits."""
    shown = {name: f"{limit:g}" if limit < 1e6 else f"{limit:,}" for name, limit in limits.items()}
    low = [f"above {shown['gt']}"] if "gt" in limits else []
    low += [f"at least {shown['ge']}"] if "ge" in limits else []
    high = [f"below {shown['lt']}"] if "lt" in limits else []
    high += [f"at most {shown['le']}"] if "le" in limits else []
    if "ge" in limits and high:
        text = f" from {shown['ge']} to {high[0].removeprefix('at most ')}"
    else:
        text = " " + " and ".join(low + high) if low or high else ""
    return text + (f" (a multiple of {limits['multiple_of']})" if "multiple_of" in limits else "")


def _one(slot: Slot, *, plural: bool) -> str:
    s = "s" if plural else ""
    if slot.choices:
        return _either([str(choice) for choice in slot.choices])
    if slot.is_list:
        parts = [part for part in get_args(slot.type) if part is not Ellipsis]
        count = f"{len(parts)} " if Ellipsis not in get_args(slot.type) and len(parts) > 1 else ""
        if (least := slot.limits.get("min_length", 0)) > 1:
            count = f"at least {least} "
        return f"list of {count}" + _either([_one(member, plural=True) for member in slot.element.members])
    if slot.is_mapping:
        names = Slot.of(get_args(slot.type)[0])
        which = _either([str(choice) for choice in names.choices]) if names.choices else "names"
        return f"mapping{s} of {which} to {_one(slot.element, plural=True)}"
    if slot.sections:
        if slot.discriminator:
            return f"section{s} whose name is one of {', '.join(slot.sections)}"
        keys = list(slot.type.model_fields)
        return f"section{s}" + (f" with {_either(keys).replace(' or ', ' and ')}" if len(keys) <= 4 else "")
    names_of = {bool: "true or false", int: f"whole number{s}", float: f"number{s}", str: "text", Path: f"path{s}"}
    limits = bounds(slot.limits).replace(" at least", " of at least")
    return names_of.get(slot.type, str(slot.type)) + limits


def _either(words: list[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    comma = "," if any(" " in word for word in words[:-1]) else ""
    return f"{', '.join(words[:-1])}{comma} or {words[-1]}"
