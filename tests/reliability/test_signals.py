"""SIGINT and SIGTERM, to the process or to its whole group, at any point: it stops, saves, and can be resumed."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from mlcli.commands import train
from mlcli.engine.checkpoint import by_age, load_checkpoint, load_newest
from mlcli.engine.run import RunFolder, list_runs
from mlcli.engine.stop import StopRequest, Unwinding
from mlcli.report import baselines
from mlcli.tasks.classification.task import ClassificationTask
from tests.reliability.forked import Command, at_call, typed_in_child
from tests.reliability.soak import LONG, soaked
from tests.reliability.tiny import metrics_without_times, write_data

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
TRAIN = ("train", "cnn.yaml", "loader.workers=2", "--name", "cut")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The data, and the run that nobody stops, `whole`: made here, so that all is imported before a fork."""
    folder = write_data(tmp_path_factory.mktemp("tiny"))
    train.run(folder / "cnn.yaml", ["loader.workers=2"], name="whole", resume=None, root=folder / "runs")
    return folder


@pytest.fixture
def root(data, tmp_path) -> Path:
    """A folder with the same data."""
    for path in data.iterdir():
        if path.name != "out.txt":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runs").unlink()
    return tmp_path


def the_run(root: Path) -> RunFolder:
    (run,) = list_runs(root / "runs")
    return run


def of_checkpoints(descriptor: int) -> bool:
    """Whether it is a file that becomes a numbered checkpoint."""
    return ".step-" in os.readlink(f"/proc/self/fd/{descriptor}")


PHASES: dict[str, Callable[[Callable[[], None]], None]] = {
    "training": lambda send: at_call(
        ClassificationTask, "losses", send, when=lambda task, net, _: net is task.model, number=31
    ),
    "evaluation": lambda send: at_call(ClassificationTask, "evaluate", send, when=lambda *_: True, number=2),
    "saving": lambda send: at_call(os, "fsync", send, when=of_checkpoints, number=2),
    "last evaluation": lambda send: at_call(ClassificationTask, "evaluate", send, when=lambda *_: True, number=5),
}
"""Points in a run. 31: of two micro-batches a step, the first of step 16; 2: the first epoch's second batch."""


def sender(number: signal.Signals, whole_group: bool) -> Callable[[], None]:
    """Sends a signal to this process, or also to those it has started."""
    pid = os.getpid()
    return lambda: os.killpg(pid, number) if whole_group else os.kill(pid, number)


SENT = [(signal.SIGINT, True), (signal.SIGTERM, False)]
"""Ctrl-C goes to all of a terminal's processes, a scheduler's signal to one; the long run tries the others too."""
IN_THE_LONG_RUN = [(signal.SIGINT, False), (signal.SIGTERM, True)] if LONG else []


@pytest.mark.parametrize(("number", "whole_group"), SENT + IN_THE_LONG_RUN)
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_stops_a_run_that_then_goes_on(data, root, phase, number, whole_group):
    stopped = typed_in_child(root, *TRAIN, prepare=lambda: PHASES[phase](sender(number, whole_group)))
    assert stopped.code == CODES[number], stopped.out
    assert stopped.left == []
    check_resumable(data, root, stopped.out)


def test_a_closed_terminal_stops_a_run_as_sigterm_does(data, root):
    stopped = typed_in_child(root, *TRAIN, prepare=lambda: PHASES["training"](sender(signal.SIGHUP, True)))
    assert stopped.code == 143, stopped.out
    assert stopped.left == []
    check_resumable(data, root, stopped.out)


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_while_simple_models_are_fitted_costs_only_them(root, number):
    def comparing() -> None:
        at_call(baselines, "measure_baselines", sender(number, False), when=lambda *_: True)

    stopped = typed_in_child(root, *TRAIN, "train.baselines=true", prepare=comparing)
    assert stopped.code == CODES[number], stopped.out
    run = the_run(root)
    assert run.status()["state"] == "finished"
    assert (run.path / "report.html").exists()
    assert not (run.path / "baselines.json").exists()
    assert "baselines  left out, stopped by a signal; the run itself is complete" in stopped.out
    assert run.path.name in stopped.out.partition("the run itself is complete")[2]


@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_while_the_best_model_is_measured(data, root, number, whole_group):
    def concluding() -> None:
        at_call(safetensors.torch, "save", sender(number, whole_group), when=lambda *_: True)

    stopped = typed_in_child(root, *TRAIN, prepare=concluding)
    assert stopped.code == CODES[number], stopped.out
    assert stopped.left == []
    check_resumable(data, root, stopped.out)


def check_resumable(data: Path, root: Path, out: str) -> None:
    """It says that it was interrupted and how to go on; that command brings about what no signal would have changed."""
    run = the_run(root)
    assert run.status()["state"] == "interrupted"
    assert "Traceback" not in out
    (line,) = [line for line in out.splitlines() if "to go on:" in line]
    command = line.partition("to go on: mlcli ")[2].split()
    resumed = typed_in_child(root, *command)
    assert resumed.code == 0, resumed.out
    assert run.status()["state"] == "finished"
    whole = RunFolder(next((data / "runs" / "whole").iterdir()))
    assert metrics_without_times(run) == metrics_without_times(whole)
    assert weights(run) == weights(whole)


def weights(run: RunFolder) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in load_checkpoint(run.checkpoint("last"))["model"].items()}


@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_before_training_ends_it_with_nothing_left_behind(root, number, whole_group):
    def warm_up() -> None:
        send = sender(number, whole_group)
        at_call(ClassificationTask, "losses", send, when=lambda task, net, _: net is not task.model, number=2)

    stopped = typed_in_child(root, *TRAIN, prepare=warm_up)
    assert stopped.code == CODES[number], stopped.out
    assert stopped.left == []
    assert "Traceback" not in stopped.out
    assert not (root / "runs").exists()


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("phase", PHASES)
def test_a_second_signal_stops_at_once_and_spoils_no_checkpoint(root, phase, number):
    def both() -> None:
        first, second, asked = sender(signal.SIGTERM, False), sender(number, True), []
        at_call(StopRequest, "__call__", lambda: None, when=lambda stop: bool(asked.append(stop)), number=0)

        def one_after_the_other() -> None:
            first()
            while not asked[0].signal:  # a thread that writes sends what the main thread hears a moment later
                time.sleep(0.001)
            second()
            while True:  # until that is heard
                time.sleep(0.001)

        PHASES[phase](one_after_the_other)

    stopped = typed_in_child(root, *TRAIN, prepare=both)
    assert stopped.code == CODES[number], stopped.out
    assert stopped.left == []
    run = the_run(root)
    assert run.status()["state"] == "killed"
    if phase == "training":
        _, path, problems = load_newest(run.checkpoints)
        # The one of step 15 may have been on its way.
        assert path.name in ("step-00000015.ckpt", "step-00000011.ckpt")
        assert not problems
    for path in by_age(run.checkpoints):
        load_checkpoint(path)  # raises CheckpointError if it is not whole


def test_signals_at_random_instants(data, tmp_path_factory):
    """From the first line on the screen to the end; each trial can be made again by its seed."""
    seeds = [int(os.environ["MLCLI_SEED"])] if "MLCLI_SEED" in os.environ else range(soaked(50) if LONG else 4)
    for seed in seeds:
        folder = tmp_path_factory.mktemp("random")
        for path in data.iterdir():
            if path.name not in ("out.txt", "runs"):
                (folder / path.name).symlink_to(path)
        replay = f"MLCLI_SEED={seed} python -m pytest tests/reliability/test_signals.py -k random"
        print(f"seed {seed}: {replay}")
        chance = random.Random(seed)
        number, whole_group, wait_s = chance.choice(list(CODES)), chance.random() < 0.5, chance.random()
        command = Command(folder, *TRAIN)
        command.wait_until(lambda command=command: "check" in command.out())
        time.sleep(wait_s)
        if not command.has_ended():
            (os.killpg if whole_group else os.kill)(command.pid, number)
        ended = command.wait()
        assert ended.left == [], replay
        assert ended.code in (0, CODES[number]), f"{replay}\n{ended.out}"
        if list_runs(folder / "runs") and the_run(folder).status()["state"] != "finished":
            check_resumable(data, folder, ended.out)


def test_a_run_that_nohup_started_does_not_hear_that_the_terminal_closed():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.exit_code == 143
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_in_a_destructor_is_raised_a_moment_later():
    """It ends what is waited for, too."""

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    reader, writer = os.pipe()
    rescue = threading.Timer(20, os.write, (writer, b"waited too long"))
    rescue.start()

    def wait() -> None:
        Dying()
        os.read(reader, 1)

    with pytest.raises(KeyboardInterrupt), Unwinding() as stop:
        wait()
    assert stop.exit_code == 130
    assert rescue.is_alive()
    rescue.cancel()
