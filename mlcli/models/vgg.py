"""VGG (Simonyan & Zisserman 2015, arXiv:1409.1556, table 1): 3x3 convolutions, doubled channels, halved images.

Named and ordered as in torchvision, so that its weight files load: with stem imagenet, head classic and width 1 the two
networks are the same function.
"""

from torch import Tensor, nn

from mlcli.errors import ConfigError
from mlcli.models.layers import initialise, scaled

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each stage, by depth: columns A, B, D and E of table 1. A 2x2 max pooling ends each stage."""

CHANNELS = (64, 128, 256, 512, 512)
"""Channels in each stage at width 1."""


class VGG(nn.Module):
    """[B, C, H, W] -> [B, outputs]; the image is halved five times, so its sides must be 32 or more.

    Args:
        depth: 11, 13, 16 or 19 layers with weights in the original, three fully connected ones included.
        channels: of the images.
        width: factor on all channel counts.
        head: gap (global average pooling and one linear layer, Lin et al. 2014, section 3.2), or classic (the paper's
            three linear layers with dropout).
        stem: sizes the classic head: cifar (512 neurons, for small images) or imagenet (4096, for 224x224).
        init: scheme of the first weights, see `layers.initialise`.
    """

    def __init__(
        self,
        depth: int = 16,
        *,
        channels: int,
        outputs: int,
        width: float = 1.0,
        batch_norm: bool = True,
        stem: str = "cifar",
        head: str = "gap",
        dropout: float = 0.5,
        init: str = "default",
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for convolutions, full_channels in zip(STAGES[depth], CHANNELS, strict=True):
            for _ in range(convolutions):
                out_channels = scaled(full_channels, width)
                self.features.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1))
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(out_channels))
                self.features.append(nn.ReLU(inplace=True))
                channels = out_channels
            self.features.append(nn.MaxPool2d(kernel_size=2))
        pooled_side, neurons = (7, 4096) if stem == "imagenet" else (1, 512)
        if head == "gap":
            pooled_side = 1
        self.avgpool = nn.AdaptiveAvgPool2d(pooled_side)
        vector = channels * pooled_side**2
        self.classifier = nn.Linear(vector, outputs) if head == "gap" else nn.Sequential(
            nn.Linear(vector, neurons),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(neurons, neurons),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(neurons, outputs),
        )  # fmt: skip
        # As torchvision: Kaiming by fan_out (the paper's appendix needed a pre-trained shallow net), N(0, 0.01) else.
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)  # [B, 512, H / 32, W / 32]
        vector = self.avgpool(maps).flatten(1)  # [B, 512 * pooled_side ** 2]
        return self.classifier(vector)  # [B, outputs]


def refuse_small_images(depth: int, height: int, width: int) -> None:
    """Raise ConfigError naming the pooling that an image is too small for."""
    side = min(height, width)
    if side < 2 ** len(CHANNELS):
        failing = side.bit_length()  # each pooling drops one bit, rounding down; this one would leave none
        ordinal = ("1st", "2nd", "3rd", "4th", "5th")[failing - 1]
        what = f"image {height}x{width} is too small for the {ordinal} pooling of vgg{depth}: "
        what += f"at least {2**failing}x{2**failing}, and 32x32 for all five"
        fix = "use images of 32x32 or more (data.image_size for image files), or model name: resnet or cnn"
        raise ConfigError(what, where="model.depth", fix=fix)
