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

    def train(folder: Path, rank: int, answer: Callable[[Any], None]) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), size)
        ranks = DistributedRanks(Place(rank, size, rank, size), torch.device("cpu"), store)
        try:
            answer(work(ranks, *arguments))
            failed = None
        except Exception as error:
            traceback.print_exc()
            answer(error)
            failed = error
        ranks.leave(failed)

    return _forked(size, train)


def in_processes(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(*arguments)` returns in each of several processes that run at once."""
    return _forked(count, lambda folder, number, answer: answer(work(*arguments)))


def _forked(count: int, body: Callable[[Path, int, Callable[[Any], None]], None]) -> list[Any]:
    """What each process answers, or its exit code."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:

        def run(number: int) -> None:
            def answer(value: Any) -> None:
                (Path(folder) / f"{number}.tmp").write_bytes(pickle.dumps(value))
                (Path(folder) / f"{number}.tmp").rename(Path(folder) / f"{number}.answer")

            body(Path(folder), number, answer)

        children = [context.Process(target=run, args=(number,)) for number in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join(LIMIT_S)
            if child.is_alive():
                child.kill()
                child.join()
        paths = [Path(folder) / f"{number}.answer" for number in range(count)]
        return [
            pickle.loads(path.read_bytes()) if path.exists() else child.exitcode
            for path, child in zip(paths, children, strict=True)
        ]
