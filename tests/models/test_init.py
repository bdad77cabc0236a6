"""The statistics that the papers ask of first weights."""

import pytest
import torch
from torch import nn

from mlcli.models.layers import initialise

FAN_IN, FAN_OUT = 400, 200
VARIANCES = {
    "xavier": 2 / (FAN_IN + FAN_OUT),  # Glorot & Bengio 2010, eq. 12
    "kaiming": 2 / FAN_IN,  # He et al. 2015, eq. 10
    "normal": 0.01**2,
}


@pytest.mark.parametrize(("scheme", "variance"), VARIANCES.items())
def test_linear_and_convolution_have_the_papers_variance(scheme, variance):
    net = nn.Sequential(nn.Linear(FAN_IN, FAN_OUT), nn.Conv2d(16, 8, 5, groups=1))  # 16 * 25 = 400, 8 * 25 = 200
    initialise(net, scheme)
    for layer in net:
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.1)
        assert abs(layer.weight.mean().item()) < 4 * (variance / layer.weight.numel()) ** 0.5
        assert not layer.bias.any()


def test_kaiming_keeps_the_size_of_relu_activations_through_twenty_layers():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(20)))
    x = torch.randn(64, 256)
    sizes = {}
    for scheme in ("kaiming", "xavier", "normal"):
        initialise(net, scheme)
        sizes[scheme] = net(x).pow(2).mean().item()
    assert 0.05 < sizes["kaiming"] < 20
    assert sizes["normal"] < sizes["xavier"] < 1e-4


@pytest.mark.parametrize("scheme", VARIANCES)
def test_norms_start_as_the_identity(scheme):
    norms = nn.ModuleList([nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.LayerNorm(3), nn.BatchNorm1d(3, affine=False)])
    for parameter in norms.parameters():
        nn.init.normal_(parameter)
    initialise(norms, scheme)
    for name, parameter in norms.named_parameters():
        assert torch.equal(parameter, torch.ones(3) if name.endswith("weight") else torch.zeros(3))


def test_default_leaves_a_model_as_it_was_made():
    net = nn.Linear(5, 5)
    before = net.weight.clone()
    initialise(net, "default")
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize(
    "section",
    [
        {"name": "linear"},
        {"name": "mlp", "batch_norm": True},
        {"name": "cnn"},
        {"name": "vgg", "depth": 11, "width": 0.125},
        {"name": "resnet", "width": 0.125},
        {"name": "torchvision", "arch": "squeezenet1_1"},
    ],
    ids=lambda section: section["name"],
)
def test_every_model_obeys_the_scheme_in_its_section(section, images, build):
    net = build(images(3, 32, 32), **section, init="normal")
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    weights = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert weights.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(layer.bias.any() for layer in layers if layer.bias is not None)


def test_vgg_and_resnet_default_to_kaiming_by_fan_out(images, build):
    vgg = build(images(3, 32, 32), name="vgg", depth=11)
    assert vgg.features[4].weight.var().item() == pytest.approx(2 / (128 * 9), rel=0.05)
    assert not vgg.features[4].bias.any()
    resnet = build(images(3, 32, 32), name="resnet", depth=18, width=0.5)
    assert resnet.layer2[0].conv1.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)
