"""Reading files: from the disk, with the page cache emptied of them, and from the page cache."""

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil

from mlcli.errors import DataError
from mlcli.machine.bench.measurements import Timing
from mlcli.reading import ANY_SIZE, open_regular

CHUNK = 16
"""Files to a lap."""
_IN_MEMORY = ("tmpfs", "ramfs")  # file systems that have no disk
PROBED = 8  # files that are only asked whether they left the page cache: asking may fetch them again


def read_cold(paths: Sequence[str], budget_s: float) -> tuple[Timing | None, str]:
    """Seconds per file read from the disk; None and the reason where the page cache does not let go of them.

    Only these files are dropped from the page cache, which needs no privilege; they are read again by the way.
    """
    if not hasattr(os, "posix_fadvise"):
        return None, "not measured: this system cannot drop single files from its page cache"
    if file_system(paths[0]).startswith(_IN_MEMORY):
        return None, "not measured: the files lie in memory, there is no disk to read from"
    try:
        for path in paths:
            with _opened(path) as descriptor:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        return None, f"not measured: the page cache could not be dropped ({error.strerror})"
    probed, timed = paths[-PROBED:], paths[:-PROBED] or paths
    cached = [_is_cached(path) for path in probed]
    if any(cached):
        return None, "not measured: these files stay in memory, perhaps because they are not yet written to the disk"
    timing, _ = read_files(timed, budget_s)
    return timing, "" if None not in cached else "unknown whether the page cache was really dropped"


def read_files(paths: Sequence[str], budget_s: float) -> tuple[Timing, int]:
    """Seconds per file, opened and read whole, and how many bytes a file has on average. Raises DataError."""
    began, laps, total, count = time.perf_counter(), [], 0, 0
    for start in range(0, len(paths), CHUNK):
        chunk = paths[start : start + CHUNK]
        lap_began = time.perf_counter()
        total += sum(_read(path) for path in chunk)
        laps.append((time.perf_counter() - lap_began) / len(chunk))
        count += len(chunk)
        if time.perf_counter() - began > budget_s:
            break
    return Timing.of(laps), total // count


def warm_up(paths: Iterable[str], budget_s: float) -> int:
    """Have files brought into the page cache, as they are in every epoch but the first; as many as time allows."""
    began, count = time.perf_counter(), 0
    for path in paths:
        _read(path)
        count += 1
        if time.perf_counter() - began > budget_s:
            break
    return count


def file_system(path: str) -> str:
    """`ext4 on /dev/vda` for the file system a path lies on; empty if the system does not say."""
    return " on ".join(filter(None, mount_of(Path(path).absolute())))


def mount_of(path: Path, mounts: Iterable[Any] | None = None) -> tuple[str, str]:
    """Type and device of the file system an absolute path is on; empty texts if the system does not say.

    mounts: by default the system's, as psutil.disk_partitions lists them; of those mounted on one place the last one
    counts.
    """
    found = ("", "")
    with contextlib.suppress(OSError):
        deepest = 0
        for mount in psutil.disk_partitions(all=True) if mounts is None else mounts:
            depth = len(Path(mount.mountpoint).parts)
            if path.is_relative_to(mount.mountpoint) and depth >= deepest:
                found, deepest = (mount.fstype, mount.device), depth
    return found


def shared_memory_bytes(folder: Path = Path("/dev/shm")) -> int | None:
    """Size of /dev/shm, through which workers hand over batches; None where there is none."""
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def _read(path: str) -> int:
    with _opened(path) as descriptor:
        size = 0
        while block := os.read(descriptor, 1 << 20):
            size += len(block)
        return size


def _is_cached(path: str) -> bool | None:
    """Return whether a file's first byte can be had without the disk; None where the file system does not answer."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    with _opened(path) as descriptor:
        try:
            return os.preadv(descriptor, [bytearray(1)], 0, os.RWF_NOWAIT) > 0
        except BlockingIOError:
            return False
        except OSError:
            return None


@contextlib.contextmanager
def _opened(path: str):
    try:
        descriptor = open_regular(path, ANY_SIZE)
    except OSError as error:
        raise DataError(f"cannot read image: {error.strerror}", where=os.fsencode(path).decode(errors="replace"),
                        fix="replace or remove the file, or permit reading it") from error  # fmt: skip
    try:
        yield descriptor
    finally:
        os.close(descriptor)
