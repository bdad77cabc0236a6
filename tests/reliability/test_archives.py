"""Archives with `../`, links, devices and bombs in the place of a data set: refused, nothing outside of its folder."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from mlcli.data.config import TorchvisionSet
from mlcli.data.sources import torchvision_sets as archives
from mlcli.data.sources.build import build_source
from mlcli.errors import DataError
from tests.reliability.hostile_files import KILL_CANARY, Call

CAP = 2 * 2**20
"""Of unpacked bytes, in the place of a gigabyte, so that a bomb is made in no time."""
BOMB = 4 * CAP
CIFAR = datasets.CIFAR10
FOLDER = CIFAR.base_folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The folder of data, with a canary and a secret outside of it; nobody listens where downloads come from."""
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(archives, "MOST_BYTES", CAP)
    for kind in (datasets.CIFAR10, datasets.EMNIST):
        monkeypatch.setattr(kind, "url", "http://127.0.0.1:9/archive")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path / "data"


def build(name: Any, place: Path) -> Any:
    return build_source(TorchvisionSet(name=name, root=place, download=True, val=0))


def refused(name: str, place: Path, words: str = "") -> None:
    """Asserts what every attack must come to."""
    before = sorted(os.listdir(place.parent))
    with pytest.raises(DataError) as caught:
        build(name, place)
    assert words in str(caught.value)
    assert caught.value.code == 4
    assert sorted(os.listdir(place.parent)) == before
    assert Path("canary").read_text() == "alive"
    below = list(place.rglob("*"))
    assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in below)
    assert not any(path.name.endswith(".part") for path in below)
    assert not any(path.is_file() and path.stat().st_nlink > 1 for path in below)
    assert sum(path.stat().st_size for path in below) < 2 * CAP


# --- tar -------------------------------------------------------------------------------------------------------------


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size, made.mode = kind, link, len(content), 0o644
    return made, content


def honest() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The members that the archive of CIFAR-10 has, of a sample a class."""
    batch = pickle.dumps({"data": np.zeros((10, 3072), np.uint8), "labels": list(range(10))})
    for name, _ in CIFAR.train_list + CIFAR.test_list:
        yield entry(f"{FOLDER}/{name}", content=batch)
    meta = pickle.dumps({CIFAR.meta["key"]: [f"class {number}" for number in range(10)]})
    yield entry(f"{FOLDER}/{CIFAR.meta['filename']}", content=meta)


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        for made, content in members:
            archive.addfile(made, io.BytesIO(content))
    return file.getvalue()


FIRST = f"{FOLDER}/data_batch_1"
TARS: dict[str, tuple[Callable[[], list[tuple[tarfile.TarInfo, bytes]]], str]] = {
    "a file above": (lambda: [entry("../canary", content=b"dead")], "outside of its folder"),
    "a file above, from below": (lambda: [entry(f"{FOLDER}/../../canary", content=b"dead")], "outside of its folder"),
    "an absolute path": (lambda: [entry(os.path.abspath("canary"), content=b"dead")], "outside of its folder"),
    "a drive letter": (lambda: [entry("C:\\canary", content=b"dead")], "outside of its folder"),
    "a symlink and a file through it": (
        lambda: [entry("way", tarfile.SYMTYPE, ".."), entry("way/canary", content=b"dead")],
        "a link or a device",
    ),
    "a symlink for a batch": (lambda: [entry(FIRST, tarfile.SYMTYPE, "../../secret")], "a link or a device"),
    "a hard link to a secret": (lambda: [entry("copy", tarfile.LNKTYPE, "../secret")], "a link or a device"),
    "a device": (lambda: [entry("zero", tarfile.CHRTYPE)], "a link or a device"),
    "a pipe that nobody fills": (lambda: [entry(FIRST, tarfile.FIFOTYPE)], "a link or a device"),
    "a bomb": (lambda: [entry(FIRST, content=bytes(BOMB))], "GiB unpacked"),
    "a bomb beside the batches": (lambda: [entry("zeros", content=bytes(BOMB))], "GiB unpacked"),
    "very many members": (lambda: [entry(f"empty/{number}") for number in range(1_200)], "comes after 1,000 others"),
}


@pytest.mark.parametrize(("members", "words"), TARS.values(), ids=TARS)
def test_a_hostile_tar_is_refused_even_with_the_right_checksum(place, monkeypatch, members, words):
    """The published MD5 keeps such files away; were that broken, unpacking would still harm nobody."""
    content = tar(*members(), *honest())
    (place / CIFAR.filename).write_bytes(content)
    monkeypatch.setattr(CIFAR, "tgz_md5", hashlib.md5(content).hexdigest())
    refused("cifar10", place, words)


@pytest.mark.parametrize("members", [members for members, _ in TARS.values()], ids=TARS)
def test_an_archive_with_another_checksum_is_not_even_opened(place, members):
    (place / CIFAR.filename).write_bytes(tar(*members(), *honest()))
    refused("cifar10", place, "could not be downloaded")
    assert not (place / FOLDER).exists()


def test_a_pickled_batch_that_runs_a_program_is_never_loaded(place, monkeypatch):
    """An archive whose sum is right, one of whose batches is not as published."""
    members = list(honest())
    members[0] = entry(FIRST, content=pickle.dumps({"data": Call(os.system, KILL_CANARY), "labels": [0]}))
    content = tar(*members)
    (place / CIFAR.filename).write_bytes(content)
    monkeypatch.setattr(CIFAR, "tgz_md5", hashlib.md5(content).hexdigest())
    refused("cifar10", place, "damaged or not the published ones")


def test_an_archive_that_lacks_a_batch_is_named(place, monkeypatch):
    content = tar(*list(honest())[1:])
    (place / CIFAR.filename).write_bytes(content)
    monkeypatch.setattr(CIFAR, "tgz_md5", hashlib.md5(content).hexdigest())
    refused("cifar10", place, "does not hold cifar-10-batches-py/data_batch_1")


# --- zip and gz ------------------------------------------------------------------------------------------------------

EMNIST = "emnist-balanced-train-images-idx3-ubyte"


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def zip_link(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, 0o120777 << 16
    return made


ZIPS: dict[str, tuple[Callable[[], list[tuple[str | zipfile.ZipInfo, bytes]]], str]] = {
    "a file above": (lambda: [("../../canary", b"dead")], "outside of its folder"),
    "an absolute path": (lambda: [("/tmp/mlcli-canary", b"dead")], "outside of its folder"),
    "a link": (lambda: [(zip_link(f"gzip/{EMNIST}.gz"), b"../../../secret")], "a link or a device"),
    "a bomb": (lambda: [(f"gzip/{EMNIST}.gz", gzip.compress(bytes(BOMB), 1))], "GiB unpacked"),
    "a bomb of the outer kind": (lambda: [("gzip/zeros", bytes(BOMB))], "GiB unpacked"),
}


@pytest.mark.parametrize(("members", "words"), ZIPS.values(), ids=ZIPS)
def test_a_hostile_zip_is_refused_even_with_the_right_checksum(place, monkeypatch, members, words):
    content = zipped(*members())
    (place / "EMNIST/raw").mkdir(parents=True)
    (place / "EMNIST/raw/gzip.zip").write_bytes(content)
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(content).hexdigest())
    refused("emnist", place, words)


def test_a_compressed_file_that_is_a_bomb_is_refused(place):
    """MNIST's files may be put there by hand, so no checksum stands before them."""
    raw = place / "MNIST/raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(BOMB), 1))
    refused("mnist", place, "GiB unpacked")


# --- and what is right ------------------------------------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    """MNIST's format, compressed as published."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return gzip.compress(head + values.astype(np.uint8).tobytes())


def digits(classes: int) -> dict[str, bytes]:
    images, labels = np.zeros((classes * 2, 28, 28)), np.arange(classes * 2) % classes
    return {"images-idx3-ubyte.gz": idx(images), "labels-idx1-ubyte.gz": idx(labels)}


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[Path, str]]:
    """A folder that is served on this machine, and its address."""
    published = tmp_path / "published"
    published.mkdir()
    handler = functools.partial(Quiet, directory=published)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield published, f"http://127.0.0.1:{serving.server_port}/"
        serving.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_honest_archives_are_fetched_and_read(place, server, monkeypatch):
    published, address = server
    monkeypatch.setattr(archives, "MOST_BYTES", 2**30)
    monkeypatch.setattr(CIFAR, "url", f"{address}cifar")
    monkeypatch.setattr(datasets.EMNIST, "url", f"{address}emnist")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", address])

    (published / "cifar").write_bytes(tar(*honest()))
    monkeypatch.setattr(CIFAR, "tgz_md5", hashlib.md5((published / "cifar").read_bytes()).hexdigest())
    sums = {made.name.rpartition("/")[2]: hashlib.md5(content).hexdigest() for made, content in honest()}
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR, table, [[name, sums[name]] for name, _ in getattr(CIFAR, table)])
    monkeypatch.setattr(CIFAR, "meta", {**CIFAR.meta, "md5": sums[CIFAR.meta["filename"]]})
    assert len(build("cifar10", place).splits["train"]) == 50

    parts = {
        f"gzip/emnist-balanced-{split}-{end}": content
        for split in ("train", "test")
        for end, content in digits(47).items()
    }
    (published / "emnist").write_bytes(zipped(*parts.items()))
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5((published / "emnist").read_bytes()).hexdigest())
    assert len(build("emnist", place).splits["test"]) == 94

    files = {f"{split}-{end}": content for split in ("train", "t10k") for end, content in digits(10).items()}
    for name, content in files.items():
        (published / name).write_bytes(content)
    published_sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", published_sums)
    assert len(build("mnist", place).splits["train"]) == 20

    monkeypatch.setattr(datasets.MNIST, "resources", [(name, "0" * 32) for name, _ in published_sums])
    for path in (place / "MNIST/raw").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="MNIST could not be downloaded"):
        build("mnist", place)
