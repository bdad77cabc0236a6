"""The terminal: its colours, progress on it, and a standard output that outlives its reader.

Colour and progress are for terminals alone: https://no-color.org and FORCE_COLOR decide otherwise about the first.
"""

import contextlib
import errno
import io
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from mlcli.text import visible, wrapped

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")

SOON_S = 1.0
"""Work that is done sooner shows no progress."""
OURS = f"\ufdd0{os.urandom(4).hex()}"
"""Stands for the beginning of an escape sequence until it is written: no file's name can hold it."""
_LOCK = threading.RLock()  # of bars
STYLES = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "bold": 1, "dim": 2}


def has_colour(stream: TextIO) -> bool:
    """Return whether a stream takes colours."""
    if os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR", "")
    return forced not in ("", "0") or (stream.isatty() and os.environ.get("TERM") != "dumb")


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return text in one of `STYLES` where the stream, standard output unless given, takes colours."""
    stream = stream or sys.stdout
    if not text or not has_colour(stream):
        return text
    escape = OURS if isinstance(stream, Stdout) else "\033["
    return f"{escape}{STYLES[style]}m{text}{escape}0m"


def in_colour(message: str) -> str:
    """Return an error's text for standard error: its subjects in colour, and on a terminal wrapped."""
    prose = r"^(error: |fix:   )((?!.*mlcli ).*)$"  # no commands, which could not be copied
    message = re.sub(prose, lambda found: fitted(found[2], found[1], sys.stderr), message, flags=re.M)
    styles = {"error:": "red", "where:": "bold", "fix:": "green"}
    return re.sub(
        r"^(error|where|fix):", lambda found: paint(found[0], styles[found[0]], sys.stderr), message, flags=re.M
    )


def fitted(text: str, first: str = "", stream: TextIO | None = None) -> str:
    """Return a sentence after `first`, wrapped if the stream, standard output unless given, is a terminal."""
    stream = stream or sys.stdout
    return wrapped(text, first, " " * len(first)) if stream.isatty() else first + text


def bar(what: str, total: int, unit: str = "") -> "tqdm[Any]":
    """Return a progress bar on standard error, where that is a terminal; nothing is left of it when it is closed.

    It appears when the work has taken a second. Also a context manager; `update(n)` counts.
    """
    from tqdm import tqdm

    # tqdm's own lock is shared with other processes: one that was killed with it would stop all that were forked beside
    # it. Nor is there a thread of tqdm's, whose locks a fork could copy; so each update looks at the clock itself.
    tqdm.set_lock(_LOCK)
    tqdm.monitor_interval = 0
    hidden = sys.stderr is None or not sys.stderr.isatty()
    return tqdm(total=total, desc=what, unit=f" {unit}" if unit else "it", delay=SOON_S, leave=False, disable=hidden,
                miniters=1, dynamic_ncols=True, file=sys.stderr)  # fmt: skip


def progress(items: Iterable[Item], what: str, *, total: int) -> Iterator[Item]:
    """Pass the items on; a bar shows how many are done and how long the others will take."""
    with bar(what, total) as shown:
        for item in items:
            yield item
            shown.update()


# --- standard output -------------------------------------------------------------------------------------------------


class StdoutFailed(BaseException):
    """Standard output cannot be written; the cause is its OSError. Passes all handlers of the commands' own errors."""


class Stdout:
    """Standard output whose failures differ from those of other files; typer would make them exit code 1.

    Nothing that is printed acts on the terminal, whatever names are in it (`visible`), but for the colours of `paint`.
    Characters that its encoding lacks are replaced. outlives_reader: whether the command goes on, its output lost, once
    the reader has left, as a pager or `head` does.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.outlives_reader = False
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(visible(text).replace(OURS, "\033["))
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        """Discard this and all further output where a reader left that the command outlives. Raises StdoutFailed."""
        left = isinstance(error, BrokenPipeError) or error.errno == errno.EIO  # a pipe's reader, or a closed terminal
        if not (self.outlives_reader and left):
            raise StdoutFailed from error
        discard(self.stream)
        with contextlib.suppress(OSError):  # standard error may have had the same reader
            print(
                "warning    nobody reads the output any more; the run goes on without it", file=sys.stderr, flush=True
            )


def discard(stream: TextIO) -> None:
    """Send what is still buffered, and all that follows, nowhere; Python would fail on it once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
