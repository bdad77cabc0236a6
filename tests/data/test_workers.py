"""Worker processes: the same batches in the same order, and the right words when one fails, dies or hangs."""

import errno
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from itertools import islice
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from mlcli.data import workers as module
from mlcli.data.batches import FileReader, ReadHere, in_order
from mlcli.data.choose import choose_workers
from mlcli.data.workers import WorkerPool
from mlcli.engine.limits import usable_cpus
from mlcli.engine.settings import Loader
from mlcli.errors import DataError, OutputError

NUM = 23


class Numbers:
    """Images of one pixel that show their own index; index 13 may be a trap."""

    targets = torch.zeros(NUM, dtype=torch.int64)

    def __init__(self, trap=lambda: None) -> None:
        self.trap = trap

    def __len__(self) -> int:
        return NUM

    def read(self, indices: np.ndarray) -> torch.Tensor:
        if 13 in indices:
            self.trap()
        return torch.from_numpy(indices).to(torch.uint8).view(-1, 1, 1, 1)

    def aspect_ratios(self, indices: np.ndarray) -> np.ndarray:
        return np.ones(len(indices), dtype=np.float32)

    def read_crops(self, indices: np.ndarray, crops: np.ndarray) -> torch.Tensor:
        return self.read(indices)

    def name(self, index: int) -> str:
        return f"file{index}.png"


def fail():
    raise DataError("not an image", where="file13.png", fix="delete it")


def crash():
    faulthandler.disable()  # pytest's, which would print a traceback
    os.kill(os.getpid(), signal.SIGSEGV)


def pool(trap=lambda: None, num_workers: int = 2, prefetch: int = 2, timeout_s: float = 60.0) -> WorkerPool:
    return WorkerPool(
        FileReader(Numbers(trap)),
        torch.Tensor.clone,
        num_workers=num_workers,
        prefetch=prefetch,
        batch_shape=(4, 1, 1, 1),
        timeout_s=timeout_s,
    )


@pytest.fixture
def opened():
    """Makes pools and closes them."""
    pools = []

    def make(*args, **options) -> WorkerPool:
        pools.append(pool(*args, **options))
        return pools[-1]

    yield make
    for made in pools:
        made.close()


def values(fetched) -> list[list[int]]:
    return [images.flatten().tolist() for _, images in fetched]


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.parametrize("num_workers", [1, 2, 9])
def test_same_batches_as_without_workers(opened, num_workers, prefetch):
    here = ReadHere(FileReader(Numbers()), torch.Tensor.clone)
    workers = opened(num_workers=num_workers, prefetch=prefetch)
    for size in (4, 3):
        expected = [indices.tolist() for indices in torch.arange(NUM).split(size)]
        fetched = list(workers.fetch(in_order(NUM, size)))  # all at once: no slot may be written over
        assert values(fetched) == values(here.fetch(in_order(NUM, size))) == expected
        assert [part.indices.tolist() for part, _ in fetched] == expected


def test_a_round_given_up_leaves_nothing_behind(opened):
    workers = opened()
    assert values(islice(workers.fetch(in_order(NUM, 4)), 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert values(workers.fetch(in_order(5, 2))) == [[0, 1], [2, 3], [4]]
    failing = opened(fail, prefetch=4)
    next(failing.fetch(in_order(NUM, 4)))  # which asks for the bad part too
    assert values(failing.fetch(in_order(5, 2))) == [[0, 1], [2, 3], [4]]


def test_a_data_error_arrives_as_it_was_raised(opened):
    with pytest.raises(DataError, match="not an image") as error:
        list(opened(fail).fetch(in_order(NUM, 4)))
    assert (error.value.where, error.value.fix) == ("file13.png", "delete it")


def test_good_batches_before_the_bad_one_are_delivered(opened):
    fetched = opened(fail).fetch(in_order(NUM, 4))
    assert values(islice(fetched, 3)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_bug_is_reported_with_its_files_and_line(opened):
    with pytest.raises(
        DataError, match=r"raised ZeroDivisionError: division by zero \(.*test_workers.py:\d+\)"
    ) as error:
        list(opened(lambda: 1 / 0).fetch(in_order(NUM, 4)))
    assert error.value.where == "while reading file12.png, file13.png, file14.png and 1 more"
    with pytest.raises(ZeroDivisionError) as error:
        list(ReadHere(FileReader(Numbers(lambda: 1 / 0)), torch.Tensor.clone).fetch(in_order(NUM, 4)))
    assert error.value.__notes__ == ["while reading file12.png, file13.png, file14.png and 1 more"]


@pytest.mark.parametrize(
    ("trap", "what"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (crash, "was killed by SIGSEGV"),
        (lambda: os._exit(3), "ended with exit code 3"),
    ],
    ids=["killed", "crashed", "left"],
)
def test_a_dead_worker_is_reported_with_its_files(opened, trap, what):
    with pytest.raises(DataError, match=what) as error:
        list(opened(trap).fetch(in_order(NUM, 4)))
    assert error.value.where == "while reading file12.png, file13.png, file14.png and 1 more"


def test_a_hanging_worker_is_reported_with_its_files(opened):
    workers = opened(lambda: threading.Event().wait(), timeout_s=0.5)
    with pytest.raises(DataError, match=r"not delivered a batch within 0.5 s") as error:
        list(workers.fetch(in_order(NUM, 3)))
    assert error.value.where == "while reading file12.png, file13.png, file14.png"


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_signals_are_left_to_the_trainer(opened):
    workers = opened()
    fetched = workers.fetch(in_order(NUM, 4))
    first = values(islice(fetched, 1))
    for process in children():
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
    assert first + values(fetched) == [indices.tolist() for indices in torch.arange(NUM).split(4)]


def test_signals_before_a_worker_ignores_them_do_not_end_it(opened, monkeypatch):
    """As by a Ctrl-C, which reaches the whole group, right after the fork."""
    begin = module._belong_to

    def begin_late(parent: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        begin(parent)

    monkeypatch.setattr(module, "_belong_to", begin_late)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert values(opened().fetch(in_order(NUM, 4))) == [indices.tolist() for indices in torch.arange(NUM).split(4)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize(
    ("number", "limit"), [(errno.EAGAIN, "ulimit -u"), (errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "")]
)
def test_a_worker_that_cannot_be_started_ends_the_others(monkeypatch, number, limit):
    real, left = os.fork, [2]

    def fork() -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return real()

    monkeypatch.setattr(os, "fork", fork)
    before = set(psutil.Process().children())
    opened = pool(num_workers=4)
    with pytest.raises(OutputError, match="worker 3 of 4 cannot be started") as caught:
        next(opened.fetch(in_order(NUM, 4)))
    assert limit in caught.value.where
    assert "loader.workers=1" in caught.value.fix
    assert set(psutil.Process().children()) == before


def test_workers_beyond_sense_are_capped_with_a_word():
    source = SimpleNamespace(splits={"train": Numbers()})
    most = max(32, 8 * usable_cpus())
    for asked, taken, why in (
        (3, 3, "as asked"),
        (most, most, "as asked"),
        (10**6, most, f"1,000,000 asked for, {most} taken"),
    ):
        chosen, reason = choose_workers(source, Loader(workers=asked), "none", [], lambda: None)
        assert (chosen, reason[: len(why)]) == (taken, why)


def test_close_ends_all_even_one_that_hangs():
    before = set(children())
    workers = pool(lambda: threading.Event().wait())
    next(workers.fetch(in_order(NUM, 4)))
    assert len(set(children()) - before) == 2
    workers.close()
    assert set(children()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_workers_die_with_a_killed_trainer():
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def trainer():
        next(pool().fetch(in_order(NUM, 4)))
        sender.send([child.pid for child in children()])
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=trainer)
    process.start()
    workers = [psutil.Process(pid) for pid in receiver.recv()]
    assert len(workers) == 2
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []


def test_a_program_that_forgets_to_close_still_ends():
    code = "import test_workers as t; next(t.pool().fetch(t.in_order(t.NUM, 4)))"
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, timeout=120)
    assert done.returncode == 0
