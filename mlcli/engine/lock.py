"""The lock of a run's only writer: a POSIX record lock on a file. Without such locks (Windows) it is always ours.

It belongs to the process: it ends with it even by kill -9, and is not handed to forked workers, as flock's would be.
"""

import struct
import sys
from pathlib import Path
from typing import IO

from mlcli.errors import BusyError
from mlcli.files import cannot_write, open_own
from mlcli.reading import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FLOCK, _KIND = ("hhqqi", 0) if sys.platform == "linux" else ("qqihh", 3)
"""struct flock of 64-bit Linux, or of macOS, and where in it the kind of lock stands."""
_MOST_BYTES = 2**16
_held: dict[Path, IO[str]] = {}
"""Files that this process has locked, by the resolved paths of their folders. Opening one a second time and closing it
would release the lock (POSIX, fcntl)."""


def take(path: Path, owner: str) -> None:
    """Lock a file in a run's folder, made if it is not there, and write into it whose the lock is.

    Raises BusyError, naming the other, if it is another's; OutputError if the file cannot be written.
    """
    if path.parent.resolve() in _held:
        raise BusyError("this process is writing the run already", where=str(path.parent))
    try:
        # Open for as long as the lock is held.
        file = open(open_own(path), "r+", buffering=1, errors="replace")  # noqa: SIM115
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as systems choose
                other = file.read(200).strip() or "another process"
                file.close()
                raise BusyError(f"the run is being written by {other}", where=str(path.parent),
                                fix="wait for it, or stop it first") from None  # fmt: skip
        file.truncate(0)
        file.write(f"{owner}\n")
    except OSError as error:
        raise cannot_write(path, error) from error
    _held[path.parent.resolve()] = file


def release(path: Path) -> None:
    """Let others lock the file; nothing happens if the lock is not ours."""
    if file := _held.pop(path.parent.resolve(), None):
        file.close()


def is_taken(path: Path) -> bool:
    """Whether a living process has locked the file; nobody has where it is none or cannot be read.

    Only asks: trying to lock it could be in another's way.
    """
    if path.parent.resolve() in _held:
        return True
    if fcntl is None:
        return False
    try:
        with open(open_regular(path, _MOST_BYTES)) as file:
            question = [0] * 5  # all of the file
            question[_KIND] = fcntl.F_WRLCK
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(_FLOCK, *question))
            return struct.unpack(_FLOCK, answer)[_KIND] != fcntl.F_UNLCK
    except OSError:
        return False
