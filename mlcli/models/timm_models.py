"""Any image classifier of timm (Wightman 2019, github.com/huggingface/pytorch-image-models) by its name.

Sized for the data, with weights learned elsewhere; and what such a network sees on its way, as maps for detectors.
Weights say by which mean and standard deviation their images were standardised: a model with weights takes these over.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.models.layers import initialise, last_layer
from mlcli.models.pretrained import take_weights, unknown_arch
from mlcli.models.weights import read_weights
from mlcli.text import sides

PIP = "pip install 'mlcli[timm]'"
HUB_FILE = "model.safetensors"

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of pixel values divided by 255."""


def timm_model(
    arch: str,
    *,
    image: tuple[int, int, int],
    outputs: int,
    weights: str | Path = "none",
    init: str = "default",
) -> nn.Module:
    """The model, `[B, C, H, W] -> [B, outputs]`.

    Its attribute `notes` (tuple of str) says which weights did not fit, `unloaded` which parameters got none of them,
    and `statistics` by which mean and standard deviation they want images standardised; None without weights.

    Args:
        arch: its name in timm, perhaps with the tag of its weights: `vit_tiny_patch16_224.augreg_in21k`.
        image: (C, H, W) of the images.
        weights: none, default (timm's own, of that tag) or a weight file.
        init: scheme of the first weights, see `layers.initialise`; with weights, of the last layer's only. With
            default, that layer is as PyTorch's own.

    Raises ConfigError for an unknown architecture, for images it cannot take, or without timm; DataError if default
    weights cannot be fetched, CheckpointError if a weight file cannot be read.
    """
    config = _pretrained_config(arch)
    channels, *side = image
    size = {"img_size": tuple(side)} if config.fixed_input_size else {}
    net: Any = _created(arch, image, num_classes=outputs, in_chans=channels, **size)
    if getattr(_tried(net, arch, image), "shape", None) != (1, outputs):
        problem = f"{arch} does not end in scores of classes: it is no classifier"
        raise ConfigError(problem, where="model.arch", fix="choose another arch")
    net.notes, net.statistics, net.unloaded = (), None, frozenset()
    head = last_layer(net)[1]
    head.reset_parameters()  # timm draws some as is right for a thousand classes: with ten, a first loss of 11
    if weights == "none":
        initialise(net, init)
        return net
    tensors, path = _read(net, arch, config, weights, channels)
    net.statistics = _statistics(config, channels)
    report = take_weights(net, arch, tensors, path)
    net.unloaded = frozenset((*report.missing, *report.mismatched))
    initialise(head, init)
    net.notes = (*(f"{arch} from {path.name}: {line}" for line in report.lines()), *_advice(arch, config, side))
    return net


class TimmMaps(nn.Module):
    """The network up to its last map: float32 [B, 3, H, W] -> one map for each stride, [B, channels, H / s, W / s].

    Args:
        arch: as for `timm_model`.
        image_size: height and width of the pictures.
        strides: of the maps, in pixels.
        weights: as for `timm_model`; `notes`, `statistics` and `unloaded`, the names of the parameters that were not
            loaded, say what has come of them.

    Raises as `timm_model`, and ConfigError for one that has no such maps, as most transformers.
    """

    def __init__(
        self, arch: str, *, image_size: tuple[int, int], strides: Sequence[int], weights: str | Path = "none"
    ) -> None:
        super().__init__()
        config = _pretrained_config(arch, where="model.backbone.arch")
        probe = _created(arch, (3, *image_size), features_only=True)
        reductions = probe.feature_info.reduction()
        problem = f"{arch} has maps of strides {sorted(set(reductions))}, {list(strides)} are needed"
        if missing := [stride for stride in strides if stride not in reductions]:
            fix = "choose another arch, such as resnet18 or convnext_atto"
            raise ConfigError(f"{problem}: none of {missing}", where="model.backbone.arch", fix=fix)
        places = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]  # the last of each stride
        self.net: Any = _created(arch, (3, *image_size), features_only=True, out_indices=places)
        self.channels = tuple(self.net.feature_info.channels())
        self._last = "NHWC" in str(getattr(self.net, "output_fmt", ""))  # channels
        self.notes: tuple[str, ...] = ()
        self.unloaded: frozenset[str] = frozenset()
        self.statistics: Statistics | None = None
        found = [tuple(values.shape[2:]) for values in _tried(self, arch, (3, *image_size), "model.backbone.arch")]
        wanted = [tuple(-(-side // stride) for side in image_size) for stride in strides]
        if found != wanted:
            problem = f"{arch} makes maps of {', '.join(map(sides, found))} cells of pictures of {sides(image_size)}"
            fix = f"set data.image_size to a multiple of {strides[-1]}"
            raise ConfigError(problem, where="model.backbone.arch", fix=fix)
        if weights != "none":
            tensors, path = _read(getattr(self.net, "model", self.net), arch, config, weights, 3)
            own = self.net.state_dict()
            # Of a network cut into its stages, timm calls stages.0 stages_0.
            places_of = {name: [name, f"model.{name}", name.replace(".", "_", 1)] for name in tensors}
            named = {next((n for n in places_of[name] if n in own), name): t for name, t in tensors.items()}
            kept = {name: tensor for name, tensor in named.items() if name in own}  # the classifier stays behind
            report = take_weights(self.net, arch, kept or named, path)
            self.unloaded = frozenset(f"net.{name}" for name in (*report.missing, *report.mismatched))
            self.statistics = _statistics(config, 3)
            lines = [f"backbone {arch} from {path.name}: {line}" for line in report.lines()]
            self.notes = (*lines, *_advice(arch, config, image_size))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.net(images)
        return [values.permute(0, 3, 1, 2) for values in maps] if self._last else list(maps)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError:
        problem = "the models of timm need a package that is not installed"
        raise ConfigError(problem, where="model.name", fix=PIP) from None
    return timm


def _pretrained_config(arch: str, where: str = "model.arch") -> Any:
    """timm's facts about the weights of an architecture. Raises ConfigError if it is unknown, or its tag."""
    timm = _timm()
    if not timm.is_model(arch):
        raise unknown_arch("timm", arch, timm.list_models(), where=where)
    try:
        return timm.models.get_pretrained_cfg(arch, allow_unregistered=False)
    except RuntimeError:
        tags = sorted(timm.models.get_arch_pretrained_cfgs(arch))
        fix = f"choose one of {', '.join(tags)}" if tags else "choose another arch"
        raise ConfigError(f"timm has no weights called '{arch}'", where=where, fix=fix) from None


def _created(arch: str, image: tuple[int, ...], **keywords: Any) -> Any:
    logging.getLogger("timm").setLevel(logging.ERROR)  # what matters of it is in the notes
    where = "model.backbone.arch" if "features_only" in keywords else "model.arch"
    try:
        return _timm().create_model(arch, pretrained=False, **keywords)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, KeyError) as error:
        raise _cannot_take(arch, image, error, where) from None


def _tried(net: nn.Module, arch: str, image: tuple[int, int, int], where: str = "model.arch") -> Any:
    """The network's answer to one black image. Raises ConfigError if it cannot take it."""
    net.eval()
    try:
        with torch.no_grad():  # not inference_mode: some keep tables made here
            return net(torch.zeros(1, *image))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise _cannot_take(arch, image, error, where) from None
    finally:
        net.train()


def _cannot_take(arch: str, image: tuple[int, ...], error: Exception, where: str) -> ConfigError:
    side = _pretrained_config(arch).input_size[-1]
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    fix = f"set data.image_size to {side}, which its weights were learned at, or choose another arch"
    return ConfigError(f"{arch} cannot take images of {sides(image)}: {reason}", where=where, fix=fix)


def _read(net: nn.Module, arch: str, config: Any, weights: str | Path, channels: int) -> tuple[dict[str, Tensor], Path]:
    """The tensors of a weight file under the names they have in timm today, fitted to the channels; and its path."""
    if channels not in (1, 3):
        problem = f"{arch} with weights takes images with 1 or 3 channels, the data have {channels}"
        raise ConfigError(problem, where="model.arch", fix="set data.channels to 3, or model.weights to none")
    path = _fetched(arch, config) if weights == "default" else Path(weights)
    tensors = read_weights(path)
    rename = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if rename is not None:  # names of old, and tables of positions for another size of image
        try:
            tensors = rename(tensors, net)
        except Exception as error:  # made for its own files, and these may be anything
            problem = f"{path} does not fit {arch}: {type(error).__name__}: {error}"
            raise CheckpointError(problem, fix="choose weights of this arch") from None
    first = f"{config.first_conv}.weight"
    if channels == 1 and first in tensors and tensors[first].ndim == 4:
        tensors[first] = tensors[first].sum(dim=1, keepdim=True)  # the answer that a grey RGB image would get
    return tensors, path


def _fetched(arch: str, config: Any) -> Path:
    """The file of timm's own weights, from the cache of the Hugging Face hub if it is there."""
    if not config.hf_hub_id:
        fix = "set model.weights to none or a file"
        raise ConfigError(f"timm has no weights for {arch} that can be fetched", where="model.weights", fix=fix)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # it would tell each of its attempts
    name = config.hf_hub_filename or HUB_FILE
    try:
        return Path(hf_hub_download(config.hf_hub_id, name))
    except Exception as error:  # the hub's own errors and those of two network libraries
        reason = str(error).strip().partition("\n")[0]
        what = f"the default weights could not be downloaded: {reason}"
        fix = "download that address elsewhere and set model.weights to the file, or to none"
        raise DataError(what, where=f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{name}", fix=fix) from None


def _statistics(config: Any, channels: int) -> Statistics:
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return (mean, std) if channels == 3 else ((sum(mean) / 3,), (sum(std) / 3,))


def _advice(arch: str, config: Any, side: Sequence[int]) -> list[str]:
    """Lines for people: how images are standardised, and at which size the weights were learned."""
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (config.mean, config.std))
    lines = [f"{arch}: images are standardised as its weights expect, by mean {mean} and std {std}"]
    learned = tuple(config.input_size[1:])
    if tuple(side) != learned:
        larger = learned[0] if learned[0] == learned[1] else list(learned)
        lines.append(f"{arch}: its weights were learned at {sides(learned)}, the data have {sides(side)}: "
                     f"data.image_size={larger} fits them better")  # fmt: skip
    return lines
