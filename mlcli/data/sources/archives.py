"""Taking files out of untrusted archives: only those we can name, to where we choose, and no more than fits.

No path that stands in an archive is ever written to, so `../`, links and devices lead nowhere; an archive that has any
is refused all the same, for it is not what it claims to be.
"""

import gzip
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from mlcli.errors import DataError

MOST_BYTES = 2**30
"""Of all that is looked at in one archive, unpacked, and of each file. The largest published file of those read here,
the images of EMNIST by class, has 547 MB."""
MOST_MEMBERS = 1_000
CHUNK_BYTES = 2**20


def unpack_gz(packed: Path, target: Path) -> None:
    """One compressed file. Raises DataError if it is larger than any published one, OSError or EOFError if damaged."""
    with gzip.open(packed) as file:
        _copy(file, target, packed)


def unpack_tar(archive: Path, wanted: Mapping[str, Path]) -> None:
    """The members of these names of a tar file, compressed or not, each to its place. Raises DataError."""
    missing, seen_bytes = dict(wanted), 0
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar, start=1):
            seen_bytes += member.size
            _judge(archive, member.name, number, seen_bytes, plain=member.isreg() or member.isdir())
            file = tar.extractfile(member) if member.isreg() and member.name in missing else None
            if file is not None:
                _copy(file, missing.pop(member.name), archive)
    _complete(archive, missing)


def unpack_zip_of_gz(archive: Path, wanted: Mapping[str, Path]) -> None:
    """Those members of a zip file that are compressed once more, unpacked to their places. Raises DataError."""
    missing, seen_bytes = dict(wanted), 0
    with zipfile.ZipFile(archive) as packed:
        for number, member in enumerate(packed.infolist(), start=1):
            seen_bytes += member.file_size
            link = (member.external_attr >> 16) & 0o170000 == 0o120000
            _judge(archive, member.filename, number, seen_bytes, plain=not link)
            if member.filename in missing:
                with packed.open(member) as inner, gzip.open(inner) as file:
                    _copy(file, missing.pop(member.filename), archive)
    _complete(archive, missing)


def _judge(archive: Path, name: str, number: int, seen_bytes: int, *, plain: bool) -> None:
    """Raise DataError for a member that no honest archive of a data set has."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        fault = "would be written outside of its folder"
    elif not plain:
        fault = "is a link or a device, not a file"
    elif number > MOST_MEMBERS:
        fault = f"comes after {MOST_MEMBERS:,} others"
    elif seen_bytes > MOST_BYTES:
        fault = f"takes it to more than {MOST_BYTES / 2**30:g} GiB unpacked"
    else:
        return
    raise DataError(f"the archive is not what it should be: {name!r} in it {fault}", where=str(archive))


def _complete(archive: Path, missing: Mapping[str, Path]) -> None:
    if missing:
        raise DataError(f"the archive does not hold {', '.join(missing)}", where=str(archive))


def _copy(file: IO[bytes] | gzip.GzipFile, target: Path, origin: Path) -> None:
    """Write to a temporary file in the target's folder first, so that half a file is never taken for a whole one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with unfinished.open("xb") as out:
            while chunk := file.read(CHUNK_BYTES):
                if out.tell() + len(chunk) > MOST_BYTES:
                    raise DataError(f"it is more than {MOST_BYTES / 2**30:g} GiB unpacked", where=str(origin))
                out.write(chunk)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
