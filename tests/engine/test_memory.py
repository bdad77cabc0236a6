"""What training keeps besides activations, against optimizers that have really taken a step."""

import pytest
import torch
from torch import nn

from mlcli.engine.optimizer import build_optimizer, kept_bytes, parameter_groups
from tests.engine.rig import settings_of


@pytest.mark.parametrize(
    "optimizer",
    [{"name": "sgd"}, {"name": "sgd", "momentum": 0.0}, {"name": "adam"}, {"name": "adamw"}, {"name": "rmsprop"},
     {"name": "rmsprop", "momentum": 0.9}],
    ids=str,
)  # fmt: skip
def test_optimizer_state_is_what_a_step_makes(optimizer):
    settings = settings_of(optimizer=optimizer)
    model = nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40), nn.Linear(40, 3))
    model[0].weight.requires_grad_(False)
    found = kept_bytes(model, settings, lambda name: 1.0)
    built = build_optimizer(
        settings.optimizer, parameter_groups(model, settings.optimizer, lambda name: 1.0), fused=False
    )
    model(torch.rand(4, 50)).sum().backward()
    built.step()
    state = [t for values in built.state.values() for t in values.values() if isinstance(t, torch.Tensor)]
    assert found["optimizer"] == sum(t.numel() * t.element_size() for t in state)
    assert found["gradients"] == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert found["weights"] == sum(t.nbytes for t in model.state_dict().values())
    assert found["average"] == 0


def test_an_average_is_another_set_of_weights():
    settings = settings_of(train={"ema": {"decay": 0.99}})
    found = kept_bytes(nn.Linear(9, 2), settings, lambda name: 1.0)
    assert found["average"] == found["weights"] == 80
    both = settings_of(train={"ema": {"decay": 0.99}, "lookahead": {}})
    assert kept_bytes(nn.Linear(9, 2), both, lambda name: 1.0)["average"] == 160
