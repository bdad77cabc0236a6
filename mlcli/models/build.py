"""Build models from their configs, with first weights drawn by a seed or loaded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import assert_never

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from mlcli.data.info import DataInfo
from mlcli.engine.limits import available_memory_bytes
from mlcli.errors import ConfigError, OutOfMemoryError
from mlcli.models import cnn
from mlcli.models import config as c
from mlcli.models.airbench import SMALLEST_SIDE, WHITENED_IMAGES, WHITENED_PIXELS, Airbench
from mlcli.models.layers import Normalized, count_parameters, megabytes
from mlcli.models.mlp import MLP
from mlcli.models.resnet import ResNet
from mlcli.models.timm_models import timm_model
from mlcli.models.torchvision_models import torchvision_model
from mlcli.models.vgg import VGG, refuse_small_images
from mlcli.models.weights import ClassRows, FineTuning
from mlcli.text import size


def build(config: c.Model, info: DataInfo) -> nn.Module:
    """The model of a config for data of this shape: standardised inputs [B, C, H, W] or [B, F] -> [B, outputs].

    Raises ConfigError naming the layer that the data do not fit.
    """
    inputs, outputs, init = prod(info.input_shape), info.num_outputs, config.init
    match config:
        case c.Linear():
            return MLP(inputs, outputs, hidden=(), init=init)
        case c.Mlp():
            return MLP(inputs, outputs, config.hidden, activation=config.activation, dropout=config.dropout,
                       batch_norm=config.batch_norm, init=init)  # fmt: skip
        case c.Cnn():
            shape = _image_shape(info, config.name)
            # The function of a block's name, whose keywords are the block's keys.
            blocks = [getattr(cnn, block.name)(**block.model_dump(exclude={"name"})) for block in config.blocks]
            return cnn.CNN(blocks, image=shape, outputs=outputs, init=init)
        case c.Vgg():
            channels, height, width = _image_shape(info, config.name)
            refuse_small_images(config.depth, height, width)
            return VGG(config.depth, channels=channels, outputs=outputs, width=config.width,
                       batch_norm=config.batch_norm, stem=config.stem, head=config.head, dropout=config.dropout,
                       init=init)  # fmt: skip
        case c.Resnet():
            channels, _, _ = _image_shape(info, config.name)
            return ResNet(config.depth, channels=channels, outputs=outputs, width=config.width, stem=config.stem,
                          zero_init_residual=config.zero_init_residual, init=init)  # fmt: skip
        case c.Airbench():
            channels, height, width = _image_shape(info, config.name)
            if min(height, width) < SMALLEST_SIDE:
                what = f"images of {height}x{width} are too small for three poolings of airbench"
                fix = f"use images of {SMALLEST_SIDE}x{SMALLEST_SIDE} or more (data.image_size), or model name: cnn"
                raise ConfigError(what, where="model.name", fix=fix)
            return Airbench(channels=channels, outputs=outputs, width=config.width, init=init)
        case c.TorchvisionModel():
            shape = _image_shape(info, config.arch)
            return torchvision_model(config.arch, image=shape, outputs=outputs, weights=config.weights, init=init,
                                     regression=info.num_classes == 0)  # fmt: skip
        case c.TimmModel():
            shape = _image_shape(info, config.arch)
            return timm_model(config.arch, image=shape, outputs=outputs, weights=config.weights, init=init)
        case _:
            assert_never(config)


def _image_shape(info: DataInfo, model: str) -> tuple[int, int, int]:
    """(channels, height, width) of the data. Raises ConfigError if they are rows of features."""
    if info.kind != "image":
        what = f"model '{model}' works on images, but the data are rows of {info.input_shape[0]} features"
        raise ConfigError(what, where="model.name", fix="use model name: mlp or linear")
    channels, height, width = info.input_shape
    return channels, height, width


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights drawn in here are a function of the seed; torch's global generator is left as it was.

    Raises OutOfMemoryError for more of them than there is memory for.
    """
    with torch.random.fork_rng(devices=[]), weights_within(available_memory_bytes()):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        yield


@contextmanager
def weights_within(most_bytes: int) -> Iterator[None]:
    """Raise OutOfMemoryError as soon as the weights made in here would take more.

    A weight is counted before it is initialised: until then, its memory is but an address.
    """
    total_bytes = 0

    def count(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        nonlocal total_bytes
        total_bytes += weight.numel() * weight.element_size() if isinstance(weight, nn.Parameter) else 0
        if total_bytes > most_bytes:
            what = f"the model's weights take {size(total_bytes)} and more, {size(most_bytes)} are there for them"
            raise OutOfMemoryError(what, where="model", fix="a smaller model, or a smaller data.image_size")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def build_seeded(config: c.Model, info: DataInfo, seed: int) -> Normalized:
    """The model a config names, its weights a function of the seed, with the statistics of its data inside, or those
    that its weights were learned with where it knows them."""
    with seeded(seed):
        net = build(config, info)
        mean, std = getattr(net, "statistics", None) or (info.mean, info.std)
        return Normalized(net, mean=mean, std=std, image=info.kind == "image")


def begin_with_data(
    model: nn.Module, config: c.Model, info: DataInfo, samples: int, read: Callable[[np.ndarray], Tensor]
) -> None:
    """Take those first weights from training samples that a model wants from there; see `c.Airbench.whiten`.

    samples: how many there are. read: inputs by positions, int64 [n] -> uint8 [n, C, H, W].
    """
    if isinstance(config, c.Airbench) and config.whiten:
        assert isinstance(model, Normalized)
        assert isinstance(model.net, Airbench)
        _, height, width = info.input_shape
        num = max(1, min(samples, WHITENED_IMAGES, WHITENED_PIXELS // (height * width)))
        images = read(np.linspace(0, samples - 1, num).round().astype(np.int64))
        model.net.learn_patches(torch.addcmul(model.shift, images, model.scale))


def describe_model(config: c.Model, info: DataInfo, model: nn.Module) -> str:
    """`mlp 64-128-64-10  17,226 parameters (0.07 MB)`"""
    count, _ = count_parameters(model)
    return f"{config.describe(info)}  {count:,} parameters ({megabytes(model):.2f} MB)"


def fine_tuning(model: nn.Module, config: c.FineTune | None, classes: ClassRows | None = None) -> FineTuning:
    """Build the fine-tuning of a config; with None everything learns, at one learning rate, from current weights.

    classes: see `FineTuning`."""
    config = config or c.FineTune()
    return FineTuning(model, weights=config.weights, freeze=config.freeze, freeze_from=config.freeze_from,
                      unfreeze_at=config.unfreeze_at, trunk_lr=config.trunk_lr, classes=classes)  # fmt: skip
