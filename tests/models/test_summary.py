"""One line about a model, and its size."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from mlcli.models.config import Model
from mlcli.models.layers import count_parameters, megabytes

LINES = {
    "linear 64-10": {"name": "linear"},
    "mlp 64-128-64-10": {"name": "mlp"},
    "cnn conv6 pool conv16 pool linear120 linear84 linear10": {"name": "cnn"},
    "vgg16-bn gap": {"name": "vgg"},
    "vgg11 classic width 0.5": {"name": "vgg", "depth": 11, "batch_norm": False, "head": "classic", "width": 0.5},
    "resnet18 cifar": {"name": "resnet"},
    "vit_b_16, weights none": {"name": "torchvision", "arch": "vit_b_16"},
}


@pytest.mark.parametrize(("line", "section"), LINES.items())
def test_each_config_describes_its_model(line, section, images):
    assert TypeAdapter(Model).validate_python(section).describe(images(1, 8, 8, classes=10)) == line


def test_parameters_and_megabytes():
    net = nn.Sequential(nn.Linear(10, 5), nn.BatchNorm1d(5))
    net[0].bias.requires_grad_(False)
    assert count_parameters(net) == (65, 60)
    assert megabytes(net) == pytest.approx((65 * 4 + 10 * 4 + 8) / 1e6)  # weights, running statistics, their count
    assert megabytes(net.to(torch.float64)) == pytest.approx((65 * 8 + 10 * 8 + 8) / 1e6)
