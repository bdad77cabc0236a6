"""Two processes that train together, started as a person does: stopped, killed, and resumed to the same bits."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch

from mlcli.commands import train
from mlcli.engine.run import RunFolder, list_runs
from tests.reliability.soak import soaked
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


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-m", "mlcli", "train", *arguments, "--devices", "2"]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)  # fmt: skip


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


def check_one_writer(run: RunFolder) -> None:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["split"], line["step"]) for line in lines}) == len(lines)
    assert len(list((run.path / "train").glob("events.*"))) == 3  # of three starts
    assert (run.path / "ranks" / "1.log").read_text().count("digits (included)") == 3


@pytest.mark.parametrize("case", range(soaked(1)))
def test_stopped_killed_and_resumed_it_is_the_run_of_one_process_that_nobody_stopped(tmp_path, whole, case):
    draw = random.Random(case)
    (tmp_path / "x.yaml").write_text(CONFIG)
    process = start(tmp_path, "x.yaml")
    run = wait_for_step(tmp_path, process, 7 * draw.randint(1, 10))
    ranks = ranks_of(process)
    ranks[1].send_signal(signal.SIGUSR1)
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 143, told
    assert told.count("to go on: mlcli train --resume") == 1
    check_nothing_runs(ranks)
    stopped_at = json.loads((run.path / "status.json").read_text())["state"], max(run.checkpoints.glob("step-*.ckpt"))
    assert stopped_at[0] == "interrupted"

    process = start(tmp_path, "--resume", "latest")
    wait_for_step(tmp_path, process, int(stopped_at[1].stem[5:]) + 7)
    ranks = ranks_of(process)
    victim = draw.choice(ranks)
    victim.kill()
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 9, told
    assert f"rank {ranks.index(victim)}" in told.split("error: ")[1]
    check_nothing_runs(ranks)

    process = start(tmp_path, "--resume", "latest")
    told, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, told
    check_same(run, whole)
    check_one_writer(run)
