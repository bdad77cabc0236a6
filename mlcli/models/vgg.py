"""VGG (Simonyan & Zisserman 2015, arXiv:1409.1556, table 1): 3x3 convolutions, doubled channels, halved images.

Named and ordered as in torchvision, so that its weight files load: with stem imagenet, head classic and width 1 the two
networks are the same function.
"""

from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.errors import ConfigError
from mlcli.models.config import Vgg
from mlcli.models.init import initialise
from mlcli.models.layers import image_shape, scaled

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each stage, by depth: columns A, B, D and E of table 1. A 2x2 max pooling ends each stage."""

CHANNELS = (64, 128, 256, 512, 512)
"""Channels in each stage at width 1."""


class VggNet(nn.Module):
    """[B, C, H, W] -> [B, outputs]; the image is halved five times, so its sides must be 32 or more."""

    def __init__(self, features: nn.Sequential, pooled_side: int, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(pooled_side)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)  # [B, 512, H / 32, W / 32]
        vector = self.avgpool(maps).flatten(1)  # [B, 512 * pooled_side ** 2]
        return self.classifier(vector)  # [B, outputs]


def vgg(config: Vgg, info: DataInfo) -> nn.Module:
    """VGG of one depth. Raises ConfigError naming the pooling that an image is too small for."""
    channels, height, width = image_shape(info, config.name)
    _check_size(config, height, width)
    features = nn.Sequential()
    for convolutions, full_channels in zip(STAGES[config.depth], CHANNELS, strict=True):
        for _ in range(convolutions):
            out_channels = scaled(full_channels, config.width)
            features.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1))
            if config.batch_norm:
                features.append(nn.BatchNorm2d(out_channels))
            features.append(nn.ReLU(inplace=True))
            channels = out_channels
        features.append(nn.MaxPool2d(kernel_size=2))
    pooled_side = 7 if config.head == "classic" and config.stem == "imagenet" else 1
    net = VggNet(features, pooled_side, _classifier(config, channels * pooled_side**2, info.num_outputs))
    _initialise_as_torchvision(net)
    initialise(net, config.init)
    return net


def _classifier(config: Vgg, features: int, num_outputs: int) -> nn.Module:
    """gap: one linear layer (Lin et al. 2014, section 3.2); classic: the paper's three, 4096 wide, or 512 for cifar."""
    if config.head == "gap":
        return nn.Linear(features, num_outputs)
    neurons = 4096 if config.stem == "imagenet" else 512
    return nn.Sequential(
        nn.Linear(features, neurons),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(neurons, neurons),
        nn.ReLU(inplace=True),
        nn.Dropout(config.dropout),
        nn.Linear(neurons, num_outputs),
    )


def _check_size(config: Vgg, height: int, width: int) -> None:
    side = min(height, width)
    if side < 2 ** len(CHANNELS):
        failing = side.bit_length()  # each pooling drops one bit, rounding down; this one would leave none
        ordinal = ("1st", "2nd", "3rd", "4th", "5th")[failing - 1]
        raise ConfigError(
            f"image {height}x{width} is too small for the {ordinal} pooling of vgg{config.depth}: "
            f"at least {2**failing}x{2**failing}, and 32x32 for all five",
            where="model.depth",
            fix="use images of 32x32 or more (data.image_size for image files), or model name: resnet or cnn",
        )


def _initialise_as_torchvision(net: nn.Module) -> None:
    """Kaiming by fan_out for convolutions (the paper's appendix needed a pre-trained shallow net), N(0, 0.01) else."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
