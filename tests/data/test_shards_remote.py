"""Shards behind an address: a server on this machine that sends ranges, one that does not, and one that fails."""

import contextlib
import http.server
import os
import re
import socket
import sys
import threading
from functools import partial

import numpy as np
import pytest
import torch

from mlcli.data.augmentations import RandomResizedCrop
from mlcli.data.config import ImageShards
from mlcli.data.feed import SampleFeed
from mlcli.data.sources import remote_storage
from mlcli.data.sources.build import build_source
from mlcli.data.sources.shards import read_shards
from mlcli.engine.settings import Loader, Train
from mlcli.errors import DataError, UserError
from tests.data.shard_files import labelled, write_tar

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; `ranges` says whether parts are sent, `failing` how many requests are answered by 503 yet.

    odd: instead of sending a part it does "cut" it off, sends as much from the "start" of the file, or that status.
    """

    ranges, failing, odd = True, 0, ""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's word that it has the headers

    def do_GET(self) -> None:
        path = self.translate_path(self.path)
        if type(self).failing:
            type(self).failing -= 1
            self.send_error(503)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if not asked or not self.ranges:
            super().do_GET()
            return
        with open(path, "rb") as file:
            content = file.read()
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        if self.odd.isdecimal() or first > last:
            self.send_error(int(self.odd or 416))
            return
        if self.odd == "start":
            first, last = 0, last - first
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Last-Modified", self.date_time_string(os.stat(path).st_mtime))
        self.end_headers()
        if self.odd == "cut":
            self.wfile.write(content[first:last])
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(content[first : last + 1])

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


class Serving(http.server.ThreadingHTTPServer):
    """Takes as many connections at once as real servers do; Python's own five are lost in a crowd, and waited for."""

    request_queue_size = 128
    daemon_threads = True


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder of shards, the class of its server, and its address with a user, a password and a key in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_storage, "PAUSE_S", 0.01)
    write_tar(tmp_path / "s" / "train-000.tar", labelled(0, 10))
    write_tar(tmp_path / "s" / "train-001.tar", labelled(10, 60))
    write_tar(tmp_path / "s" / "val" / "0.tar", labelled(80, 6))
    kind = type("Own", (Server,), {})
    server = Serving(("127.0.0.1", 0), partial(kind, directory=str(tmp_path / "s")))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield tmp_path / "s", kind, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def source_of(root, **keys):
    return build_source(ImageShards(name="shards", root=root, test=0, **keys))


def test_the_same_pictures_as_from_the_folder(served):
    folder, _, address = served
    here = source_of(folder)
    there = source_of(address)
    assert there.info == here.info
    for split, part in here.splits.items():
        rows = np.arange(len(part))[::-1]
        other = there.splits[split]
        assert (other.read(rows) == part.read(rows)).all()
        assert (other.sizes(rows) == part.sizes(rows)).all()
        assert other.relative(3) == part.relative(3)
    named = {"train": "train-{000..001}.tar", "val": "val/0.tar"}  # nothing has to be listed
    again = source_of(f"{address}?key=secret", shards=named)
    assert len(again.splits["train"]) == 70
    assert again.splits["train"].name(0) == f"{address}/train-000.tar/0000.png"


def test_worker_processes_have_connections_of_their_own(served):
    folder, _, address = served
    found = []
    for root, workers in ((folder, 0), (address, 2)):
        loader, train = Loader(cache="none", workers=workers, timeout=30), Train(batch_size=8)
        crop = (RandomResizedCrop(name="random_resized_crop"),)
        feed = SampleFeed(source_of(root), crop, train=train, loader=loader, device=torch.device("cpu"))
        with contextlib.closing(feed):
            stream = feed.train_batches(0)
            found.append(torch.cat([next(stream).inputs for _ in range(5)]))
    assert torch.equal(*found)


def test_a_server_without_ranges_is_refused(served):
    _, kind, address = served
    kind.ranges = False
    (finding,) = read_shards(address).findings
    assert "parts of files (ranges)" in finding.text
    assert finding.places == (f"{address}/train-000.tar",)


def test_what_fails_is_asked_again_and_told_without_secrets(served, capsys):
    _, kind, address = served
    secret = address.replace("http://", "http://user:secret@") + "?key=secret"
    train = source_of(secret, shards={"train": "train-000.tar"}, val=0).splits["train"]
    kind.failing = 2
    train.read(np.arange(1))
    told = capsys.readouterr().err
    assert told.count("asked again") == 2
    kind.failing = 100
    with pytest.raises(DataError, match="cannot be read over the network") as error:
        train.read(np.arange(4))
    assert error.value.where == f"{address}/train-000.tar"
    assert "secret" not in told + str(error.value) + capsys.readouterr().err


def test_nobody_answers_and_nothing_is_there(served, capsys):
    _, _, address = served
    for nowhere in ("http://127.0.0.1:9/x", "http://127.0.0.1:99999/x"):
        (finding,) = read_shards(nowhere).findings
        assert "cannot be read over the network" in finding.text
    (finding,) = read_shards(address, shards={"train": "none.tar"}).findings
    assert "no such file" in finding.text


@pytest.mark.parametrize(
    ("odd", "told", "attempts"),
    [
        ("cut", "cannot be read over the network: ClientPayloadError", 4),
        ("start", r"does not send parts of files \(ranges\)", 1),
        ("200", r"does not send parts of files \(ranges\)", 1),
        ("403", "status 403", 1),
        ("404", "there is no such file", 1),
        ("416", "has been changed, replaced or deleted", 1),
        ("429", "status 429", 4),
    ],
)
def test_an_answer_that_is_not_the_part_that_was_asked_for(served, capsys, odd, told, attempts):
    """It begins once the index is made, as behind a server that is replaced."""
    folder, kind, address = served
    train = source_of(address).splits["train"]
    kind.odd = odd
    for rows in (np.array([5]), np.arange(20, 24)):  # one at a time and several at once are asked for in two ways
        with pytest.raises(DataError, match=told) as error:
            train.read(rows)
        assert error.value.where.startswith(f"{address}/train-00")
        assert capsys.readouterr().err.count("asked again") == attempts - 1
    kind.odd = ""
    assert (train.read(np.arange(70)) == source_of(folder).splits["train"].read(np.arange(70))).all()


@pytest.mark.parametrize("how", ["shorter", "as long"])
def test_a_shard_that_changes_on_the_server(served, how):
    folder, _, address = served
    train = source_of(address).splits["train"]
    path = folder / "train-001.tar"
    if how == "shorter":
        write_tar(path, labelled(10, 5))
    else:
        content, before = path.read_bytes(), path.stat().st_mtime
        path.write_bytes(content[:5000] + b"x" + content[5001:])
        os.utime(path, (0, before - 3600))  # HTTP tells whole seconds
    assert len(train.read(np.arange(5))) == 5  # of the other shard
    for rows in ([65], [*range(60, 70)]):
        with pytest.raises(DataError, match="has been changed, replaced or deleted since its index was made"):
            train.read(np.array(rows))


@pytest.mark.parametrize(
    ("address", "missing", "fix"),
    [
        ("https://host/x", "fsspec", "pip install 'mlcli[remote]'"),
        ("https://host/x", "aiohttp", "pip install 'mlcli[remote]'"),
        ("s3://bucket/x", "s3fs", "pip install s3fs for s3://"),
        ("gs://bucket/x", "gcsfs", "gcsfs for gs://"),
    ],
)
def test_a_package_that_is_not_installed_is_told_with_the_command(monkeypatch, address, missing, fix):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError) as error:
        source_of(address)
    assert fix in error.value.fix
