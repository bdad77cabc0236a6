"""A step that is not finite never reaches the weights, and the run says which samples and which layer it was."""

import math

import pytest
import torch
from torch import nn

from mlcli.engine.checkpoint import by_age, load_checkpoint
from mlcli.engine.divergence import find_cause
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.step import Guard
from mlcli.engine.terms import Term
from mlcli.errors import DivergedError
from tests.engine.rig import settings_of, train, training
from tests.engine.toy import ToyTask

NAN, INF = math.nan, math.inf
LARGE = 8.0
MARKED = 13
"""The sample that is not in order."""


class Backwards(torch.autograd.Function):
    """Lets a tensor through, and multiplies the gradient that comes back."""

    @staticmethod
    def forward(context, x, factors):
        context.save_for_backward(factors)
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0].to(gradient.dtype), None


class Blows(nn.Module):
    """Lets its input through; for rows whose first number is large, something goes wrong.

    forth: what is added to such a row. back: what its gradient is multiplied by.
    """

    def __init__(self, *, forth: float = 0.0, back: float = 1.0) -> None:
        super().__init__()
        self.forth, self.back = forth, back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        marked = (x[:, :1] > LARGE).detach()
        return Backwards.apply(x, torch.where(marked, self.back, 1.0)) + torch.where(marked, self.forth, 0.0)


def toy(layer: nn.Module | None = None, **more) -> ToyTask:
    task = ToyTask(**more)
    if layer is not None:
        task.model = nn.Sequential(layer, *task.model)
    return task


def marked(task: ToyTask) -> None:
    """Give one sample a first feature that no other has."""
    task.inputs[MARKED, 0] = 2 * LARGE


def input_is(value: float) -> ToyTask:
    task = toy()
    task.inputs[MARKED, 2] = value
    return task


def target_is(value: float) -> ToyTask:
    task = toy()
    task.targets[MARKED] = value
    return task


def layer_adds(value: float) -> ToyTask:
    task = toy(Blows(forth=value))
    marked(task)
    return task


def gradient_is_times(value: float) -> ToyTask:
    task = ToyTask()
    marked(task)
    linear = nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(4))
        linear.bias.zero_()
    task.model = nn.Sequential(linear, Blows(back=value), *task.model)
    return task


def square_root_of_nothing() -> ToyTask:
    """A loss that is finite, with a gradient that is not: the derivative of the root at 0."""
    task = ToyTask()

    def losses(net, batch):
        error = (net(batch.inputs) - batch.targets).square()
        return {"rmse": Term(torch.where(batch.indices == MARKED, error * 0, error).sqrt().mean(), len(batch))}

    task.losses = losses
    return task


def second_term_is(value: float) -> ToyTask:
    """A term without a gradient."""
    task = ToyTask()

    def losses(net, batch):
        penalty = torch.where((batch.indices == MARKED).any(), value, 0.5)
        mse = (net(batch.inputs) - batch.targets).square().mean()
        return {"mse": Term(mse, len(batch)), "penalty": Term(penalty, len(batch))}

    task.losses = losses
    return task


def overflowing_exponential() -> ToyTask:
    class Exponential(nn.Module):
        def forward(self, x):
            return (x * (1 + 1e6 * (x[:, :1] > LARGE))).exp()

    task = toy(Exponential())
    marked(task)
    task.inputs[MARKED, 1] = 3.0
    return task


CAUSES = {
    "nan in an input": (input_is(NAN), "0 (Linear)", "inputs are not finite: train:13"),
    "inf in an input": (input_is(INF), "0 (Linear)", "inputs are not finite: train:13"),
    "nan in a target": (target_is(NAN), "in the loss term mse", "targets are not finite: train:13"),
    "inf in a target": (target_is(-INF), "in the loss term mse", "targets are not finite: train:13"),
    "nan out of a layer": (layer_adds(NAN), "in the output of 0 (Blows)", "optimizer.lr"),
    "inf out of a layer": (layer_adds(INF), "in the output of 0 (Blows)", "optimizer.lr"),
    "exp overflows": (overflowing_exponential(), "in the output of 0 (Exponential)", "optimizer.lr"),
    "nan on the way back": (gradient_is_times(NAN), "comes back to the output of 0 (Linear)", "optimizer.lr"),
    "inf on the way back": (gradient_is_times(INF), "comes back to the output of 0 (Linear)", "optimizer.lr"),
    "root of nothing": (square_root_of_nothing(), "comes back to the output of 5 (Flatten)", "optimizer.lr"),
    "nan in a second term": (second_term_is(NAN), "in the loss term penalty", "optimizer.lr"),
    "inf in a second term": (second_term_is(INF), "in the loss term penalty", "optimizer.lr"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_found_at_its_step_sample_and_layer_before_the_update(tmp_path, cause):
    task, layer, advice = CAUSES[cause]
    t = training(tmp_path, task, settings_of(train={"epochs": 2, "log_every": 50}))
    batches = t.feed.train_batches(0)
    guilty = next(step for step in range(8) if MARKED in next(batches).indices.tolist())
    with pytest.raises(DivergedError) as caught:
        run_until_refused(t)
    error = caught.value
    assert f"step {guilty + 1} (epoch {guilty // 4 + 1})" in error.where
    assert layer in error.where
    assert "train:13" in error.where
    assert advice in error.fix
    assert t.state.progress.step == guilty
    assert all(value.isfinite().all() for value in task.model.state_dict().values())
    assert_all_saved_is_finite(t.run)


def run_until_refused(t) -> None:
    from mlcli.engine.trainer import fit

    try:
        fit(t, t.feed.train_batches(0))
    finally:
        t.log.close()


def assert_all_saved_is_finite(run) -> None:
    for path in by_age(run.checkpoints):
        for value in load_checkpoint(path)["model"].values():
            assert value.isfinite().all()


def test_where_only_one_sample_is_bad_only_it_is_named(tmp_path):
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, layer_adds(NAN), settings_of())
    assert caught.value.where.endswith("samples: train:13")


def test_weights_that_are_bad_from_the_start_are_named(tmp_path):
    task = ToyTask()
    task.model[4].weight.data[0, 3] = NAN
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, task, settings_of())
    assert "weights were not finite before: 4.weight" in caught.value.fix
    assert "in the output of 4 (Linear)" in caught.value.where


def test_steps_that_are_far_too_large_end_with_the_learning_rate_named(tmp_path):
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, ToyTask(), settings_of(optimizer={"name": "sgd", "lr": 1e15}, train={"epochs": 20}))
    assert "learning rate" in caught.value.where
    assert "a lower optimizer.lr" in caught.value.fix


def test_a_part_of_a_step_is_found_as_well(tmp_path):
    task = layer_adds(NAN)
    task.accumulate = 3
    with pytest.raises(DivergedError, match="not finite") as caught:
        train(tmp_path, task, settings_of(train={"accumulate": 3}))
    assert caught.value.where.endswith("samples: train:13")


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_unread_the_guard_keeps_the_weights_as_they_were_before_the_bad_step(tmp_path, name):
    """As on a GPU, where nobody waits for the answer: the fused optimizers see the flag themselves."""
    task = layer_adds(NAN)
    settings = settings_of(optimizer={"name": name, "lr": 0.01}, train={"log_every": 100, "epochs": 3})
    t = training(tmp_path, task, settings)
    batches = t.feed.train_batches(0)
    guilty = next(step for step in range(8) if MARKED in next(batches).indices.tolist())
    t.stepper.guard = Guard(t.stepper.parameters, t.state.optimizer, t.runtime.device, reads_each_step=False)
    with pytest.raises(DivergedError) as caught:
        run_until_refused(t)
    assert f"step {guilty + 1} (epoch" in caught.value.where, "read at the end of the epoch, found where it was"
    clean = training(tmp_path, layer_adds(NAN), settings)
    with pytest.raises(DivergedError):
        run_until_refused(clean)
    assert clean.state.progress.step == guilty
    for ours, theirs in zip(task.model.parameters(), clean.task.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_guard_changes_no_bit_of_a_run_in_order(tmp_path):
    from tests.engine.rig import fingerprint

    guarded, _ = train(tmp_path, ToyTask(dropout=0.3, norm=True), settings_of())
    t = training(tmp_path, ToyTask(dropout=0.3, norm=True), settings_of())
    t.stepper.guard = type("Open", (), {"passes": lambda *_: True, "is_tripped": lambda _: False})()
    from mlcli.engine.trainer import fit

    fit(t, t.feed.train_batches(0))
    t.log.close()
    assert fingerprint(t.state) == fingerprint(guarded.state)


def test_fp16_with_no_scale_left_to_lower_ends(tmp_path):
    task = gradient_is_times(INF)
    task.inputs[:, 0] = 2 * LARGE  # every step overflows
    with pytest.raises(DivergedError) as caught:
        train(tmp_path, task, settings_of(train={"precision": "fp16", "epochs": 20}))
    assert "comes back to the output of 0 (Linear)" in caught.value.where


def test_examining_leaves_no_hooks_and_no_gradients():
    task = layer_adds(NAN)
    runtime = decide_runtime(settings_of())
    batches = task.feed(runtime).train_batches(0)
    guilty = next(step for step in range(4) if MARKED in next(batches).indices.tolist())
    finding = find_cause(task, task.feed(runtime), runtime, guilty, 1)
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert not any(module._forward_hooks for module in task.model.modules())
    assert finding.samples == ["train:13"]
