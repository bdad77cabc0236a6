"""Where encoded pictures lie: in files below a folder, or as members of shards that are read by position.

A picture is given by a root and an address in it: of a folder, the path below it as bytes; of shards, its row in their
index. Roots and arrays of addresses are passed on together, and only here is it known what they mean.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from mlcli.data.decode import ImageSource
from mlcli.data.jpeg import MOST_FILE_BYTES
from mlcli.errors import DataError
from mlcli.reading import read_file


class Shards(Protocol):
    """Pictures that are read by position; `str()` of it is the place as a person knows it."""

    def read(self, rows: Sequence[int]) -> Iterator[bytes]:
        """The bytes of each picture. Raises DataError, naming shard and member."""

    def path(self, row: int) -> bytes:
        """The shard and the member in it, as a path below the root."""

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Bytes of each: int64 [N]."""

    def stamps(self, rows: np.ndarray) -> np.ndarray:
        """What changes when the shard of each is written anew: int64 [N]."""


Root = str | Shards
"""A folder, or shards."""
Address = Any
"""Of one picture: bytes, a path below the folder; or an int, its row in the shards' index."""


def sources(root: Root, addresses: Iterable[Address]) -> Iterator[ImageSource]:
    """Something to decode for each: a path, or the bytes."""
    if isinstance(root, str):
        return (os.path.join(root, os.fsdecode(bytes(path))) for path in addresses)
    return root.read([int(row) for row in addresses])


def source(root: Root, address: Address) -> ImageSource:
    return next(iter(sources(root, [address])))


def path(root: Root, address: Address) -> bytes:
    """The path below the root."""
    return bytes(address) if isinstance(root, str) else root.path(int(address))


def relative(root: Root, address: Address) -> str:
    """The same with bytes that are no text escaped, so that it can always be printed."""
    return path(root, address).decode(errors="backslashreplace")


def full(root: Root, address: Address) -> str:
    """The whole path, printable as that of `relative`."""
    above = os.path.join(str(root), "").encode(errors="surrogateescape")
    return above.decode(errors="backslashreplace") + relative(root, address)


def paths(root: Root, addresses: np.ndarray) -> Iterator[bytes]:
    """The path of each below the root."""
    rows = addresses.tolist()
    return iter(rows) if isinstance(root, str) else map(root.path, rows)


def sizes(root: Root, addresses: np.ndarray) -> np.ndarray:
    """Bytes of each, int64 [N]; -1 for what is no regular file, or not there: whoever reads it will say so."""
    if not isinstance(root, str):
        return root.sizes(addresses)
    return stamps(root, addresses)[:, 0]


def stamps(root: Root, addresses: np.ndarray) -> np.ndarray:
    """int64 [N, 2]: bytes of each and time of its last change in ns, of its shard where it lies in one; -1 as above."""
    if not isinstance(root, str):
        return np.stack([root.sizes(addresses), root.stamps(addresses)], axis=1)
    seen = np.full((len(addresses), 2), -1, np.int64)
    for row, path in zip(seen, addresses.tolist(), strict=True):
        try:
            found = os.stat(os.path.join(root, os.fsdecode(path)))
        except (OSError, ValueError):  # ValueError: a NUL in it
            continue
        if stat.S_ISREG(found.st_mode):
            row[:] = found.st_size, found.st_mtime_ns
    return seen


def content(root: Root, address: Address) -> bytes:
    """The bytes of a picture's file. Raises OSError or DataError."""
    found = source(root, address)
    return found if isinstance(found, bytes) else read_file(found, MOST_FILE_BYTES)


def content_or_nothing(root: Root, address: Address) -> bytes:
    """The bytes of a picture's file; none if it cannot be read: whoever decodes it will say so."""
    try:
        return content(root, address)
    except (OSError, DataError):
        return b""
