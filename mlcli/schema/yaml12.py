"""YAML 1.2 in and out: text to plain data with the place of every key and value, and plain data to text.

PyYAML is YAML 1.1, where `1e-3` is text, `no` is false, `010` is eight, `12:30` is 750 and the second of two equal keys
wins silently. Only its parser is used here, whose events build nothing; scalars are read by the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema). Anchors, tags and merge keys are refused: they are how a file of 300
bytes grows to gigabytes or calls code, and a configuration needs none of them.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mlcli.errors import ConfigError
from mlcli.reading import ANY_SIZE, open_regular
from mlcli.schema.places import ConfigErrors, ConfigProblem, Origin, Position

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_KEY = 100
MAX_VALUES = 5_000
"""Far above any real configuration (hundreds). Together they bound the work that a hostile file can cause: at most
3 * MAX_VALUES events are read, and tests/reliability/test_yaml_attacks.py counts the calls."""
INT64 = 2**63

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is 20 times as fast; wheels always have it

_WORDS: dict[str, Any] = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_WORDS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

KeyPath = tuple[str | int, ...]
"""Path to a node: keys of mappings and indices of lists, from the top."""


@dataclass
class Tree:
    """The data of a YAML text, and the position of each node."""

    data: Any = None
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    """Mistakes that do not stop the reading: keys set twice."""

    def at(self, path: KeyPath) -> Any:
        """The value at a path that exists."""
        value = self.data
        for step in path:
            value = value[step]
        return value


def scalar(text: str) -> Any:
    """An unquoted YAML 1.2 scalar. Raises OverflowError for whole numbers beyond 64 bits."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        if len(text.lstrip("+-0")) > 40 or not -INT64 <= int(text, base) < INT64:
            raise OverflowError
        return int(text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def as_scalar(value: str) -> str:
    """Return a YAML scalar that is read as this text."""
    if re.fullmatch(r"[A-Za-z_./][\w./-]*", value, re.ASCII) and isinstance(scalar(value), str):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def as_list(key: str, values: Iterable[str]) -> str:
    """Return `'key=[a, b]'` as a shell takes it: in quotes, since brackets and blanks mean something to it."""
    return shlex.quote(f"{key}=[{', '.join(map(as_scalar, values))}]")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """A file's text, or standard input's for `-`. Raises ConfigError if it cannot be read or is no UTF-8 text."""
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(open_regular(path, ANY_SIZE), "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = _near(path)
        fix = f"did you mean {near}?" if near else "mlcli init writes one to start from"
        raise ConfigError(f"there is no file {path}", fix=fix) from None
    except IsADirectoryError:
        near = _near(path / "config.yaml")
        fix = (
            f"did you mean {near}?" if near else f"mlcli init {shlex.quote(str(path))} writes a YAML for pictures in it"
        )
        raise ConfigError(f"{path} is a folder, not a YAML file", fix=fix) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES:,} bytes; this is not a configuration")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path} is UTF-16 text", fix="save it as UTF-8")
    try:
        return content.decode("utf-8-sig")  # the mark that Windows editors put in front of UTF-8 is dropped
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text", fix="save it as UTF-8") from None


def _near(path: Path) -> str:
    """The YAML beside a path whose name is nearest to it; "" if none is near."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    name = path.name if path.suffix else f"{path.name}.yaml"
    found = get_close_matches(name, names[:MAX_VALUES], n=1)
    return str(path.with_name(found[0])) if found else ""


def parse(text: str, origin: Origin) -> Tree:
    """Read one YAML document. Raises ConfigErrors for broken syntax and for everything refused (see above)."""
    tree = Tree()
    events = _Events(text, origin)
    event = events.take()
    if not isinstance(event, yaml.StreamEndEvent):
        tree.data = _node(events, event, (), tree)
        events.take()  # the document's end
        event = events.take()
        if not isinstance(event, yaml.StreamEndEvent):
            events.refuse(event, "a second document starts here; a configuration is one document")
    return tree


def _node(events: "_Events", event: Any, path: KeyPath, tree: Tree) -> Any:
    """The value that starts with `event`; its parts are written down in `tree` on the way."""
    if isinstance(event, yaml.AliasEvent):
        events.refuse(event, f"aliases (*{event.anchor}) are not allowed; write the value out")
    if event.anchor is not None:
        events.refuse(event, f"anchors (&{event.anchor}) are not allowed; write the value out where it is needed")
    if event.tag is not None:
        events.refuse(event, f"tags ({event.tag}) are not allowed; write the plain value")
    if len(path) > MAX_DEPTH:
        events.refuse(event, f"nested more than {MAX_DEPTH} deep")
    events.values += 1  # not the tree's: what stands under a key set twice is in no tree
    if events.values > MAX_VALUES:
        events.refuse(event, f"more than {MAX_VALUES:,} values; this is not a configuration")
    tree.values[path] = events.place(event)
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(events, path, tree)
    if isinstance(event, yaml.SequenceStartEvent):
        items: list[Any] = []
        while not isinstance(event := events.take(), yaml.SequenceEndEvent):
            items.append(_node(events, event, (*path, len(items)), tree))
        return items
    return events.value(event)


def _mapping(events: "_Events", path: KeyPath, tree: Tree) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    while not isinstance(event := events.take(), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
            events.refuse(event, "a key must be plain text")
        key, place = event.value, events.place(event)
        if len(key) > MAX_KEY:
            events.refuse(event, f"a key of more than {MAX_KEY} characters")
        if key == "<<" and event.implicit[0]:
            events.refuse(event, "merge keys (<<) are not allowed; write the keys out")
        here = (*path, key)
        if key in mapping:
            first = tree.keys[here].line + 1
            tree.problems.append(ConfigProblem(f"key '{key}' is set twice (first on line {first})", place))
            _node(events, events.take(), here, Tree())
            continue
        tree.keys[here] = place
        mapping[key] = _node(events, events.take(), here, tree)
    return mapping


class _Events:
    """PyYAML's parser events, its complaints turned into ours."""

    def __init__(self, text: str, origin: Origin) -> None:
        self.origin = origin
        self.values = 0
        """Scalars, lists and mappings seen so far."""
        self._stream = self._events(text)
        self.take()  # the stream's start

    def _events(self, text: str) -> Iterator[Any]:
        try:
            yield from yaml.parse(text, Loader=_Parser)
        except yaml.MarkedYAMLError as error:
            mark: Any = error.problem_mark or error.context_mark
            if str(error.context) == "while scanning a simple key":  # the mistake is where the key starts
                mark = error.context_mark
            line = self.origin.lines[mark.line] if mark.line < len(self.origin.lines) else ""
            self._fail(_plain_words(error, line[mark.column : mark.column + 1]), mark.line, mark.column)
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
            self._fail(f"character U+{error.character:04X} is not allowed in YAML", line, column)
        except UnicodeEncodeError as error:  # an override in bytes that are no UTF-8
            self._fail("not UTF-8 text", 0, error.start)

    def take(self) -> Any:
        """The next event; PyYAML's classes of events have no common attributes but their marks."""
        event = next(self._stream)
        return self.take() if isinstance(event, yaml.DocumentStartEvent) else event

    def place(self, event: Any) -> Position:
        return Position(self.origin, event.start_mark.line, event.start_mark.column)

    def value(self, event: yaml.ScalarEvent) -> Any:
        if _UNSTORABLE.search(event.value):
            self.refuse(event, "this text has a character that neither files nor terminals can hold")
        try:
            return scalar(event.value) if event.implicit[0] else event.value
        except OverflowError:
            self.refuse(event, "this whole number does not fit in 64 bits")

    def refuse(self, event: Any, message: str) -> NoReturn:
        self._fail(message, event.start_mark.line, event.start_mark.column)

    def _fail(self, message: str, line: int, column: int) -> NoReturn:
        raise ConfigErrors([ConfigProblem(message, Position(self.origin, line, column))]) from None


def _plain_words(error: yaml.MarkedYAMLError, char: str) -> str:
    """PyYAML's complaint with what usually lies behind it."""
    problem = str(error.problem)
    if "cannot start any token" in problem:
        if char == "\t":
            return "a tab cannot indent in YAML; use spaces"
        return f"a value cannot start with {char!r}; put it in quotes"
    if "could not find expected ':'" in problem:
        return "a key needs a ':' and a blank before its value: 'key: value'"
    if "mapping values are not allowed" in problem:
        return "a ':' does not fit here; has the line above its 'key: value' with a space, and the right indentation?"
    context = f"{error.context}: " if error.context else ""
    return f"not valid YAML: {context}{problem}"


# --- writing ---------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        reads_as_text = isinstance(scalar(value), str)
    except OverflowError:
        reads_as_text = False
    # PyYAML itself puts quotes around what YAML 1.1 would take for something else, such as no and 12:30, but its other
    # styles lose some line breaks (U+0085).
    plain = reads_as_text and value.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(plain: dict[str, Any]) -> str:
    """Plain data as YAML that YAML 1.1 and 1.2 readers understand alike: `parse(dump(plain)).data == plain`."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
