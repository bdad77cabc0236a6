"""A checkpoint is whole or refused; loading one never runs code; a damaged newest one does not lose the run."""

import hashlib
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcli import files
from mlcli.engine.checkpoint import (
    MAGIC,
    by_age,
    checkpoint_path,
    load_checkpoint,
    load_newest,
    model_weights,
    prune,
    save_checkpoint,
    set_aside,
    verify,
)
from mlcli.errors import CheckpointError, ExitCode, OutputError
from tests.engine.rig import archive

CONTENT = {"model": {"w": torch.arange(200.0)}, "step": 3, "config": {"a": [1, 2.5, "x", None, True]}}


@pytest.fixture
def saved(tmp_path) -> Path:
    path = tmp_path / "step-00000003.ckpt"
    save_checkpoint(path, CONTENT)
    return path


def test_what_is_loaded_is_what_was_saved(saved):
    loaded = load_checkpoint(saved)
    assert torch.equal(loaded["model"]["w"], CONTENT["model"]["w"])
    assert loaded["config"] == CONTENT["config"]
    assert os.listdir(saved.parent) == [saved.name]


def test_any_flipped_bit_is_noticed(saved):
    good = saved.read_bytes()
    chooser = random.Random(0)
    for _ in range(200):
        bad = bytearray(good)
        bad[chooser.randrange(len(bad))] ^= 1 << chooser.randrange(8)
        saved.write_bytes(bad)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(saved)
        assert str(saved) in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 47, 48, 49, 500, -1, -48])
def test_any_truncation_is_noticed(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(CheckpointError):
        load_checkpoint(saved)


def test_resuming_falls_back_to_the_newest_good_one_and_names_the_bad(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(checkpoint_path(tmp_path, step), {**CONTENT, "step": step})
    checkpoint_path(tmp_path, 3).write_bytes(b"")
    content, path, problems = load_newest(tmp_path)
    assert (content["step"], path.name) == (2, "step-00000002.ckpt")
    assert list(problems) == [checkpoint_path(tmp_path, 3)]


def test_no_checkpoint_at_all_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is none yet"):
        load_newest(tmp_path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_a_pickled_payload_is_refused_without_running(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    body = archive({"model": {}, "evil": Payload(canary)})
    path.write_bytes(body + MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest())
    with pytest.raises(CheckpointError, match=r"more than tensors and plain values: \\S+touch|getattr") as caught:
        load_checkpoint(path)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))  # the payload does work where nobody is careful
    assert canary.exists()


@pytest.mark.parametrize("value", [np.float64(1), torch.__version__, {1, 2}], ids=["numpy", "version", "set"])
def test_what_could_not_be_loaded_again_is_never_saved(tmp_path, value):
    with pytest.raises(AssertionError, match=r"checkpoint\.config\.a\[0\] is a"):
        save_checkpoint(tmp_path / "x.ckpt", {"model": {}, "config": {"a": [value]}})
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_checkpoint(saved, {**CONTENT, "step": 9})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("body", [b"", b"not an archive", b"PK\x03\x04 no more than its head"])
def test_what_is_no_archive_is_refused_even_with_a_right_checksum(tmp_path, body):
    path = tmp_path / "x.ckpt"
    path.write_bytes(body + MAGIC + len(body).to_bytes(8, "little") + hashlib.sha256(body).digest())
    verify(path)
    with pytest.raises(CheckpointError, match=r"no mlcli checkpoint|no archive|foreign objects"):
        load_checkpoint(path)


def test_a_disk_that_gives_back_something_else_is_noticed_before_the_old_file_goes(saved, monkeypatch):
    before, real = saved.read_bytes(), files.perform

    def forget_a_bit(operation, *arguments):
        if operation is os.write:
            descriptor, part = arguments
            return os.write(descriptor, bytes([part[0] ^ 1]) + bytes(part[1:]))
        return real(operation, *arguments)

    monkeypatch.setattr(files, "perform", forget_a_bit)
    with pytest.raises(OutputError, match="differs from what was written"):
        save_checkpoint(saved, {**CONTENT, "step": 9})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_damaged_one_put_aside_is_not_kept_in_the_place_of_a_good_one(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(checkpoint_path(tmp_path, step), CONTENT)
    checkpoint_path(tmp_path, 3).write_bytes(b"")
    assert set_aside(checkpoint_path(tmp_path, 3)).name == "step-00000003.damaged"
    prune(tmp_path, 2)
    assert [path.name for path in by_age(tmp_path)] == ["step-00000002.ckpt", "step-00000001.ckpt"]


def test_age_goes_by_the_step_whatever_its_digits(tmp_path):
    for name in ("step-99999999.ckpt", "step-100000000.ckpt", "step-copy.ckpt"):
        (tmp_path / name).touch()
    assert [path.name for path in by_age(tmp_path)] == ["step-100000000.ckpt", "step-99999999.ckpt"]


def test_pruning_keeps_the_newest(tmp_path):
    for step in (1, 20, 3):
        save_checkpoint(checkpoint_path(tmp_path, step), CONTENT)
    (tmp_path / "best.ckpt").write_bytes(b"kept")
    prune(tmp_path, 2)
    assert [path.name for path in by_age(tmp_path)] == ["step-00000020.ckpt", "step-00000003.ckpt"]
    assert (tmp_path / "best.ckpt").exists()


def test_the_average_is_what_is_evaluated():
    weights = model_weights({"model": {"w": 1, "count": 5}, "ema": {"w": 2}})
    assert weights == {"w": 2, "count": 5}
