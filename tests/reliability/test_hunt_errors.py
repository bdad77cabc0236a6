"""Any one call that opens, reads or lists something fails as disks, networks and permissions do, in every command.

A red case prints its number; `MLCLI_CASE=<number>` plays it alone.
"""

import builtins
import errno
import io
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reliability import hunt
from tests.reliability.soak import LONG

ERRORS = [errno.EIO, errno.EACCES, errno.ESTALE, errno.ETIMEDOUT, errno.ELOOP, errno.EMFILE, errno.ENOSPC,
          errno.ENOTDIR, errno.ENAMETOOLONG, errno.EROFS, errno.ENOENT]  # fmt: skip
CALLS = ["open", "stat", "lstat", "listdir", "scandir", "mkdir", "replace", "rename", "unlink", "readlink"]
"""Of module os; the built-in open, and reading from what it returns, as well."""
QUICK = ("train.epochs=1", "train.baselines=false", "train.accumulate=1")
COMMANDS: list[tuple[str, ...]] = [
    ("train", "mlp.yaml", *QUICK), ("train", "table.yaml", "train.epochs=1"), ("train", "detection.yaml", *QUICK),
    ("train", "--resume", "runs/spoiled/only", "train.epochs=2"), ("evaluate", "runs/spoiled/only"),
    ("evaluate", "runs/detection/only"), ("predict", "runs/mlp/only", "photos/test", "listed.csv", "-o", "new.csv"),
    ("predict", "runs/table/only", "table.csv"), ("predict", "runs/mlp/only", "photos/test", "--pictures", "new"),
    ("predict", "runs/detection/only", "boxes/val0.png", "boxes/val1.png", "-o", "new.json"),
    ("report", "runs/spoiled/only"), ("runs",), ("runs", "--json"), ("runs", "compare", "mlp", "runs/spoiled/only"),
    ("data", "check", "mlp.yaml"), ("data", "check", "table.yaml"), ("data", "check", "detection.yaml"),
    ("data", "convert", "detection.yaml", "new", "--to", "voc"), ("init", "photos", "-o", "new.yaml"),
    ("init", "table.csv", "-o", "new.yaml"), ("init", "boxes", "-o", "new.yaml"), ("inspect", "mlp.yaml"),
    ("lr-find", "mlp.yaml"), ("train", "mlp.yaml", *QUICK, "finetune.weights=runs/spoiled/only", "model.dropout=0"),
]  # fmt: skip


def failing(folder: Path, number: int, how: int, done: mmap.mmap) -> Callable[[], None]:
    """What makes the `number`th call on something in the folder fail; how: its errno, or 0 for what it then reads."""

    def prepare() -> None:
        left = [number]

        def is_hit(path: Any) -> bool:
            if isinstance(path, int) or not os.path.abspath(os.fsdecode(path)).startswith(str(folder)):
                return False
            left[0] -= 1
            if left[0] == 0:
                done[0] = 1
            return left[0] == 0

        def watched(original: Callable[..., Any], reads: bool) -> Callable[..., Any]:
            def call(path: Any = ".", *arguments: Any, **named: Any) -> Any:
                if not is_hit(path):
                    return original(path, *arguments, **named)
                writes = any("w" in str(a) or "a" in str(a) or "+" in str(a) for a in arguments[:1])
                if how == 0 and reads and not writes:
                    return original("/proc/self/mem", *arguments, **named)  # whose first bytes cannot be read: EIO
                raise OSError(how or errno.EIO, os.strerror(how or errno.EIO), path)

            return call

        for name in CALLS:
            setattr(os, name, watched(getattr(os, name), reads=name == "open"))
        builtins.open = io.open = watched(io.open, reads=True)  # type: ignore[assignment]

    return prepare


def fault_at(world: Path, command: tuple[str, ...], number: int, how: int) -> tuple[str, bool]:
    """What is wrong with how a command ends whose `number`th call fails, and whether it has made so many."""
    done = mmap.mmap(-1, 1)
    (world / "listed.csv").write_text("path\nphotos/test/cat/0.png\n")
    if "runs/spoiled/only" in " ".join(command):
        hunt.spoiled(world, "mlp")
    fault = hunt.fault_of(world, *command, prepare=failing(world, number, how, done), allowed=(0, 2, 4, 5, 6, 7))
    return fault, bool(done[0])


def test_a_call_may_fail(world):
    faults, made, tried = [], 0, hunt.cases(10, soak=1_000)
    for case in tried:
        draw = random.Random(f"call {case}")
        command, number = draw.choice(COMMANDS), draw.choice([draw.randrange(1, 20), draw.randrange(1, 150)])
        fault, hit = fault_at(world, command, number, draw.choice([0, *ERRORS]))
        made += hit
        if fault:
            faults.append(f"MLCLI_CASE={case} (call {number}): {fault}")
    hunt.tell(faults, len(tried))
    assert made >= len(tried) / 4, "calls that failed"


@pytest.mark.skipif(not LONG, reason="some minutes, for a soak")
def test_every_call_may_fail(world):
    faults, tried = [], 0
    for command in COMMANDS:
        number, hit = 0, True
        while hit:
            number += 1
            how = [0, *ERRORS][number % (len(ERRORS) + 1)]
            fault, hit = fault_at(world, command, number, how)
            if fault:
                faults.append(f"call {number}, {errno.errorcode.get(how, 'reading')}: {fault}")
        tried += number
    hunt.tell(faults, tried)
