"""Tar files read by position: the members of a shard from their headers, one after the other.

ustar (POSIX.1-1988) with names of GNU and PAX (POSIX.1-2001). Python's tarfile skips what it does not understand; here
the reader of a data set is told where a shard is damaged.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

BLOCK = 512
"""Bytes of a header, and what members are padded to."""
MOST_PAX = 2**20
"""Bytes of a PAX header."""
MOST_PADDING = 2**20
"""Bytes of zeros at the end; GNU tar fills up to 10 kB."""
_MAGIC = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7z": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}


class Damage(Exception):
    """What stands behind this place in a shard cannot be understood. args: kind, text."""


class Member(NamedTuple):
    """A member of a tar file. kind: its type flag; b"0" of a regular file."""

    name: bytes
    offset: int
    size: int
    kind: bytes


def members(read: Callable[[int, int], bytes], size: int) -> Iterator[Member]:
    """The members of a tar file: ustar, with names of GNU and PAX. read: (offset, size) -> bytes.

    Raises Damage where it cannot be gone on. Links, devices and folders are given as such; sparse files are refused.
    """
    at, long_name, pax = 0, b"", dict[bytes, bytes]()
    if size == 0:
        raise Damage("damaged-shard", "the file is empty")
    start = read(0, min(4, size))
    for magic, tool in _MAGIC.items():
        if start.startswith(magic):
            raise Damage("compressed-shard", tool)
    while True:
        if at + BLOCK > size:
            raise Damage("damaged-shard", f"cut off: the mark of its end is not there (byte {at:,} of {size:,})")
        header = read(at, BLOCK)
        if not header[0] and not header.strip(b"\0"):
            if size - at > MOST_PADDING or read(at, size - at).strip(b"\0"):  # members that nobody would read
                what = f"there is more behind the mark of its end at byte {at:,}: overwritten, or two tar files in one"
                raise Damage("damaged-shard", what)
            return
        if _number(header[148:156], at) != sum(header) - sum(header[148:156]) + 256:
            raise Damage("damaged-shard", f"the header at byte {at:,} has a wrong checksum")
        kind, length, begin = header[156:157], _number(header[124:136], at), at + BLOCK
        if kind in b"123456":  # links, devices, folders and pipes have no content, whatever is said of their size
            length = 0
        if b"size" in pax and kind in b"07\0":
            length = _decimal(pax[b"size"], at)
        if length > size - begin:
            raise Damage("damaged-shard", f"cut off: the member at byte {at:,} has {length:,} bytes, "
                         f"{max(0, size - begin):,} are there")  # fmt: skip
        at = begin + -(-length // BLOCK) * BLOCK
        if kind in (b"L", b"K", b"x", b"X", b"g"):
            if length > MOST_PAX:
                raise Damage("damaged-shard", f"the header at byte {begin - BLOCK:,} is too long")
            if kind == b"L":
                long_name = read(begin, length).rstrip(b"\0") or b"\0"
            elif kind in (b"x", b"X"):
                pax = _pax(read(begin, length), begin)
            continue
        if kind == b"S" or (pax and any(key.startswith(b"GNU.sparse.") for key in pax)):
            raise Damage("damaged-shard", f"the member at byte {begin - BLOCK:,} is sparse; pack it without --sparse")
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345] and not long_name:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        name = pax.get(b"path") or long_name or name
        while name.startswith(b"./"):
            name = name[2:].lstrip(b"/")
        yield Member(name, begin, length, b"5" if name.endswith(b"/") else b"0" if kind in b"07\0" else kind)
        long_name, pax = b"", {}


def _number(written: bytes, at: int) -> int:
    """A number in a header: octal digits, or GNU's base 256."""
    if written[0] == 0x80:
        return int.from_bytes(written[1:], "big")
    text = written.strip(b"\0 ")
    if not text:
        return 0
    if not text.isdigit() or max(text) > ord("7"):
        raise Damage("damaged-shard", f"the header at byte {at:,} has a number that is none")
    return int(text, 8)


def _decimal(text: bytes, at: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise Damage("damaged-shard", f"the header at byte {at:,} has a number that is none")
    return int(text)


def _pax(content: bytes, at: int) -> dict[bytes, bytes]:
    """The records `length key=value\\n` of a PAX header (POSIX.1-2001)."""
    found, place = {}, 0
    while place < len(content) and content[place]:
        digits = content[place : place + 20].partition(b" ")[0]
        end = place + _decimal(digits, at)
        key, equals, value = content[place + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            raise Damage("damaged-shard", f"the PAX header at byte {at - BLOCK:,} is damaged")
        found[key] = value
        place = end
    return found
