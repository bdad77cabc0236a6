"""Checkpoints: one file each, written whole or not at all, checksummed, and read without ever running foreign code.

A file is a torch archive of tensors and plain values, then a trailer of 48 bytes: 8 of magic, the archive's length (8,
little endian) and its SHA-256 (32). `torch.load` itself does not notice a flipped bit (pytorch#28858).
"""

import contextlib
import hashlib
import io
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlcli.engine.archive import FOREIGN, PLAIN, refuse_unlike_plain, refuse_unlike_saved
from mlcli.engine.limits import available_memory_bytes
from mlcli.engine.optimizer import size_of
from mlcli.engine.run import by_age
from mlcli.engine.runtime import is_out_of_memory
from mlcli.errors import CheckpointError, OutputError
from mlcli.files import Part, Write, fill_atomically, move, remove
from mlcli.reading import ANY_SIZE, open_regular
from mlcli.text import size
from mlcli.version import __version__

MAGIC = b"MLCLI\x00\x01\n"  # the 1 is the format; a file of a later one says so instead of seeming damaged
TRAILER_BYTES = len(MAGIC) + 8 + 32
TOGETHER_BYTES = 2**20
"""Smaller parts are put together before they are written; this much is also read at once."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and read it back before it takes its place. Raises OutputError if the disk will not have it.

    `content`: tensors, numbers, strings, None, and lists or dicts of them, so that `weights_only` loading can read it.
    """
    _assert_plain(content)

    def fill(write: Write) -> None:
        archive = _Archive(write)
        torch.save(content, archive)  # type: ignore[arg-type]  # it asks no more of a file than write and flush
        archive.finish()

    tensors = [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]
    fill_atomically(path, fill, _refuse_unless_as_written, size_bytes=size_of(tensors))


class _Archive:
    """The file that torch.save writes to: keeps count, checksum, and the error that torch would lose.

    torch makes a RuntimeError without a reason of an OSError (pytorch#156955), so it never sees one. It also writes
    some hundred parts of a few bytes; they are put together.
    """

    def __init__(self, write: Write) -> None:
        self._write, self._together = write, bytearray()
        self._length, self._sha256 = 0, hashlib.sha256()
        self._error: OSError | None = None

    def write(self, part: Part) -> int:
        if len(part) < TOGETHER_BYTES:
            self._together += part
            if len(self._together) >= TOGETHER_BYTES:
                self.flush()
        else:
            self.flush()
            self._put(part)
        return len(part)

    def flush(self) -> None:
        self._put(self._together)
        self._together = bytearray()

    def finish(self) -> None:
        """Write the trailer. Raises OSError if any part was not written."""
        self.flush()
        if self._error is not None:
            raise self._error
        self._write(MAGIC + self._length.to_bytes(8, "little") + self._sha256.digest())

    def _put(self, part: Part) -> None:
        self._length += len(part)
        self._sha256.update(part)
        if self._error is None:
            try:
                self._write(part)
            except OSError as error:
                self._error = error


def _assert_plain(value: Any, at: str = "checkpoint") -> None:
    """An invariant: all that is saved can be loaded again. A NumPy number or a version object could not be."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) in PLAIN, f"{at} has a key of {type(key)}"
            _assert_plain(item, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _assert_plain(item, f"{at}[{position}]")
    else:
        assert isinstance(value, Tensor) or type(value) in PLAIN, f"{at} is a {type(value)}"


def read_verified(path: Path) -> bytes:
    """The archive inside a checkpoint file. Raises CheckpointError if it is not one, or not as it was written."""
    with _opened(path) as file:
        length, digest = _read_trailer(file, path)
        try:
            archive = file.read(length) if length < available_memory_bytes() else None
        except MemoryError:
            archive = None
        if archive is None:
            what = f"the checkpoint has {size(length)}, which do not fit into the memory that is free"
            raise CheckpointError(what, where=str(path), fix="is it whole? Free some memory, or use another machine")
        if hashlib.sha256(archive).digest() != digest:
            raise _damaged(path)
        return archive


def verify(path: Path) -> None:
    """Check like `read_verified`, without holding the archive in memory."""
    with _opened(path) as file:
        length, digest = _read_trailer(file, path)
        sha256, part = hashlib.sha256(), memoryview(bytearray(min(length, TOGETHER_BYTES)))
        while length:
            size = file.readinto(part[:length])
            if not size:
                raise _damaged(path)
            sha256.update(part[:size])
            length -= size
        if sha256.digest() != digest:
            raise _damaged(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with open(open_regular(path, ANY_SIZE), "rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint: {error.strerror or error}", where=str(path)) from error


def _read_trailer(file: io.BufferedReader, path: Path) -> tuple[int, bytes]:
    """The archive's length and SHA-256 as the trailer says, the length true; the file is at its start afterwards."""
    whole = file.seek(0, os.SEEK_END)
    file.seek(max(0, whole - TRAILER_BYTES))
    trailer = file.read(TRAILER_BYTES)
    file.seek(0)
    if len(trailer) == TRAILER_BYTES and trailer.startswith(MAGIC[:6]) and trailer[6] > MAGIC[6]:
        what = f"the checkpoint is of format {trailer[6]}, and mlcli {__version__} reads no newer than {MAGIC[6]}"
        raise CheckpointError(what, where=str(path), fix="pip install --upgrade mlcli, or use an older checkpoint")
    if len(trailer) < TRAILER_BYTES or not trailer.startswith(MAGIC):
        what = "this is not a whole mlcli checkpoint: its end is missing"
        raise CheckpointError(what, where=str(path), fix="use an older checkpoint")
    length = int.from_bytes(trailer[8:16], "little")
    if length != whole - TRAILER_BYTES:
        raise _damaged(path)
    return length, trailer[16:]


def _damaged(path: Path) -> CheckpointError:
    what = "the checkpoint is damaged: its checksum does not match"
    return CheckpointError(what, where=str(path), fix="use an older checkpoint")


def _refuse_unless_as_written(path: Path) -> None:
    """Raise OutputError if a file just written does not read back as it was written."""
    try:
        verify(path)
    except CheckpointError as error:
        what = f"the checkpoint that was read back differs from what was written: {error.what}"
        raise OutputError(what, where=str(path.parent), fix="check the disk, or choose another folder") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises CheckpointError for a damaged, foreign or unsafe file."""
    archive = read_verified(path)
    refuse_unlike_saved(archive, path)
    try:
        content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the checkpoint holds more than tensors and plain values: {named[1] if named else 'foreign objects'}"
        raise CheckpointError(what, where=str(path), fix=FOREIGN) from error
    except Exception as error:  # a checksum can be right for anything; what torch then raises has many kinds
        if is_out_of_memory(error):
            raise
        what = f"the file is no mlcli checkpoint: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise CheckpointError(what, where=str(path), fix=FOREIGN) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError("the file is no mlcli checkpoint: it holds no model", where=str(path))
    refuse_unlike_plain(content, path)
    for weights in (content["model"], content.get("ema", {})):
        by_name = isinstance(weights, dict) and all(isinstance(name, str) for name in weights)
        if not by_name or not all(isinstance(weight, Tensor) for weight in weights.values()):
            what = "the checkpoint is not as mlcli writes it: not all of its weights are tensors with a name"
            raise CheckpointError(what, where=str(path), fix=FOREIGN)
    return content


def model_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate: the moving average where one was kept, laid over the model's own."""
    weights = checkpoint["model"]
    weights.update(checkpoint.get("ema", {}))  # in place: a copy would lose the versions of layers that torch keeps
    return weights


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.ckpt"


def load_newest(folder: Path) -> tuple[dict[str, Any], Path, dict[Path, str]]:
    """The newest checkpoint that is whole, its path, and what is wrong with each newer one.

    Raises CheckpointError if there is none.
    """
    problems: dict[Path, str] = {}
    for path in by_age(folder):
        try:
            return load_checkpoint(path), path, problems
        except CheckpointError as error:
            problems[path] = error.what
    found = "; ".join(f"{path.name}: {what}" for path, what in problems.items()) or "there is none yet"
    raise CheckpointError(f"no checkpoint to go on from: {found}", where=str(folder), fix="start a new run")


def set_aside(path: Path) -> Path:
    """Take a damaged checkpoint out of the count, so that it is not kept in the place of a good one.

    Returns its new name. Raises OutputError.
    """
    aside = path.with_suffix(".damaged")
    move(path, aside)
    return aside


def prune(folder: Path, keep_last: int) -> None:
    """Delete the oldest numbered checkpoints. Called only after a newer one was verified. Raises OutputError."""
    for path in by_age(folder)[keep_last:]:
        remove(path)
