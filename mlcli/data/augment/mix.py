"""Mixing samples of a batch with one another: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

How much is mixed is drawn once per batch, as in both papers' code, from the key of its first sample. Every sample gets
a partner by a permutation of the batch that follows from all keys; some may get themselves. A batch is all of a step.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional

from mlcli.data.randomness import KeyedRandom
from mlcli.engine.runtime import to_device


class Mixing(NamedTuple):
    """One way to mix: how much is drawn from Beta(alpha, alpha), and how often a batch is mixed at all."""

    name: Literal["mixup", "cutmix"]
    alpha: float = 1.0
    p: float = 1.0


class Mix:
    """Mixup, CutMix, or one of the two with equal odds where both are asked for; nothing where neither is.

    Where one is asked for, targets always come out as float32 [B, num_classes], whether this batch was mixed or not.
    """

    def __init__(self, choices: Sequence[Mixing], num_classes: int, stream: int = 0) -> None:
        self._choices, self._num_classes, self._stream = choices, num_classes, stream

    def __call__(self, images: Tensor, targets: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, C, H, W]; targets int64 [B]; keys int64 [B], on the CPU so that a GPU need not be waited for."""
        if not self._choices:
            return images, targets
        targets = functional.one_hot(targets, self._num_classes).float()
        partners = to_device(KeyedRandom(keys, self._stream).uniform().argsort(stable=True), images.device)
        batch = KeyedRandom(keys[:1], self._stream + 1)
        choice = self._choices[int(batch.integers(len(self._choices)))]
        share = float(batch.beta(choice.alpha))
        row, column = batch.uniform(shape=(1, 2))[0, 0].tolist()
        if not batch.bernoulli(choice.p):
            return images, targets
        if choice.name == "mixup":
            images = blend(images, partners, share)
        else:
            images, share = paste(images, partners, share, row, column)
        return images, share * targets + (1 - share) * targets[partners]


def blend(images: Tensor, partners: Tensor, share: float) -> Tensor:
    """`share` of each image and the rest of its partner; float32."""
    return images.float() * share + images[partners].float() * (1 - share)


def paste(images: Tensor, partners: Tensor, share: float, row: float, column: float) -> tuple[Tensor, float]:
    """Paste a rectangle of the partner, about 1 - share of the area, cut off at the border.

    row, column: its centre as fractions of height and width. Returns the images and the share of the area that is left.
    """
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    top, bottom = _ends(int(row * height), int(height * side), height)
    left, right = _ends(int(column * width), int(width * side), width)
    pasted = images.clone()
    pasted[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right][partners]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


def _ends(centre: int, length: int, size: int) -> tuple[int, int]:
    return max(centre - length // 2, 0), min(centre + length // 2, size)
