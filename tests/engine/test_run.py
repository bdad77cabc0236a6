"""Run folders: made once each, found by name, held by one process."""

import multiprocessing
import os
import signal
from datetime import datetime

import numpy as np
import pytest

from mlcli.engine import run as module
from mlcli.engine.checkpoint import save_checkpoint
from mlcli.engine.membership import Fingerprints, Membership
from mlcli.engine.run import STAMP, RunFolder, check_writable, create_run, list_runs, open_run
from mlcli.errors import BusyError, CheckpointError, OutputError


def started(root, name="a", state="finished") -> RunFolder:
    run = create_run(root, name)
    run.update_status(state=state)
    return run


def test_many_starts_get_as_many_folders(tmp_path):
    assert len({create_run(tmp_path, "same").path for _ in range(64)}) == 64


def test_runs_are_found_by_folder_by_name_and_by_name_and_time(tmp_path):
    first, second = started(tmp_path), started(tmp_path)
    newest = max(first, second, key=lambda run: run.path.name)
    assert open_run(str(first.path)).path == first.path
    assert open_run(first.name, tmp_path).path == first.path
    assert open_run("a", tmp_path).path == newest.path
    assert {run.path for run in list_runs(tmp_path)} == {first.path, second.path}


class Clock(datetime):
    """Stands where a test puts it."""

    time = "20261128-120000"

    @classmethod
    def now(cls, tz=None):
        return datetime.strptime(cls.time, STAMP)


def test_the_newest_run_is_the_last_one_started_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "datetime", Clock)
    (tmp_path / "a/20261128-110000-ffff").mkdir(parents=True)
    old = RunFolder(tmp_path / "a/20261128-110000-ffff")
    old.update_status(state="finished")
    made = [old]
    for time, name in [("20261128-110000", "a"), ("20261128-100000", "b"), ("20261128-100001", "a"),
                       ("20261128-120000", "a"), ("20261128-120000", "a")]:  # fmt: skip
        monkeypatch.setattr(Clock, "time", time)
        made.append(started(tmp_path, name))
    assert [run.path for run in list_runs(tmp_path)] == [run.path for run in made]
    assert open_run("a", tmp_path).path == made[-1].path
    assert [run.path.name[:15] for run in made[1:]] == ["20261128-110001"] * 3 + ["20261128-120000"] * 2


def test_what_is_no_run_is_refused_with_those_there_are(tmp_path):
    started(tmp_path, "digits")
    with pytest.raises(CheckpointError, match="'digit' is not a run folder") as caught:
        open_run("digit", tmp_path)
    assert "digits" in caught.value.fix


def test_status_is_updated_key_by_key(tmp_path):
    run = started(tmp_path)
    run.update_status(epoch=3)
    assert run.status() == {"state": "finished", "epoch": 3}


def test_the_best_checkpoint_or_else_the_last(tmp_path):
    run = started(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        run.checkpoint()
    save_checkpoint(run.checkpoints / "step-00000001.ckpt", {"model": {}})
    assert run.checkpoint("best").name == "step-00000001.ckpt"
    save_checkpoint(run.checkpoints / "best.ckpt", {"model": {}})
    assert run.checkpoint("best").name == "best.ckpt"
    assert run.checkpoint("last").name == "step-00000001.ckpt"


def hold(path, ready, release) -> None:
    run = RunFolder(path)
    run.lock()
    ready.set()
    release.wait(30)


def test_a_run_in_use_is_refused_and_free_again_after_a_kill(tmp_path):
    run = create_run(tmp_path, "a")
    run.update_status(state="running")
    run.unlock()
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    owner = context.Process(target=hold, args=(run.path, ready, release))
    owner.start()
    assert ready.wait(30)
    other = RunFolder(run.path)
    assert other.status()["state"] == "running"
    with pytest.raises(BusyError, match=f"pid {owner.pid}"):
        other.lock()
    os.kill(owner.pid, signal.SIGKILL)
    owner.join(30)
    assert other.status()["state"] == "killed"
    other.lock()


def test_an_output_that_cannot_be_written_is_noticed_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="goes through a file"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "new" / "runs")
    assert sorted(os.listdir(tmp_path)) == ["file"]
    with pytest.raises(OutputError):
        check_writable(type(tmp_path)("/proc/runs"))


def test_names_of_samples_are_no_formulas_in_the_list_of_splits(tmp_path):
    names = ["=cmd.png", "a\x1b[31m.png", "-3.5", "plain.png"]
    prints = Fingerprints(np.arange(4, dtype=np.uint64)[:, None], np.zeros(4, dtype=np.uint64), name=names.__getitem__)
    run = create_run(tmp_path, "a")
    run.write_membership(Membership({"train": prints}))
    rows = (run.path / "splits.csv").read_text().splitlines()
    assert rows == ["sample,split", "'=cmd.png,train", "a\\u001b[31m.png,train", "-3.5,train", "plain.png,train"]
    assert np.array_equal(run.membership().splits["train"].keys, prints.keys)
