"""Saving beside the training: the same content as saving within it, in order, and no error is lost."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from mlcli import files
from mlcli.engine import saver
from mlcli.engine.checkpoint import by_age, checkpoint_path, load_checkpoint, save_checkpoint
from mlcli.engine.saver import CheckpointSaver, HostCopy
from mlcli.errors import OutputError


class Trained:
    """A model with buffers and weights in channels_last, and an optimizer with a state of its own."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
        self.model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.step()

    def step(self) -> None:
        self.model(torch.randn(2, 3, 4, 4)).square().sum().backward()
        self.optimizer.step()

    def content(self) -> dict:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "notes": [1, "a", None]}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """The writer thread waits before each file until this is set."""
    opened = threading.Event()

    def write_later(path: Path, content: dict) -> None:
        assert opened.wait(30)
        save_checkpoint(path, content)

    monkeypatch.setattr(saver, "save_checkpoint", write_later)
    return opened


def test_what_is_saved_is_the_state_of_the_call_whatever_training_does_meanwhile(tmp_path, gate):
    trained = Trained()
    save_checkpoint(tmp_path / "directly.ckpt", trained.content())
    with CheckpointSaver(tmp_path, 2) as checkpoints:
        checkpoints.save(1, trained.content())
        for _ in range(3):
            trained.step()
        gate.set()
    directly, later = load_checkpoint(tmp_path / "directly.ckpt"), load_checkpoint(checkpoint_path(tmp_path, 1))
    assert same(later, directly)
    assert later["model"]._metadata == directly["model"]._metadata
    assert not same(later["model"], dict(trained.model.state_dict()))


def test_the_same_state_makes_the_same_bytes(tmp_path):
    trained = Trained()
    with CheckpointSaver(tmp_path, 5) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, trained.content())
        checkpoints.save_best(trained.content())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_host_memory_is_kept_and_shared_weights_stay_shared():
    weight = torch.arange(6.0)
    copies = HostCopy()
    first = copies.take({"a": weight, "deep": [{"b": weight}, (weight[:3],)]})
    assert first["a"] is first["deep"][0]["b"]
    assert first["a"].data_ptr() != weight.data_ptr()
    address = first["a"].data_ptr()
    weight.add_(1)
    second = copies.take({"a": weight, "deep": [{"b": weight}, (weight[:3],)]})
    assert second["a"].data_ptr() == address
    assert torch.equal(second["a"], torch.arange(6.0) + 1)
    assert torch.equal(copies.take({"a": torch.ones(2, 2)})["a"], torch.ones(2, 2))  # another shape, other memory


def test_one_of_a_kind_is_on_its_way_and_the_next_waits_for_it(tmp_path, gate):
    with CheckpointSaver(tmp_path, 3) as checkpoints:
        checkpoints.save(1, {"model": {"w": torch.zeros(1)}})
        checkpoints.save_best({"model": {"w": torch.ones(1)}})  # does not wait
        assert os.listdir(tmp_path) == []
        opener = threading.Timer(0.05, gate.set)
        opener.start()
        checkpoints.save(2, {"model": {"w": torch.full((1,), 2.0)}})
        assert checkpoint_path(tmp_path, 1).exists()
    weights = {path.name: load_checkpoint(path)["model"]["w"].item() for path in tmp_path.iterdir()}
    assert weights == {"step-00000001.ckpt": 0, "best.ckpt": 1, "step-00000002.ckpt": 2}


def test_the_oldest_go_once_a_newer_one_is_verified(tmp_path):
    with CheckpointSaver(tmp_path, 2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, {"model": {}})
    assert [path.name for path in by_age(tmp_path)] == ["step-00000005.ckpt", "step-00000004.ckpt"]


@pytest.fixture
def full_disk(monkeypatch) -> None:
    def refuse(operation, *arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "perform", refuse)


CALLS = {
    "the next save": lambda checkpoints: checkpoints.save(2, {"model": {}}),
    "wait": lambda checkpoints: checkpoints.wait(),
    "the end of with": lambda checkpoints: checkpoints.__exit__(None),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("full_disk")
def test_an_error_of_the_thread_is_raised_by(tmp_path, call):
    checkpoints = CheckpointSaver(tmp_path, 2)
    checkpoints.save(1, {"model": {}})
    with pytest.raises(OutputError, match="No space left on device"):
        call(checkpoints)
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("full_disk")
def test_another_error_is_not_hidden_by_that_of_the_thread(tmp_path):
    def diverge() -> None:
        with CheckpointSaver(tmp_path, 2) as checkpoints:
            checkpoints.save(1, {"model": {}})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        diverge()


def test_a_numbered_checkpoint_is_not_written_after_a_best_that_failed(tmp_path, monkeypatch):
    """It would tell of a best one that is not there."""
    real, failed = files.perform, []

    def fail_once(operation, *arguments):
        if not failed:
            failed.append(operation)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(operation, *arguments)

    monkeypatch.setattr(files, "perform", fail_once)

    def save_both() -> None:
        with CheckpointSaver(tmp_path, 2) as checkpoints:
            checkpoints.save_best({"model": {}})
            checkpoints.save(1, {"model": {}})

    with pytest.raises(OutputError):
        save_both()
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_a_checkpoint_is_written_holds_no_lock_of_the_writer(tmp_path):
    """Data workers are forked; each of these hashes, draws and saves as the writer does, within the writer's work."""
    weights = {"w": torch.ones(2_000_000)}
    with CheckpointSaver(tmp_path, 2) as checkpoints:
        for step in range(1, 21):
            checkpoints.save(step, {"model": weights})
            pid = os.fork()
            if pid == 0:
                save_checkpoint(tmp_path / f"child-{step}.ckpt", {"model": {"w": torch.randn(1000) * 2}})
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0  # a child that hangs hangs this test
    assert len(list(tmp_path.glob("child-*.ckpt"))) == 20
