"""The processes of one training: how many there are, and which of them this one is; without torch.

torchrun (torch.distributed.run) says it by RANK, WORLD_SIZE and their like, which `mlcli train --devices` starts too;
SLURM's srun by SLURM_PROCID and its like.
"""

import logging
import os
import re
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlcli.errors import ConfigError, ExitCode

MOST_PROCESSES = 1024
"""That can be started on one machine."""


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train one model.

    rank: from 0, of `size`; local_rank: of `local_size` on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


ALONE = Place()


def place(variables: Mapping[str, str] = os.environ) -> Place:
    """Return the place that the environment gives this process. Raises ConfigError for numbers that disagree."""
    if "WORLD_SIZE" in variables and "RANK" in variables:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size, local_rank, local_size = (_number(variables, name) for name in names)
    elif "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:  # both: within srun
        rank, size = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_STEP_NUM_TASKS")
        local_rank, local_size = _number(variables, "SLURM_LOCALID"), _slurm_tasks_here(variables)
    else:
        return ALONE
    if not 0 <= rank < size or not 0 <= local_rank < local_size <= size:
        told = f"rank {rank} of {size}, {local_rank} of {local_size} on this machine"
        raise ConfigError(f"the environment numbers the processes {told}", where="RANK, WORLD_SIZE, LOCAL_RANK ...",
                          fix="unset these variables, or start by torchrun or srun")  # fmt: skip
    return Place(rank, size, local_rank, local_size)


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


def number_of_processes(devices: str, here: Place) -> int:
    """Return how many processes `--devices` asks to be started; 1 for none, where all run already.

    auto: one for each GPU, or one where there are none. Raises ConfigError.
    """
    if devices == "auto":
        import torch

        return 1 if here.size > 1 else max(1, torch.cuda.device_count())
    if not (devices.isascii() and devices.isdecimal() and 0 < int(devices) <= MOST_PROCESSES):
        raise ConfigError(f"'{devices}' is no number of processes", where="--devices", fix="--devices 2, or auto")
    if here.size > 1 and here.size != int(devices):
        what = f"--devices asks for {devices} processes, but this is one of {here.size} that were started together"
        raise ConfigError(what, where="--devices", fix=f"leave it out, or start {devices} (torchrun, srun --ntasks)")
    return 1 if here.size > 1 else int(devices)


_unseen: IO[bytes] | None = None
"""What a rank other than the first has printed before its run had a folder."""


def hush(here: Place) -> None:
    """Have a rank other than the first print into a file that nobody sees, until `write_into` says where.

    The first one of each machine keeps its standard error: what goes wrong before the ranks meet is said there.
    """
    global _unseen
    if not here.rank or _unseen:
        return
    _unseen = tempfile.TemporaryFile("w+b", buffering=0)  # noqa: SIM115 - open to the end
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor in (1, 2) if here.local_rank else (1,):
        os.dup2(_unseen.fileno(), descriptor)


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


def launch_here(count: int) -> int:
    """Run this very command in `count` processes on this machine, by torchrun's launcher.

    Returns the exit code: that of the first rank, or 9 where another has ended the training.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from mlcli.engine.limits import usable_threads

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the first rank says what happened
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_threads()[0] // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "mlcli", *sys.argv[1:])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for rank, code in codes.items():
            if code < 0:
                print(f"error: rank {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        return codes[0] if codes.get(0, -1) > 0 else ExitCode.RANK
    except SignalException as stopped:
        return ExitCode.INTERRUPTED if stopped.sigval == signal.SIGINT else ExitCode.TERMINATED
    return ExitCode.OK
