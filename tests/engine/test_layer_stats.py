"""Statistics of layers agree with autograd and the optimizer, and name the layer where something is wrong."""

import pytest
import torch
from torch import nn

from mlcli.engine.layer_stats import NO_MEASUREMENT, Activation, LayerMeasurement, LayerMonitor, LayerStats, troubles
from mlcli.engine.meter import Budget

HISTOGRAM = ([1.0], [0.0, 1.0])


def generous() -> Budget:
    return Budget(1.0, {"layers": 0.0})


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def measured(model: nn.Module, inputs: torch.Tensor, lr: float = 0.1) -> LayerStats:
    optimizer = torch.optim.SGD(model.parameters(), lr)
    measurement = LayerMonitor(model, generous()).measure(7, is_log_point=True)
    model(inputs).square().sum().backward()
    measurement.gradients()
    optimizer.step()
    measurement.updated()
    result = measurement.result()
    assert result is not None
    return result


def test_norms_and_ratios_are_those_of_gradients_and_steps():
    model, inputs = small_model(), torch.randn(16, 3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stats = measured(model, inputs)
    assert stats.step == 7
    assert [layer.name for layer in stats.layers] == ["0", "1", "3"]
    for layer in stats.layers:
        own = {name: p for name, p in model.named_parameters() if name.startswith(layer.name + ".")}
        gradient = torch.cat([p.grad.flatten() for p in own.values()])
        old = torch.cat([before[name].flatten() for name in own])
        new = torch.cat([p.detach().flatten() for p in own.values()])
        assert layer.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-5)
        assert layer.update_ratio == pytest.approx(((new - old).norm() / old.norm()).item(), rel=1e-4)
        assert layer.weight_l1 == pytest.approx(new.abs().sum().item(), rel=1e-5)
        assert layer.weight_l2 == pytest.approx(new.norm().item(), rel=1e-5)
        assert layer.weight_max == pytest.approx(new.abs().max().item(), rel=1e-6)
        counts, edges = layer.weight_histogram
        expected, _ = torch.histogram(new, torch.tensor(edges))
        assert sum(counts) == len(new) == layer.size
        assert (torch.tensor(counts) - expected).abs().sum() <= 2  # a value on an edge may fall to either side
    assert [layer.is_matrix for layer in stats.layers] == [True, False, True]


def test_activations_are_those_of_the_forward_pass():
    model, inputs = small_model(), torch.randn(16, 3)
    seen = model[:3](inputs).detach()
    stats = measured(model, inputs)
    relu = stats.activations["2"]
    assert relu.mean == pytest.approx(seen.mean().item(), rel=1e-5)
    assert relu.std == pytest.approx(seen.std(correction=0).item(), rel=1e-5)
    assert relu.zero_share == pytest.approx((seen == 0).float().mean().item())
    assert stats.layers[0].activation is not None


def test_measuring_leaves_no_hook_behind_and_changes_nothing():
    inputs = torch.randn(16, 3)
    watched, alone = small_model(), small_model()
    measured(watched, inputs)
    optimizer = torch.optim.SGD(alone.parameters(), 0.1)
    alone(inputs).square().sum().backward()
    optimizer.step()
    for one, other in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not any(module._forward_hooks for module in watched.modules())


def test_a_frozen_layer_and_zero_weights_are_no_trouble():
    model = small_model()
    model[0].requires_grad_(False)
    nn.init.zeros_(model[1].weight)  # as zero_init_residual does
    nn.init.zeros_(model[1].bias)
    stats = measured(model, torch.randn(16, 3), lr=1e-3)
    assert stats.layers[0].gradient_norm == 0
    assert stats.layers[0].update_ratio == 0
    assert stats.layers[1].update_ratio == 0
    assert stats.notes == ["dead activations: 2 (over 99.5% zeros)"]


def layer(name: str, gradient_norm: float = 1.0, update_ratio: float = 1e-3) -> LayerMeasurement:
    return LayerMeasurement(name, 100, True, gradient_norm, update_ratio, 1, 1, 1, HISTOGRAM, HISTOGRAM)


@pytest.mark.parametrize(
    ("layers", "activations", "expected"),
    [
        ([layer("a"), layer("b")], {}, None),
        ([layer("a", 1e-6, 1e-9), layer("b")], {}, "vanishing gradients: a "),
        ([layer("a", 1e-6, 1e-3), layer("b")], {}, None),  # Adam moves it all the same
        ([layer("a", 1e-6, 1e-10), layer("b", 1.0, 1e-9)], {}, None),  # the learning rate is next to nothing
        ([layer("a", 0.0, 0.0), layer("b")], {}, None),  # frozen
        ([layer("a", 0.0, 0.0), layer("b", 1e-6, 1e-9), layer("c")], {}, "vanishing gradients: b "),
        # As configs/detection/yolo-scenes.yaml has it: hardly a box is so large that its stride of 16 is to find it.
        ([layer("backbone"), layer("head.where.1", 4e-13, 1e-6), layer("head.what.1", 0.7, 1e-2)], {}, None),
        ([layer("a", 5e3), layer("b")], {}, "exploding gradients: a (norm 5e+03 in a)"),
        ([layer("a"), layer("b", 1.0, 0.5)], {}, "steps too large: b (a step moves b by 50% of its size)"),
        ([layer("a")], {"relu": Activation(0.0, 0.0, 1.0)}, "dead activations: relu "),
    ],
    ids=[
        "healthy",
        "vanishing",
        "small but moving",
        "end of schedule",
        "frozen",
        "vanishing behind frozen ones",
        "a branch without samples",
        "exploding",
        "jumping",
        "dead",
    ],
)
def test_what_is_wrong_is_named(layers, activations, expected):
    found = troubles(layers, activations)
    assert (found == []) if expected is None else (len(found) == 1 and found[0].startswith(expected))


def test_a_deep_sigmoid_network_is_caught_vanishing():
    torch.manual_seed(0)
    stack = [m for _ in range(12) for m in (nn.Linear(16, 16), nn.Sigmoid())]
    stats = measured(nn.Sequential(*stack, nn.Linear(16, 1)), torch.randn(64, 16), lr=1e-3)
    assert any(text.startswith("vanishing gradients: 0,") for text in stats.notes)


def test_overflow_names_the_layer():
    model = small_model()
    model(torch.randn(4, 3)).sum().backward()
    model[3].weight.grad[0, 0] = float("inf")
    assert "overflowed in 3:" in LayerMonitor(model, generous()).overflowed()


def test_time_is_kept_within_the_share():
    budget = Budget(0.1, {"layers": 0.05})
    assert not budget.allows("layers")  # half a second must pass first
    budget = Budget(0.5, {"layers": 0.0})
    assert budget.allows("layers")
    budget.spend("layers", 60.0)
    assert not budget.allows("layers")


def test_nothing_is_measured_outside_log_points_or_when_switched_off():
    model = small_model()
    assert LayerMonitor(model, generous()).measure(1, is_log_point=False) is NO_MEASUREMENT
    assert LayerMonitor(model, generous(), active=False).measure(1, is_log_point=True) is NO_MEASUREMENT
    assert NO_MEASUREMENT.result() is None


def test_plain_form_has_no_infinity():
    stats = LayerStats(3, [layer("a", float("inf"), float("nan"))])
    plain = stats.to_plain()
    assert plain["layers"][0]["gradient_norm"] is None
    assert plain["layers"][0]["update_ratio"] is None
