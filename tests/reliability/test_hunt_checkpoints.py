"""Checkpoints that somebody forged, their checksum right: refused, or used as they are; never believed.

A red case prints its number; `MLCLI_CASE=<number>` plays it alone.
"""

import copy
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from mlcli.engine.checkpoint import load_checkpoint, read_verified
from tests.reliability import hunt
from tests.reliability.hostile_files import saved, sealed

ODD_TENSORS = [
    torch.zeros(0), torch.zeros(()), torch.zeros(2), torch.zeros(2, 3), torch.full((2,), float("nan")),
    torch.zeros(1).expand(2**45), torch.zeros(1).expand(2**20, 2**20), torch.zeros(3, device="meta"),
    torch.zeros(2**40, device="meta"), torch.ones(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64),
    torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.float16),
    torch.nn.Parameter(torch.zeros(2)),
]  # fmt: skip
ODD = [*hunt.ODD, *ODD_TENSORS, OrderedDict(), (), (1, 2), {1: 2}, torch.Size([1]), torch.float32, b"x", {1, 2}]
PARTS = ("config", "facts", "facts", "facts", "model", "optimizer", "progress", "schedule", "ema", "window", "")
"""Of a checkpoint, those that are forged; the last is the whole."""
SPOILED = "runs/spoiled/only"


def commands(run: str) -> list[tuple[str, ...]]:
    """All that read a checkpoint of the spoiled run."""
    return [
        ("predict", SPOILED, hunt.RUNS[run], "-o", "new.csv"),
        ("predict", SPOILED, hunt.RUNS[run]),
        ("evaluate", SPOILED),
        ("evaluate", SPOILED, "--checkpoint", "last", "--json"),
        ("train", "--resume", SPOILED, "train.epochs=2"),
        ("train", f"{run}.yaml", "train.epochs=1", f"finetune.weights={SPOILED}"),
    ]


def forge(folder: Path, case: int) -> tuple[str, str]:
    """Forge the checkpoints of a copy of a run. Returns the run's name and what was done."""
    draw = random.Random(f"checkpoint {case}")
    run = draw.choice([*hunt.RUNS])
    target = hunt.spoiled(folder, run)
    path = next((target / "checkpoints").glob("step-*.ckpt"))
    if draw.random() < 0.15:
        archive, done = hunt.damaged(read_verified(path), draw), "damaged"
    else:
        content = copy.deepcopy(load_checkpoint(path))
        part = draw.choice(PARTS)
        inner: Any = content.get(part) or content
        done = f"{part}: {hunt.forge(inner, draw, ODD)}"
        archive = saved(content)
    for path in (target / "checkpoints").iterdir():
        path.write_bytes(sealed(archive))
    return run, done


def test_any_forged_checkpoint_is_used_or_refused(world):
    faults, tried = [], hunt.cases(10, soak=5_000)
    for case in tried:
        run, done = forge(world, case)
        draw = random.Random(f"commands {case}")
        for command in draw.sample(commands(run), 2):
            if fault := hunt.fault_of(world, *command, allowed=(0, 2, 3, 4, 5)):
                faults.append(f"MLCLI_CASE={case} ({run}; {done}): {fault}")
    hunt.tell(faults, len(tried))
