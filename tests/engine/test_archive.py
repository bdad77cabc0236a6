"""Weight files of strangers: what torch would unpack to more than it is, or claims more than it holds, is refused."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcli.engine.archive import refuse_unless_dense, refuse_unlike_plain, refuse_unlike_saved
from mlcli.errors import CheckpointError

HERE = Path("x.ckpt")
CONTENT = {"model": {"weight": torch.arange(600.0), "bias": torch.zeros(3)}, "step": 7}


def saved(content: Any = CONTENT) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def rezipped(method: int) -> bytes:
    """The same parts as Python's zipfile writes them."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as parts, zipfile.ZipFile(file, "w", method) as out:
        for name in parts.namelist():
            out.writestr(name, parts.read(name))
    return file.getvalue()


def entries(archive: bytes) -> list[int]:
    """Positions of the entries of a directory."""
    with zipfile.ZipFile(io.BytesIO(archive)) as parts:
        at, found = parts.start_dir, []
        for part in parts.infolist():
            found.append(at)
            at += 46 + len(part.filename.encode()) + len(part.extra)
    return found


def changed(archive: bytes, at: int, value: bytes) -> bytes:
    return archive[:at] + value + archive[at + len(value) :]


def bomb_with_broken_extras() -> bytes:
    """What Python's zipfile cannot list, and torch unpacks."""
    archive, directory, start = rezipped(zipfile.ZIP_DEFLATED), b"", entries(rezipped(zipfile.ZIP_DEFLATED))[0]
    for at in entries(archive):
        name, extra = struct.unpack("<HH", archive[at + 28 : at + 32])
        head = changed(archive[at : at + 46], 30, struct.pack("<H", extra + 4))
        directory += head + archive[at + 46 : at + 46 + name] + b"\x99\x99\xff\xff"
    return archive[:start] + directory + changed(archive[-22:], 12, struct.pack("<I", len(directory)))


def same_part_twice() -> bytes:
    """Two names for one part: the sizes in the directory are more than the file has."""
    archive = rezipped(zipfile.ZIP_STORED)
    first, second = entries(archive)[:2]
    return changed(archive, second + 42, archive[first + 42 : first + 46])


FORGED: dict[str, Callable[[], bytes]] = {
    "compressed": lambda: rezipped(zipfile.ZIP_DEFLATED),
    "compressed, and no other reader lists it": bomb_with_broken_extras,
    "compressed, says only the part": lambda: changed(rezipped(zipfile.ZIP_STORED), 8, b"\x08\0"),
    "a version that is not there yet": lambda: changed(saved(), entries(saved())[0] + 6, b"\xff\0"),
    "a name that is no text": lambda: saved().replace(b"data.pkl", b"data.p\xff\xfe"),
    "two names": lambda: changed(saved(), entries(saved())[0] + 46, b"x"),
    "a part twice": same_part_twice,
    "a size beyond the file": lambda: changed(saved(), entries(saved())[1] + 20, struct.pack("<II", 2**31, 2**31)),
    "a directory elsewhere": lambda: changed(saved(), len(saved()) - 50, bytes(4)),
    "a comment": lambda: changed(saved(), len(saved()) - 2, b"\x09\0") + b"a comment",
    "something behind it": lambda: saved() + bytes(30),
    "cut short": lambda: saved()[:-200],
    "ten bytes": lambda: saved()[:10],
}


def test_what_torch_and_others_store_is_taken():
    refuse_unlike_saved(saved(), HERE)
    refuse_unlike_saved(rezipped(zipfile.ZIP_STORED), HERE)
    refuse_unlike_plain(torch.load(io.BytesIO(saved()), weights_only=True), HERE)


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_what_is_not_as_torch_stores_it_is_refused(forge):
    with pytest.raises(CheckpointError, match=r"no archive as torch\.save writes them") as caught:
        refuse_unlike_saved(forge(), HERE)
    assert caught.value.code == 5


def test_of_two_thousand_changed_archives_none_gives_more_than_it_is():
    archive, chance = saved(), random.Random(0)
    begin, taken = entries(archive)[0], 0
    for _ in range(2_000):
        at = chance.randrange(begin, len(archive))
        forged = changed(archive, at, chance.choice([bytes([chance.randrange(256)]), bytes(2), b"\xff\xff\xff\xff"]))
        forged = forged[: len(archive)]
        try:
            refuse_unlike_saved(forged, HERE)
        except CheckpointError:
            continue
        taken += 1
        try:
            content = torch.load(io.BytesIO(forged), weights_only=True)
        except Exception:  # refused by torch, of whatever kind its errors are
            continue
        assert sum(weight.nbytes for weight in content["model"].values()) <= len(forged)
    assert taken > 200  # dates and the like, which nobody looks at


def doubling() -> list[Any]:
    """40 lists that stand for 2^40 values."""
    value: list[Any] = []
    for _ in range(40):
        value = [value, value]
    return value


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    "value",
    [doubling(), endless(), {1, 2}, b"bytes", bytearray(3), torch.float32, {(1, 2): 3}],
    ids=["doubling", "endless", "a set", "bytes", "a bytearray", "a dtype", "a key that is no word"],
)
def test_only_plain_values_of_a_bounded_number_are_taken(value):
    with pytest.raises(CheckpointError):
        refuse_unlike_plain({"model": {}, "more": value}, HERE)


def test_a_value_that_occurs_twice_is_taken():
    betas = [0.9, 0.999]
    refuse_unlike_plain({"model": {}, "groups": [{"betas": betas}, {"betas": betas}]}, HERE)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.zeros(2, 2).to_sparse(),
        torch.empty(2, device="meta"),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1), (2**40,)),
    ],
    ids=["expanded", "sparse", "without numbers", "sparse and huge"],
)
def test_tensors_hold_what_they_claim(tensor):
    with pytest.raises(CheckpointError, match="does not hold all its numbers"):
        refuse_unless_dense("'weight'", tensor, HERE)
    refuse_unless_dense("'weight'", torch.zeros(4, 4).T[:2], HERE)
