"""Decoded samples in a file that the next run finds again: one memory-mapped file for each split and preparation.

    pixels, uint8 [N, C, H, W] | a CRC-32 for every `READ_BATCH` samples, uint32 | facts as JSON, padded to 4096 bytes

The facts hold a fingerprint of the files (paths, sizes, times of change), of how they are prepared and of the libraries
that decode; a file changed without a change of its size and time cannot be noticed. Written whole or not at all; what
is stale or damaged is as good as none and is replaced. Caches that no run has opened for a month are deleted when
another is written.
"""

import contextlib
import hashlib
import json
import os
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from mlcli.data import places
from mlcli.data.decode import Preparation
from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.files import Write, fill_atomically
from mlcli.outputs import cache_folder, make_output_folder
from mlcli.reading import ANY_SIZE, open_regular

READ_BATCH = 64  # samples read, written and checked at once: much work for a message, little for a split
SUFFIX = ".pixels"
_FACTS = 4096  # bytes
_FORMAT = 1
_KEPT_DAYS = 30  # without being opened
_CHECKED_SHARE = 0.5  # of the available memory that is read to check a cache; of larger ones, parts evenly spread
_DECODERS = ("pillow", "simplejpeg", "torch")


class CachedFiles(Protocol):
    """The files of a split, as a cache needs them."""

    @property
    def root(self) -> places.Root: ...

    @property
    def paths(self) -> np.ndarray: ...

    @property
    def preparation(self) -> Preparation: ...


def default_folder() -> Path:
    """Return the default folder of caches: not next to the data, where it could be mistaken for a class."""
    return cache_folder("samples")


class DiskCache:
    """The samples of one split on disk.

    Args:
        folder: of all caches.
        files: the split.
        shape: [N, C, H, W] of its samples.

    Attributes:
        path: the file, named after which files are held and how they are prepared.
        size_bytes: of the pixels.
    """

    def __init__(self, folder: Path, files: CachedFiles, shape: tuple[int, ...]) -> None:
        self._files, self._shape = files, shape
        same_size = getattr(files, "same_size", False)  # refuses other sizes, which a cache must not hide
        held = hashlib.sha256(repr((str(files.root), files.preparation, same_size, shape)).encode())
        held.update(files.paths.tobytes())
        self.path = folder / f"{held.hexdigest()[:24]}{SUFFIX}"
        self.size_bytes = prod(shape)

    @cached_property
    def state(self) -> Literal["found", "stale", "none"]:
        """Whether the file is there and belongs to the files as they are now; its pixels are not looked at."""
        try:
            with open(open_regular(self.path, ANY_SIZE), "rb") as file:
                if os.fstat(file.fileno()).st_size != self.size_bytes + 4 * self._num_parts + _FACTS:
                    return "stale"
                file.seek(-_FACTS, os.SEEK_END)
                facts = json.loads(file.read())
        except OSError:
            return "none"
        except ValueError:
            return "stale"
        return "found" if facts == self._facts else "stale"

    def open(self) -> Tensor | None:
        """The samples, uint8 [N, C, H, W], mapped into memory; None if there are none or they are stale or damaged.

        Writing to them changes nothing on disk.
        """
        if self.state != "found":
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)  # opened today
        pixels = np.memmap(self.path, np.uint8, "c", shape=self._shape)
        sums = np.memmap(self.path, np.uint32, "r", self.size_bytes, (self._num_parts,))
        checked_bytes = max(1, int(_CHECKED_SHARE * available_memory_bytes()))
        parts = range(0, self._num_parts, -(-self.size_bytes // checked_bytes))

        def is_whole(part: int) -> bool:
            return zlib.crc32(pixels[part * READ_BATCH : (part + 1) * READ_BATCH].data) == sums[part]

        with ThreadPoolExecutor(usable_cpus()) as pool:  # 1 GB/s each, and the page cache is filled by the way
            if not all(pool.map(is_whole, parts)):
                return None
        return torch.from_numpy(pixels)

    def fill(self, parts: Iterable[Tensor]) -> Tensor:
        """Write the samples, `READ_BATCH` at once, and open them. Raises OutputError, or what reading them raises."""
        make_output_folder(self.path.parent)
        for path in self.path.parent.glob(f"*{SUFFIX}"):  # what is half written is swept with the next file
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _KEPT_DAYS * 86_400:
                    path.unlink()
        sums: list[int] = []

        def write_all(write: Write) -> None:
            for part in parts:
                pixels = part.contiguous().numpy().reshape(-1).data
                write(pixels)
                sums.append(zlib.crc32(pixels))
            write(np.array(sums, np.uint32).tobytes())
            write(json.dumps(self._facts).encode().ljust(_FACTS))

        fill_atomically(self.path, write_all, size_bytes=self.size_bytes)
        return torch.from_numpy(np.memmap(self.path, np.uint8, "c", shape=self._shape))

    @property
    def _num_parts(self) -> int:
        return -(-self._shape[0] // READ_BATCH)

    @cached_property
    def _facts(self) -> dict[str, object]:
        """Facts that identify the cached files, in JSON's types. Takes 2 us for each file."""
        seen = places.stamps(self._files.root, self._files.paths)
        libraries = {name: version(name) for name in _DECODERS}
        return {
            "format": _FORMAT,
            "shape": list(self._shape),
            "root": str(self._files.root).encode(errors="backslashreplace").decode(),
            "files": hashlib.sha256(seen.tobytes() + self._files.paths.tobytes()).hexdigest(),
            "preparation": self._files.preparation.to_plain(),
            "libraries": libraries,
        }
