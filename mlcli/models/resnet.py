"""Residual networks (He et al. 2016, arXiv:1512.03385, table 1): each block learns what to add to its input.

Parameters are named as in torchvision, so that its weight files load directly; with stem imagenet and width 1 the two
networks are the same function. As there, ResNet-50 halves the image in the 3x3 convolution ("v1.5"), not in the 1x1.
"""

from torch import Tensor, nn

from mlcli.models.layers import initialise, scaled

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage, by depth. The first block of all but the first stage halves the image."""

CHANNELS = (64, 128, 256, 512)
"""Channels inside the blocks of each stage at width 1."""


class BasicBlock(nn.Module):
    """relu(x + conv3x3(relu(conv3x3(x)))), each convolution followed by a batch norm (figure 5, left)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:  # [B, in, H, W] -> [B, channels, H / stride, W / stride]
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(self.downsample(x) + residual)


class Bottleneck(nn.Module):
    """1x1 convolution down, 3x3, 1x1 up to four times the channels: deeper for the same cost (figure 5, right)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv1x1(channels, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:  # [B, in, H, W] -> [B, 4 * channels, H / stride, W / stride]
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(self.downsample(x) + residual)


class ResNet(nn.Module):
    """[B, C, H, W] -> [B, outputs]; any image size, thanks to padding and the global average pooling.

    Args:
        depth: 18, 34 or 50 layers with weights.
        channels: of the images.
        width: factor on all channel counts.
        stem: cifar (3x3 convolution at stride 1, for small images) or imagenet (7x7 at stride 2 and a max pool).
        zero_init_residual: start each block as the identity: its last batch norm's scale is 0 (Goyal et al. 2017,
            section 5.1).
        init: scheme of the first weights, see `layers.initialise`.
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        channels: int,
        outputs: int,
        width: float = 1.0,
        stem: str = "cifar",
        zero_init_residual: bool = True,
        init: str = "default",
    ) -> None:
        super().__init__()
        block: type[BasicBlock | Bottleneck] = Bottleneck if depth >= 50 else BasicBlock
        inner = [scaled(full, width) for full in CHANNELS]
        outer = [full * block.expansion for full in inner]
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(channels, inner[0], kernel_size=7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = _conv3x3(channels, inner[0])
        self.bn1 = nn.BatchNorm2d(inner[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else nn.Identity()
        counts = STAGES[depth]
        self.layer1 = _stage(block, counts[0], inner[0], inner[0], stride=1)
        self.layer2 = _stage(block, counts[1], outer[0], inner[1], stride=2)
        self.layer3 = _stage(block, counts[2], outer[1], inner[2], stride=2)
        self.layer4 = _stage(block, counts[3], outer[2], inner[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(outer[3], outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        initialise(self, init)
        if zero_init_residual:  # after `initialise`, which would set these scales back to 1
            for layer in self.modules():
                if isinstance(layer, BasicBlock | Bottleneck):
                    nn.init.zeros_((layer.bn3 if isinstance(layer, Bottleneck) else layer.bn2).weight)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # [B, 64, H, W], imagenet: H / 4, W / 4
        maps = self.layer2(self.layer1(maps))  # [B, 128, H / 2, W / 2] from here on relative to the stem's
        maps = self.layer4(self.layer3(maps))  # [B, 512 * expansion, H / 8, W / 8]
        return self.fc(self.avgpool(maps).flatten(1))  # [B, outputs]


def _stage(
    block: type[BasicBlock | Bottleneck], count: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    """`count` blocks; only the first changes height, width and channels."""
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels * block.expansion, channels, 1) for _ in range(count - 1)))


def _conv3x3(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _conv1x1(in_channels: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel_size=1, stride=stride, bias=False)


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    """The input as it is; where shapes change, projected by a 1x1 convolution (section 3.3, option B)."""
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(_conv1x1(in_channels, channels, stride), nn.BatchNorm2d(channels))
