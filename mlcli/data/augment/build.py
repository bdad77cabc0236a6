"""Build functions on batches from the augmentations of a YAML."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, assert_never

import torch
from torch import Tensor

from mlcli.data import augmentations as c
from mlcli.data.augment import colour, geometry, policy
from mlcli.data.augment.mix import Mix, Mixing
from mlcli.data.info import DataInfo
from mlcli.data.randomness import KeyedRandom
from mlcli.engine.runtime import to_device
from mlcli.errors import ConfigError

Operation = Callable[[Tensor, KeyedRandom], Tensor]


@dataclass(frozen=True)
class AlternatingFlip:
    """Mirroring in every other epoch; p: share of the samples that begin mirrored."""

    p: float


class Augment:
    """The augmentations of a YAML, in its order; mixup and CutMix come last wherever they stand. Empty changes nothing.

    Args:
        augment: as in the YAML.
        info: facts about the images.
        already_cropped: the reader has done the random resized crop on the original pixels, so it is left out here.

    Attributes:
        mixes: whether samples are mixed with one another.
        alternates: whether something depends on the epoch and on what was drawn in the first one.
    """

    def __init__(self, augment: tuple[c.Augmentation, ...], info: DataInfo, *, already_cropped: bool = False) -> None:
        self._operations: list[tuple[int, Operation | AlternatingFlip]] = [
            (stream, _operation(config, info))
            for stream, config in enumerate(augment)
            if not isinstance(config, c.Mixup | c.CutMix)
            and not (already_cropped and isinstance(config, c.RandomResizedCrop))
        ]
        mixes = [
            Mixing(config.name, config.alpha, config.p) for config in augment if isinstance(config, c.Mixup | c.CutMix)
        ]
        self.mixes = bool(mixes)
        self.alternates = any(isinstance(operation, AlternatingFlip) for _, operation in self._operations)
        self._mix = Mix(mixes, info.num_classes, stream=len(augment))

    def __call__(
        self, inputs: Tensor, targets: Tensor, keys: Tensor, first_keys: Tensor | None = None, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """inputs: uint8 [B, C, H, W]; targets: int64 [B]; keys: int64 [B] from `sample_keys`, on the CPU.

        first_keys: those of the samples in epoch 0, where this is another one; None for `keys`.

        Returns inputs as uint8 or float32 in 0..255, and targets as int64 [B] or, with mixup or CutMix, float32
        [B, num_classes].
        """
        if self._operations:
            randoms = KeyedRandom.of_streams(to_device(keys, inputs.device), self._operations[-1][0] + 1)
            for stream, operation in self._operations:
                if isinstance(operation, AlternatingFlip):
                    lasting = keys if first_keys is None else first_keys
                    random = KeyedRandom(to_device(lasting, inputs.device), stream)
                    inputs = geometry.flip(inputs, random.bernoulli(operation.p) ^ bool(epoch % 2), 3)
                else:
                    inputs = operation(inputs, randoms[stream])
        return self._mix(inputs, targets, keys)


def cut_of(augment: Sequence[object]) -> tuple[c.CutsOriginals, int] | None:
    """The augmentation of a YAML that cuts parts from original pixels, and its stream; None where there is none."""
    found = [(config, stream) for stream, config in enumerate(augment) if isinstance(config, c.CutsOriginals)]
    return found[0] if found else None


def _operation(config: c.Augmentation, info: DataInfo) -> Operation | AlternatingFlip:
    match config:
        case c.RandomCrop():
            side = min(info.input_shape[1:])
            if config.fill == "reflect" and config.padding >= side:
                what = f"random_crop cannot reflect {config.padding} pixels of an image whose shorter side has {side}"
                fix = f"padding: {side - 1} or less, or fill: edge"
                raise ConfigError(what, where="augment.random_crop.padding", fix=fix)
            return partial(geometry.random_crop, padding=config.padding, fill=config.fill)
        case c.RandomResizedCrop():
            return partial(geometry.random_resized_crop, area=config.area, ratio=config.ratio)
        case c.HorizontalFlip(alternate=True):
            return AlternatingFlip(config.p)
        case c.HorizontalFlip():
            return partial(geometry.random_flip, p=config.p, dim=3)
        case c.VerticalFlip():
            return partial(geometry.random_flip, p=config.p, dim=2)
        case c.Rotation():
            return partial(geometry.random_rotation, degrees=config.degrees)
        case c.Affine():
            return partial(geometry.random_affine, **_keywords(config))
        case c.ColorJitter():
            return partial(colour.random_colour, **_keywords(config))
        case c.Grayscale():
            return partial(colour.random_grey, p=config.p)
        case c.Cutout():
            return partial(geometry.cutout, size=config.size, p=config.p, fill=255 * torch.tensor(info.mean))
        case c.RandAugment():
            return partial(policy.rand_augment, num_ops=config.num_ops, magnitude=config.magnitude)
        case c.TrivialAugment():
            return policy.trivial_augment
        case c.Mixup() | c.CutMix():
            raise AssertionError(f"{config.name} mixes samples, which `Mix` does")
        case _:
            assert_never(config)


def _keywords(config: c.Affine | c.ColorJitter) -> dict[str, Any]:
    """Return the values of a section, which bear the names of the function's keywords."""
    return config.model_dump(exclude={"name"})
