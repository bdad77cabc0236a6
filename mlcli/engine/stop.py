"""SIGINT and SIGTERM ask a run to stop after the step it is in; a second one stops it at once."""

import os
import signal
from types import FrameType
from typing import Self

from mlcli.errors import ExitCode


class StopRequest:
    """While entered, remembers that a stop was asked for. The handler only sets a flag: nothing is saved inside it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> Self:
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

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
