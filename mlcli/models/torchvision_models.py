"""Any classification model of torchvision.models by its name, sized for the data and with weights learned elsewhere.

The last layer has one output per class of the data, so ImageNet's does not fit and starts anew. Images with one channel
are taken by adding up the first convolution's weights over red, green and blue: the answer a grey RGB image would get.
"""

import re
from pathlib import Path
from typing import Any

from torch import nn

from mlcli.errors import ConfigError
from mlcli.models.layers import initialise, last_layer
from mlcli.models.pretrained import fetched, take_weights, unknown_arch
from mlcli.models.weights import read_weights

INCEPTIONS = ("googlenet", "inception_v3")
"""Their auxiliary classifiers are left out: batch norm made them needless (Szegedy et al. 2016, section 4)."""

LOOSE_MIN_SIZE = ("swin", "efficientnet", "vit", "maxvit")
"""Here `min_size` is what the weights were evaluated at, not what the layers need."""


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
        raise unknown_arch("torchvision", arch, known)
    default_weights = models.get_model_weights(arch).DEFAULT
    pretrained = weights != "none"
    _check_fit(arch, image, weights, default_weights.meta["min_size"][0], regression=regression)
    try:
        net = models.get_model(arch, weights=None, num_classes=outputs, **_extras(arch, image, pretrained))
    except ValueError as error:  # maxvit cuts images into windows of 7x7
        what = f"{arch} cannot take these images: {error}"
        raise ConfigError(what, where="model.arch", fix="set data.image_size to 224") from None

    net.notes = ()
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
        report = take_weights(net, arch, learned, path)
        initialise(last_layer(net)[1], init)
        net.notes = tuple(f"{arch} from {path.name}: {line}" for line in report.lines())
    if image[0] == 1:
        first = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
        first.weight = nn.Parameter(first.weight.detach().sum(dim=1, keepdim=True))  # [out, 3, k, k] to [out, 1, k, k]
        first.in_channels = 1
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
        fix = f"use images of that size (data.image_size: {least} for image files) or another arch, such as resnet18"
        raise misfit(f"needs images of {least}x{least} or more, the data have {height}x{width}", fix)
    if arch.startswith("vit"):
        patch = int(arch.rpartition("_")[2])
        if height != width or height % patch:
            problem = f"cuts square images into patches of {patch}x{patch}, which {height}x{width} is no multiple of"
            raise misfit(problem, f"set data.image_size to a multiple of {patch}")
        if weights == "default" and height != least:
            problem = f"has default weights for {least}x{least} images, the data have {height}x{width}"
            raise misfit(problem, f"set data.image_size to {least}, or model.weights to none")


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
