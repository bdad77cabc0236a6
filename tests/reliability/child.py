"""A case in a forked child: a signal, a hang or a leak there is one red case and not the end of the test run."""

import contextlib
import io
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mlcli import cli
from tests.conftest import Typed
from tests.reliability.warm import warm_up

LIMIT_S = 120
"""Of real time, for a case that hangs; hundreds of times what one takes."""


@dataclass(frozen=True)
class Spent:
    """What a case returned, and by how many MB the process grew at most."""

    value: Any
    growth_mb: float


def keep_to_one_cpu() -> None:
    """So that nothing asks for threads: OpenMP's do not outlive a fork, and waiting for them never ends."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[os.getpid() % len(cpus)]})
    torch.set_num_threads(1)


def in_child(work: Callable[[], Any], *, limit_s: int = LIMIT_S) -> Spent:
    """Run `work` in a fork of this process, where everything is imported already.

    Its value comes back by pickle; what it raises fails the test here, as does a signal that ends it.
    """
    warm_up()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(limit_s)
        keep_to_one_cpu()
        try:
            answer: tuple[Any, str] = (_measured(work), "")
        except BaseException:
            answer = (None, traceback.format_exc())
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)  # no clean-up of what belongs to the parent
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        told = file.read()
    _, status = os.waitpid(pid, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    assert not ended_by, f"ended by {signal.Signals(ended_by).name}"
    spent, trouble = pickle.loads(told)
    assert not trouble, trouble
    return spent


def _measured(work: Callable[[], Any]) -> Spent:
    before = _resident_mb()
    value = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # a fork's begins at its own size
    return Spent(value, peak - before)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def type_here(*arguments: object) -> Typed:
    """Type an mlcli command in this process and the folder it is in: its exit code and what it printed."""
    sys.argv = ["mlcli", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Typed(code, out.getvalue(), err.getvalue())
