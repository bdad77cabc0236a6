"""Files that are either the old or the new one, whole, whatever happens in between."""

import contextlib
import errno
import os
from pathlib import Path

from mlcli.errors import OutputError


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash at any instant, sees the old file or the new one.

    A temporary file in the same folder (rename is only atomic within a file system), its bytes forced to disk before
    the rename, the folder's entry after it. Raises OutputError; the old file and nothing else is left then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error, len(content)) from error


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk; systems that cannot open folders do without."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cannot_write(path: Path, error: OSError, size_bytes: int = 0) -> OutputError:
    """The message for a write that failed, with what was needed and what is free."""
    need = f", {size_bytes / 2**20:.1f} MB needed" if size_bytes else ""
    with contextlib.suppress(OSError, AttributeError):
        free = os.statvfs(path.parent)
        need += f", {free.f_bavail * free.f_frsize / 2**20:.1f} MB free"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "free some space, or choose another place" if full else "choose a place that exists and can be written"
    return OutputError(f"cannot write: {error.strerror or error}{need if full else ''}", where=str(path), fix=fix)
