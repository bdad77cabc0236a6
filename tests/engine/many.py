"""Ranks for tests: processes forked from this one, which is warm, that meet at a file."""

import multiprocessing
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mlcli.engine.distributed import DistributedRanks
from mlcli.engine.processes import Place

LIMIT_S = 120


def on_ranks(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(ranks, *arguments)` returns, or the exception it raises, on each of several ranks."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        children = [
            context.Process(target=_child, args=(Path(folder), rank, size, work, arguments)) for rank in range(size)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(LIMIT_S)
            if child.is_alive():
                child.kill()
        answers = []
        for rank, child in enumerate(children):
            path = Path(folder) / f"{rank}.answer"
            answers.append(pickle.loads(path.read_bytes()) if path.exists() else child.exitcode)
    return answers


def _child(folder: Path, rank: int, size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    ranks = DistributedRanks(Place(rank, size, rank, size), torch.device("cpu"), store)
    try:
        answer, failed = work(ranks, *arguments), None
    except Exception as error:
        traceback.print_exc()
        answer = failed = error
    (folder / f"{rank}.tmp").write_bytes(pickle.dumps(answer))
    (folder / f"{rank}.tmp").rename(folder / f"{rank}.answer")
    ranks.leave(failed)
