"""A worker that dies, hangs or cannot read: the run ends with exit code 4 and names the files, all within seconds."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mlcli.commands import train
from mlcli.data.decode import Preparation
from mlcli.engine.checkpoint import load_newest
from mlcli.engine.run import list_runs
from tests.reliability.forked import Command, typed_in_child
from tests.reliability.tiny import write_data

"""From the fault to the end of the command; where a worker hangs, its timeout comes on top."""
TIMEOUT_S = 1


@pytest.fixture(scope="module", autouse=True)
def everything_is_imported(tmp_path_factory) -> None:
    """Before anything is forked."""
    folder = write_data(tmp_path_factory.mktemp("first"))
    train.run(folder / "mlp.yaml", ["train.epochs=1"], name="first", resume=None, root=folder / "runs")


def to_a_worker(number: signal.Signals) -> Callable[[Command, Path], None]:
    return lambda command, _: command.workers()[0].send_signal(number)


def spoil_a_file(_: Command, folder: Path) -> None:
    path = folder / "photos" / "train" / "cat" / "7.png"
    path.write_bytes(path.read_bytes()[:40])


def lose_a_file(_: Command, folder: Path) -> None:
    (folder / "photos" / "train" / "cat" / "7.png").unlink()


FAULTS: dict[str, tuple[Callable[[Command, Path], None], str]] = {
    "killed": (to_a_worker(signal.SIGKILL), "was killed by SIGKILL"),
    "bus error": (to_a_worker(signal.SIGBUS), "was killed by SIGBUS"),
    "hangs": (to_a_worker(signal.SIGSTOP), f"has not delivered a batch within {TIMEOUT_S} s"),
    "file spoilt": (spoil_a_file, "7.png"),
    "file lost": (lose_a_file, "7.png"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_ends_and_names_the_files(tmp_path, fault):
    folder = write_data(tmp_path)
    act, words = FAULTS[fault]
    command = Command(folder, "train", "mlp.yaml", f"loader={{cache: none, workers: 2, timeout: {TIMEOUT_S}}}",
                      "train.epochs=10000")  # fmt: skip
    command.wait_until(lambda: "* best" in command.out())  # the first epoch is over
    act(command, folder)
    ended = command.wait()
    assert ended.code == 4, ended.out
    assert words in ended.out
    assert str(folder / "photos" / "train") in ended.out
    assert "Traceback" not in ended.out
    assert ended.left == []
    (run,) = list_runs(folder / "runs")
    assert run.status()["state"] == "failed"
    assert not load_newest(run.checkpoints)[2]  # nothing is wrong with the newest checkpoint


def test_a_worker_that_raises_is_named_with_its_files(tmp_path, monkeypatch):
    """Whatever it is: a reader of somebody else's may raise anything."""
    folder = write_data(tmp_path)

    decode = Preparation.decode

    def raising(*args, **options) -> None:
        if multiprocessing.parent_process() is not None:
            raise ZeroDivisionError("division by zero")
        decode(*args, **options)

    monkeypatch.setattr(Preparation, "decode", raising)
    ended = typed_in_child(folder, "train", "mlp.yaml", "loader={cache: none, workers: 2}")
    assert ended.code == 4, ended.out
    assert "raised ZeroDivisionError: division by zero (" in ended.out
    assert f"while reading {folder / 'photos' / 'train'}" in ended.out
    assert "Traceback" not in ended.out


def test_what_a_dead_worker_ended_can_be_resumed(tmp_path):
    folder = write_data(tmp_path)
    command = Command(folder, "train", "mlp.yaml", "loader.workers=2", "train.epochs=30", "--name", "cut")
    command.wait_until(lambda: "* best" in command.out())
    to_a_worker(signal.SIGKILL)(command, folder)
    assert command.wait().code == 4
    resumed = typed_in_child(folder, "train", "--resume", "cut")
    assert resumed.code == 0, resumed.out
    assert os.path.exists(list_runs(folder / "runs")[0].path / "model.safetensors")
