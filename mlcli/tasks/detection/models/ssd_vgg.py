"""SSD's own backbone: VGG-16, its linear layers turned into convolutions, and smaller maps on top.

Liu et al. 2016 (arXiv:1512.02325, section 3 and figure 2). Named and ordered as torchvision's ssd300_vgg16: without
batch norm and for 300x300 the two are the same function, so that its weights load. Other sizes get as many maps as fit.
"""

import re
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcli.data.info import DataInfo
from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.finetune import copy_matching
from mlcli.models.init import initialise
from mlcli.models.torchvision_models import fetched
from mlcli.models.vgg import CHANNELS, STAGES
from mlcli.models.weights import read_weights
from mlcli.tasks.detection.boxes import convert
from mlcli.tasks.detection.models.anchors import grid_points
from mlcli.tasks.detection.models.config import Ssd
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.ssd_layout import Layout

LEAST_SIDE = 64
"""Smaller pictures would leave the second map fewer than 4 cells a side."""

SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
"""Sides of the default boxes of each map, and one more, as shares of the picture (the published code's for COCO)."""

RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
"""Of each map: boxes so many times as wide as high, and the reverse (section 3.1)."""

FIRST_NORM = 20.0
"""Length that conv4_3's channels are scaled to at first; they are larger than those of later maps (section 3.1)."""

CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
"""What the weights without batch norm were learned with: the mean taken off, but the range of 0..255 left."""


class VggMaps(nn.Module):
    """float32 [B, 3, H, W] -> {"0": [B, 512, H / 8, W / 8], "1": [B, 1024, H / 16, W / 16], "2": [B, 512, ...], ...}

    Args:
        batch_norm: after each of VGG's convolutions, as torchvision's vgg16_bn; the paper has none.
        extras: smaller maps on top, at most 4.
    """

    def __init__(self, batch_norm: bool, extras: int) -> None:
        super().__init__()
        layers, pools = _vgg16(batch_norm)
        self.scale_weight = nn.Parameter(torch.full((512,), FIRST_NORM))
        self.features = nn.Sequential(*layers[: pools[3]])  # up to conv4_3
        fully_connected = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1),  # instead of halving a fifth time
            nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6),  # fc6, with holes
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, kernel_size=1),  # fc7
            nn.ReLU(inplace=True),
        )
        smaller = (_extra(1024, 512, 2), _extra(512, 256, 2), _extra(256, 256, 1), _extra(256, 256, 1))
        self.extra = nn.ModuleList((nn.Sequential(*layers[pools[3] : pools[4]], fully_connected), *smaller[:extras]))
        initialise(self, "xavier")
        initialise(nn.ModuleList(layers), "kaiming")  # VGG's own, as everywhere in this house

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        values = self.features(images)
        maps = OrderedDict({"0": self.scale_weight.view(1, -1, 1, 1) * functional.normalize(values)})
        for level, block in enumerate(self.extra, start=1):
            values = block(values)
            maps[str(level)] = values
        return maps


def vgg_layout(config: Ssd, info: DataInfo) -> Layout:
    """VGG-16 and its default boxes. Raises ConfigError if the picture is too small."""
    height, width = info.input_shape[1:]
    if min(height, width) < LEAST_SIDE:
        raise ConfigError(
            f"vgg16 needs pictures of {LEAST_SIDE}x{LEAST_SIDE} or more, these are {height}x{width}",
            where="model.backbone",
            fix=f"set data.image_size to {LEAST_SIDE} or more, or model.backbone to compact",
        )
    sizes = _map_sizes(height, width)
    backbone = VggMaps(config.batch_norm, extras=len(sizes) - 2)
    boxes_xyxy = torch.cat([_default_boxes(level, size, (height, width)) for level, size in enumerate(sizes)])
    per_cell = tuple(2 + 2 * len(ratios) for ratios in RATIOS[: len(sizes)])
    return Layout(backbone, (512, 1024, 512, 256, 256, 256)[: len(sizes)], per_cell, boxes_xyxy)


def load_vgg(detector: Detector, config: Ssd) -> tuple[str, ...]:
    """Load what `config.weights` names wherever it fits; returns lines for people: what was loaded and what was not.

    Raises DataError if torchvision's weights can neither be found nor downloaded, CheckpointError if a file cannot be
    read, belongs to the other kind of VGG-16, or nothing in it fits.
    """
    backbone = detector.backbone
    assert isinstance(backbone, VggMaps)
    path = fetched(_url(config)) if config.weights in ("imagenet", "coco") else Path(config.weights)
    weights = read_weights(path)
    if any(name.endswith("running_mean") for name in weights) != config.batch_norm:
        raise CheckpointError(
            f"{path} holds VGG-16 {'without' if config.batch_norm else 'with'} batch normalisation",
            fix=f"set model.batch_norm to {str(not config.batch_norm).lower()}, or choose other weights",
        )
    names = {name: _own_name(name, backbone) for name in weights}
    own = {names[name]: _convolution(name, tensor) for name, tensor in weights.items()}
    if not config.batch_norm:  # nothing else makes up for another range of input; mlcli's own files say theirs
        detector.mean.copy_(own.get("mean", torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1)))
        detector.std.copy_(own.get("std", torch.tensor(CAFFE_STD).view(1, 3, 1, 1)))
    report = copy_matching(detector, own, path)
    return tuple(f"ssd vgg16 from {path.name}: {line}" for line in report.lines())


def _url(config: Ssd) -> str:
    from torchvision.models import VGG16_BN_Weights, VGG16_Weights
    from torchvision.models.detection import SSD300_VGG16_Weights

    if config.weights == "coco":
        return SSD300_VGG16_Weights.COCO_V1.url
    return VGG16_BN_Weights.IMAGENET1K_V1.url if config.batch_norm else VGG16_Weights.IMAGENET1K_FEATURES.url


def _own_name(name: str, backbone: VggMaps) -> str:
    """What a tensor of torchvision's ssd300_vgg16 or vgg16 is called here; other names stay."""
    name = name.replace("head.classification_head.module_list.", "classify.")
    name = name.replace("head.regression_head.module_list.", "locate.")
    fully_connected = len(list(backbone.extra[0].children())) - 1  # the last of its layers
    if found := re.match(r"features\.(\d+)\.(\w+)$", name):
        place, tensor = int(found[1]), found[2]
        last = len(backbone.features)
        return f"backbone.features.{place}.{tensor}" if place < last else f"backbone.extra.0.{place - last}.{tensor}"
    if found := re.match(r"classifier\.([03])\.(\w+)$", name):
        return f"backbone.extra.0.{fully_connected}.{1 if found[1] == '0' else 3}.{found[2]}"
    return name


def _convolution(name: str, tensor: Tensor) -> Tensor:
    """VGG's linear layers as convolutions: every fourth neuron, and every third weight in height and width of fc6."""
    match name, tuple(tensor.shape):
        case "classifier.0.weight", (4096, 25088):
            return tensor.view(4096, 512, 7, 7)[::4, :, ::3, ::3]
        case "classifier.3.weight", (4096, 4096):
            return tensor[::4, ::4, None, None]
        case (("classifier.0.bias" | "classifier.3.bias"), (4096,)):
            return tensor[::4]
    return tensor


def _extra(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Half the channels by a 1x1 convolution, then 3x3: halves the map, or takes a cell off each side."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels // 2, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels // 2, channels, kernel_size=3, stride=stride, padding=1 if stride == 2 else 0),
        nn.ReLU(inplace=True),
    )


def _map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of each map in cells, finest first; as many as fit both ways."""
    return list(zip(_map_sides(height), _map_sides(width), strict=False))


def _map_sides(pixels: int) -> list[int]:
    """Cells along one side of the picture in each map; 300 pixels: 38, 19, 10, 5, 3, 1."""
    sides = [-(-(pixels // 4) // 2)]
    sides.append(sides[-1] // 2)
    for _ in range(2):
        sides.append(-(-sides[-1] // 2))
    for _ in range(2):
        sides.append(sides[-1] - 2)
    return [side for side in sides if side > 0]


def _default_boxes(level: int, cells: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """float32 [h * w * boxes, 4] in pixels, xyxy, as torchvision's DefaultBoxGenerator lays them out."""
    scale, following = SCALES[level : level + 2]
    shapes = [(scale, scale), ((scale * following) ** 0.5,) * 2]
    for ratio in RATIOS[level]:
        root = ratio**0.5
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    whole = torch.tensor([image_size[1], image_size[0]], dtype=torch.float32)
    sizes_wh = torch.tensor(shapes).clamp(max=1) * whole
    # Where maps are padded, cells are a stride apart; the last two are spread over the picture instead.
    step = torch.tensor((8.0 * 2**level,) * 2) if level < 4 else whole / torch.tensor([cells[1], cells[0]])
    centres_xy = grid_points(*cells, stride=1.0) * step
    boxes = torch.cat(
        [centres_xy[:, None].expand(-1, len(shapes), -1), sizes_wh.expand(len(centres_xy), -1, -1)], dim=-1
    )
    return convert(boxes.flatten(0, 1), "cxcywh", "xyxy")


def _vgg16(batch_norm: bool) -> tuple[list[nn.Module], list[int]]:
    """The layers before VGG's linear ones, as torchvision orders them, and which of them halve the image."""
    layers: list[nn.Module] = []
    pools: list[int] = []
    channels = 3
    for convolutions, out_channels in zip(STAGES[16], CHANNELS, strict=True):
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
            channels = out_channels
        pools.append(len(layers))
        layers.append(nn.MaxPool2d(kernel_size=2, ceil_mode=len(pools) == 3))  # 75 -> 38 cells for 300 pixels
    return layers, pools
