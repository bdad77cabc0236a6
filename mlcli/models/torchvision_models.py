"""Any classification model of torchvision.models by its name, sized for the data and with weights learned elsewhere.

The last layer has one output per class of the data, so ImageNet's does not fit and starts anew. Images with one channel
are taken by adding up the first convolution's weights over red, green and blue: the answer a grey RGB image would get.
"""

import hashlib
import re
import socket
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.models.layers import initialise, last_layer
from mlcli.models.weights import copy_matching, read_weights

INCEPTIONS = ("googlenet", "inception_v3")
"""Their auxiliary classifiers are left out: batch norm made them needless (Szegedy et al. 2016, section 4)."""

LOOSE_MIN_SIZE = ("swin", "efficientnet", "vit", "maxvit")
"""Here `min_size` is what the weights were evaluated at, not what the layers need."""

DOWNLOAD_TIMEOUT_S = 20.0
"""Silence after which a download is given up; without it a firewall that drops packets would hang the program."""


def torchvision_model(
    arch: str,
    *,
    image: tuple[int, int, int],
    outputs: int,
    weights: str | Path = "none",
    regression: bool = False,
    init: str = "default",
) -> nn.Module:
    """The model, `[B, C, H, W] -> [B, outputs]`; its attribute `notes` (tuple of str) says which weights did not fit.

    Args:
        arch: its name in torchvision.models.
        image: (C, H, W) of the images.
        weights: none, default (torchvision's best ImageNet weights) or a weight file.
        regression: whether the outputs are numbers of any sign instead of scores of classes.
        init: scheme of the first weights, see `layers.initialise`; with weights, of the last layer's only.

    Raises ConfigError for an unknown architecture or images it cannot take, DataError if default weights cannot be
    fetched, CheckpointError if a weight file cannot be read.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if arch not in known:
        near = get_close_matches(arch.lower(), known, n=3)
        raise ConfigError(
            f"torchvision has no classification model '{arch}'",
            where="model.arch",
            fix=f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}",
        )
    default_weights = models.get_model_weights(arch).DEFAULT
    pretrained = weights != "none"
    _check_fit(arch, image, weights, default_weights.meta["min_size"][0], regression=regression)
    try:
        net = models.get_model(arch, weights=None, num_classes=outputs, **_extras(arch, image, pretrained))
    except ValueError as error:  # maxvit cuts images into windows of 7x7
        raise ConfigError(
            f"{arch} cannot take these images: {error}", where="model.arch", fix="set data.image_size to 224"
        ) from None

    notes: list[str] = []
    if not pretrained:
        initialise(net, init)
    else:
        path = fetched(default_weights.url) if weights == "default" else Path(weights)
        # DenseNet's files write norm.1 and conv.2 where the model has had norm1 and conv2 since dots were forbidden.
        learned = {
            re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name): tensor
            for name, tensor in read_weights(path).items()
            if not name.startswith(("AuxLogits.", "aux1.", "aux2."))
        }
        report = copy_matching(net, learned, path)
        initialise(last_layer(net)[1], init)
        notes = [f"{arch} from {path.name}: {line}" for line in report.lines()]
    if image[0] == 1:
        first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
        first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))  # [out, 3, k, k] to [out, 1, k, k]
        first.in_channels = 1
    net.notes = tuple(notes)
    return net


def _check_fit(arch: str, image: tuple[int, int, int], weights: str | Path, least: int, *, regression: bool) -> None:
    """Raise ConfigError for images that the architecture or its weights cannot take; least: pixels of a side."""
    channels, height, width = image

    def misfit(problem: str, fix: str) -> ConfigError:
        return ConfigError(f"{arch} {problem}", where="model.arch", fix=fix)

    if channels not in (1, 3):
        raise misfit(f"takes images with 1 or 3 channels, the data have {channels}", "set data.channels to 3")
    if channels == 1 and weights != "none" and arch in INCEPTIONS:
        raise misfit("with weights needs colour channels, the data are grey", "set data.channels to 3")
    if regression and arch.startswith("squeezenet"):
        raise misfit("ends in a ReLU and can predict no negative number", "choose another arch for regression")
    if not arch.startswith(LOOSE_MIN_SIZE) and min(height, width) < least:
        raise misfit(
            f"needs images of {least}x{least} or more, the data have {height}x{width}",
            f"use images of that size (data.image_size: {least} for image files) or another arch, such as resnet18",
        )
    if arch.startswith("vit"):
        patch = int(arch.rpartition("_")[2])
        if height != width or height % patch:
            raise misfit(
                f"cuts square images into patches of {patch}x{patch}, which {height}x{width} is no multiple of",
                f"set data.image_size to a multiple of {patch}",
            )
        if weights == "default" and height != least:
            raise misfit(
                f"has default weights for {least}x{least} images, the data have {height}x{width}",
                f"set data.image_size to {least}, or model.weights to none",
            )


def _extras(arch: str, image: tuple[int, int, int], pretrained: bool) -> dict[str, Any]:
    """Arguments that only some architectures have."""
    _, height, width = image
    if arch in INCEPTIONS:
        # Their weights expect pixels in -1..1; transform_input brings standardised ones there.
        return {"aux_logits": False, "init_weights": not pretrained, "transform_input": pretrained}
    if arch.startswith("vit"):
        return {"image_size": height}
    if arch.startswith("maxvit"):
        return {"input_size": (height, width)}
    return {}


def fetched(url: str) -> Path:
    """The file behind an address of torchvision's, from torch's cache if it is there; its checksum is verified."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    path = cache / Path(urlparse(url).path).name
    if not path.is_file():
        _download(url, path)
    expected = path.stem.rpartition("-")[2]  # resnet18-f37072fd.pth: the first digits of its sha256
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected):
            raise CheckpointError(f"{path} is damaged: its sha256 does not begin with {expected}", fix=f"rm '{path}'")
    return path


def _download(url: str, path: Path) -> None:
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    except OSError as error:  # urllib's errors are OSErrors too
        raise DataError(
            f"the default weights could not be downloaded: {error}",
            where=url,
            fix=f"download that address elsewhere and put the file at {path}, or set model.weights to none or a file",
        ) from None
    finally:
        socket.setdefaulttimeout(previous)
