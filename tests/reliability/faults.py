"""Faults at the files of a run: any one system call can fail, fall short, or be the last before a SIGKILL."""

import errno
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlcli import files

Action = Literal["kill", "torn", "short", "ENOSPC", "EIO"]


class Call(NamedTuple):
    """The nth call, from 1, of an operation on a file: `fsync checkpoints/step-00000002.ckpt.tmp 1`.

    path: relative to the run; temporary files without the random part of their names. Calls on one file come in
    one order, whatever threads do, so that a call is the same in each run of the same training.
    """

    operation: str
    path: str
    nth: int

    def __str__(self) -> str:
        return " ".join(map(str, self))


class Faulty:
    """Stands in for `files.perform`: notes each call once it is done, and does `action` at the call chosen.

    kill: SIGKILL instead of the call. torn: half of a write, then SIGKILL. short: half of a write, as the system may.
    ENOSPC, EIO: the call fails so.

    Args:
        root: the folder that holds the runs.
        journal: file that gets a line for each call done; it outlives a SIGKILL.
    """

    def __init__(self, root: Path, journal: Path, action: Action | None = None, call: Call | None = None) -> None:
        self._root, self._action, self._call = root, action, call
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def install(self) -> None:
        """For the rest of this process; so it is for children only."""
        files.perform = self

    def __call__(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        place = operation.__name__, self._path_of(arguments[0])
        with self._lock:
            self._seen[place] += 1
            call = Call(*place, self._seen[place])
        done = self._act(operation, *arguments) if call == self._call else operation(*arguments)
        os.write(self._journal, f"{call}\n".encode())
        return done

    def _act(self, operation: Callable[..., Any], *arguments: Any) -> Any:
        if self._action in ("torn", "short"):
            descriptor, part = arguments
            done = operation(descriptor, part[: max(1, len(part) // 2)])
            if self._action == "short":
                return done
        if self._action in ("kill", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, str(self._action))
        raise OSError(number, os.strerror(number))

    def _path_of(self, target: Any) -> str:
        path = Path(os.readlink(f"/proc/self/fd/{target}")) if isinstance(target, int) else Path(target)
        inside = path.relative_to(self._root).as_posix()
        inside = re.sub(r"\.[0-9a-f]{12}\.tmp$", ".tmp", inside)
        return re.sub(r"^([^/]+)/\d{8}-\d{6}-[0-9a-f]{4}", r"\1/RUN", inside)


def calls_in(journal: Path) -> list[Call]:
    """The calls that were done, in their order."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [Call(operation, path, int(nth)) for operation, path, nth in map(str.split, lines)]
