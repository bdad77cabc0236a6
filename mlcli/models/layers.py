"""Parts shared by the models: the standardised input, activations, first weights, the last layer, and their size."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine.optimizer import NORMS

PIXEL_PEAK = 255.0
"""Statistics of images are those of pixel values divided by this."""


class Normalized(nn.Module):
    """`net((x / 255 - mean) / std)` for images, `net((x - mean) / std)` for features.

    Args:
        net: takes float32 [B, C, H, W] or [B, F].
        mean, std: of each channel or feature of the training data, for images of pixel values divided by 255. What
            never varies is only shifted.
        image: whether inputs are images [B, C, H, W], uint8 or float32 in 0..255, or rows of features [B, F].

    Standardising per channel or feature: LeCun, Bottou, Orr & Mueller 1998, "Efficient BackProp", section 4.3.
    State: `net.*`, `mean` and `std`, both float32 [C] or [F].
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, *, mean: Sequence[float], std: Sequence[float], image: bool) -> None:
        super().__init__()
        self.net = net
        self._peak = PIXEL_PEAK if image else 1.0
        self._shape = (1, -1, 1, 1) if image else (1, -1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        assert self.mean.shape == self.std.shape, "one mean and std per channel or feature"
        self.register_buffer("scale", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)
        self._fold()

    def forward(self, inputs: Tensor) -> Tensor:
        # One value per channel would spread silently over a grey image.
        assert inputs.shape[1] == self.mean.shape[0], f"expected {self.mean.shape[0]} channels, not {inputs.shape[1]}"
        # One pass over the input: bytes become floats in the same kernel as the multiply-add.
        return self.net(torch.addcmul(self.shift, inputs, self.scale))

    def _fold(self) -> None:
        """(x / peak - mean) / std == shift + x * scale"""
        # A constant's standard deviation is 0, or what rounding the mean to float32 left of it.
        constant = self.std <= self.mean.abs() * torch.finfo(torch.float32).eps
        std = torch.where(constant, 1.0, self.std)
        self.scale = (1 / (std * self._peak)).reshape(self._shape)
        self.shift = (-self.mean / std).reshape(self._shape)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fold()


def activation(name: str) -> nn.Module:
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
    raise ValueError(f"no activation '{name}'")


def scaled(channels: int, width: float) -> int:
    """`channels` times the width factor, rounded to a whole number and at least 1."""
    return max(1, round(channels * width))


def initialise(model: nn.Module, scheme: str) -> None:
    """Draw all convolution and linear weights anew; their biases become 0, norms start as the identity.

    default: as the model's own constructor made it. That is PyTorch's way for linear, mlp and cnn, uniform in
        +-1 / sqrt(fan_in) for weights and biases (LeCun et al. 1998, section 4.6), and torchvision's for vgg and
        resnet: convolutions Kaiming normal by fan_out (resnet's last layer PyTorch's, vgg's linear layers N(0, 0.01)),
        biases 0.
    xavier: uniform with variance 2 / (fan_in + fan_out), which keeps activations *and* gradients alike for tanh (Glorot
        & Bengio 2010, eq. 16).
    kaiming: normal with variance 2 / fan_in, which makes up for the half that ReLU sets to 0 (He et al. 2015,
        arXiv:1502.01852, eq. 10).
    normal: N(0, 0.01), as AlexNet (Krizhevsky et al. 2012, section 5); too small for deep nets without normalisation.
    """
    if scheme == "default":
        return
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            match scheme:
                case "xavier":
                    nn.init.xavier_uniform_(layer.weight)
                case "kaiming":
                    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                case "normal":
                    nn.init.normal_(layer.weight, std=0.01)
                case _:
                    raise ValueError(f"no scheme of first weights '{scheme}'")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, NORMS) and layer.weight is not None:
            nn.init.ones_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and module of the last linear or convolutional layer: the head of every classifier here.

    Mostly that is a linear layer; SqueezeNet (Iandola et al. 2016) ends in a 1x1 convolution.
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert layers, "a model without a single layer"
    return layers[-1]


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained; shared ones count once."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trainable in counts if trainable)


def megabytes(model: nn.Module) -> float:
    """Memory of parameters and buffers in MB (10**6 bytes), gradients and optimizer state not included."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
