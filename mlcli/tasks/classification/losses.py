"""Step 2, the losses of classifiers, each with its paper and its value at chance, and weights of classes.

A loss takes logits float32 [B, C] and gives one number per sample, float32 [B]. Targets come as distributions float32
[B, C]: a label is a one-hot row, mixup and CutMix make rows in between, and class weights multiply the rows, so that a
blended sample costs exactly its blend: `loss(a * t + (1 - a) * u) == a * loss(t) + (1 - a) * loss(u)` (all but the
distances, which measure how far softmax is from the blend itself).

`at_chance` is what a loss is worth for equal scores of C classes, which a network just made should be near: the formula
in words, and its value for unmixed labels of weight 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.errors import ConfigError


class SampleLoss(ABC):
    """Base of all losses.

    caveat: what a reader of the probabilities should know.
    """

    caveat: ClassVar[str] = ""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits float32 [B, C], targets float32 [B, C] -> float32 [B]."""

    @abstractmethod
    def at_chance(self, num_classes: int) -> tuple[str, float]:
        """Return the formula of the loss of equal scores in words, and its value."""

    def mean(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Return the mean over the batch of each sample's loss times the weight of its class.

        targets: int64 [B] or float32 [B, C]; weights: float32 [C], None for 1 each.
        """
        rows = as_rows(targets, logits)
        return self(logits, rows if weights is None else rows * weights).mean()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what a model trained with this loss says by logits float32 [B, C]: [B, C], rows summing to 1."""
        return logits.softmax(dim=1)


@dataclass(frozen=True)
class CrossEntropyLoss(SampleLoss):
    """-log softmax of the true class; smoothing as in Szegedy et al. 2016 (arXiv:1512.00567), section 7."""

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = functional.log_softmax(logits, dim=1)
        smoothed = (1 - self.label_smoothing) * log_p + self.label_smoothing * log_p.mean(dim=1, keepdim=True)
        return -(targets * smoothed).sum(dim=1)

    def mean(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        if targets.ndim == 2 or weights is not None:
            return super().mean(logits, targets, weights)
        # What most trainings use, by torch's fused kernel: five times as fast as the rows above, and equal to them.
        return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        return f"ln C = ln {num_classes}", log(num_classes)


@dataclass(frozen=True)
class HingeLoss(SampleLoss):
    """Sum over the wrong classes of `max(0, margin - s_true + s_wrong) ** power` (Weston & Watkins 1999).

    Takes labels int64 [B], for it cannot express blends. torch's multi_margin_loss divides this sum by C. It defines no
    probabilities: the softmax of its scores keeps their order and is no estimate of how often the answer is right.
    """

    margin: float = 1.0
    power: int = 1
    caveat: ClassVar[str] = (
        "the hinge loss defines no probabilities; these are softmaxed scores; only their order is meaningful"
    )

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        true = logits.gather(1, targets[:, None])  # [B, 1]
        misses = (self.margin - true + logits).clamp(min=0) ** self.power
        return misses.scatter(1, targets[:, None], 0.0).sum(dim=1)

    def mean(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        assert targets.ndim == 1, "the config refuses blended labels with the hinge loss"
        losses = self(logits, targets)
        return (losses if weights is None else losses * weights[targets]).mean()

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        words = f"(C - 1) margin^power = {num_classes - 1} * {self.margin:g}^{self.power}"
        return words, (num_classes - 1) * self.margin**self.power


@dataclass(frozen=True)
class BinaryCrossEntropyLoss(SampleLoss):
    """C questions, one against the rest, each -log of the right answer's sigmoid, averaged over classes.

    Row sums of the targets other than 1 are class weights: they count for the "no" answers too.
    """

    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        half = torch.full_like(logits, self.label_smoothing / 2)
        if_yes = functional.binary_cross_entropy_with_logits(logits, 1 - half, reduction="none")
        if_no = functional.binary_cross_entropy_with_logits(logits, half, reduction="none")
        weight = targets.sum(dim=1, keepdim=True)
        return (targets * if_yes + (weight - targets) * if_no).mean(dim=1)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        return "ln 2", log(2)

    def probabilities(self, logits: Tensor) -> Tensor:
        # sigmoid / sum of sigmoids == softmax of log sigmoid, without 0 / 0
        return functional.logsigmoid(logits).softmax(dim=1)


@dataclass(frozen=True)
class FocalLoss(SampleLoss):
    """`(1 - p) ** gamma * -log p` of the true class (Lin et al. 2017, arXiv:1708.02002, eq. 4, with softmax's p)."""

    gamma: float = 2.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = functional.log_softmax(logits, dim=1)
        # 1 - p without cancellation; the floor keeps the slope of x ** gamma finite at 0 when gamma is below 1
        miss = (-torch.expm1(log_p)).clamp(min=1e-12)
        return -(targets * miss**self.gamma * log_p).sum(dim=1)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        c, gamma = num_classes, self.gamma
        return f"(1 - 1/C)^gamma ln C = (1 - 1/{c})^{gamma:g} ln {c}", (1 - 1 / c) ** gamma * log(c)


class ProbabilityDistance(SampleLoss):
    """Base of the losses that measure how far softmax is from the targets, which weights of classes must not move."""

    def mean(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        rows = as_rows(targets, logits)
        weighted = rows if weights is None else rows * weights
        return (self(logits, rows) * weighted.sum(1)).mean()


@dataclass(frozen=True)
class SquaredDistance(ProbabilityDistance):
    """Squared distance of softmax to the target, summed over classes: 0 to 2 (Brier 1950)."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - targets).square().sum(dim=1)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        return f"1 - 1/C = 1 - 1/{num_classes}", 1 - 1 / num_classes


@dataclass(frozen=True)
class AbsoluteDistance(ProbabilityDistance):
    """Absolute distance of softmax to the target, summed over classes: 0 to 2."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - targets).abs().sum(dim=1)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        return f"2 (1 - 1/C) = 2 (1 - 1/{num_classes})", 2 * (1 - 1 / num_classes)


@dataclass(frozen=True)
class SmoothDistance(ProbabilityDistance):
    """Squared below `beta`, absolute above it, summed over classes (Girshick 2015, arXiv:1504.08083, eq. 3)."""

    beta: float = 0.5

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        p = logits.softmax(dim=1)
        return functional.smooth_l1_loss(p, targets, beta=self.beta, reduction="none").sum(dim=1)

    def at_chance(self, num_classes: int) -> tuple[str, float]:
        def step(x: float) -> float:
            return x**2 / (2 * self.beta) if x < self.beta else x - self.beta / 2

        words = f"h(1 - 1/C) + (C - 1) h(1/C), h the smooth step of beta {self.beta:g}"
        return words, step(1 - 1 / num_classes) + (num_classes - 1) * step(1 / num_classes)


class Criterion:
    """A loss as a mean over the batch: `sum(share_i * criterion(part_i)) == criterion(whole)`.

    The mean of `weight[y] * loss` is taken over samples, unlike torch's `weight=`, which divides by the sum of the
    weights: that sum differs from one part of a batch to the next, so accumulated gradients would not add up.

    Args:
        loss: for each sample.
        class_weights: float32 [C], or None for no weighting.
    """

    def __init__(self, loss: SampleLoss, class_weights: Tensor | None = None) -> None:
        self.loss, self.class_weights = loss, class_weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits [B, C] of any float type, targets int64 [B] or float32 [B, C] -> scalar float32."""
        logits = logits.float()  # half precision loses what exp and log need
        weights = self.class_weights
        if weights is not None and weights.device != logits.device:  # once: each step's copy would wait for the device
            weights = self.class_weights = weights.to(logits.device)
        return self.loss.mean(logits, targets, weights)

    def at_chance(self, targets: Tensor, num_classes: int) -> tuple[float, str]:
        """Return the loss of equal scores for these targets, and the formula it follows.

        targets: as in `__call__`; blended labels and weights of classes are counted as the loss counts them.
        """
        value = self(torch.zeros(len(targets), num_classes, device=targets.device), targets).item()
        words, plain = self.loss.at_chance(num_classes)
        formula = f"{words} = {plain:.4g}"
        if abs(value - plain) > 1e-4 * plain:
            formula += ", for this batch's weights of classes and blends of labels"
        return value, formula


def as_rows(targets: Tensor, logits: Tensor) -> Tensor:
    """int64 [B] labels as one-hot float32 [B, C]; float [B, C] rows as they are."""
    if targets.ndim == 2:
        return targets.float()
    return torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)


def class_weights(setting: str | Sequence[float], labels: Tensor, num_classes: int) -> Tensor | None:
    """float32 [C], or None for "none".

    balanced: N / (C * count), as in scikit-learn, then divided by the mean, so that the learning rate keeps its
    meaning. A class without training samples gets 0 and is left out of that mean.

    Args:
        setting: "none", "balanced", or the weights themselves.
        labels: int64 [N], of the training split.

    Raises:
        ConfigError: another number of weights than classes.
    """
    if setting == "none":
        return None
    if setting == "balanced":
        counts = torch.bincount(labels, minlength=num_classes).double()
        weights = torch.where(counts > 0, len(labels) / (num_classes * counts), 0.0)
        return (weights / weights[counts > 0].mean()).float()
    if len(setting) != num_classes:
        what = f"{len(setting)} class weights for {num_classes} classes"
        fix = f"give {num_classes} weights in label order, or 'balanced'"
        raise ConfigError(what, where="loss.class_weights", fix=fix)
    return torch.tensor(setting, dtype=torch.float32)
