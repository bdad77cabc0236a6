"""Between log points nothing waits for the device, and after a first epoch nothing is compiled again."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mlcli.engine.step import Guard
from mlcli.engine.trainer import fit
from mlcli.experiment import Experiment
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.regression.config import Regression
from tests.engine.rig import training

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select")
"""What makes a program wait for a GPU: reading a number, and sizes that depend on values. Two are left
out below that only read what is on the CPU in any case: mixup its draws, Adam's kernel its step."""
TRAIN = {"device": "cpu", "threads": 1, "epochs": 3, "log_every": 1000, "evaluate_every": 3, "ema": {"decay": 0.9}}
TASKS = {
    "mlp": (Classification, {
        "task": "classification", "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [16], "dropout": 0.1},
        "optimizer": {"name": "sgd", "lr": 0.1, "clip_norm": 1.0}, "train": {**TRAIN, "batch_size": 64},
    }),
    "cnn with augmentation": (Classification, {
        "task": "classification", "data": {"name": "digits"},
        "augment": [{"name": "random_crop", "padding": 1}, {"name": "cutout", "size": 2}],
        "model": {"name": "cnn", "blocks": [{"name": "conv", "channels": 4}, {"name": "global_pool"}]},
        "schedule": {"name": "one_cycle"},
        "train": {**TRAIN, "batch_size": 64, "accumulate": 2},
    }),
    "regression": (Regression, {
        "task": "regression", "data": {"name": "diabetes"}, "model": {"name": "mlp", "hidden": [8]},
        "train": {**TRAIN, "batch_size": 16},
    }),
    "yolo": (Detection, {
        "task": "detection", "data": {"name": "scenes", "images": 40, "image_size": 64},
        "augment": [{"name": "affine", "translate": 0.1}, {"name": "photometric"}],
        "model": {"name": "yolo", "width": 4, "strides": [8, 16]},
        "train": {**TRAIN, "batch_size": 2},
    }),
}  # fmt: skip


class Between:
    """A stop request that never comes, and is asked once before every step: profiles the steps from `first` to `last`.

    A profiler's first step allocates and warms up, so some steps are left out.
    """

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.polls = first, last, 0
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def __call__(self) -> bool:
        self.polls += 1
        if self.polls == self.first:
            self.profile.start()
        if self.polls == self.last:
            self.profile.stop()
        return self.polls > self.last


def counted(profiled) -> dict[str, int]:
    seen = {event.key: event.count for event in profiled.key_averages()}
    assert "aten::mm" in seen or "aten::addmm" in seen or "aten::convolution" in seen, "the profiler saw the steps"
    return {name: seen[name] for name in WAITS if name in seen}


@pytest.mark.parametrize("name", TASKS)
def test_no_step_waits_for_the_device(tmp_path, name):
    kind, content = TASKS[name]
    config = kind.model_validate(content)
    t = training(tmp_path, Experiment(config, "").build(), config, stop=Between(4, 8))
    t.stepper.guard = Guard(
        t.stepper.parameters, t.state.optimizer, t.runtime.device, reads_each_step=False
    )  # as on a GPU
    fit(t, t.feed.train_batches(0))
    t.log.close()
    assert t.state.progress.step == 8, "no evaluation has come between"
    assert counted(t.stop.profile) == {}


def test_on_the_cpu_a_step_reads_one_number(tmp_path):
    """The guard's: it costs nothing there, and stops before the update."""
    kind, content = TASKS["mlp"]
    config = kind.model_validate(content)
    t = training(tmp_path, Experiment(config, "").build(), config, stop=Between(4, 8))
    fit(t, t.feed.train_batches(0))
    t.log.close()
    assert counted(t.stop.profile) == {"aten::_local_scalar_dense": 4}


class ThenFixed:
    """A stop request that never comes: from step `since` on it lets nothing be compiled again."""

    def __init__(self, since: int) -> None:
        self.since, self.polls = since, 0
        self.received = self.signal = None

    def __call__(self) -> bool:
        self.polls += 1
        if self.polls == self.since:
            torch.compiler.set_stance("fail_on_recompile")
        return False


@pytest.mark.parametrize("accumulate", [1, 3], ids=["whole batches", "parts of two sizes"])
def test_after_an_epoch_nothing_is_compiled_again(tmp_path, monkeypatch, accumulate):
    """Ragged last batches of evaluations included: 239 validation samples are none of the sizes of training."""
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real_compile(model, backend="eager"))
    torch.compiler.reset()
    _, content = TASKS["mlp"]
    train = {**content["train"], "compile": True, "evaluate_every": 1, "log_every": 5, "accumulate": accumulate}
    config = Classification.model_validate({**content, "train": train})
    t = training(tmp_path, Experiment(config, "").build(), config)
    t.stop = ThenFixed(since=2 * t.feed.steps_per_epoch)
    try:
        assert fit(t, t.feed.train_batches(0)) == "finished"
    finally:
        torch.compiler.set_stance("default")
        t.log.close()
    assert t.stop.polls > t.stop.since
