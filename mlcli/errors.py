"""The errors that users see, and the exit code each kind of error ends with.

A `UserError` is for people: what happened, where, and how to fix it, in at most five lines and without a traceback.
Everything else that escapes is a bug of ours (exit code 1, traceback kept). `assert` is for our own invariants only.
"""

import os
from enum import IntEnum
from functools import partial
from typing import Any


class ExitCode(IntEnum):
    """The exit codes of every command; scripts may rely on them."""

    OK = 0
    BUG = 1
    """Or no, from a command that was asked a question (`bench-io --fail-under`), as test runners and linters say it."""
    CONFIG = 2
    """Configuration or usage."""
    DIVERGED = 3
    """The loss became NaN or infinite."""
    DATA = 4
    CHECKPOINT = 5
    """A checkpoint or run folder was refused: damaged, foreign or not fitting."""
    OUTPUT = 6
    """Reading or writing files failed: disk full, no permission."""
    BUSY = 7
    """Another process is writing to this run."""
    OUT_OF_MEMORY = 8
    RANK = 9
    """One of several processes that train together failed, was killed or does not answer."""
    INTERRUPTED = 130
    """Stopped by SIGINT; the run can be resumed."""
    TERMINATED = 143
    """Stopped by SIGTERM; the run can be resumed."""


class UserError(Exception):
    """An error that the user can fix.

    Args:
        what: what happened, with the value and the bound it broke.
        where: file, line, key, layer or sample it happened at; may be empty.
        fix: what to type or change; may be empty.
    """

    code = ExitCode.CONFIG

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.fix:
            lines.append(f"fix:   {self.fix}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:  # worker processes send their errors to the trainer by pickle
        return partial(type(self), self.what, where=self.where, fix=self.fix), ()

    def _render_traceback_(self) -> list[str]:
        """Lines that a notebook shows of it: the message alone (an interface of IPython)."""
        return [str(self)]


class ConfigError(UserError):
    code = ExitCode.CONFIG


class DivergedError(UserError):
    code = ExitCode.DIVERGED


class DataError(UserError):
    code = ExitCode.DATA


class CheckpointError(UserError):
    code = ExitCode.CHECKPOINT


class OutputError(UserError):
    code = ExitCode.OUTPUT


class BusyError(UserError):
    code = ExitCode.BUSY


class OutOfMemoryError(UserError):
    code = ExitCode.OUT_OF_MEMORY


class RankError(UserError):
    code = ExitCode.RANK


def cannot_access(error: OSError) -> OutputError:
    """The message for a path that the system refused (a loop of links, a name too long, a lost network disk, ...).

    For the end of a command: whoever knows what the path was for has said more.
    """
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    try:
        os.getcwd()
    except OSError:
        fix = "cd to a folder that exists, and type the command again"
        return OutputError("the folder you are in was deleted", where=" -> ".join(names), fix=fix)
    fix = "check the path, its permissions and the disk"
    return OutputError(f"cannot use a file: {error.strerror or error}", where=" -> ".join(names), fix=fix)
