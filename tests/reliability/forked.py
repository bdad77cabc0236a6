"""An mlcli command in a forked child with a process group of its own, for trying signals and kills on.

Forked from a process that has torch imported, it starts in a hundredth of a second instead of three.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from mlcli import cli
from tests.reliability.warm import warm_up

LIMIT_S = 120
"""After which a child that does not end is killed; many times what one takes."""
CHILDREN_GONE_S = 2.0
"""How long worker processes may outlive a command, however it ended."""


class Ended(NamedTuple):
    """code: as subprocess has it, negative for the signal that ended it; left: processes of its group still alive."""

    code: int
    out: str
    left: list[str]


class Command:
    """`mlcli <arguments>` in `folder`, begun at once.

    prepare: called in the child before the command, for example to have a signal sent at a certain point.
    """

    def __init__(self, folder: Path, *arguments: object, prepare: Callable[[], None] = lambda: None) -> None:
        self._out = folder / "out.txt"
        warm_up()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                _begin(folder, self._out)
                prepare()
                code = _typed([str(argument) for argument in arguments])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)  # no clean-up of what belongs to the parent

    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text() if self._out.exists() else ""

    def has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until it is true, or the command has ended."""
        deadline = time.monotonic() + LIMIT_S
        while not condition() and not self.has_ended():
            assert time.monotonic() < deadline, f"never came to that:\n{self.out()}"
            time.sleep(0.001)

    def wait(self) -> Ended:
        """Until it ends, and the processes it has started as well."""
        deadline = time.monotonic() + LIMIT_S
        while not self.has_ended():
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.001)
        _, status = os.waitpid(self.pid, 0)
        deadline = time.monotonic() + CHILDREN_GONE_S
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return Ended(os.waitstatus_to_exitcode(status), self.out(), left)

    def workers(self) -> list[psutil.Process]:
        """The processes it has started."""
        return psutil.Process(self.pid).children(recursive=True)

    def _alive(self) -> list[str]:
        left = []
        for process in psutil.process_iter():
            try:
                # One that nobody waits for stays behind as a zombie where the machine's first process reaps none.
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(str(process))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return left


def typed_in_child(folder: Path, *arguments: object, prepare: Callable[[], None] = lambda: None) -> Ended:
    """An mlcli command in `folder` from beginning to end."""
    return Command(folder, *arguments, prepare=prepare).wait()


def at_call(owner: Any, name: str, action: Callable[[], None], *, when: Callable[..., bool], number: int = 1) -> None:
    """Have `action` done right before the call of `owner.name` that is the `number`th whose arguments fulfil `when`."""
    original, left = getattr(owner, name), [number]

    def watched(*arguments: Any, **named: Any) -> Any:
        if when(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                action()
        return original(*arguments, **named)

    setattr(owner, name, watched)


def _begin(folder: Path, out: Path) -> None:
    """As in a process that a shell has started: its own group, signals and output."""
    os.setsid()
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # also where the tests were started by nohup
        signal.signal(number, signal.SIG_DFL)
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(file, standard)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)  # a pool of threads does not outlive a fork


def _typed(arguments: list[str]) -> int:
    sys.argv = ["mlcli", *arguments]
    try:
        cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0
