"""Two processes that train together, started as a person does: stopped, killed, and resumed to the same bits."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

import mlcli.engine.launch
from mlcli.commands import train
from mlcli.engine.checkpoint import load_newest
from mlcli.engine.ranks import Ranks
from mlcli.engine.run import RunFolder, list_runs
from mlcli.errors import RankError
from tests.engine.many import on_ranks
from tests.reliability.soak import LONG, soaked
from tests.reliability.tiny import metrics_without_times

CONFIG = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [16], dropout: 0.2}
optimizer: {name: sgd, lr: 0.05}
train: {epochs: 6, batch_size: 32, precision: fp32, threads: 1, baselines: false, log_every: 10,
        checkpoints: {every_steps: 7}, tensorboard: {layers: false, pictures: false, graph: false}}
"""
LIMIT_S = 240
HERE = ("-m", "mlcli", "train")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(folder: Path, *command: str, **variables: str) -> subprocess.Popen:
    """Start Python in a session of its own, with one thread for each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **variables}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip


def in_two(folder: Path, *arguments: str) -> subprocess.Popen:
    return start(folder, *HERE, *arguments, "--devices", "2")


def wait_for_step(folder: Path, process: subprocess.Popen, step: int) -> RunFolder:
    """The run, once it has a checkpoint of that step or a later one."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and process.poll() is None:
        for run in list_runs(folder / "runs"):
            if any(int(path.stem[5:]) >= step for path in run.checkpoints.glob("step-*.ckpt")):
                return run
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint of step {step}: {process.communicate()[0]}")


def ranks_of(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train, by their ranks."""
    children = psutil.Process(process.pid).children(recursive=True)
    return sorted((c for c in children if "RANK" in c.environ()), key=lambda child: int(child.environ()["RANK"]))


def check_nothing_runs(ranks: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert alive == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """A run of one process that nobody stops, which takes its steps in two parts."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "x.yaml").write_text(CONFIG)
    train.run(folder / "x.yaml", ["train.accumulate=2"], name=None, resume=None, root=folder / "runs")
    (run,) = list_runs(folder / "runs")
    return run


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run.path / "model.safetensors")


def check_same(run: RunFolder, whole: RunFolder) -> None:
    theirs, ours = weights(whole), weights(run)
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    assert metrics_without_times(run) == metrics_without_times(whole)


def check_one_writer(run: RunFolder, starts: int) -> None:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["split"], line["step"]) for line in lines}) == len(lines)
    assert len(list((run.path / "train").glob("events.*"))) == starts
    assert 1 <= len(list((run.path / "val").glob("events.*"))) <= starts  # none where nothing was measured yet


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def gone_on(ranks: Ranks, folder: Path) -> int:
    """What `mlcli train x.yaml --resume auto` returns to one of the ranks, which have met already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlcli.engine.launch, "joined_ranks", lambda device: contextlib.nullcontext(ranks))
        return int(train.run(folder / "x.yaml", [], name=None, resume="auto", root=folder / "runs"))


@pytest.mark.parametrize("case", range(soaked(1, 0.3)))
def test_killed_and_resumed_it_is_the_run_of_one_process_that_nobody_killed(folder, whole, case):
    draw = random.Random(case)
    process = in_two(folder, "x.yaml")
    run = wait_for_step(folder, process, 7 * draw.randint(1, 20))
    time.sleep(draw.random() / 10)
    ranks = ranks_of(process)
    victim = draw.choice(ranks)
    victim.kill()
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 9, told
    assert f"rank {ranks.index(victim)}" in told.split("error: ")[1]
    check_nothing_runs(ranks)

    if LONG:
        process = in_two(folder, "--resume", "latest")
        told, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, told
        assert (run.path / "ranks" / "1.log").read_text().count("digits (included)") == 2
    else:
        assert on_ranks(2, gone_on, folder) == [0, 0]
    check_same(run, whole)
    check_one_writer(run, starts=2)


# --- in the long run -------------------------------------------------------------------------------------------------

long_run = pytest.mark.skipif(not LONG, reason="starts many processes: MLCLI_SOAK=2")
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}


def check_saved(run: RunFolder, code: int) -> None:
    """It was stopped after a step that is kept whole, and can be resumed."""
    status = json.loads((run.path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", code)
    saved, path, problems = load_newest(run.checkpoints)
    assert not problems
    assert path.name == f"step-{saved['step']:08}.ckpt"


def killed_after(ranks: Ranks, folder: Path, victim: int, delay_s: float) -> int:
    """As `gone_on`, where one of the ranks is killed after some time."""
    if ranks.rank == victim:
        threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return gone_on(ranks, folder)


@long_run
def test_twenty_of_twenty_random_kills_are_survived(whole, tmp_path):
    draw, kills, saved, trial = random.Random(0), 0, 0, 0
    while kills < soaked(1, 2):
        folder, trial = tmp_path / str(trial), trial + 1
        folder.mkdir()
        (folder / "x.yaml").write_text(CONFIG)
        victim = draw.randrange(2)
        answers = on_ranks(2, killed_after, folder, victim, draw.uniform(0, 4))
        if isinstance(answers[1 - victim], RankError):  # not killed after all was done
            kills += 1
            assert answers[victim] == -signal.SIGKILL, answers
            assert f"rank {victim}" in answers[1 - victim].what
            saved += bool([*folder.glob("runs/*/*/checkpoints/step-*.ckpt")])
            assert on_ranks(2, gone_on, folder) == [0, 0]
        check_same(list_runs(folder / "runs")[-1], whole)
    print(f"{kills} kills, {saved} of them after the first checkpoint")
    assert saved > kills / 4


@long_run
@pytest.mark.parametrize("to", ["rank 0", "rank 1", "launcher", "all"])
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_to_any_of_them_stops_all_after_the_step(folder, number, to):
    process = in_two(folder, "x.yaml")
    run = wait_for_step(folder, process, 7)
    ranks = ranks_of(process)
    everybody = {"rank 0": ranks[:1], "rank 1": ranks[1:], "launcher": [process], "all": [*ranks, process]}
    for one in everybody[to]:
        one.send_signal(number)
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == CODES[number], told
    assert told.count("to go on: mlcli train --resume") == 1
    assert "Traceback" not in told
    check_nothing_runs(ranks)
    check_saved(run, CODES[number])


@long_run
@pytest.mark.parametrize("number", [*CODES, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("launcher", [HERE, TORCHRUN], ids=["devices", "torchrun"])
def test_what_has_started_them_may_end_in_any_way(folder, whole, launcher, number):
    given = ["x.yaml", "--devices", "2"] if launcher == HERE else ["-m", "mlcli", "train", "x.yaml"]
    process = start(folder, *launcher, *given)
    run = wait_for_step(folder, process, 7)
    ranks = ranks_of(process)
    process.send_signal(number)
    process.communicate(timeout=LIMIT_S)
    check_nothing_runs(ranks)
    check_saved(run, CODES.get(number, 143))


@long_run
def test_ctrl_c_again_and_again_ends_also_what_hangs(folder):
    process = in_two(folder, "x.yaml", "train.epochs=100")
    run = wait_for_step(folder, process, 7)
    ranks = ranks_of(process)
    ranks[1].suspend()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(3)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 130, told
    check_nothing_runs(ranks)
    assert not load_newest(run.checkpoints)[2]


@long_run
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_hangs_is_named_within_a_minute(folder, victim):
    process = in_two(folder, "x.yaml", "train.epochs=100")
    wait_for_step(folder, process, 7)
    ranks = ranks_of(process)
    ranks[victim].suspend()
    began = time.monotonic()
    told, _ = process.communicate(timeout=LIMIT_S)
    assert time.monotonic() - began < 100
    assert process.returncode == 9, told
    check_nothing_runs(ranks)
    log = told if victim else next(folder.glob("runs/*/*/ranks/1.log")).read_text()
    assert f"rank {victim} (process {ranks[victim].pid} on" in log
    assert "does not answer" in log


def slurm(rank: int) -> dict[str, str]:
    return {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0",
            "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": "localhost"}  # fmt: skip


@long_run
def test_torchrun_and_srun_come_to_the_same_bits(folder, whole):
    process = start(folder, *TORCHRUN, "-m", "mlcli", "train", "x.yaml")
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, told
    both = [start(folder, *HERE, "x.yaml", "--name", "slurm", **slurm(rank)) for rank in range(2)]
    for process in both:
        told, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, told
    runs = list_runs(folder / "runs")
    assert len(runs) == 2
    for run in runs:
        check_same(run, whole)
        check_one_writer(run, starts=1)


@long_run
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_goes_on_by_itself_after_one_was_killed(folder, whole, victim):
    going_on = ["-m", "mlcli", "train", "x.yaml", "--name", "n", "--resume", "auto"]
    process = start(folder, *TORCHRUN, "--max-restarts=1", *going_on)
    run = wait_for_step(folder, process, 21)
    ranks_of(process)[victim].kill()
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, told
    assert "n/" in told
    check_same(run, whole)
    check_one_writer(run, starts=2)


@long_run
def test_an_error_before_they_meet_is_said_once(folder):
    (folder / "x0.yaml").write_text(CONFIG)
    (folder / "x1.yaml").write_text(CONFIG.replace("batch_size", "batch_sice"))
    for launcher, *given in ((HERE, "x1.yaml", "--devices", "2"), (TORCHRUN, "-m", "mlcli", "train", "x1.yaml")):
        told, _ = start(folder, *launcher, *given).communicate(timeout=LIMIT_S)
        assert told.count("unknown key 'batch_sice'") == 1, told
    own = ["--no-python", "bash", "-c", f"{sys.executable} -m mlcli train x$RANK.yaml"]
    told, _ = start(folder, *TORCHRUN, *own).communicate(timeout=LIMIT_S)
    assert told.count("unknown key 'batch_sice'") == 1, told
    assert "rank 1:\n" in told
    assert list_runs(folder / "runs") == []
