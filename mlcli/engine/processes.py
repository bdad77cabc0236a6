"""The processes of one training: how many there are, and which of them this one is; without torch.

torchrun (torch.distributed.run) says it by RANK, WORLD_SIZE and their like, which `mlcli train --devices` starts too;
SLURM's srun by SLURM_PROCID and its like.
"""

import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlcli.errors import ConfigError

ALONE_S = 3.0
"""How long a rank that fails before it has met the others waits to be ended: they may have failed as well."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train one model.

    rank: from 0, of `size`; local_rank: of `local_size` on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


SINGLE = Place()


def place(variables: Mapping[str, str] = os.environ) -> Place:
    """Return the place that the environment gives this process. Raises ConfigError for numbers that disagree."""
    if "WORLD_SIZE" in variables and "RANK" in variables:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (_number(variables, name) for name in names)
    elif "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:  # both: within srun
        rank, size = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_STEP_NUM_TASKS")
        local_rank, local_size = _number(variables, "SLURM_LOCALID"), _slurm_tasks_here(variables)
    else:
        return SINGLE
    if not 0 <= rank < size or not 0 <= local_rank < local_size <= size:
        told = f"rank {rank} of {size}, {local_rank} of {local_size} on this machine"
        raise ConfigError(f"the environment numbers the processes {told}", where="RANK, WORLD_SIZE, LOCAL_RANK ...",
                          fix="unset these variables, or start by torchrun or srun")  # fmt: skip
    return Place(rank, size, local_rank, local_size)


@contextlib.contextmanager
def as_one_of(count: int) -> Iterator[None]:
    """Within this context the process takes itself for the first of so many that share this machine; 1 for itself."""
    before = dict(os.environ)
    if count > 1:
        os.environ.update(RANK="0", WORLD_SIZE=str(count), LOCAL_RANK="0", LOCAL_WORLD_SIZE=str(count))
    try:
        yield
    finally:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables.get(name, "")
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{name} is '{text}', which is no number", where="the environment",
                          fix="unset it, or start by torchrun or srun")  # fmt: skip
    return int(text)


def _slurm_tasks_here(variables: Mapping[str, str]) -> int:
    """Tasks of the step on this node, from a text such as "4(x2),3": as many on each of the first two, then 3."""
    node, tasks = _number(variables, "SLURM_NODEID"), variables.get("SLURM_STEP_TASKS_PER_NODE", "1")
    counts = [int(count) for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks) for _ in range(int(times or 1))]
    return counts[node] if node < len(counts) else counts[-1]


def rendezvous_of_slurm(variables: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Return host and port at which the ranks of an srun meet: the first node's, and one that follows from the job."""
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST") or "localhost"
    first = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    host = "".join(part or "" for part in first.groups()) if first else "localhost"
    job, step = (int(variables.get(name, "0") or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return host, 15_000 + (job * 7 + step) % 15_000


def end_with_parent(number: signal.Signals) -> None:
    """Have this process sent a signal once the thread that has started it ends, however it does. On Linux only."""
    if sys.platform == "linux":
        import ctypes  # here, like tempfile below: every command starts with this module

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


_unseen: IO[bytes] | None = None
"""What a rank other than the first has printed before its run had a folder."""


@contextlib.contextmanager
def hushed(here: Place) -> Iterator[None]:
    """Within this context a rank other than the first prints into a file that nobody sees, until `write_into` says
    where.

    The first one of each machine keeps its standard error: what goes wrong before the ranks meet is said there. If
    another, of torchrun's, fails so early, it says so as well, unless that ends it meanwhile for having failed itself.
    """
    global _unseen
    if not here.rank:
        yield
        return
    import tempfile

    _unseen = unseen = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 - open to the end
    kept = {descriptor: os.dup(descriptor) for descriptor in ((1, 2) if here.local_rank else (1,))}
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in kept:
        os.dup2(unseen.fileno(), descriptor)
    try:
        yield
    except Exception:
        if _unseen and "TORCHELASTIC_RUN_ID" in os.environ:
            time.sleep(ALONE_S)
            for descriptor, before in kept.items():
                os.dup2(before, descriptor)
            print(f"rank {here.rank}:", file=sys.stderr, flush=True)
        raise


def write_into(path: Path) -> None:
    """Have what a hushed process has printed, and what it prints from now on, stand at the end of a file."""
    global _unseen
    if _unseen is None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    _unseen.seek(0)
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    os.write(descriptor, _unseen.read())
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    _unseen = None
