"""Weight files that strangers might hand on: trusted, each would run a program, fill the memory, or end the process."""

import functools
import hashlib
import io
import json
import os
import pickle
import runpy
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlcli.engine.checkpoint import MAGIC

KILL_CANARY = "echo dead > canary"
KILL_IN_PYTHON = "open('canary', 'w').write('dead')"


class Call:
    """Unpickled without care, it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


@dataclass(frozen=True)
class Hostile:
    """A file, made where its bytes are asked for; `named` is what a refusal must name, nothing where it is merely
    broken."""

    name: str
    make: Callable[[], bytes]
    named: str = ""
    ending: str = ".pth"

    @property
    def content(self) -> bytes:
        return self.make()


def sealed(archive: bytes) -> bytes:
    """As an mlcli checkpoint, its checksum right: anyone can compute one."""
    return archive + MAGIC + len(archive).to_bytes(8, "little") + hashlib.sha256(archive).digest()


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def weights() -> dict[str, Any]:
    """What a file of weights usually is."""
    return {"model": OrderedDict(weight=torch.ones(2, 2)), "config": {}, "facts": {}}


def with_call(function: Callable[..., Any], *arguments: Any) -> bytes:
    """Weights, and a call among them."""
    return saved(weights() | {"extra": Call(function, *arguments)})


def programs() -> Iterator[Hostile]:
    """Pickles that call something; each is named by what it would call."""
    inner = pickle.dumps(Call(os.system, KILL_CANARY))
    yield Hostile("os.system", lambda: with_call(os.system, KILL_CANARY), "posix.system")
    yield Hostile("eval", lambda: with_call(eval, KILL_IN_PYTHON), "eval")
    yield Hostile("exec", lambda: with_call(exec, KILL_IN_PYTHON), "exec")
    yield Hostile("a process", lambda: with_call(subprocess.check_call, ["sh", "-c", KILL_CANARY]), "check_call")
    yield Hostile("a module", lambda: with_call(runpy.run_path, "evil.py"), "runpy.run_path")
    yield Hostile("pickle in a pickle", lambda: with_call(pickle.loads, inner), "pickle.loads")
    yield Hostile("torch.load", lambda: with_call(torch.load, "inner.pth", None, None), "torch.serialization.load")
    yield Hostile("torch's own loader", lambda: with_call(torch.storage._load_from_bytes, inner), "_load_from_bytes")
    yield Hostile(
        "a function for later", lambda: with_call(functools.partial, os.system, KILL_CANARY), "functools.partial"
    )
    yield Hostile("an attribute", lambda: with_call(getattr, "text", "format"), "getattr")
    array = np.array([Call(os.system, KILL_CANARY)])
    yield Hostile("an array of objects", lambda: saved(weights() | {"extra": array}), "numpy")
    yield Hostile("a whole model", lambda: saved({"model": torch.nn.Linear(2, 2)}), "torch.nn.modules.linear.Linear")
    deep: Any = Call(os.system, KILL_CANARY)
    for _ in range(30):
        deep = {"state": [deep]}
    yield Hostile("deep in the optimizer", lambda: saved(weights() | {"optimizer": deep}), "posix.system")
    call = Call(os.system, KILL_CANARY)
    yield Hostile("the format of 2018", lambda: saved(call, _use_new_zipfile_serialization=False), "posix.system")
    yield Hostile("a storage's type", lambda: zipped({"data.pkl": _call_as_storage_type(), "data/0": bytes(16)}))
    yield Hostile(
        "a newer protocol", lambda: zipped({"data.pkl": pickle.dumps(Call(os.system, KILL_CANARY), protocol=4)})
    )
    good, evil = _member(saved({}), "data.pkl"), pickle.dumps(Call(os.system, KILL_CANARY), protocol=2)
    yield Hostile("a second pickle of the same name", lambda: zipped({"data.pkl": good}, ("data.pkl", evil)))
    yield Hostile("a first pickle of the same name", lambda: zipped({"data.pkl": evil}, ("data.pkl", good)))
    yield Hostile("a pickle alone", lambda: pickle.dumps(call))
    yield Hostile("the format of 2016", _tar_of_2016)


def broken() -> Iterator[Hostile]:
    """Files that ask for more memory than there is, or are not what they say."""
    yield Hostile("a compressed bomb", _compressed_bomb, "compressed")
    yield Hostile("a tensor beyond its storage", lambda: zipped({"data.pkl": _tensor_of(2**40), "data/0": bytes(16)}))
    yield Hostile("TorchScript", _torch_script)
    yield Hostile("text", lambda: b"import os; os.system('echo dead > canary')\n" * 50)
    yield Hostile("nothing", lambda: b"")


def safetensors() -> Iterator[Hostile]:
    """The format made against all this, spoiled."""
    yield Hostile("a pickle", lambda: pickle.dumps(Call(os.system, KILL_CANARY)), ending=".safetensors")
    yield Hostile("a header of 2^60 bytes", lambda: struct.pack("<Q", 2**60) + b"{}", ending=".safetensors")
    yield Hostile("a header of 90 MB", lambda: _headed(b'{"a":' + b" " * 90_000_000), ending=".safetensors")
    yield Hostile("a deep header", lambda: _headed(b'{"a":' * 100_000), ending=".safetensors")
    for name, tensor in {
        "bytes beyond the file": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**50]},
        "a shape that overflows": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        "bytes that run backwards": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        "a dtype of its own": {"dtype": "os.system", "shape": [2], "data_offsets": [0, 8]},
    }.items():
        described = json.dumps({"a": tensor}).encode()
        yield Hostile(name, functools.partial(_headed, described, bytes(8)), ending=".safetensors")


def zipped(members: dict[str, bytes], *more: tuple[str, bytes]) -> bytes:
    """An archive as torch.save makes one; `more` may have names that are taken."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of a name given twice
        for name, content in [("version", b"3\n"), ("byteorder", b"little"), *members.items(), *more]:
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def _member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return file.read(f"archive/{name}")


def _call_as_storage_type() -> bytes:
    """A tensor whose storage is of the type `posix.system`: torch calls it to make one."""
    return _tensor_of(4).replace(b"ctorch\nFloatStorage\n", b"cposix\nsystem\n")


def _tensor_of(count: int) -> bytes:
    """The pickle of four floats, claiming to be `count`."""
    pickled = _member(saved({"model": {"weight": torch.ones(4)}}), "data.pkl")
    four = pickle.dumps((4,), protocol=2)[2:4]  # the opcode and byte of a 4
    assert pickled.count(four) >= 2
    wanted = pickle.dumps(count, protocol=2)[2:-1]
    return pickled.replace(four, wanted) if count != 4 else pickled


def _compressed_bomb() -> bytes:
    """4 MB of weights that take 4 GB to read."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in {"version": b"3\n", "byteorder": b"little", "data.pkl": _tensor_of(2**27)}.items():
            archive.writestr(f"archive/{name}", content)
        archive.writestr("archive/data/0", bytes(2**29))
    return file.getvalue()


def _torch_script() -> bytes:
    """A program by design: torch.jit.save's archive, as far as torch.load looks at it."""
    return zipped({"data.pkl": b"\x80\x02}q\x00.", "constants.pkl": b"\x80\x02).", "code/__torch__.py": b"pass\n"})


def _tar_of_2016() -> bytes:
    file = io.BytesIO()
    call = pickle.dumps(Call(os.system, KILL_CANARY), protocol=2)
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(call)
            archive.addfile(entry, io.BytesIO(call))
    return file.getvalue()


def _headed(header: bytes, tensors: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors
