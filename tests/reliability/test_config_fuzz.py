"""Mutated copies of the shipped YAMLs: valid, or refused at a line and column; and typos that get the right word.

A red case prints its number; `MLCLI_CASE=<number> python -m pytest tests/reliability/test_config_fuzz.py` plays it.
"""

import copy
import os
import random
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlcli.errors import ConfigError
from mlcli.experiment import Experiment, config_type
from mlcli.schema.words import follow
from mlcli.schema.yaml12 import dump
from tests.reliability.child import type_here
from tests.reliability.soak import soaked

SHIPPED = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
CASES = range(soaked(1_000, more=5)) if "MLCLI_CASE" not in os.environ else [int(os.environ["MLCLI_CASE"])]
TYPED_EVERY = 25
"""One case out of so many is typed as a command as well, which takes longer than reading it."""
PLACE = re.compile(r"x\.yaml:(\d+):(\d+): ")
OVERRIDE = re.compile(r"override \d+ \(")

Path_ = tuple[str | int, ...]


# --- mutations -------------------------------------------------------------------------------------------------------

JUNK: list[Any] = [
    None, True, False, -1, 0, 1, 0.5, 1e30, -1e-30, 2**62, float("nan"), float("inf"), "", " ", "x", "none", "auto",
    "ü\u2028✓", "\u202eevil", "1e-3", "1_000", "~", "<<", "&a", "*a", "!!python/name:os", [], {}, [None], [[[]]],
    {"name": None}, {"name": "sgd"}, {"name": {"name": "sgd"}}, [{"name": "cutout"}], "a" * 10_000, [1] * 3_000,
]  # fmt: skip
ODD_KEYS = ["", " ", "x", "name", "näme", "name ", "0", "a.b", "<<", "null", "true", "名前", "k" * 90, "k" * 120]
INSERTED = ["\t", "{", "}", "[", "]", ":", ": ", ",", "&a ", "*a", "!!str ", "!x ", "'", '"', "\n", "\r\n", "é", "  - ",
            "? ", "| ", ">", "---\n", "...\n", "%", "@", "`", "#", " #", "\x07", "\ufeff", "\u2028", "\x85",
            "<<: {}\n"]  # fmt: skip


def paths(plain: Any, above: Path_ = ()) -> list[Path_]:
    """Of all values in nested plain data."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    return [path for key, value in items for path in [(*above, key), *paths(value, (*above, key))]]


def at(plain: Any, path: Path_) -> Any:
    for step in path:
        plain = plain[step]
    return plain


def sections(plain: Any) -> list[dict]:
    return [plain, *(section for path in paths(plain) if isinstance(section := at(plain, path), dict))]


def drop(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    del parent[key]


def rename(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    value = parent.pop(key)
    if isinstance(parent, dict):
        parent[draw.choice([*ODD_KEYS, str(key).upper(), str(key)[:-1], f"{key}s"])] = value


def replace(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    parent[key] = copy.deepcopy(draw.choice(JUNK))


def wrap(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    for _ in range(draw.choice([1, 1, 2, 48, 60])):
        parent[key] = [parent[key]] if draw.random() < 0.5 else {"a": parent[key]}


def add(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    draw.choice(sections(root))[draw.choice(ODD_KEYS)] = copy.deepcopy(draw.choice(JUNK))


def move(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    value = parent.pop(key)
    draw.choice(sections(root))[str(key)] = value


def swap(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    other = draw.choice(paths(root))
    mine, theirs = copy.deepcopy(parent[key]), copy.deepcopy(at(root, other))
    at(root, other[:-1])[other[-1]] = mine
    parent[key] = theirs


def retype(parent: Any, key: Any, root: Any, draw: random.Random) -> None:
    value = parent[key]
    parent[key] = draw.choice([str(value), repr(value), [value, value], {"name": value}])


CHANGES: list[Callable[..., None]] = [drop, rename, replace, wrap, add, move, swap, retype]


def insert(text: str, draw: random.Random) -> str:
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(INSERTED) + text[place:]


def delete(text: str, draw: random.Random) -> str:
    place = draw.randrange(len(text))
    return text[:place] + text[place + draw.choice([1, 1, 5, 40]) :]


def truncate(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text))]


def repeat_line(text: str, draw: random.Random) -> str:
    """A key set twice, near the first or far from it."""
    lines = text.splitlines()
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return "\n".join(lines)


def indent_line(text: str, draw: random.Random) -> str:
    lines = text.splitlines()
    number = draw.randrange(len(lines))
    lines[number] = draw.choice([" ", "  ", "\t", "- "]) + lines[number]
    return "\n".join(lines)


def share(text: str, draw: random.Random) -> str:
    """An anchor, and an alias of it elsewhere."""
    return text.replace(": ", ": &a ", 1) + draw.choice(["\nmodel: *a\n", "\nextra: [*a, *a]\n", "\n<<: *a\n"])


EDITS: list[Callable[[str, random.Random], str]] = [insert, delete, truncate, repeat_line, indent_line, share]


def mutant(case: int) -> tuple[str, list[str], str]:
    """The text of a YAML, overrides, and what was done: all a function of the case's number."""
    draw = random.Random(f"mutant {case}")
    shipped = draw.choice(SHIPPED)
    text, overrides, done = shipped.read_text(), [], [shipped.name]
    if draw.random() < 0.7:
        plain: Any = Experiment.load(shipped).plain()
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            path = draw.choice(paths(plain) or [()])
            if path:
                change = draw.choice(CHANGES)
                change(at(plain, path[:-1]), path[-1], plain, draw)
                done.append(f"{change.__name__} {'.'.join(map(str, path))}")
        text = dump(plain)
    for _ in range(draw.choice([0, 0, 0, 1]) if len(done) > 1 else draw.choice([1, 2])):
        edit = draw.choice(EDITS)
        text = edit(text, draw) or "\n"
        done.append(edit.__name__)
    if draw.random() < 0.15:
        key = draw.choice(["train.epochs", "model", "optimizer.lr", "augment.0.p", "data.name", "a..b", "", "x" * 200])
        overrides.append(
            f"{key}={draw.choice(['', '1', '-1', '[', '{a: b}', '*a', 'ü', '1e999', '!x y', '[[[]]]', '∞'])}"
        )
        done.append(overrides[-1])
    return text, overrides, ", ".join(done)


# --- the promise -----------------------------------------------------------------------------------------------------


def refusal(path: Path, overrides: list[str]) -> str:
    """What is said against a YAML, nothing if it is valid. Anything but a ConfigError is a fault of ours."""
    try:
        experiment = Experiment.load(path, overrides)
    except ConfigError as error:  # its exit code is 2
        return str(error)
    assert Experiment.from_plain(experiment.plain()).config == experiment.config
    return ""


def check_places(message: str, lines: list[str]) -> None:
    """Each complaint stands at a place that exists; one about a key stands where that key is."""
    complaints = [line for line in message.split("\n") if not line.startswith(("    ", "\t", "and "))]
    assert complaints
    for complaint in complaints:
        if OVERRIDE.match(complaint):
            continue
        place = PLACE.match(complaint)
        assert place, f"no file:line:column in {complaint!r}"
        number, column = int(place[1]), int(place[2])
        assert 1 <= number <= len(lines) + 1
        line = lines[number - 1] if number <= len(lines) else ""
        assert 1 <= column <= len(line) + 1
        key = re.search(r": (?:unknown key|key) '([\w.-]+)'", complaint)
        if key:
            assert line[column - 1 :].lstrip("'\"? ").startswith(key[1]), (
                f"{complaint!r} points at {line[column - 1 :]!r}"
            )


def test_mutants_are_valid_or_refused_at_their_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("x.yaml")
    outcomes = {"valid": 0, "refused": 0}
    for case in CASES:
        text, overrides, done = mutant(case)
        path.write_text(text, encoding="utf-8", newline="")
        try:
            message = refusal(path, overrides)
            if message:
                check_places(message, text.splitlines())
                assert len(message) < 20_000
                assert all(c.isprintable() or c in "\n\t" for c in message)
            if message and case % TYPED_EVERY == 0:
                typed = type_here("train", "x.yaml", *overrides)
                assert (typed.code, typed.out, typed.err) == (2, "", message + "\n")
            assert os.listdir() == ["x.yaml"]
        except Exception as error:
            raise AssertionError(f"MLCLI_CASE={case} ({done}): {type(error).__name__}: {error}") from error
        outcomes["refused" if message else "valid"] += 1
    assert len(CASES) == 1 or min(outcomes.values()) > len(CASES) / 20, outcomes


# --- typos -----------------------------------------------------------------------------------------------------------


def one_letter_off(word: str, draw: random.Random) -> str:
    """A letter left out, replaced, doubled in or exchanged with its neighbour."""
    place = draw.randrange(len(word))
    letter = draw.choice(string.ascii_lowercase)
    before, after = word[:place], word[place + 1 :]
    return draw.choice([before + after, before + letter + after, before + letter + word[place:],
                        before + word[place : place + 2][::-1] + word[place + 2 :]])  # fmt: skip


def words() -> tuple[dict[tuple, list], dict[tuple, list]]:
    """Where each key and each named choice occurs in the shipped configs, spelled out whole: (config, path) by word."""
    keys: dict[tuple, list] = {}
    choices: dict[tuple, list] = {}
    for shipped in SHIPPED:
        plain: Any = Experiment.load(shipped).plain()
        kind = config_type(plain["task"])
        for path in paths(plain):
            spot = follow(kind, tagged(plain, path))
            if spot.slot.type is None or not isinstance(path[-1], str):
                continue  # a name that the person chose, as of a loss term
            keys.setdefault((spot.section, path[-1]), []).append((plain, path))
            value = at(plain, path)
            if isinstance(value, str) and alternatives(spot):
                choices.setdefault((spot.section, path[-1], value), []).append((plain, path))
    return keys, choices


def tagged(plain: Any, path: Path_) -> Path_:
    """A path as pydantic writes it: after each section that a name chooses stands that name."""
    location: list[Any] = []
    for length in range(1, len(path) + 1):
        location.append(path[length - 1])
        value = at(plain, path[:length])
        if length < len(path) and isinstance(value, dict) and "name" in value:
            location.append(value["name"])
    return tuple(location)


def alternatives(spot: Any) -> list[str]:
    """The words that may stand at a spot."""
    names = list(spot.alternatives) if spot.path[-1] == "name" else []
    return [str(choice) for choice in (*names, *spot.slot.choices) if isinstance(choice, str) and choice]


def misspelt(plain: Any, path: Path_, draw: random.Random, *, key: bool) -> tuple[str, str] | None:
    """A YAML with one word misspelt, and that word; None where the typo is another word that may stand there."""
    plain = copy.deepcopy(plain)
    spot = follow(config_type(plain["task"]), tagged(plain, path))
    section = at(plain, path[:-1])
    word = str(path[-1] if key else section[path[-1]])
    typo = one_letter_off(word, draw)
    if not typo or typo in (word, *(spot.section.model_fields if key else alternatives(spot))):
        return None
    renamed = {typo if name == word and key else name: value for name, value in section.items()}
    section.clear()
    section.update(renamed if key else renamed | {path[-1]: typo})
    return dump(plain), word


@pytest.mark.parametrize("of", ["keys", "choices"])
def test_one_letter_typos_get_the_right_word(tmp_path, monkeypatch, of):
    monkeypatch.chdir(tmp_path)
    occurrences = words()[0 if of == "keys" else 1]
    assert len(occurrences) > {"keys": 200, "choices": 80}[of], "most of what a YAML can say"
    tried, missed = 0, []
    for case in range(soaked(400, more=2)):
        draw = random.Random(f"typo {case}")
        plain, path = draw.choice(draw.choice(list(occurrences.values())))
        made = misspelt(plain, path, draw, key=of == "keys")
        if made is None:
            continue
        text, word = made
        Path("x.yaml").write_text(text)
        message = refusal(Path("x.yaml"), [])
        tried += 1
        if f"did you mean '{word}'?" not in message:
            missed.append(message.split("\n")[0])
    share = 1 - len(missed) / tried
    assert tried > soaked(300, more=2)
    assert share >= 0.95, f"{share:.3f}: {missed[:20]}"
