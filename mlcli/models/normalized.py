"""The model that is saved: a network with the statistics of its data inside, so that it takes raw input.

Standardising inputs per channel or feature: LeCun, Bottou, Orr & Mueller 1998, "Efficient BackProp", section 4.3.
"""

import torch
from torch import Tensor, nn

from mlcli.engine.contract import Info

PIXEL_PEAK = 255.0
"""Statistics of images are those of pixel values divided by this."""


class Normalized(nn.Module):
    """`net((x / 255 - mean) / std)` for images, `net((x - mean) / std)` for features.

    Args:
        net: takes float32 [B, C, H, W] or [B, F].
        info: kind, mean and std of the training data. A channel or feature that never varies is only shifted.

    Images are uint8 or float32 in 0..255. State: `net.*`, `mean` and `std`, both float32 [C] or [F].
    """

    mean: Tensor
    std: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, info: Info) -> None:
        super().__init__()
        self.net = net
        self._peak = PIXEL_PEAK if info.kind == "image" else 1.0
        self._shape = (1, -1, 1, 1) if info.kind == "image" else (1, -1)
        self.register_buffer("mean", torch.tensor(info.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(info.std, dtype=torch.float32))
        assert self.mean.shape == self.std.shape == info.input_shape[:1], "one mean and std per channel or feature"
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

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fold()
