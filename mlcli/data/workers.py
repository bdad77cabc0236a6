"""Reading image files ahead of the trainer: worker processes that each fill whole micro-batches.

Why not torch's DataLoader: it raises the death of a worker from a signal handler, wherever the trainer happens to be;
it names neither the worker's files nor, with a timeout, the death before the timeout is over; its batches go through
/dev/shm, which is 64 MB in a container. Here a worker answers on its own pipe and reads into memory shared by fork.

Why not threads, though decoding lets go of the interpreter: opening a small file and looking at its header does not.
Two threads read 13,600 32x32 JPEGs a second where one alone read 16,000 and two processes 18,000 (48 us of CPU an image
against 38, two shared cores), and the trainer's own Python would wait for them too. Large pictures do not care.
"""

import atexit
import contextlib
import errno
import mmap
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import prod
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from mlcli.data.batches import Part, Reader, some_of
from mlcli.engine.processes import end_with_parent
from mlcli.engine.stop import SIGNALS
from mlcli.errors import DataError, OutputError, UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class WorkerPool:
    """Worker processes that read micro-batches ahead, in turn, each into slots of shared memory.

    Part n goes to worker n % num_workers, so who reads what does not depend on speed. Workers start with the first
    `fetch` and live until `close`; they ignore SIGINT and SIGTERM, which are for the trainer, and die with it (more
    exactly, with the thread that started them).

    Args:
        read: what a worker does with a part.
        copy: moves a batch out of its slot, for example to a GPU; it must not return the slot's own memory.
        num_workers: processes.
        prefetch: batches each worker may be ahead; as many slots does it have.
        batch_shape: of the largest batch, [B, C, H, W] or [B, bytes]; uint8.
        timeout_s: how long one batch may take before its worker is held to hang.
    """

    def __init__(
        self,
        read: Reader,
        copy: Callable[[Tensor], Tensor],
        *,
        num_workers: int,
        prefetch: int,
        batch_shape: tuple[int, ...],
        timeout_s: float,
    ) -> None:
        self._read, self._copy, self._timeout_s = read, copy, timeout_s
        self._num_workers, self._prefetch, self._batch_shape = num_workers, prefetch, batch_shape
        self._workers: list[_Worker] = []

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Raises the DataError a worker met, or one that names the files in flight when a worker dies or hangs.

        Raises OutputError, and ends those that run, if one cannot be started.
        """
        if not self._workers:
            # Before multiprocessing's own handler, which would wait for ever: it ends children by SIGTERM.
            atexit.register(self.close)
            try:
                for _ in range(self._num_workers):
                    self._workers.append(self._start())
            except OSError as refused:
                started = len(self._workers)
                self.close()  # Python would wait for them as it ends, and they for work
                raise _cannot_start(started, self._num_workers, refused) from refused
        for worker in self._workers:
            while worker.asked:  # by an earlier round that was not taken to its end
                worker.answer(self._timeout_s)
        parts = iter(parts)
        pending: deque[tuple[_Worker, int, Part]] = deque()

        def ask(worker: _Worker, slot: int) -> None:
            for part in islice(parts, 1):
                worker.ask(slot, part)
                pending.append((worker, slot, part))

        for slot in range(self._prefetch):
            for worker in self._workers:
                ask(worker, slot)
        while pending:
            worker, slot, part = pending.popleft()
            error = worker.answer(self._timeout_s)
            if error is not None:
                raise error
            images = self._copy(worker.slots[slot, : len(part)])
            ask(worker, slot)
            yield part, images

    def close(self) -> None:
        """End the workers at once; they hold nothing that could be lost."""
        for worker in self._workers:
            worker.stop()
        self._workers = []
        atexit.unregister(self.close)

    def _start(self) -> "_Worker":
        # Forking is quick and shares the file list; macOS and Windows cannot fork safely and start afresh.
        linux = sys.platform == "linux"
        context = multiprocessing.get_context("fork") if linux else multiprocessing.get_context("spawn")
        slots = _shared((self._prefetch, *self._batch_shape), torch.uint8)
        questions = _shared((self._prefetch, 2, self._batch_shape[0]), torch.int64)
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(self._read, there, questions, slots, os.getpid()), daemon=True)
        try:
            with _signals_held_back():
                process.start()
        except OSError:
            here.close()
            there.close()
            raise
        there.close()  # so that the pipe ends when the worker does
        return _Worker(process, here, questions, slots, self._read.samples.name)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Within this the signals that stop a training wait; so they do in a process started meanwhile, until it ignores
    them: one that Ctrl-C had ended before would be taken for a worker that has died."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cannot_start(started: int, wanted: int, error: OSError) -> OutputError:
    """The message for a worker that cannot be started, with the limit that it has met."""
    limits = {
        errno.EAGAIN: ("RLIMIT_NPROC", "processes", "ulimit -u"),
        errno.EMFILE: ("RLIMIT_NOFILE", "files", "ulimit -n"),
    }
    where, fix = "loader.workers", f"loader.workers={started // 2}, which needs less"
    if resource is not None and error.errno in limits:
        name, what, command = limits[error.errno]
        most = resource.getrlimit(getattr(resource, name))[0]
        where += f"; {what} this user may have open: {'any number' if most < 0 else f'{most:,}'} ({command})"
        fix += f"; or raise the limit ({command}{', and that of the container' if error.errno == errno.EAGAIN else ''})"
    what = f"worker {started + 1} of {wanted} cannot be started: {error.strerror or error}"
    return OutputError(what, where=where, fix=fix)


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that a worker process sees too."""
    if sys.platform != "linux":
        return torch.zeros(shape, dtype=dtype).share_memory_()
    # Anonymous memory is inherited by fork and, unlike /dev/shm, as large as the machine allows.
    return torch.frombuffer(mmap.mmap(-1, prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


class _Worker:
    """The trainer's side of one worker process.

    asked: parts it has not yet answered, oldest first.
    slots: uint8 [prefetch, B, C, H, W], where it puts what it has read.
    """

    def __init__(
        self, process: BaseProcess, pipe: Connection, questions: Tensor, slots: Tensor, name: Callable[[int], str]
    ) -> None:
        self._process, self._pipe, self._questions, self._name = process, pipe, questions, name
        self.slots = slots
        self.asked: deque[Part] = deque()

    def ask(self, slot: int, part: Part) -> None:
        """Have a part read into a slot. Indices go by shared memory: a pipe may be too small for them, and block."""
        self._questions[slot, 0, : len(part)] = part.indices
        self._questions[slot, 1, : len(part)] = part.keys
        self.asked.append(part)
        try:
            self._pipe.send((slot, len(part), (part.epoch, part.seed, part.step)))
        except OSError:
            raise self._died() from None

    def answer(self, timeout_s: float) -> Exception | None:
        """Wait for the oldest part asked for: None if its slot is filled, otherwise what went wrong in the worker."""
        if not wait([self._pipe, self._process.sentinel], timeout_s):
            what = f"a worker (process {self._process.pid}) has not delivered a batch within {timeout_s:g} s"
            fix = "is the disk or network reachable? A slow one needs a larger loader.timeout"
            raise DataError(what, where=f"while reading {self._in_flight()}", fix=fix)
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(answer, str):
            what = f"a worker (process {self._process.pid}) raised {answer}"
            fix = "a bug, not a damaged file: loader.workers=0 shows the whole traceback"
            answer = DataError(what, where=f"while reading {self._in_flight()}", fix=fix)
        self.asked.popleft()
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _died(self) -> DataError:
        self._process.join(1)  # its pipe may close a moment before it is gone
        code = self._process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        what = f"a worker (process {self._process.pid}) {how}"
        fix = "SIGKILL mostly means that memory ran out: lower loader.workers or loader.prefetch; "
        fix += "loader.workers=0 reads without workers"
        return DataError(what, where=f"while reading {self._in_flight()}", fix=fix)

    def _in_flight(self) -> str:
        return some_of(self.asked[0], self._name)


# --- in the worker process -------------------------------------------------------------------------------------------


def _serve(read: Reader, pipe: Connection, questions: Tensor, slots: Tensor, parent: int) -> None:
    """Fill slots as asked; answers None, the UserError, or what else was raised and in which line."""
    _belong_to(parent)
    torch.set_num_threads(1)  # one process a core is parallel enough
    while True:
        try:
            slot, count, place = pipe.recv()
        except EOFError:  # the trainer is gone
            return
        answer: UserError | str | None = None
        try:
            slots[slot, :count] = read(Part(*questions[slot, :, :count].clone(), *place))
        except UserError as error:
            answer = error
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            answer = f"{type(error).__name__}: {str(error)[:500]} ({place.filename}:{place.lineno})"
        pipe.send(answer)


def _belong_to(parent: int) -> None:
    """Leave signals to the trainer, which stops its workers itself, and do not outlive it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back by `_signals_held_back`
    if sys.platform == "linux":
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
