"""What picture files tell without being decoded: whether they are there, their size, and which are the same."""

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from mlcli.data.decode import opened, read_image, upright_size
from mlcli.data.inspection import CHUNK, MAX_THREADS, THREADS_PAY_S
from mlcli.errors import DataError

_TAIL = 64  # bytes at a file's end in which it says that it ends; JPEGs may have some padding behind
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND", b"GI": b"\0;"}
"""Of JPEG (ITU-T T.81, B.1.1.3), PNG and GIF, by how they begin."""
_LENGTHS = {b"RI": (slice(4, 8), 8), b"BM": (slice(2, 6), 0)}
"""Of WebP and BMP: where their header says how many bytes follow what is counted here."""


@dataclass(frozen=True, eq=False)
class Headers:
    """Of N files: sizes int64 [N, 2] of the upright picture, 0 where it cannot be read.

    stored: int64 [N, 2], size before the EXIF orientation is applied.
    orientations: int64 [N], 1 to 8 as in EXIF.
    trouble: why a file cannot be read, by position.
    contents: int64 [N], equal for files of the same bytes.
    """

    sizes: np.ndarray
    stored: np.ndarray
    orientations: np.ndarray
    trouble: dict[int, str]
    contents: np.ndarray


def read_headers(root: str, paths: Sequence[str]) -> Headers:
    """Files named twice are read once."""
    names, place = np.unique(np.array(paths, dtype=object).astype(str), return_inverse=True)
    files = [os.path.join(root, name) for name in names.tolist()]
    started = time.perf_counter()
    found = [_header(path) for path in files[:CHUNK]]
    slow = time.perf_counter() - started > THREADS_PAY_S * CHUNK  # a disk to be waited for: threads wait together
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        found += (pool.map if slow else map)(_header, files[CHUNK:])
    facts = np.array([fact for fact, _ in found], dtype=np.int64).reshape(-1, 5)[place]
    trouble = {position: found[file][1] for position, file in enumerate(place.tolist()) if found[file][1]}
    return Headers(facts[:, :2], facts[:, 2:4], facts[:, 4], trouble, _contents(files)[place])


def _header(path: str) -> tuple[tuple[int, int, int, int, int], str]:
    try:
        with opened(path) as image:
            upright, stored = upright_size(image), image.size
            orientation = image.getexif().get(0x0112, 1) if upright != stored else 1
        if _may_be_cut_off(path):
            read_image(path, 3)
    except DataError as error:
        return (0, 0, 0, 0, 1), error.what.removeprefix("cannot read image: ")
    return (*upright, *stored, orientation), ""


def _may_be_cut_off(path: str) -> bool:
    """Whether the file does not end as its format ends, or its format does not say; some good ones do not, so decoding
    has the last word."""
    with open(path, "rb") as file:
        head, length = file.read(8), file.seek(0, os.SEEK_END)
        if head[:2] in _LENGTHS:
            where, before = _LENGTHS[head[:2]]
            return not 0 < int.from_bytes(head[where], "little") <= length - before
        if head[:2] not in _ENDINGS:
            return True
        file.seek(max(0, length - _TAIL))
        return _ENDINGS[head[:2]] not in file.read()


def _contents(files: Sequence[str]) -> np.ndarray:
    """A number for each file, the same for the same bytes. Only files of equal length are read."""
    sizes = np.array([_length(path) for path in files], dtype=np.int64)
    _, group, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    numbers: dict[tuple[int, bytes], int] = {}
    found = np.empty(len(files), dtype=np.int64)
    for position, path in enumerate(files):
        alone = counts[group[position]] == 1 or sizes[position] < 0
        key = (position, b"") if alone else (-1, _digest(path))
        found[position] = numbers.setdefault(key, len(numbers))
    return found


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return os.fsencode(path)
