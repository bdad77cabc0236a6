"""Files read: only regular ones, and never more than a bound, for anybody may have made them.

A named pipe would be waited for, a device never ends, and a sparse file of 64 GB takes no room on a disk.
"""

import contextlib
import difflib
import errno
import itertools
import json
import os
import re
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlcli.text import size

NO_FOLLOW, NO_WAIT, BINARY = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
"""Flags of `os.open` that not every system has."""
_HANDED_OVER = re.compile(r"/dev/(fd/\d+|stdin)|/proc/self/fd/\d+")
"""Files that whoever started the process has opened for it: `mlcli train <(...)`, `... /dev/stdin`."""
MOST_TEXT_BYTES = 2**33
"""Of a text that is read whole: the largest known, annotations of two million pictures, has 6 GB."""
MOST_LINE_BYTES, MOST_KINDS = 2**24, 50
"""Of a line, and of kinds of lines that are told apart."""
ANY_SIZE = 2**63
PART_BYTES = 2**22


def open_regular(path: str | os.PathLike[str], most_bytes: int, flags: int = os.O_RDONLY) -> int:
    """Open a regular file and return its descriptor; pipes that the caller of mlcli has handed over are taken too.

    Raises OSError, whose `strerror` says so where it is a folder, a pipe, a device or larger than `most_bytes`.
    """
    handed_over = is_handed_over(path)
    try:
        descriptor = os.open(path, flags | BINARY | (0 if handed_over else NO_WAIT))
    except ValueError as error:  # a NUL in it
        raise OSError(errno.EINVAL, "no file can have such a name", path) from error
    except OSError as error:
        if error.errno == errno.ENXIO:  # of a socket, or of a pipe to be written that nobody reads
            raise irregular(path, os.stat(path).st_mode) from error
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) and (not handed_over or stat.S_ISDIR(found.st_mode)):
            raise irregular(path, found.st_mode)
        if found.st_size > most_bytes:
            raise OSError(errno.EINVAL, f"it has {size(found.st_size)}, {size(most_bytes)} are the most", path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def irregular(path: str | os.PathLike[str], mode: int) -> OSError:
    """Return the error for what is no regular file. mode: of `os.stat`."""
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, "it is a folder", path)
    kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return OSError(errno.EINVAL, f"it is {kind}, not a file", path)


def is_handed_over(path: str | os.PathLike[str] | bytes) -> bool:
    """Whether it names a file that whoever started the process has opened for it: a pipe, which is read once only."""
    return not isinstance(path, bytes) and _HANDED_OVER.fullmatch(os.fspath(path)) is not None


def read_file(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the content of a file. Raises OSError like `open_regular`."""
    content = bytearray()
    with os.fdopen(open_regular(path, most_bytes), "rb", buffering=0) as file:
        try:
            while part := file.read(PART_BYTES):  # asked for all at once, memory for the most there may be is taken
                content += part
                if len(content) > most_bytes:
                    raise OSError(errno.EINVAL, f"it has more than {size(most_bytes)}")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
    return bytes(content)


def read_lines(path: Path, most: int | None = None) -> list[bytes]:
    """Return the lines of a file that grows by a line at a time, up to the first that has no end.

    most: of each kind of line, of the same first entry and as many others, about so many are kept, evenly spread, the
    first and the last among them, so that a long file takes no more memory than a short one. Raises OSError.
    """
    with open(open_regular(path, MOST_TEXT_BYTES), "rb") as file:
        lines = itertools.takewhile(
            lambda line: line.endswith(b"\n"), iter(lambda: file.readline(MOST_LINE_BYTES), b"")
        )
        return list(lines) if most is None else _thinned(lines, most)


def _thinned(lines: Iterator[bytes], most: int) -> list[bytes]:
    """Between `most` and twice as many lines of each kind; what they hold is not looked into."""
    kept: dict[tuple[bytes, int], list[tuple[int, bytes]]] = {}
    halved, seen, last = Counter[Any](), Counter[Any](), {}
    for number, line in enumerate(lines):
        kind = line[:40].partition(b",")[0], line.count(b'":')
        kind = kind if kind in kept or len(kept) < MOST_KINDS else (b"", 0)
        rows = kept.setdefault(kind, [])
        if seen[kind] % (2 ** halved[kind]) == 0:
            rows.append((number, line))
            if len(rows) > 2 * most:
                del rows[1::2]
                halved[kind] += 1
        seen[kind] += 1
        last[kind] = number, line
    return [line for _, line in sorted({*itertools.chain(*kept.values()), *last.values()})]


def safetensors_texts(content: bytes | memoryview) -> dict[str, Any]:
    """Return the texts in the header of a safetensors file that was found whole: 8 bytes of its length, then JSON."""
    return json.loads(bytes(content[8 : 8 + int.from_bytes(content[:8], "little")]))["__metadata__"]


SILENCE_S = 20.0
"""After which a download is given up; without it a firewall that drops packets would hang the program."""


@contextlib.contextmanager
def giving_up_after(seconds: float) -> Iterator[None]:
    """Within this, a download is given up after so many seconds without an answer; urllib's own is to wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def why_absent(path: Path) -> str:
    """Return the probable reason that a path a person wrote leads nowhere, and how to write it; empty if there is none.

    Names of variables and `%20` are not read as shells and browsers do; backslashes separate folders on Windows alone.
    """
    text = os.fspath(path)
    if os.path.lexists(path):
        return ""
    if re.search(r"\$\w|\$\{", text):
        return "variables such as $HOME are not expanded: write the path itself; ~ is the home directory"
    for decoded, written in ((unquote(text), "%20 stands for a blank in addresses, not in paths"),
                             (text.replace("\\", "/"), "backslashes separate folders on Windows alone")):  # fmt: skip
        if decoded != text and os.path.lexists(decoded):
            return f"{written}: write {decoded}"
    above = path
    while not os.path.isdir(above) and above != above.parent:
        name, above = above.name, above.parent
    with contextlib.suppress(OSError):
        names = {entry.lower(): entry for entry in os.listdir(above)}
        close = [entry for entry in names if os.path.splitext(entry)[0] == name.lower()]
        close = close or difflib.get_close_matches(name.lower(), names, n=1)
        return f"{above} holds no '{name}'; did you mean '{names[close[0]]}'?" if close else ""
    return ""
