"""Writing advice into a YAML: only the values change, its comments, order and layout are kept."""

import re
from pathlib import Path
from typing import Any

from mlcli.errors import ConfigError
from mlcli.files import write_output
from mlcli.schema.places import Origin, Position
from mlcli.schema.yaml12 import Tree, parse, read_text

_SCALAR = re.compile(r""""[^"\n]*"|'[^'\n]*'|[^\s,}\]#]+""")  # as far as the values of one section need it
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # what PyYAML counts lines by
_UTF8_MARK = b"\xef\xbb\xbf"


def refuse_to_apply(path: Path) -> None:
    """Raise ConfigError, before anything is measured, for what cannot or must not be written."""
    if str(path) == "-":
        raise ConfigError("standard input cannot be changed", where="--apply", fix="give the YAML as a file")
    if (path.absolute().parent / "status.json").exists():
        raise ConfigError("this YAML belongs to a run and records its training; it is not changed", where=str(path),
                          fix="use the YAML the run was started with")  # fmt: skip


def apply(path: Path, section: str, changes: dict[str, Any]) -> None:
    """Set keys of a section in a YAML file. Raises ConfigError if its layout defies that, OutputError."""
    text = read_text(path)
    edited = edit(text, section, changes)
    mark = _UTF8_MARK if path.read_bytes().startswith(_UTF8_MARK) else b""
    write_output(path, mark + edited.encode())


def edit(text: str, section: str, changes: dict[str, Any]) -> str:
    """The text with these keys of a section set: `parse(edit(t, s, c)).data == parse(t).data with s changed`.

    Raises ConfigError where that cannot be done, naming what to write by hand.
    """
    wanted = _parsed(text).data
    wanted = {**wanted, section: {**(wanted.get(section) or {}), **changes}}
    for key, value in changes.items():
        text = _set(text, section, key, _as_yaml(value))
    try:
        done = _parsed(text).data == wanted
    except ConfigError:
        done = False
    if not done:
        inner = ", ".join(f"{key}: {_as_yaml(value)}" for key, value in changes.items())
        raise ConfigError("the YAML is written in a way that cannot be changed safely", where=section,
                          fix=f"write by hand: {section}: {{{inner}}}")  # fmt: skip
    return text


def _set(text: str, section: str, key: str, value: str) -> str:
    tree = _parsed(text)
    if (section, key) in tree.values:
        start = _offset(text, tree.values[section, key])
        old = _SCALAR.match(text, start)
        return text[:start] + value + text[old.end() if old else start :]
    if section in tree.data and isinstance(tree.data[section], dict):
        return _insert(text, tree, (section,), f"{key}: {value}")
    # A new last entry of the whole configuration.
    start, entry = _offset(text, tree.values[()]), f"{section}: {{{key}: {value}}}"
    if text[start : start + 1] == "{":
        return _insert(text, tree, (), entry)
    newline = "" if text.endswith(("\n", "\r")) else _newline(text)
    return f"{text}{newline}{' ' * tree.values[()].column}{entry}{_newline(text)}"


def _insert(text: str, tree: Tree, path: tuple[str, ...], entry: str) -> str:
    """A new first entry of a mapping, in its own style."""
    start = _offset(text, tree.values[path])
    if text[start : start + 1] == "{":
        empty = not tree.at(path)
        return text[: start + 1] + entry + ("" if empty else ", ") + text[start + 1 :]
    return text[:start] + entry + _newline(text) + " " * tree.values[path].column + text[start:]


def _parsed(text: str) -> Tree:
    return parse(text, Origin("the YAML", tuple(text.splitlines())))


def _offset(text: str, place: Position) -> int:
    """Offset of a place in the text."""
    starts = [0, *(found.end() for found in _LINE_BREAK.finditer(text))]
    return starts[place.line] + place.column


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _as_yaml(value: Any) -> str:
    return str(value)
