"""The gradients of one step, cut into parts or not."""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from mlcli.engine.contract import Batch
from mlcli.engine.evaluate import SelectBy
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import TrainingState
from mlcli.engine.step import Stepper
from tests.engine.rig import settings_of


class OneStep:
    """A feed of which only the number of its steps is asked."""

    steps_per_epoch = 1


def step_gradients(task, batches: Iterable[Batch], *, precision: str = "fp32") -> tuple[Tensor, float]:
    """All gradients of a step that consists of these parts, float64 [P], and its loss as it is logged."""
    batches = list(batches)
    settings = settings_of(train={"batch_size": sum(len(batch) for batch in batches), "precision": precision})
    runtime = decide_runtime(settings)
    state = TrainingState.start(task, OneStep(), settings, runtime, SelectBy("loss", "min", "val"))
    stepper = Stepper(task, state, settings, runtime, Meter())
    stepper.forget_gradients()
    losses = stepper.gradients(iter(batches), len(batches))
    logged = state.window.read()["loss"]
    assert abs(sum(loss.item() for loss in losses) - logged) <= 1e-6 * abs(logged)
    return torch.cat([p.grad.double().flatten() for p in stepper.parameters if p.grad is not None]), logged


def cut(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts that differ in size by one at most."""
    bounds = [len(batch) * part // parts for part in range(parts + 1)]
    return [batch[start:stop] for start, stop in itertools.pairwise(bounds)]


def check_same(whole: tuple[Tensor, float], parts: tuple[Tensor, float]) -> None:
    """The same direction, the same length, the same loss."""
    (gradient, loss), (others, their_loss) = whole, parts
    assert torch.cosine_similarity(gradient, others, dim=0) > 0.99999
    assert abs(others.norm() / gradient.norm() - 1) < 1e-4
    assert abs(their_loss / loss - 1) < 1e-5
