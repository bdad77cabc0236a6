"""What is refused in weight files of others: archives that grow while they are read, content that grows in use.

torch.load runs nothing of such a file (`weights_only`), but it unpacks and allocates whatever the file says.
"""

import itertools
import mmap
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcli.errors import CheckpointError

Bytes = bytes | mmap.mmap
PLAIN = (int, float, str, bool, type(None))
FOREIGN = "it was not written by mlcli; do not open it"
MOST_VALUES, DEEPEST = 10**7, 100
"""Of the lists and dicts in a checkpoint. A genuine one has some thousand values, three for each weight."""
# The records of a zip file, PKWARE's APPNOTE 6.3.
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x2041  # flags
_NEWEST = 63  # of the versions of the format, 6.3


def refuse_unlike_saved(archive: Bytes, path: Path) -> None:
    """Raise CheckpointError unless a zip file is as torch.save writes them: all of it stored, in its place, once.

    torch.load unpacked 2 MB of zeros to 4 GB. It reads zip files that other readers refuse and the other way round, so
    none is asked: what every reader must find is looked for where the format puts it (PKWARE's APPNOTE 6.3), and with
    it the sizes of all parts, which together are no larger than the file. What torch takes for no zip file is passed:
    its older formats know no compression.
    """
    if archive[:4] != b"PK\3\4":
        return
    try:
        first, size, count = _directory(archive)
        parts, at = [(first, first)], first
        for _ in range(count):
            part, at = _part(archive, at)
            parts.append(part)
        parts.sort()
        if at != first + size or any(end > start for (_, end), (start, _) in itertools.pairwise(parts)):
            raise ValueError("its parts overlap")
    except (ValueError, struct.error) as error:
        reason = "it is cut short" if isinstance(error, struct.error) else error
        what = f"the file is no archive as torch.save writes them: {reason}; read, it could fill the memory"
        raise CheckpointError(what, where=str(path), fix=FOREIGN) from error


def _directory(archive: Bytes) -> tuple[int, int, int]:
    """Position, bytes and entries of a zip file's directory. Raises ValueError or struct.error."""
    end = len(archive) - _END.size
    magic, disk, first, here, count, size, at, comment = _END.unpack_from(archive, max(end, 0))
    if magic != b"PK\5\6" or comment:
        raise ValueError("it does not end with a directory")
    if archive[max(end - _END64_LOCATOR.size, 0) :][:4] == b"PK\6\7":  # beyond 4 GB, and by torch always
        _, disk64, at64, disks = _END64_LOCATOR.unpack_from(archive, end - _END64_LOCATOR.size)
        end -= _END64_LOCATOR.size + _END64.size
        magic, length, _, _, disk, first, here, count64, size64, first64 = _END64.unpack_from(archive, max(end, 0))
        if (magic, length, disk64, at64, disks) != (b"PK\6\6", _END64.size - 12, 0, end, 1):
            raise ValueError("its directory is not where it says")
        for narrow, wide, most in ((count, count64, 2**16 - 1), (size, size64, 2**32 - 1), (at, first64, 2**32 - 1)):
            if narrow not in (wide, most):
                raise ValueError("its two directories differ")
        count, size, at = count64, size64, first64
    if disk or first or here != count or at + size != end or count * _ENTRY.size > size:
        raise ValueError("its directory is not where it says")
    return at, size, count


def _part(archive: Bytes, at: int) -> tuple[tuple[int, int], int]:
    """Begin and end of what the directory's entry at a position stands for, and where the next entry is.

    Raises ValueError or struct.error.
    """
    magic, _, version, flags, method, *_, packed, size, name_bytes, extra_bytes, comment_bytes, disk, _, _, start = (
        _ENTRY.unpack_from(archive, at)
    )
    extra_at = at + _ENTRY.size + name_bytes
    if magic != b"PK\1\2" or version > _NEWEST or disk or comment_bytes:
        raise ValueError("an entry of its directory is broken")
    wide = [value for value in (size, packed, start) if value == 2**32 - 1]
    if wide:
        kind, _ = struct.unpack_from("<HH", archive, extra_at)
        if kind != 1 or extra_bytes < 4 + 8 * len(wide):
            raise ValueError("the size of a part is missing")
        values = iter(struct.unpack_from(f"<{len(wide)}Q", archive, extra_at + 4))
        size, packed, start = (next(values) if value == 2**32 - 1 else value for value in (size, packed, start))
    name = archive[extra_at - name_bytes : extra_at]
    here, _, here_flags, here_method, *_, here_name_bytes, here_extra = _LOCAL.unpack_from(archive, start)
    if method or here_method or packed != size:
        raise ValueError("it is compressed, which torch.save never does")
    if (flags | here_flags) & _ENCRYPTED or here != b"PK\3\4":
        raise ValueError("a part of it is encrypted or not where its directory says")
    if here_name_bytes != name_bytes or archive[start + _LOCAL.size : start + _LOCAL.size + name_bytes] != name:
        raise ValueError("a part of it has two names")
    try:
        name.decode()
    except UnicodeDecodeError:
        raise ValueError("a name in it is no text") from None
    end = start + _LOCAL.size + here_name_bytes + here_extra + size
    return (start, end), extra_at + extra_bytes


def refuse_unlike_plain(content: Any, path: Path) -> None:
    """Raise CheckpointError for what `save_checkpoint` would not have written, or what grows when it is used.

    A pickle may hold one list many times over, and a tensor may claim more numbers than it has.
    """
    counts: dict[int, int] = {}

    def count(value: Any, depth: int) -> int:
        """The values in it, those of parts that occur twice counted twice."""
        if isinstance(value, Tensor):
            refuse_unless_dense("a tensor in it", value, path)
            return 1
        if not isinstance(value, dict | list | tuple):
            _refuse_unless_plain(value, path)
            return 1
        if id(value) not in counts:
            if depth > DEEPEST:
                raise CheckpointError(f"it is nested more than {DEEPEST} deep", where=str(path), fix=FOREIGN)
            if isinstance(value, dict):
                for key in value:
                    _refuse_unless_plain(key, path)
            parts = value.values() if isinstance(value, dict) else value
            counts[id(value)] = 1 + sum(count(part, depth + 1) for part in parts)
        if counts[id(value)] > MOST_VALUES:
            raise CheckpointError(f"it holds more than {MOST_VALUES:,} values", where=str(path), fix=FOREIGN)
        return counts[id(value)]

    count(content, 0)


def _refuse_unless_plain(value: Any, path: Path) -> None:
    if type(value) not in PLAIN:
        what = f"the checkpoint holds more than tensors and plain values: {type(value).__name__}"
        raise CheckpointError(what, where=str(path), fix=FOREIGN)


def refuse_unless_dense(name: str, tensor: Tensor, path: Path) -> None:
    """Raise CheckpointError for a tensor that does not hold every number it claims: a sparse or expanded one, or one
    without any (`meta`)."""
    dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = f"{tensor.layout}, {tensor.device.type}, {tuple(tensor.shape)}"
        raise CheckpointError(f"{name} does not hold all its numbers ({kind})", where=str(path), fix=FOREIGN)
