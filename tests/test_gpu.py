"""What only a GPU can show: `make test-gpu`. Where there is none, each of these is left out and says so.

MLCLI_TEST_DEVICE=cpu rehearses them on the CPU, all but those that ask for a GPU's own memory or compiler: so what they
check is known to hold there, and that they check it.
"""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import distributed

from mlcli.engine.checkpoint import by_age
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.run import list_runs, open_run
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.trainer import fit
from mlcli.experiment import Experiment
from mlcli.machine.env.probe_torch import _report_kernels
from mlcli.tasks.classification.config import Classification
from tests.engine.rig import StopAfter, fingerprint, training
from tests.engine.test_no_waiting import TASKS, ThenFixed
from tests.reliability.runs import finished
from tests.reliability.tiny import experiment, metrics_without_times, session, write_data
from tests.test_configs import CONFIGS, QUIET, pictures, stand_in, title

DEVICE = os.environ.get("MLCLI_TEST_DEVICE", "cuda")
HAS_GPU = torch.cuda.is_available()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not HAS_GPU, reason="PyTorch finds no CUDA device"),
]
needs_gpu = pytest.mark.skipif(DEVICE != "cuda", reason="asks for what only a GPU has")
on_device = f"train.device={DEVICE}"
pictures = pictures
"""The fixture of the tests of configs."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def as_before():
    yield
    torch.use_deterministic_algorithms(False)
    if HAS_GPU:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


def test_kernels_compute_what_the_cpu_computes():
    import torchvision

    told: list[dict] = []
    _report_kernels(torch, torchvision, DEVICE, lambda **said: told.append(said))
    outcomes = {said["kernel"]["name"]: said["kernel"]["outcome"] for said in told if "kernel" in said}
    assert len(outcomes) >= 6
    assert set(outcomes.values()) <= {"ok", "skipped"}, outcomes


@pytest.mark.parametrize("path", CONFIGS, ids=title)
def test_a_config_takes_its_steps(mlcli, path, pictures):
    done = mlcli("train", path, "train.epochs=1", "train.threads=1", on_device, *QUIET, *stand_in(path, pictures))
    assert done.code == 0, done.err
    (run,) = list_runs(Path("runs"))
    said = json.loads((run.path / "environment.json").read_text())
    assert DEVICE in said["choices"]["device"]


@pytest.mark.parametrize("name", ["mlp", "cnn", "detection"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_stopped_run_goes_on_bit_for_bit(data, tmp_path, name, precision):
    config = experiment(data, name, on_device, f"train.precision={precision}", "train.deterministic=true",
                        "train.ema={decay: 0.9}")  # fmt: skip
    whole, outcome = session(tmp_path / "whole", config)
    assert outcome == "finished"
    stopped, outcome = session(tmp_path / "stopped", config, stop=StopAfter(7))
    assert outcome != "finished"
    again, outcome = session(tmp_path / "stopped", config, run=stopped.run)
    assert outcome == "finished"
    assert fingerprint(again.state) == fingerprint(whole.state)
    assert metrics_without_times(again.run) == metrics_without_times(whole.run)


KILLED = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [16], dropout: 0.1}
train: {epochs: 40, batch_size: 64, threads: 1, baselines: false, deterministic: true, precision: fp32,
        checkpoints: {every_steps: 20}, tensorboard: {layers: false, pictures: false, graph: false, embeddings: false}}
"""


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    (tmp_path / "x.yaml").write_text(KILLED)
    command = [sys.executable, "-m", "mlcli", "train"]
    variables = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    whole = [*command, "x.yaml", on_device, "--name", "whole"]
    subprocess.run(whole, cwd=tmp_path, env=variables, check=True, capture_output=True)
    begun = subprocess.Popen(
        [*command, "x.yaml", on_device, "--name", "killed"], cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not any(by_age(run.checkpoints) for run in list_runs(tmp_path / "runs") if run.path.parent.name == "killed"):
        assert time.monotonic() < until
        assert begun.poll() is None
        time.sleep(0.01)
    begun.send_signal(signal.SIGKILL)
    assert begun.wait() == -signal.SIGKILL
    resumed = subprocess.run(
        [*command, "--resume", "killed"], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    first, second = (open_run(name, tmp_path / "runs") for name in ("whole", "killed"))
    assert finished(second) == finished(first)


@contextmanager
def memory_of(more_mb: int):
    """So many MB of the GPU beyond what is held already."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_mb * 1e6) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


LARGE = """
task: classification
data: {name: digits}
model: {name: resnet, depth: 18}
train: {epochs: 1, batch_size: 1024, baselines: false, precision: fp32, tensorboard: {graph: false, layers: false}}
"""


@needs_gpu
def test_too_little_memory_is_told_and_ends_with_its_code(mlcli):
    Path("x.yaml").write_text(LARGE)
    with memory_of(600):
        done = mlcli("train", "x.yaml", on_device)
    assert done.code == 8, done.err
    assert "auto_microbatch" in done.err
    assert "Traceback" not in done.err


@needs_gpu
def test_too_little_memory_is_made_do_with_in_smaller_parts(mlcli):
    Path("x.yaml").write_text(LARGE)
    with memory_of(600):
        done = mlcli("train", "x.yaml", on_device, "train.auto_microbatch=true")
    assert done.code == 0, done.err
    assert "micro-batches of" in done.out + done.err


def test_fp16_steps_that_overflow_are_left_out(tmp_path):
    config = digits({"precision": "fp16", "epochs": 2}, optimizer={"name": "sgd", "lr": 0.1})
    t = training(tmp_path, Experiment(config, "").build(), config)
    t.state.scaler._scale = None
    t.state.scaler._init_scale = 2.0**40  # beyond fp16, so that the first steps overflow for certain
    assert fit(t, t.feed.train_batches(0)) == "finished"
    t.log.close()
    assert 10 < t.state.progress.skipped < t.state.progress.step
    assert all(bool(p.isfinite().all()) for p in t.state.model.parameters())


def test_a_diverging_run_stops_and_names_the_layer(mlcli):
    Path("x.yaml").write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n")
    done = mlcli("train", "x.yaml", on_device, "optimizer={name: sgd, lr: 1e15}", "train.baselines=false")
    assert done.code == 3
    assert "not finite" in done.err
    assert "in the output of net.hidden" in done.err


def digits(train: dict, **more) -> Classification:
    train = {"threads": 1, "device": DEVICE, "log_every": 1000, "batch_size": 64, **train}
    model = {"name": "mlp", "hidden": [16]}
    return Classification.model_validate(
        {"task": "classification", "data": {"name": "digits"}, "model": model, **more, "train": train}
    )


class Strict:
    """A stop request that never comes, and lets nothing wait for the GPU between two of the steps."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.polls = first, last, 0

    def __call__(self) -> bool:
        self.polls += 1
        if HAS_GPU and self.polls in (self.first, self.last):
            torch.cuda.set_sync_debug_mode("error" if self.polls == self.first else "default")
        return self.polls > self.last


@pytest.mark.parametrize("name", TASKS)
def test_nothing_waits_between_log_points(tmp_path, name):
    kind, content = TASKS[name]
    config = kind.model_validate(content | {"train": {**content["train"], "device": DEVICE}})
    t = training(tmp_path, Experiment(config, "").build(), config, stop=Strict(4, 8))
    fit(t, t.feed.train_batches(0))
    t.log.close()
    assert t.state.progress.step == 8


@needs_gpu
def test_after_an_epoch_nothing_is_compiled_again(tmp_path):
    config = digits({"epochs": 3, "compile": True})
    t = training(tmp_path, Experiment(config, "").build(), config)
    t.stop = ThenFixed(t.feed.steps_per_epoch + 2)
    try:
        assert fit(t, t.feed.train_batches(0)) == "finished"
    finally:
        torch.compiler.set_stance("default")
    t.log.close()


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", TASKS)
def test_steps_as_graphs_are_the_same_bit_for_bit(tmp_path, name, precision):
    kind, content = TASKS[name]
    found = []
    for graphs in (False, True):
        train = {**content["train"], "device": DEVICE, "deterministic": True, "precision": precision}
        config = kind.model_validate(content | {"train": {**train, "cuda_graphs": graphs, "log_every": 5}})
        t = training(tmp_path / str(graphs), Experiment(config, "").build(), config, stop=StopAfter(14))
        fit(t, t.feed.train_batches(0))
        t.log.close()
        found.append((fingerprint(t.state), metrics_without_times(t.run)))
    assert found[0] == found[1]
    assert t.stepper.launch._captured


@needs_gpu
def test_phases_timed_by_the_gpu_are_less_than_all_the_time(tmp_path):
    config = digits({"epochs": 3, "time_on_device": True, "log_every": 5})
    t = training(tmp_path, Experiment(config, "").build(), config)
    began = time.monotonic()
    assert fit(t, t.feed.train_batches(0)) == "finished"
    t.log.close()
    times = t.meter.times()
    assert 0 < times["forward"] + times["backward"] + times["optimizer"] < time.monotonic() - began


@pytest.mark.parametrize("name", ["cnn", "detection"])
def test_what_is_held_trains_as_what_is_read(data, tmp_path, name):
    found = []
    for cache, ahead in itertools.product(("none", "ram", "device"), ("false", "true")):
        config = experiment(
            data, name, on_device, "train.deterministic=true", f"loader.cache={cache}", f"loader.ahead={ahead}"
        )
        t, _ = session(tmp_path / f"{cache}-{ahead}", config)
        found.append((fingerprint(t.state), metrics_without_times(t.run)))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("name", ["cnn", "detection"])
def test_a_model_scores_the_same_on_the_cpu(data, tmp_path, name):
    config = experiment(data, name, on_device, "train.precision=fp32")
    t, _ = session(tmp_path, config)
    scores = []
    for device in (DEVICE, "cpu"):
        there = decide_runtime(config.model_copy(update={"train": config.train.model_copy(update={"device": device})}))
        feed = t.task.feed(there)
        net = there.place(t.task.model).eval()
        scores.append(evaluate_split(t.task, net, feed, "val", there)[0])
        feed.close()
    first, second = scores
    assert first.keys() == second.keys()
    for metric, value in first.items():
        assert value == pytest.approx(second[metric], abs=2e-3) or math.isnan(value), metric


class Held:
    """A stop request that never comes, and notes what the GPU holds."""

    def __init__(self) -> None:
        self.received = self.signal = None
        self.bytes: list[int] = []

    def __call__(self) -> bool:
        self.bytes.append(torch.cuda.memory_allocated() if HAS_GPU else 0)
        return False


def test_a_long_run_holds_no_more_than_a_short_one(tmp_path):
    config = digits({"epochs": 200 if HAS_GPU else 3, "batch_size": 512, "ema": {"decay": 0.9}})
    held = Held()
    t = training(tmp_path, Experiment(config, "").build(), config, stop=held)
    assert fit(t, t.feed.train_batches(0)) == "finished"
    t.log.close()
    later = held.bytes[len(held.bytes) // 4 :]
    assert max(later) <= max(held.bytes[: len(held.bytes) // 4])


def test_one_process_sums_by_its_own_backend(tmp_path):
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    distributed.init_process_group(backend, init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        numbers = torch.arange(1000.0, device=DEVICE)
        distributed.all_reduce(numbers)
        assert torch.equal(numbers.cpu(), torch.arange(1000.0))
    finally:
        distributed.destroy_process_group()
