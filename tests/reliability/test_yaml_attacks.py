"""YAML files meant to do harm: answered within a second and 100 MB, and nothing they name is run or touched."""

import os
from pathlib import Path

import pytest

from mlcli.errors import ConfigError
from mlcli.experiment import Experiment
from tests.conftest import Typed
from tests.reliability.child import Spent, in_child, type_here
from tests.test_schema import ATTACKS as SYNTAX

CANARY = Path("canary")
MOST_CPU_S, MOST_MB = 1.0, 100.0

BYTES: dict[str, bytes] = {
    "10 MB of keys": b"".join(b"key%d: value\n" % number for number in range(700_000)),
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


def attacked(content: bytes, *overrides: str) -> Spent:
    """Type a command that reads it; the answer and what it took."""
    Path("x.yaml").write_bytes(content)
    CANARY.write_text("alive")
    return in_child(lambda: type_here("train", "x.yaml", *overrides))


def check(spent: Spent) -> None:
    code, out, err = spent.value
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(err) < 20_000
    assert all(c.isprintable() or c in "\n\t" for c in err)
    assert sorted(os.listdir()) == ["canary", "x.yaml"]
    assert CANARY.read_text() == "alive"
    assert spent.cpu_s < MOST_CPU_S
    assert spent.growth_mb < MOST_MB


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("content", [*FILES.values(), *VALUES.values()], ids=[*FILES, *VALUES])
def test_a_hostile_file_is_answered_within_its_means(content):
    check(attacked(content))


@pytest.mark.parametrize("override", OVERRIDES.values(), ids=list(OVERRIDES))
def test_a_hostile_override_is_answered_within_its_means(override):
    Path("x.yaml").write_bytes(START)
    CANARY.write_text("alive")

    def load() -> Typed:
        try:
            Experiment.load(Path("x.yaml"), [override])
        except ConfigError as error:
            return Typed(int(error.code), "", str(error))
        return Typed(0, "", "")

    check(in_child(load))


def test_a_long_argument_is_no_file():
    check(attacked(START, "train.epochs=" + "x" * 10_000))


def test_the_limits_would_notice():
    """What a bomb would cost is measured: a child that grows and computes is seen to."""
    spent = in_child(lambda: len(bytearray(os.urandom(150_000_000))) + sum(range(20_000_000)))
    assert spent.growth_mb > MOST_MB
    assert spent.cpu_s > 0.1
