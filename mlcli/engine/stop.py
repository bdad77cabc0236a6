"""SIGINT, SIGTERM, SIGHUP and SIGUSR1 ask a run to stop after the step it is in; a second one stops it at once.

SIGHUP, of a terminal that was closed, is as good as SIGTERM, unless it is ignored (nohup); so is SIGUSR1, by which
batch systems such as SLURM warn of the end of a job.
"""

import _thread
import contextlib
import os
import signal
import stat
import sys
import threading
import time
from types import FrameType
from typing import Any, Self

from mlcli.errors import ExitCode

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))

TOGETHER_S = 2.0
"""Signals to one of several processes within this time count as one."""


class StopRequest:
    """While entered, remembers that a stop was asked for. The handler only sets a flag: nothing is saved inside it.

    received: the signal this process was sent. signal: the one to stop for; of one of several ranks
    (`mlcli.engine.ranks`), what all have agreed on. asks_others: whether it is one of several. These are sent the same
    signal twice at about the same time: by whoever ends all processes of a job, and by what has started them.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._received_s = 0.0
        self.signal: signal.Signals | None = None
        self.asks_others = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def listen(self) -> None:
        """Install the handlers: from here on, signals ask for a stop."""
        for number in SIGNALS:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    def release(self) -> None:
        """Restore the previous signal handlers."""
        while self._before:
            signal.signal(*self._before.popitem())

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.INTERRUPTED if self.signal == signal.SIGINT else ExitCode.TERMINATED

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            if self.asks_others and time.monotonic() - self._received_s < TOGETHER_S:
                return
            # Asked twice: the last checkpoint on disk is whole at every instant.
            os._exit(ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED)
        self.received, self._received_s = signal.Signals(number), time.monotonic()
        if not self.asks_others:
            self.signal = self.received
        if number not in (signal.SIGINT, signal.SIGTERM):
            _forget_closed_terminal()


class Unwinding(StopRequest):
    """While entered, a stop ends the program by an exception, so that what was begun is cleaned up.

    KeyboardInterrupt for SIGINT, SystemExit for others. Where Python cannot raise it, as in a destructor, it is raised
    at the next line instead.
    """

    def listen(self) -> None:
        super().listen()
        self._hook, sys.unraisablehook = sys.unraisablehook, self._raise_later

    def release(self) -> None:
        super().release()
        sys.unraisablehook = self._hook

    def _handle(self, number: int, frame: FrameType | None) -> None:
        super()._handle(number, frame)
        raise KeyboardInterrupt if self.signal == signal.SIGINT else SystemExit(int(self.exit_code))

    def _raise_later(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit) and self.signal is not None:
            number, self.signal, self.received = self.signal, None, None
            _thread.start_new_thread(_signal_soon, (number,))  # here it would be raised within this hook
        else:
            self._hook(unraisable)


def _signal_soon(number: signal.Signals) -> None:
    time.sleep(0.05)
    if hasattr(signal, "pthread_kill"):  # a signal to this thread would not end what the main one waits for
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _forget_closed_terminal() -> None:
    """Send what is still printed nowhere where the terminal is gone: writing to it fails, and saving goes on."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
