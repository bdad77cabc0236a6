"""The learning-rate range test, on problems whose right learning rate is known, and its silence about the model."""

import math

import pytest
import torch
from torch import nn

from mlcli.engine.contract import Batch
from mlcli.engine.lr_range import LEAST_STEPS, Sweep, moving, suggest, sweep
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.terms import Term, Terms
from tests.engine.rig import settings_of
from tests.engine.toy import ToyTask


class Quadratic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[3.0, -2.0]]))

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.w


class QuadraticTask(ToyTask):
    """L / 2 w^2 in two directions: gradient descent shrinks w by 1 - lr L, so it is stable for lr < 2 / L exactly."""

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.model, self.curvature = Quadratic(), curvature

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        return {"quadratic": Term(self.curvature / 2 * net(batch.inputs).square().sum(), len(batch))}


def measured(task: ToyTask, settings=None, **more) -> Sweep:
    settings = settings or settings_of(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0})
    runtime = decide_runtime(settings)
    return sweep(task, task.feed(runtime), settings, runtime, **more)


@pytest.mark.parametrize("curvature", [0.5, 8.0, 300.0])
def test_the_suggestion_is_below_where_gradient_descent_diverges_and_not_far(curvature):
    seen = measured(QuadraticTask(curvature))
    found, limit = suggest(seen), 2 / curvature
    assert found.best is not None
    assert found.lowest is not None
    assert limit / 200 < found.best < limit
    assert limit / 20 < found.lowest < 3 * limit  # the loss must grow again to be seen growing
    assert seen.losses[0] == pytest.approx(curvature / 2 * 13)


def test_the_suggestion_trains_and_much_more_does_not():
    """Linear regression with known inputs: the largest eigenvalue of 2 X'X / n bounds the learning rate."""

    def final(lr: float) -> float:
        task, loss = ToyTask(), math.inf
        optimizer = torch.optim.SGD(task.model.parameters(), lr)
        everything = Batch(task.inputs, task.targets, torch.arange(task.samples))
        for _ in range(200):
            loss = task.losses(task.model, everything)["mse"].mean
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss = loss.item()
        return loss

    found = suggest(measured(ToyTask())).best
    assert found is not None
    assert final(found) < 0.2 * final(0.0)
    assert not final(100 * found) < final(0.0)


def test_model_generators_and_modes_stay_as_they_were():
    task = ToyTask(dropout=0.5, norm=True)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    seen = measured(task)
    assert len(seen.losses) > LEAST_STEPS
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_the_same_twice():
    first, second = (measured(ToyTask(dropout=0.5)) for _ in range(2))
    assert first.losses == second.losses
    assert first.lrs == second.lrs


def test_learning_rates_grow_evenly_from_end_to_end():
    seen = measured(ToyTask(), lr_min=1e-6, lr_max=1e-4, steps=41)  # too small for anything to explode
    assert seen.ended == "range"
    assert len(seen.lrs) == 41
    assert (seen.lrs[0], seen.lrs[-1]) == (1e-6, pytest.approx(1e-4))
    assert seen.lrs[20] == pytest.approx(1e-5)


def test_micro_batches_make_one_step():
    """The size of each part weighs its loss: one batch in three parts gives the same curve."""
    whole = measured(ToyTask(), settings_of(optimizer={"name": "sgd", "lr": 0.1}))
    parts = measured(ToyTask(accumulate=3), settings_of(optimizer={"name": "sgd", "lr": 0.1}, train={"accumulate": 3}))
    together = min(len(whole.losses), len(parts.losses), 60)
    assert parts.losses[:together] == pytest.approx(whole.losses[:together], rel=1e-3)


def test_frozen_weights_and_clipping_are_honoured():
    class Frozen(ToyTask):
        def train_mode(self, epoch: int) -> None:
            super().train_mode(epoch)
            self.model.requires_grad_(False)
            self.model[-2].bias.requires_grad_(True)

    free, frozen = measured(ToyTask()), measured(Frozen())
    assert min(frozen.smooth) > 1.5 * min(free.smooth)  # one bias explains little
    settings = settings_of(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0, "clip_norm": 1e-4})
    clipped = measured(ToyTask(), settings)
    assert clipped.ended == "range"  # steps of 1e-4 times the learning rate explode nothing
    assert free.ended == "exploded"


def test_a_slow_model_gets_fewer_steps():
    assert measured(ToyTask(), budget_s=1e-6).planned == LEAST_STEPS


def test_a_loss_that_is_not_finite_ends_the_test():
    seen = measured(ToyTask(bad_step=3 + 50))  # three batches are rehearsed
    assert seen.ended == "exploded"
    assert len(seen.losses) == 50
    assert all(map(math.isfinite, seen.losses))


def test_a_curve_that_never_falls_says_nothing():
    flat = Sweep(tuple(10.0 ** -(7 - step / 10) for step in range(60)), (1.0,) * 60, "range", 60, 1.0)
    assert suggest(flat).best is None
    rising = Sweep(flat.lrs, tuple(1.0 + step for step in range(60)), "exploded", 60, 1.0)
    assert suggest(rising).best is None
    assert "never fell" in suggest(rising).why


def curve_of(shape) -> Sweep:
    """A curve of loss over the logarithm of the learning rate from -7 to 1."""
    logs = [-7 + 8 * step / 99 for step in range(100)]
    return Sweep(tuple(10**x for x in logs), tuple(map(shape, logs)), "exploded", 100, 1.0)


def test_rules_on_drawn_curves():
    slow = suggest(curve_of(lambda x: 2.0 - 0.5 * max(0, min(x + 4, 3)) + 20 * max(0, x + 1)))
    assert 0.02 < slow.lowest < 0.15
    assert slow.tenth == pytest.approx(slow.lowest / 10)
    late = suggest(curve_of(lambda x: 2.0 - max(0, min(x + 1.4, 0.4)) * 4 + 20 * max(0, x + 1)))
    assert late.steepest > late.lowest / 3
    assert late.best == late.tenth
    early = suggest(curve_of(lambda x: 2.0 - 0.6 * max(0, min(x + 5, 1)) - 0.1 * max(0, min(x + 4, 3))
                             + 20 * max(0, x + 1)))  # fmt: skip
    assert 1e-5 < early.steepest < 1e-4
    assert early.best == early.tenth > early.steepest
    falling = suggest(Sweep(curve_of(lambda x: -x).lrs, curve_of(lambda x: 3 - x).losses, "range", 100, 1.0))
    assert falling.lowest == pytest.approx(10)
    assert falling.best == falling.steepest


def test_the_average_is_that_of_the_formula():
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    for count, found in enumerate(moving(values), start=1):
        weights = [0.8 ** (count - 1 - i) for i in range(count)]
        assert found == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
