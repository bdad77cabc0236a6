"""The rehearsal before training: it names the layer that fails, and leaves the model as it was."""

import pytest
import torch
from torch import nn

from mlcli.engine.contract import Batch
from mlcli.engine.rehearsal import check_batches
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import Train, TrainerSettings
from mlcli.errors import ConfigError, DivergedError, OutOfMemoryError
from tests.engine.toy import ToyFeed, ToyTask

RUNTIME = decide_runtime(TrainerSettings(train=Train(device="cpu", threads=1)))


def first_batches(task: ToyTask) -> list[Batch]:
    batches = ToyFeed(task).train_batches(0)
    return [next(batches) for _ in range(2)]


def test_it_leaves_the_model_as_it_was():
    task = ToyTask(norm=True, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    assert check_batches(task, RUNTIME, first_batches(task)) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


def test_a_shape_error_names_the_layer_and_what_it_was_given():
    task = ToyTask()
    task.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(9, 1))
    with pytest.raises(ConfigError) as caught:
        check_batches(task, RUNTIME, first_batches(task))
    assert caught.value.where == "layer 2 (Linear), given [6, 8]"


def test_a_first_loss_that_is_not_finite_is_said_before_training():
    task = ToyTask()
    task.inputs[:] = float("nan")
    with pytest.raises(DivergedError, match="the very first loss is not finite: mse = nan"):
        check_batches(task, RUNTIME, first_batches(task))


class OfAGpu(nn.Module):
    def forward(self, x):
        raise RuntimeError("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation")


def test_an_operation_without_fixed_bits_names_the_key_that_asks_for_them():
    task = ToyTask()
    task.model = nn.Sequential(OfAGpu())
    with pytest.raises(ConfigError, match="does not have a deterministic implementation") as caught:
        check_batches(task, RUNTIME, first_batches(task))
    assert "train.deterministic=false" in caught.value.fix


class Hungry(nn.Module):
    def forward(self, x):
        return x + torch.empty(2**50)


def test_too_little_memory_is_said_with_the_largest_lever():
    task = ToyTask()
    task.model = nn.Sequential(Hungry())
    with pytest.raises(OutOfMemoryError, match="a micro-batch of 6 samples") as caught:
        check_batches(task, RUNTIME, first_batches(task))
    assert "train.accumulate=2" in caught.value.fix
