"""One run, one writer: each start gets a folder of its own, a live run is refused, a dead one is free at once."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from mlcli.engine.run import RunFolder, create_run, list_runs
from mlcli.errors import BusyError, ExitCode
from tests.reliability.runs import DIGITS, type_train
from tests.reliability.soak import SOAK
from tests.reliability.trials import Trial, in_child

STARTS = 64


def start_when_told(root: Path) -> str:
    """Wait with all others at the gate, start a run, and train nothing."""
    with (root / "gate").open() as gate:
        (root / f"ready-{os.getpid()}").touch()
        gate.read()  # ends for all of them at once
    run = create_run(root / "runs", "same")
    run.update_status(state="running", pid=os.getpid())
    assert run.status()["pid"] == os.getpid()
    return str(run.path)


@pytest.mark.parametrize("round_", range(SOAK))
def test_as_many_folders_as_simultaneous_starts(arena, round_):
    os.mkfifo(arena / "gate")
    trials = [Trial(start_when_told, arena) for _ in range(STARTS)]
    with (arena / "gate").open("w"):
        wait_until(lambda: len(list(arena.glob("ready-*"))) == STARTS)
    ended = [trial.wait() for trial in trials]
    assert [end.code for end in ended] == [0] * STARTS, ended
    assert len({end.result for end in ended}) == STARTS


def hold_with_a_worker(path: Path, workers: Path) -> None:
    """Lock a run, leave a forked child that outlives this process, and wait for the end."""
    RunFolder(path).lock()
    if os.fork() == 0:
        workers.write_text(str(os.getpid()))
        time.sleep(60)
        os._exit(0)
    time.sleep(60)


@pytest.fixture
def held(arena):
    """A run that a living process with a worker writes to: its folder, and the process."""
    (arena / "digits.yaml").write_text(DIGITS)
    assert in_child(type_train, arena).code == 0
    (run,) = list_runs(arena / "runs")
    run.update_status(state="running")
    owner = Trial(hold_with_a_worker, run.path, arena / "worker")
    wait_until(lambda: (arena / "worker").exists() and (arena / "worker").read_text() != "" and run.is_held())
    yield run, owner
    os.kill(int((arena / "worker").read_text()), signal.SIGKILL)
    owner.kill_after(0)


def test_going_on_with_a_live_run_is_refused_and_names_its_owner(arena, held):
    run, owner = held
    before = sorted(path.name for path in run.path.rglob("*"))
    ended = in_child(type_train, arena)
    assert ended.code == ExitCode.BUSY
    assert f"pid {owner.pid} on {socket.gethostname()} since" in ended.result
    assert str(run.path) in ended.result
    assert ended.out == ""  # refused before the data are read
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_the_lock_ends_with_a_killed_process_even_with_orphaned_workers(arena, held):
    run, owner = held
    with pytest.raises(BusyError):
        run.lock()
    os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(owner.pid))
    assert not run.is_held()
    os.kill(int((arena / "worker").read_text()), 0)  # the orphan lives, and holds the file open
    assert run.status()["state"] == "killed"
    run.lock()
    run.unlock()


def has_ended(pid: int) -> bool:
    """Whether a process has ended, also if nobody has waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask_again_and_again(path: Path, asking: Path, stop: Path) -> None:
    while not stop.exists():
        RunFolder(path).is_held()
        asking.touch()


def test_who_asks_whether_a_run_is_held_is_in_nobodys_way(arena):
    run = create_run(arena / "runs", "a")
    run.unlock()
    other = Trial(ask_again_and_again, run.path, arena / "asking", arena / "stop")
    wait_until((arena / "asking").exists)
    try:
        for _ in range(300):
            run.lock()
            run.unlock()
    finally:
        (arena / "stop").touch()
    assert other.wait().code == 0


def hold_under_two_names(path: Path, ready: Path) -> None:
    RunFolder(path).lock()
    ready.parent.joinpath("other-name").symlink_to(path.parent.parent)
    other = RunFolder(ready.parent / "other-name" / path.parent.name / path.name)
    assert other.is_held()  # to open and close the lock's file would give it away
    ready.touch()
    time.sleep(60)


def test_a_run_is_held_whatever_name_its_owner_looks_at_it_by(arena):
    run = create_run(arena / "runs", "a")
    run.unlock()
    owner = Trial(hold_under_two_names, run.path, arena / "ready")
    wait_until((arena / "ready").exists)
    assert run.is_held()
    assert owner.kill_after(0).code == -signal.SIGKILL


def wait_until(true, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
