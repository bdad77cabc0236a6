"""What several models share: activations by name, channel counts under a width factor, the shape of image data."""

from torch import nn

from mlcli.data.info import DataInfo
from mlcli.errors import ConfigError
from mlcli.models.config import Activation


def activation(name: Activation) -> nn.Module:
    """The function between two layers; `none` is the identity, which lets linear layers collapse into one."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)  # slope of Maas et al. 2013, section 2
        case "gelu":
            return nn.GELU()
        case "sigmoid":
            return nn.Sigmoid()
        case "tanh":
            return nn.Tanh()
        case "none":
            return nn.Identity()


def scaled(channels: int, width: float) -> int:
    """`channels` times the width factor, rounded to a whole number and at least 1."""
    return max(1, round(channels * width))


def image_shape(info: DataInfo, model: str) -> tuple[int, int, int]:
    """(channels, height, width) of the data. Raises ConfigError if they are rows of features."""
    if info.kind != "image":
        raise ConfigError(
            f"model '{model}' works on images, but the data are rows of {info.input_shape[0]} features",
            where="model.name",
            fix="use model name: mlp or linear",
        )
    channels, height, width = info.input_shape
    return channels, height, width


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the last linear or convolutional layer: the head of every classifier in this house.

    Mostly that is a linear layer; SqueezeNet (Iandola et al. 2016) ends in a 1x1 convolution.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert layers, "a model without a single layer"
    return layers[-1]
