"""Files written. After a crash at any instant a file is the old one or the new one, whole.

Anybody may have made the folders that are written in, run folders of others too, so

* a file is replaced, never written through: a link in its place is replaced by the file, what it leads to stays as it
  is. Only a path that a person typed (`write_output`) is followed to where its links lead;
* temporary files have names that cannot be foreseen, and are new (O_EXCL) and locked while they are written.
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

from mlcli.errors import OutputError
from mlcli.reading import ANY_SIZE, BINARY, NO_FOLLOW, NO_WAIT, irregular, open_regular
from mlcli.text import size

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LONGEST_NAME = 200
"""Bytes of a file's name that its temporary file's name has as well; file systems take 255."""
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

    A link there is replaced, not followed. Raises OutputError; the old file and nothing else is left then.
    """
    fill_atomically(path, lambda write: write(content), size_bytes=len(content))


def write_output(path: Path, content: bytes) -> None:
    """Write to a path that a person typed: like `write_atomically`, but to where its links lead.

    A pipe or a device, such as /dev/stdout, is written to as it is. Raises OutputError.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # not there yet, or writing will say what is wrong with it
        mode = 0
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        write_atomically(Path(os.path.realpath(path)) if path.is_symlink() else path, content)
        return
    try:
        with open(os.open(path, os.O_WRONLY | NO_WAIT), "wb", buffering=0) as file:  # a pipe may have no reader
            os.set_blocking(file.fileno(), True)
            write_all(file.fileno(), content)
    except OSError as error:
        raise cannot_write(path, error) from error


def fill_atomically(
    path: Path,
    fill: Callable[[Write], None],
    check: Callable[[Path], None] = lambda written: None,
    *,
    size_bytes: int = 0,
) -> None:
    """Replace `path` by what `fill` writes, after `check(file)` passes. Mode and owner of a replaced file are kept.

    A temporary file in the same folder (rename is only atomic within a file system), its bytes forced to disk before
    the rename, the folder's entry after it. What killed processes have left in that folder is deleted first. Raises
    OutputError, or what `fill` and `check` raise; the old file and nothing else is left then.
    """
    temporary = None
    try:
        if path.parent not in _swept:
            _swept.add(path.parent)
            sweep_temporaries(path.parent, only_writer=False)
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", path)
        temporary, descriptor = _new_temporary(path)
        with open(descriptor, "wb", buffering=0) as file:
            _adopt_mode(descriptor, path)
            fill(lambda part: write_all(descriptor, part))
            perform(os.fsync, descriptor)
            if fcntl is None:  # Windows renames no open file; elsewhere an open one keeps `sweep_temporaries` away
                file.close()
            check(temporary)
            perform(os.replace, temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                perform(os.unlink, temporary)
        if isinstance(error, OSError):
            raise cannot_write(path, error, size_bytes) from error
        if isinstance(error, ValueError) and "\0" in str(path):
            raise cannot_write(path, OSError(errno.EINVAL, "no file can have such a name")) from error
        raise


_swept: set[Path] = set()
"""Folders that this process has swept."""


def _new_temporary(path: Path) -> tuple[Path, int]:
    """Create a file next to `path`, open for writing and locked. Raises OSError."""
    while True:
        name = os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])
        temporary = path.with_name(f".{name}.{secrets.token_hex(6)}.tmp")
        descriptor = perform(os.open, temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY, 0o666)
        if _lock(descriptor) is not False and os.path.exists(temporary):
            return temporary, descriptor
        os.close(descriptor)  # somebody swept between the two calls


def _adopt_mode(descriptor: int, path: Path) -> None:
    """Give a new file the mode and, as far as allowed, the owner of the file that it will replace."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: Windows
        old, new = os.lstat(path), os.fstat(descriptor)
        if stat.S_ISREG(old.st_mode):
            if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
                with contextlib.suppress(OSError):
                    perform(os.fchown, descriptor, old.st_uid, old.st_gid)
            if (old.st_mode ^ new.st_mode) & 0o777:
                perform(os.fchmod, descriptor, old.st_mode & 0o777)


def _lock(descriptor: int) -> bool | None:
    """Whether a file could be locked for as long as it is open; None where the system or its disk has no locks.

    flock, not lockf: it is the open file's, so that a copy in the same process is kept out as well.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


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


def refuse_links(*folders: Path) -> None:
    """Raise OutputError if a folder that mlcli has made, or would make, is a link: it leads to files of others."""
    for folder in folders:
        if folder.is_symlink():
            what = "a link stands where mlcli writes its own files, and it is not followed"
            raise OutputError(what, where=str(folder), fix="remove the link, or choose another folder")


def sweep_temporaries(folder: Path, *, only_writer: bool) -> None:
    """Delete the temporary files that killed processes have left in a folder.

    only_writer: whether no other process writes there. If others may, files that a process has open are left alone.
    """
    try:
        with os.scandir(folder) as entries:
            found = [Path(entry.path) for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return
    for path in found:
        with contextlib.suppress(OSError):  # what cannot be deleted does no harm
            if only_writer:
                perform(os.unlink, path)
                continue
            descriptor = open_regular(path, ANY_SIZE, os.O_RDWR | NO_FOLLOW)
            try:
                if _lock(descriptor):
                    perform(os.unlink, path)
            finally:
                os.close(descriptor)


_TEMPORARY = re.compile(r"\..*\.(\d+|[0-9a-f]{12})\.tmp", re.DOTALL)
"""Names of temporary files; mlcli 0.1.0 put the number of its process where there is a random one now."""


class Journal:
    """An append-only file of lines, each written by one call; `length` is its size in bytes.

    Args:
        length: where to continue; anything after it is cut off. None, or a shorter file: after its last line.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        try:
            self._descriptor = open_own(path)
            with open(os.dup(self._descriptor), "rb") as file:  # up to the end of its last whole line
                whole = file.read(os.fstat(self._descriptor).st_size).rfind(b"\n") + 1
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


def open_own(path: Path) -> int:
    """Open a file of mlcli's own to be read and written, made if there is none. Raises OSError.

    A link is refused, also a hard one: it would be some other file that is written to.
    """
    try:
        descriptor = perform(os.open, path, os.O_RDWR | os.O_CREAT | NO_FOLLOW | NO_WAIT | BINARY, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise OSError(errno.ELOOP, "a link stands there, and it is not followed", path) from error
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise OSError(errno.EMLINK, "the file has a second name, and both would be changed", path)
    raise irregular(path, found.st_mode)


def is_disk_trouble(error: BaseException) -> TypeGuard[OSError]:
    """Whether an error of any writer, such as TensorBoard's, says that the disk is full, broken or read-only."""
    return isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EIO, errno.EROFS)


_FIXES = {
    None: "choose a folder that exists and is writable",
    errno.ELOOP: "remove the link, or choose another folder",
    errno.EMLINK: "copy the folder with cp -r, and use the copy",
}


def cannot_write(path: Path, error: OSError, size_bytes: int = 0) -> OutputError:
    """The message for a write that failed, with what was needed and what is free."""
    need = f", {size(size_bytes)} needed" if size_bytes > 2**17 else ""
    with contextlib.suppress(OSError, AttributeError):
        free = os.statvfs(path.parent)
        need += f", {size(free.f_bavail * free.f_frsize)} free"
    full = error.errno in NO_ROOM
    fix = "free some space, or choose another place" if full else _FIXES.get(error.errno, _FIXES[None])
    return OutputError(f"cannot write: {error.strerror or error}{need if full else ''}", where=str(path), fix=fix)
