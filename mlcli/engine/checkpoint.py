"""Checkpoints: one file each, written whole or not at all, checksummed, and read without ever running foreign code.

A file is a torch archive of tensors and plain values, then a trailer of 48 bytes: 8 of magic, the archive's length (8,
little endian) and its SHA-256 (32). `torch.load` itself does not notice a flipped bit (pytorch#28858).
"""

import hashlib
import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcli.engine.files import write_atomically
from mlcli.errors import CheckpointError

MAGIC = b"MLCLI\x00\x01\n"
TRAILER_BYTES = len(MAGIC) + 8 + 32
PLAIN = (int, float, str, bool, type(None))


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint and read its bytes back. Raises OutputError if the disk will not have it.

    `content`: tensors, numbers, strings, None, and lists or dicts of them, so that `weights_only` loading can read it.
    """
    _assert_plain(content)
    buffer = io.BytesIO()  # to memory first: straight to a full disk torch.save loses the reason (pytorch#156955)
    torch.save(content, buffer)
    archive = buffer.getbuffer()
    digest = hashlib.sha256(archive).digest()
    write_atomically(path, b"".join((archive, MAGIC, len(archive).to_bytes(8, "little"), digest)))
    read_verified(path)


def _assert_plain(value: Any, at: str = "checkpoint") -> None:
    """Our own promise: whatever is saved can be loaded again. A NumPy number or a version object could not be."""
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
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint: {error.strerror or error}", where=str(path)) from error
    archive, trailer = raw[:-TRAILER_BYTES], raw[-TRAILER_BYTES:]
    if not trailer.startswith(MAGIC):
        raise CheckpointError(
            "this is not a whole mlcli checkpoint: its end is missing", where=str(path), fix="use an older checkpoint"
        )
    length, digest = int.from_bytes(trailer[8:16], "little"), trailer[16:]
    if length != len(archive) or hashlib.sha256(archive).digest() != digest:
        raise CheckpointError("the checkpoint is damaged: its checksum does not match", where=str(path),
                              fix="use an older checkpoint")  # fmt: skip
    return archive


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises CheckpointError for a damaged, foreign or unsafe file."""
    archive = read_verified(path)
    try:
        content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the checkpoint holds more than tensors and plain values: {named[1] if named else 'foreign objects'}"
        raise CheckpointError(what, where=str(path),
                              fix="it was not written by mlcli; do not open it") from error  # fmt: skip
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError("the file is no mlcli checkpoint: it holds no model", where=str(path))
    return content


def model_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to evaluate: the moving average where one was kept, laid over the model's own."""
    weights = checkpoint["model"]
    weights.update(checkpoint.get("ema", {}))  # in place: a copy would lose the versions of layers that torch keeps
    return weights


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.ckpt"


def by_age(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def load_newest(folder: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """The newest checkpoint that is whole, its path, and what was wrong with newer ones.

    Raises CheckpointError if there is none.
    """
    problems: list[str] = []
    for path in by_age(folder):
        try:
            return load_checkpoint(path), path, problems
        except CheckpointError as error:
            problems.append(f"{path.name}: {error.what}")
    found = "; ".join(problems) or "there is none yet"
    raise CheckpointError(f"no checkpoint to go on from: {found}", where=str(folder), fix="start a new run")


def prune(folder: Path, keep_last: int) -> None:
    """Delete the oldest numbered checkpoints. Called only after a newer one was verified."""
    for path in by_age(folder)[keep_last:]:
        path.unlink(missing_ok=True)
