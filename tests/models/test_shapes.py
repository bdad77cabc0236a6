"""Every model on grey and colour images of odd sizes, forwards and backwards."""

import pytest
import torch

from mlcli.errors import ConfigError
from mlcli.models.layers import Normalized

MODELS = {
    "linear": {"name": "linear"},
    "perceptron": {"name": "perceptron"},
    "mlp": {"name": "mlp", "hidden": [7, 5], "batch_norm": True, "dropout": 0.2},
    "lenet": {"name": "cnn"},
    "vgg gap": {"name": "vgg", "depth": 11, "width": 0.125},
    "vgg classic": {"name": "vgg", "depth": 13, "width": 0.125, "head": "classic", "batch_norm": False},
    "resnet18": {"name": "resnet", "width": 0.125},
    "resnet34 imagenet": {"name": "resnet", "depth": 34, "width": 0.1, "stem": "imagenet"},
    "resnet50": {"name": "resnet", "depth": 50, "width": 0.125},
    "torchvision": {"name": "torchvision", "arch": "mobilenet_v3_small"},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 45)])
@pytest.mark.parametrize("section", MODELS.values(), ids=MODELS.keys())
def test_one_output_per_class_and_every_parameter_learns(section, height, width, channels, images, build):
    info = images(channels, height, width, classes=5)
    model = Normalized(build(info, **section), mean=info.mean, std=info.std, image=True)
    outputs = model(torch.randint(0, 256, (4, channels, height, width), dtype=torch.uint8))
    assert outputs.shape == (4, 5)
    assert outputs.dtype == torch.float32
    (outputs * torch.rand(4, 5)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("section", MODELS.values(), ids=MODELS.keys())
def test_state_of_a_model_fits_a_new_one_built_from_the_same_words(section, images, build):
    info = images(3, 32, 32)
    inputs = torch.rand(2, 3, 32, 32)
    first, second = build(info, **section).eval(), build(info, **section).eval()
    assert not torch.equal(first(inputs), second(inputs))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(inputs), second(inputs))


@pytest.mark.parametrize("name", ["cnn", "vgg", "resnet"])
def test_image_models_refuse_tables(name, table, build):
    with pytest.raises(ConfigError, match="rows of 6 features") as caught:
        build(table(6), name=name)
    assert "mlp" in caught.value.fix


@pytest.mark.parametrize(("classes", "outputs"), [(3, 3), (0, 1)])
def test_tables_and_regression(classes, outputs, table, build):
    for name in ("linear", "mlp"):
        assert build(table(6, classes), name=name)(torch.rand(2, 6)).shape == (2, outputs)
