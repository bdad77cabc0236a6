"""SIGINT and SIGTERM ask a run to stop after the step it is in; a second one stops it at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from mlcli.errors import ExitCode


@contextlib.contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """While entered, SIGTERM ends the program as Ctrl-C does: by an exception, so that what was begun is cleaned up."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(int(ExitCode.TERMINATED))

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """While entered, remembers that a stop was asked for. The handler only sets a flag: nothing is saved inside it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def listen(self) -> None:
        """Install the handlers: from here on, signals ask for a stop."""
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def release(self) -> None:
        """Restore the previous signal handlers."""
        while self._before:
            signal.signal(*self._before.popitem())

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.TERMINATED if self.signal == signal.SIGTERM else ExitCode.INTERRUPTED

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)  # asked twice: the last checkpoint on disk is whole at every instant
        self.signal = signal.Signals(number)
