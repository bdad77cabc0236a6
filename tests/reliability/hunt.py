"""What the hunts share: a small world of data, YAMLs and runs; commands typed in it by the thousand; odd values.

A command is forked from this process, which has everything imported, and takes hundredths of a second. Whatever it is
given it must end with one of its exit codes and a message: never by a traceback, by a signal, by the clock, or with a
file of the user changed.
"""

import contextlib
import io
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.reliability import tiny
from tests.reliability.child import LIMIT_S, in_child, keep_to_one_cpu, type_here
from tests.reliability.forked import Ended, typed_in_child
from tests.reliability.soak import soaked

CHOSEN = os.environ.get("MLCLI_CASE", "")
"""The number of the one case to try, as a red one has printed it, or `100-200`."""
MEMORY_BYTES = 2**32
"""That a command may take beside what the process it is forked from has."""
SPOILED = "runs/spoiled"
"""The copy of a run that a hunt damages; commands may change it."""

TABLE = """
task: classification
data: {name: csv, file: table.csv, target: y}
model: {name: mlp, hidden: [4]}
train: {epochs: 1, batch_size: 16, device: cpu, threads: 1, baselines: true,
        tensorboard: {graph: false, layers: true, pictures: false}}
loader: {cache: none, workers: 0}
"""
RUNS = {"mlp": "photos/test", "regression": "diabetes.csv", "detection": "boxes/val0.png", "table": "table.csv"}
"""Runs, each `runs/<name>/only`, and what they can be asked about."""


def cases(count: int, *, soak: int) -> list[int]:
    """Numbers of the cases to try: `count` of them in the suite, `soak` in a soak, or those asked for: 7,100-199."""
    if CHOSEN:
        ends = [part.partition("-") for part in CHOSEN.split(",")]
        return [case for first, _, last in ends for case in range(int(first), int(last or first) + 1)]
    return [*range(soak if soaked(1) > 1 else count)]


def build_world(folder: Path) -> Path:
    """Data, YAMLs and a finished run of each of four kinds.

    They are made in a child: threads that this process had would not outlive a fork, and be waited for. What the child
    had to import is imported here as well.
    """
    tiny.write_data(folder)
    draw = random.Random(0)
    rows = [f"{draw.gauss(0, 1):.3f},{draw.choice(['red', 'blue', ''])},{'ny'[i % 2]}" for i in range(60)]
    (folder / "table.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    (folder / "table.yaml").write_text(TABLE)
    columns = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    (folder / "diabetes.csv").write_text(",".join(columns) + "\n" + "0.1," * 9 + "0.1\n")
    for module in in_child(lambda: _make_runs(folder), limit_s=10 * LIMIT_S).value:
        with contextlib.suppress(ImportError):
            import_module(module)
    return folder


def _make_runs(folder: Path) -> list[str]:
    os.chdir(folder)
    for name, asked in RUNS.items():
        for command in (("train", f"{name}.yaml", "train.epochs=1", "train.accumulate=1"),
                        ("evaluate", f"runs/{name}/only"), ("predict", f"runs/{name}/only", asked),
                        ("report", f"runs/{name}/only"), ("runs", "compare", f"runs/{name}/only")):  # fmt: skip
            typed = type_here(*command)
            assert typed.code == 0, typed.err
            if command[0] == "train":
                next(Path("runs", name).iterdir()).rename(f"runs/{name}/only")
    return [name for name in sys.modules if not name.startswith(("__main__", "tests."))]


def fault_of(
    folder: Path, *arguments: object, prepare: Callable[[], None] = lambda: None, allowed: tuple[int, ...] = ()
) -> str:
    """Type a command in `folder`. Returns what is wrong with how it ended, nothing if it ended as it should.

    allowed: the only exit codes that are right, if not all but 1 are.
    """
    (folder / "out.txt").unlink(missing_ok=True)
    before = _files(folder)

    def begin() -> None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        keep_to_one_cpu()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
        prepare()

    ended = typed_in_child(folder, *arguments, prepare=begin)
    fault = _fault(ended, allowed)
    after = _files(folder)
    changed = [path for path in before if after.get(path) != before[path]]
    if changed and not fault:
        fault = f"the user's files changed: {changed[0]!r}"
    for path in sorted(after.keys() - before.keys(), reverse=True):  # what is new, what is in a folder before it
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
    return f"mlcli {' '.join(map(repr, map(str, arguments)))}: {fault}\n{ended.out[-3000:]}" if fault else ""


def _fault(ended: Ended, allowed: tuple[int, ...]) -> str:
    if ended.code < 0:
        return f"ended by signal {-ended.code}"
    if "Traceback (most recent call last)" in ended.out or "bug in mlcli" in ended.out:
        return "a traceback"
    if ended.left:
        return f"processes are left: {ended.left}"
    if ended.code == 1 or (allowed and ended.code not in allowed):
        return f"exit {ended.code}"
    return ""


def _files(folder: Path) -> dict[bytes, Any]:
    """All files below a folder by path, with what a change of them changes; without what commands write by themselves.

    Those are reports and evaluations in run folders, and there only.
    """
    found: dict[bytes, Any] = {}
    for here, folders, names in os.walk(os.fsencode(folder)):
        for name in [*names, *folders]:
            path = os.path.join(here, name)
            about, inside = os.lstat(path), os.path.relpath(path, os.fsencode(folder))
            is_folder = os.path.isdir(path) and not os.path.islink(path)
            is_written = inside.startswith((b"runs/", b"out.txt")) and not is_folder
            content = () if is_folder or is_written else (about.st_ino, about.st_size, about.st_mtime_ns)
            found[path] = (about.st_mode, *content)
        folders[:] = [name for name in folders if os.path.join(here, name) != os.fsencode(folder / SPOILED)]
    return found


def spoiled(folder: Path, run: str) -> Path:
    """A fresh copy of a run, `runs/spoiled/only`, to damage."""
    target = folder / SPOILED / "only"
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(folder / "runs" / run / "only", target)
    return target


def tell(faults: list[str], tried: int) -> None:
    """Fail with all faults found, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        last = [line for line in fault.splitlines() if line.strip() and "bug in mlcli" not in line]
        kinds.setdefault(last[-1][:160], []).append(fault)
    shown = [
        f"{len(found)} times: {kind}\n{found[0]}" for kind, found in sorted(kinds.items(), key=lambda k: -len(k[1]))
    ]
    assert not faults, f"{len(faults)} of {tried}, {len(kinds)} kinds\n\n" + "\n\n".join(shown)


# --- odd values ------------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 7, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.5, -0.5, 1e-320,
    1e308, float("nan"), float("inf"), float("-inf"), "", " ", "x", "1", "nan", "\0", "\ud800", "a" * 3000, "../../x",
    "\x1b[31mred\x1b[0m\u202e", "<script>x</script>", "2026-13-45T99:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59",
    [], {}, [[]], [None], ["x"], [1], [1, 2, 3], [0.5] * 100, {"name": "x"}, {"x": 1}, {"x": {"x": None}}, [{}],
]  # fmt: skip
"""Plain values, JSON has a form of each."""


SPLICED = [b"\0", b"\xff\xfe", b"9" * 5000, b"1e999", b"NaN", b'"', b"{", b"]", b"\n", b"[" * 90_000]
WHOLE = [b"", b"\0" * 1000, b"null", b"[]", b"{}", b"3", b'"x"', b"\n" * 5000, b"[" * 90_000, b"\xff" * 99]
"""Bytes to put into a file, and in its place."""


def somewhere(plain: Any, draw: random.Random) -> tuple[Any, Any]:
    """A list or dict in nested ones and a key of it, deep ones as likely as shallow ones."""
    parent, keys = plain, [*plain] if isinstance(plain, dict) else [*range(len(plain))]
    key = draw.choice(keys)
    while isinstance(parent[key], dict | list) and parent[key] and draw.random() < 0.8:
        parent = parent[key]
        key = draw.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
    return parent, key


def forge(plain: Any, draw: random.Random, odd: list[Any]) -> str:
    """Change a few values in nested dicts and lists, in place. Returns what was done."""
    done = []
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        if not plain:
            break
        parent, key = somewhere(plain, draw)
        match draw.choice(["replace", "replace", "replace", "delete", "swap", "add", "nest", "scale"]):
            case "replace":
                parent[key] = draw.choice(odd)
                done.append(f"{key!r} = {str(parent[key])[:40]!r}")
            case "delete":
                del parent[key]
                done.append(f"no {key!r}")
            case "swap":
                other, there = somewhere(plain, draw)
                with contextlib.suppress(KeyError, IndexError, TypeError):
                    value = other[there]
                    if value is not plain and not (isinstance(value, dict | list) and _holds(value, parent)):
                        parent[key] = value
                        done.append(f"{key!r} as {there!r}")
            case "add":
                if isinstance(parent, dict):
                    parent[draw.choice(["x", "", "name", 7, None])] = draw.choice(odd)
                else:
                    parent.append(draw.choice([*odd, parent[key]]))
                done.append(f"one more beside {key!r}")
            case "nest":
                parent[key] = draw.choice([[parent[key]], {"x": parent[key]}, str(parent[key])[:1000]])
                done.append(f"{key!r} nested")
            case "scale":
                if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
                    parent[key] = draw.choice([-parent[key], parent[key] * 10**9, str(parent[key]), parent[key] + 1])
                done.append(f"{key!r} scaled")
    return ", ".join(done)


def _holds(value: Any, part: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is part or any(_holds(inner, part) for inner in inside)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A file's bytes with bits flipped, parts lost, doubled or replaced."""
    place = draw.randrange(len(content) + 1)
    match draw.choice(["flip", "flip", "cut", "lose", "double", "splice", "replace"]):
        case "flip":
            flipped = bytearray(content)
            for _ in range(draw.choice([1, 1, 5, 50])):
                if flipped:
                    flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
            return bytes(flipped)
        case "cut":
            return content[:place]
        case "lose":
            return content[:place] + content[place + draw.choice([1, 8, 100, 1000]) :]
        case "double":
            return content[:place] + content[max(0, place - 100) : place] * draw.choice([2, 10, 1000]) + content[place:]
        case "splice":
            word = draw.choice(SPLICED)
            return content[:place] + word + content[place:]
    return draw.choice(WHOLE)
