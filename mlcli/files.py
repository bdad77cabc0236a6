"""Atomic, durable writing: after a crash at any instant a file is the old one or the new one, whole."""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

from mlcli.errors import OutputError
from mlcli.text import size

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Result = TypeVar("Result")
Part = bytes | bytearray | memoryview


class Write(Protocol):
    """Writes one part after another, each completely. Raises OSError."""

    def __call__(self, part: Part, /) -> None: ...


def perform(operation: Callable[..., Result], *arguments: Any) -> Result:
    """Make one system call that changes the files of a run; all such calls go through here.

    Tests replace this function by one that fails, or is killed, at the call they choose.
    """
    return operation(*arguments)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash at any instant, sees the old file or the new one.

    Raises OutputError; the old file and nothing else is left then.
    """
    fill_atomically(path, lambda write: write(content), size_bytes=len(content))


def fill_atomically(
    path: Path,
    fill: Callable[[Write], None],
    check: Callable[[Path], None] = lambda written: None,
    *,
    size_bytes: int = 0,
) -> None:
    """Replace `path` by what `fill` writes, after `check(file)` passes.

    A temporary file in the same folder (rename is only atomic within a file system), its bytes forced to disk before
    the rename, the folder's entry after it. Raises OutputError, or what `fill` and `check` raise; the old file and
    nothing else is left then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = perform(os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            fill(lambda part: write_all(descriptor, part))
            perform(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        check(temporary)
        perform(os.replace, temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            perform(os.unlink, temporary)
        if isinstance(error, OSError):
            raise cannot_write(path, error, size_bytes) from error
        raise


def write_all(descriptor: int, part: Part) -> None:
    """Write all of it, in as many calls as that takes. Raises OSError."""
    rest = memoryview(part)
    while rest:
        rest = rest[perform(os.write, descriptor, rest) :]


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, on systems that can open folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            perform(os.fsync, descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, with all above it. Raises OutputError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # two make it at once: one does
        claim_folder(folder)


def claim_folder(folder: Path) -> None:
    """Make a folder that does not exist yet. Raises FileExistsError or OutputError."""
    try:
        perform(os.mkdir, folder)
        sync_folder(folder.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise cannot_write(folder, error) from error


def move(path: Path, to: Path) -> None:
    """Rename a file within its file system, over any other of that name. Raises OutputError."""
    try:
        perform(os.replace, path, to)
    except OSError as error:
        raise cannot_write(to, error) from error


def remove(path: Path) -> None:
    """Delete a file, if there is one. Raises OutputError."""
    try:
        perform(os.unlink, path)
    except FileNotFoundError:
        pass
    except OSError as error:
        fix = "check the disk and the permissions of this folder"
        raise OutputError(f"cannot delete: {error.strerror or error}", where=str(path), fix=fix) from error


def sweep(folder: Path, *, only_writer: bool) -> None:
    """Delete the temporary files that killed processes have left in a folder.

    only_writer: whether no other process writes there. If others may, files of running processes are left alone.
    """
    for path in folder.glob(".*.*.tmp"):
        if only_writer or not _is_at_work(path.name.split(".")[-2]):
            with contextlib.suppress(OSError):  # what cannot be deleted does no harm
                perform(os.unlink, path)


def _is_at_work(pid: str) -> bool:
    """Whether another process of this machine has that number."""
    import psutil

    return pid.isdecimal() and int(pid) != os.getpid() and psutil.pid_exists(int(pid))


class Journal:
    """An append-only file of lines, each written by one call; `length` is its size in bytes.

    Args:
        length: where to continue; anything after it is cut off. None, or a shorter file: after its last line.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        try:
            self._descriptor = perform(os.open, path, os.O_RDWR | os.O_CREAT, 0o666)
            whole = _whole_lines(self._descriptor)
            self.length = whole if length is None else min(length, whole)
            perform(os.ftruncate, self._descriptor, self.length)
            os.lseek(self._descriptor, self.length, os.SEEK_SET)
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, line: str) -> None:
        """Add a line. Raises OutputError, after which part of the line may be in the file."""
        content = line.encode() + b"\n"
        try:
            write_all(self._descriptor, content)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.length += len(content)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _whole_lines(descriptor: int) -> int:
    """The bytes of a file up to the end of its last whole line."""
    with open(os.dup(descriptor), "rb") as file:
        return file.read(os.fstat(descriptor).st_size).rfind(b"\n") + 1


def is_disk_trouble(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error of any writer, such as TensorBoard's, says that the disk is full, broken or read-only."""
    return isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EIO, errno.EROFS)


def cannot_write(path: Path, error: OSError, size_bytes: int = 0) -> OutputError:
    """The message for a write that failed, with what was needed and what is free."""
    need = f", {size(size_bytes)} needed" if size_bytes > 2**17 else ""
    with contextlib.suppress(OSError, AttributeError):
        free = os.statvfs(path.parent)
        need += f", {size(free.f_bavail * free.f_frsize)} free"
    full = error.errno in NO_ROOM
    fix = "free some space, or choose another place" if full else "choose a folder that exists and is writable"
    return OutputError(f"cannot write: {error.strerror or error}{need if full else ''}", where=str(path), fix=fix)
