"""Weights learned on ImageNet or COCO for torchvision's detectors: fetched, renamed, loaded where they fit.

A detector for K classes takes all of a COCO detector but the layers that name the classes: their shapes differ, and
they start anew.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torch import Tensor, nn

from mlcli.models.finetune import copy_matching
from mlcli.models.torchvision_models import fetched
from mlcli.models.weights import read_weights

RENAMED = (
    (r"\b(inner_blocks|layer_blocks)\.(\d+)\.(weight|bias)$", r"\1.\2.0.\3"),
    (r"\brpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"\bmask_head\.mask_fcn(\d+)\.", lambda found: f"mask_head.{int(found[1]) - 1}.0."),
    (r"\b(classification|regression)_head\.conv\.([0246])\.(weight|bias)$",
     lambda found: f"{found[1]}_head.conv.{int(found[2]) // 2}.0.{found[3]}"),
)  # fmt: skip
"""Names in torchvision's files of 2019 and 2020, and what those layers are called since version 0.13."""

BACKBONES = {"resnet50": "ResNet50_Weights", "mobilenet_v3_large": "MobileNet_V3_Large_Weights"}
"""What stands in the name of a detector, and torchvision's table of ImageNet weights for it."""

EPSILON_FREE = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Their COCO weights were learned with batch norms that divide by sqrt(variance), without the usual epsilon."""


def load_pretrained(net: nn.Module, arch: str, weights: str | Path) -> list[str]:
    """Load `imagenet` (the backbone), `coco` (everything that fits) or a file into one of torchvision's detectors.

    Returns lines for people: what was loaded and what was not. Raises DataError if torchvision's weights can neither be
    found nor downloaded, CheckpointError if a file cannot be read or nothing in it fits.
    """
    if weights == "imagenet":
        path = fetched(_imagenet_url(arch))
        body = net.get_submodule("backbone.body")
        # MobileNet keeps what we need under `features`; the classifier is left behind.
        kept = {name.removeprefix("features."): value for name, value in read_weights(path).items()}
        kept = {name: value for name, value in kept.items() if not name.startswith(("fc.", "classifier."))}
        report = copy_matching(body, kept, path)
        return [f"backbone of {arch} from {path.name}: {line}" for line in report.lines()]

    url = _coco_url(arch)
    path = fetched(url) if weights == "coco" else Path(weights)
    own = net.state_dict()
    tensors = {_today(name, own): value for name, value in read_weights(path).items() if name not in ("mean", "std")}
    report = copy_matching(net, tensors, path)
    if arch in EPSILON_FREE and path.name == _file_name(url):
        _allow_for_epsilon(net)
    return [f"{arch} from {path.name}: {line}" for line in report.lines()]


def _today(name: str, own: dict[str, Tensor]) -> str:
    """What the model calls a tensor of a file. FCOS still has layers named in the old way, hence the look at `own`."""
    name = name.removeprefix("net.")
    if name in own:
        return name
    for old, new in RENAMED:
        name = re.sub(old, new, name)
    return name


def _allow_for_epsilon(net: nn.Module) -> None:
    """Take epsilon off the variances, so that adding it gives what was divided by when the weights were learned.

    torchvision sets epsilon to 0 instead; but epsilon is in no checkpoint, so a model rebuilt later would differ.
    """
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            layer.running_var -= layer.eps


def _imagenet_url(arch: str) -> str:
    from torchvision import models

    table: Any = next(getattr(models, table) for name, table in BACKBONES.items() if name in arch)
    return table.IMAGENET1K_V1.url


def _coco_url(arch: str) -> str:
    from torchvision import models

    weights: Any = models.get_model_weights(arch)
    return weights.COCO_V1.url


def _file_name(url: str) -> str:
    return Path(urlparse(url).path).name
