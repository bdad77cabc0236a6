"""YAML files meant to do harm: answered with bounded work and 100 MB, and nothing they name is run or touched.

Work is counted, not timed: how many events the YAML parser gives and how many functions are entered, in Python or C.
Both follow from the file alone, whatever else the machine does.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlcli.errors import ConfigError
from mlcli.experiment import Experiment
from mlcli.schema.yaml12 import MAX_VALUES
from tests.conftest import Typed
from tests.reliability.child import Spent, in_child, type_here
from tests.test_schema import ATTACKS as SYNTAX

CANARY = Path("canary")
MOST_MB = 100.0
MOST_EVENTS = 3 * MAX_VALUES + 10
"""A value has at most a key, a start and an end; the others are those of the document."""
MOST_CALLS = 150 * MAX_VALUES
"""For a file of MAX_VALUES mistakes about 100 each are needed: to read, explain and sort them."""

BYTES: dict[str, bytes] = {
    "10 MB of keys": b"".join(map(b"key%d: value\n".__mod__, range(700_000))),
    "10 MB on one line": b"task: " + b"x" * 10_000_000,
    "a megabyte of nothing": bytes(1_000_000),
    "a NUL byte": b"task: classification\0\ndata: {name: digits}\n",
    "UTF-16": "task: classification\n".encode("utf-16"),
    "UTF-16 without a mark": "task: classification\n".encode("utf-16-le"),
    "UTF-32": "task: classification\n".encode("utf-32"),
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbftask: classification\n",
    "not UTF-8": b"task: \xff\xfe\xfd",
    "overlong UTF-8": b"task: \xc0\xaf",
    "a surrogate": b"task: \xed\xa0\x80",
    "quadratic bomb": b"a: &a " + b"x" * 50_000 + b"\nb: [" + b"*a, " * 50_000 + b"]\n",
    "a program in a tag": b"data: !!python/object/apply:subprocess.Popen\n- [touch, canary]\n",
    "a module in a tag": b"data: !!python/module:antigravity\n",
    "a new object": b"data: !!python/object/new:os.system [touch canary]\n",
    "a tag of our own": b"%TAG ! tag:yaml.org,2002:python/\n---\ndata: !object/apply:os.system [touch canary]\n",
    "deep flow mappings": b"{a: " * 20_000,
    "deep sequences": b"- " * 200_000 + b"x\n",
    "many anchors": b"".join(b"k%d: &a%d x\n" % (number, number) for number in range(40_000)),
    "a merge of a list of merges": b"base: &b {x: 1}\ntop: {<<: [" + b"*b, " * 10_000 + b"]}\n",
    "one key 20,000 times": b"task: classification\n" * 20_000,
    "an unclosed quote": b'task: "' + b"\\n" * 400_000,
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}
"""Files of other kinds than texts, and texts that test_schema.py does not read."""
FILES = BYTES | {name: text.encode() for name, text in SYNTAX.items()}

START = b"task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n"
VALUES: dict[str, bytes] = {
    "a list of 4,800 wrong values": START + b"augment: [" + b"{name: x}, " * 2_400 + b"]\n",
    "half a megabyte of messages": START + b"".join(b"%s%d: 1\n" % (b"k" * 90, number) for number in range(4_900)),
    "words like all others": START + b"".join(b"trai%d: 1\n" % number for number in range(4_900)),
}
"""Of sound syntax, but nothing in them is what a configuration has."""

OVERRIDES = {
    "3,000 brackets": "model.hidden=" + "[" * 3_000,
    "a tag": "model=!!python/object/apply:os.system [touch canary]",
    "an anchor": "model=&a {name: *a}",
    "a deep key": ".".join("a" * 3_000) + "=1",
    "100 kB of value": "train.epochs=" + "x" * 100_000,
}


@dataclass(frozen=True)
class Work:
    """What a case returned, the events of YAML that were read, and the functions that were entered.

    A generator is entered each time it goes on.
    """

    value: Any
    events: int
    calls: int


def counted(work: Callable[[], Any]) -> Work:
    """Do the work and count it; for a forked child, since it leaves YAML's parser changed."""
    events = calls = 0
    parse = yaml.parse

    def counting(*arguments: Any, **options: Any):
        nonlocal events
        for event in parse(*arguments, **options):
            events += 1
            yield event

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    yaml.parse = counting
    sys.setprofile(profile)
    try:
        value = work()
    finally:
        sys.setprofile(None)
    return Work(value, events, calls)


def attacked(content: bytes, *overrides: str) -> Spent:
    """Type a command that reads it; the answer and what it took."""
    Path("x.yaml").write_bytes(content)
    CANARY.write_text("alive")
    return in_child(lambda: counted(lambda: type_here("train", "x.yaml", *overrides)))


def check(spent: Spent) -> None:
    work = spent.value
    code, out, err = work.value
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(err) < 20_000
    assert all(c.isprintable() or c in "\n\t" for c in err)
    assert sorted(os.listdir()) == ["canary", "x.yaml"]
    assert CANARY.read_text() == "alive"
    assert work.events <= MOST_EVENTS
    assert work.calls <= MOST_CALLS
    assert spent.growth_mb < MOST_MB


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory):
    """Import what a command needs and fill the caches of the configuration's classes, which is not a file's work."""
    path = tmp_path_factory.mktemp("warm") / "x.yaml"
    path.write_bytes(START + b"trian: {epochs: 0}\n")
    assert type_here("train", path).code == 2


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("content", [*FILES.values(), *VALUES.values()], ids=[*FILES, *VALUES])
def test_a_hostile_file_is_answered_with_bounded_work(content):
    check(attacked(content))


@pytest.mark.parametrize("override", OVERRIDES.values(), ids=list(OVERRIDES))
def test_a_hostile_override_is_answered_with_bounded_work(override):
    Path("x.yaml").write_bytes(START)
    CANARY.write_text("alive")

    def load() -> Typed:
        try:
            Experiment.load(Path("x.yaml"), [override])
        except ConfigError as error:
            return Typed(int(error.code), "", str(error))
        return Typed(0, "", "")

    check(in_child(lambda: counted(load)))


def test_a_long_argument_is_no_file():
    check(attacked(START, "train.epochs=" + "x" * 10_000))


def test_the_reader_ends_at_its_limit():
    """A list of one value more than allowed: each value is one event, and no further one is read."""
    within, beyond = (b"task: [" + b"1, " * count + b"]" for count in (MAX_VALUES - 2, 100_000))
    events = [attacked(content).value.events for content in (within, beyond)]
    # The stream's, the document's and the mapping's start, a key and the list's start come before the values.
    assert events == [5 + MAX_VALUES - 2 + 4, 5 + MAX_VALUES - 1]


def test_the_limits_would_notice():
    """What a bomb would cost is counted: a child that grows, reads and calls is noticed."""
    many = "[" + "1, " * MOST_EVENTS + "]"
    spent = in_child(lambda: counted(lambda: (os.urandom(150_000_000), sum(1 for _ in yaml.parse(many)))))
    assert spent.growth_mb > MOST_MB
    assert spent.value.events > MOST_EVENTS
    assert in_child(lambda: counted(lambda: [len("") for _ in range(MOST_CALLS)])).value.calls > MOST_CALLS
