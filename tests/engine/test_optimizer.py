"""Parameter groups, optimizers and clipping."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from mlcli.engine.optimizer import build_optimizer, clip_gradients, give_momentum, parameter_groups, set_lr
from mlcli.engine.settings import Optimizer
from mlcli.engine.state import refuse_odd_settings


def parse(**config):
    return TypeAdapter(Optimizer).validate_python(config)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2, 2))


def test_norms_and_biases_do_not_decay_unless_asked():
    config = parse(name="sgd", weight_decay=0.1)
    optimizer = build_optimizer(config, parameter_groups(net(), config, lambda name: 1.0), fused=True)
    decays = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {(2, 1, 3, 3): 0.1, (2,): 0.0, (2, 2): 0.1}
    asked = parse(name="sgd", weight_decay=0.1, decay_norm_and_bias=True)
    assert len(parameter_groups(net(), asked, lambda name: 1.0)) == 1
    assert len(parameter_groups(net(), parse(name="sgd"), lambda name: 1.0)) == 1, "without decay all are alike"


def test_norms_biases_take_larger_steps_but_decay_as_much():
    """Against torch's SGD with the groups of airbench94: the decay of a step is the same for all, and free of both."""
    config = parse(name="sgd", lr=0.1, momentum=0.85, nesterov=True, weight_decay=0.02, decay_norm_and_bias=True,
                   norm_bias_lr=64)  # fmt: skip
    ours, theirs = net().double(), net().double()  # such steps would make much of float32's rounding
    optimizer = build_optimizer(config, parameter_groups(ours, config, lambda name: 1.0), fused=True)
    biases = [theirs[1].bias]
    others = [parameter for parameter in theirs.parameters() if parameter is not theirs[1].bias]
    groups = [{"params": biases, "lr": 6.4, "weight_decay": 0.002 / 6.4}, {"params": others, "weight_decay": 0.02}]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.85, nesterov=True)
    for _ in range(3):
        set_lr(optimizer, config.lr)
        inputs = torch.rand(5, 1, 3, 3, dtype=torch.float64)
        for model, stepper in ((ours, optimizer), (theirs, reference)):
            stepper.zero_grad()
            model(inputs).square().sum().backward()
            stepper.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(ours[1].bias, net().double()[1].bias)


def test_layers_that_thaw_step_as_by_torchs_sgd_without_fusion():
    config, ended = parse(name="sgd", lr=0.1), []
    for fused in (True, False):
        model = plain_net()
        groups = parameter_groups(model, config, lambda name: 1.0)
        optimizer = build_optimizer(config, groups, fused=fused)
        set_lr(optimizer, config.lr)
        for step in range(4):
            model[0].requires_grad_(step >= 2)
            if fused:
                give_momentum(optimizer)
            optimizer.zero_grad()
            model(torch.ones(3, 1, 3, 3)).square().sum().backward()
            optimizer.step()
        ended.append(model.state_dict())
    for name, value in ended[0].items():
        torch.testing.assert_close(value, ended[1][name])


def test_each_group_takes_its_share_of_the_learning_rate():
    groups = parameter_groups(net(), parse(name="sgd"), lambda name: 0.1 if name.startswith("0.") else 1.0)
    optimizer = build_optimizer(parse(name="sgd"), groups, fused=True)
    set_lr(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.5]


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        ({"name": "sgd", "lr": 0.1, "nesterov": True}, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        ({"name": "adam", "lr": 0.1}, lambda p: torch.optim.Adam(p, 0.1)),
        ({"name": "adamw", "lr": 0.1, "decay_norm_and_bias": True}, lambda p: torch.optim.AdamW(p, 0.1)),
        ({"name": "rmsprop", "lr": 0.1, "momentum": 0.5}, lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5)),
    ],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_a_step_is_the_step_of_torch(config, reference):
    # No normalisation here: the bias before one has no gradient but rounding noise, which Adam blows up to full steps.
    parsed, (ours, theirs) = parse(**config), (plain_net(), plain_net())
    groups = parameter_groups(ours, parsed, lambda name: 1.0)
    optimizer, other = build_optimizer(parsed, groups, fused=True), reference(theirs.parameters())
    set_lr(optimizer, parsed.lr)
    for step in range(3):
        for model, stepper in ((ours, optimizer), (theirs, other)):
            torch.manual_seed(step)
            stepper.zero_grad()
            model(torch.randn(4, 1, 3, 3)).square().sum().backward()
            stepper.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_clipping_by_norm_and_by_value():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    clip_gradients([parameter], parse(name="sgd"))
    assert parameter.grad.tolist() == [3, 4]
    clip_gradients([parameter], parse(name="sgd", clip_norm=1.0))
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-4)
    clip_gradients([parameter], parse(name="sgd", clip_value=0.7))
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.7], rel=1e-4)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_settings_taken_over_from_a_checkpoint_are_of_their_kinds(name):
    config = parse(name=name)
    optimizer = build_optimizer(config, parameter_groups(net(), config, lambda name: 1.0), fused=False)
    good = optimizer.param_groups
    refuse_odd_settings(good, good)
    refuse_odd_settings([group | {"fused": None, "foreach": True} for group in good], good)
    for key in good[0].keys() - {"params", "foreach", "fused"}:
        for odd in ([group | {key: "-1"} for group in good], [{k: v for k, v in g.items() if k != key} for g in good]):
            with pytest.raises(ValueError, match=f"its optimizer's {key} is not as it should be"):
                refuse_odd_settings(odd, good)
    for key, value in (("maximize", -1), ("lr", None), ("lr", True)):
        with pytest.raises(ValueError, match="is not as it should be"):
            refuse_odd_settings([group | {key: value} for group in good], good)
