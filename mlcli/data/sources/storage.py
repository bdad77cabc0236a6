"""Tar shards in a folder of this machine, read by position; and what all storages of shards have (`remote_storage`).

They are read by pread on open descriptors, which no two readers can disturb, in threads or forked processes.
"""

import contextlib
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mlcli.errors import DataError
from mlcli.reading import ANY_SIZE, open_regular, read_file, why_absent
from mlcli.text import visible

MOST_OPEN = 128
"""Descriptors that one process keeps open; shards beyond them are opened for each read, which takes 6 us."""
MOST_SHARDS = 1_000_000
MOST_SMALL = 2**24
"""Bytes of a file beside the shards, such as that of the names of classes."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
TAR = (".tar", *COMPRESSED)


class Shard(NamedTuple):
    """One tar file. name: its path below the root. stamp: what changes when it is written anew; may be empty."""

    name: str
    size: int
    stamp: str


class Storage(Protocol):
    """`address` is what messages call the place."""

    address: str
    is_remote: bool

    def names(self) -> list[str]:
        """Tar files below the place and in its folders, sorted. Raises DataError."""

    def shard(self, name: str) -> Shard:
        """Size and stamp of a shard as it is now. Raises DataError."""

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Raises DataError, also if the shard is not what it was."""

    def read_many(self, parts: Sequence[tuple[Shard, int, int]]) -> Iterator[bytes]:
        """The same for several, each given as (shard, offset, size)."""

    def small(self, name: str) -> bytes | None:
        """The content of a small file beside the shards; None if there is none. Raises DataError."""


def changed(address: str, shard: Shard) -> DataError:
    fix = "leave shards as they are while they are read, and begin again; new ones get new names"
    return DataError("the shard has been changed, replaced or deleted since its index was made",
                     where=f"{address}/{shard.name}", fix=fix)  # fmt: skip


class LocalStorage:
    """A folder, or one tar file, on this machine or mounted."""

    is_remote = False

    def __init__(self, root: Path) -> None:
        self._one = root.name if root.is_file() else ""
        self._root = root.parent if self._one else root
        self.address = str(self._root)
        self._open: dict[str, int] = {}

    def names(self) -> list[str]:
        if self._one:
            return [self._one]
        if not self._root.is_dir():
            fix = why_absent(self._root) or "give the folder that holds the .tar files"
            raise DataError("there is no such folder", where=self.address, fix=fix)
        found: list[str] = []
        for folder, below, files in os.walk(self._root, onerror=_unreadable):
            below[:] = sorted(name for name in below if not name.startswith("."))
            place = os.path.relpath(folder, self._root)
            found += [os.path.normpath(os.path.join(place, name)) for name in files if not name.startswith(".")]
        return sorted(name for name in found if name.lower().endswith(TAR))

    def shard(self, name: str) -> Shard:
        try:
            found = os.stat(self._root / name)
        except (OSError, ValueError) as error:
            raise self._cannot_read(name, error) from error
        return Shard(name, found.st_size, str(found.st_mtime_ns))

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        descriptor = self._open.get(shard.name)
        try:
            if descriptor is None:
                descriptor = open_regular(self._root / shard.name, ANY_SIZE)
                if len(self._open) < MOST_OPEN:
                    kept = self._open.setdefault(shard.name, descriptor)  # another thread may have been quicker
                    if kept != descriptor:
                        os.close(descriptor)
                        descriptor = kept
            data = os.pread(descriptor, size, offset)
            while 0 < len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
                data += more
            found = os.fstat(descriptor)
        except OSError as error:
            raise self._cannot_read(shard.name, error) from error
        finally:
            if descriptor is not None and self._open.get(shard.name) != descriptor:
                os.close(descriptor)
        if (found.st_size, str(found.st_mtime_ns)) != shard[1:] or len(data) != size or not found.st_nlink:
            raise changed(self.address, shard)
        return data

    def read_many(self, parts: Sequence[tuple[Shard, int, int]]) -> Iterator[bytes]:
        return (self.read(*part) for part in parts)

    def small(self, name: str) -> bytes | None:
        try:
            return read_file(self._root / name, MOST_SMALL)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._cannot_read(name, error) from error

    def __getstate__(self) -> dict[str, Any]:  # a process that is started afresh opens its own
        return {**self.__dict__, "_open": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _cannot_read(self, name: str, error: Exception) -> DataError:
        why = getattr(error, "strerror", None) or str(error)
        return DataError(f"cannot read the file: {why}", where=visible(f"{self.address}/{name}"),
                         fix="check that it is there and may be read")  # fmt: skip


def _unreadable(error: OSError) -> None:
    raise DataError(f"cannot look into the folder: {error.strerror}", where=str(error.filename),
                    fix="give yourself access: chmod -R u+rX FOLDER") from error  # fmt: skip


def expanded(pattern: str) -> list[str]:
    """The names that a pattern with ranges in braces means: a-{000..002}.tar is three. Raises DataError beyond bounds.

    `{a,b}` works as well; * and ? are left as they are.
    """
    parts = [_meant(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    if math.prod(map(len, parts)) > MOST_SHARDS:
        raise DataError(f"{pattern} means too many shards", where="data.shards", fix=f"{MOST_SHARDS:,} are the most")
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def _meant(part: str) -> Sequence[str]:
    """What a part of a pattern stands for: {08..11} for four numbers, {a,b} for two words, all else for itself."""
    if match := re.fullmatch(r"\{(\d{1,9})\.\.(\d{1,9})\}", part):
        first, last = map(int, match.groups())
        if not first <= last < first + MOST_SHARDS:
            raise DataError(f"{part} is no range of numbers of shards", where="data.shards", fix="{000..146}")
        return [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    return part[1:-1].split(",") if part[:1] == "{" and "," in part else [part]
