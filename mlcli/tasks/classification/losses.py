"""Step 2, how wrong a classifier is: one pure function per loss, each with its paper, and the weights of classes.

Every function takes logits float32 [B, C] and gives one loss per sample, float32 [B]. Targets come as distributions
float32 [B, C]: a label is a one-hot row, mixup and CutMix make rows in between, and class weights multiply the rows,
so that a blended sample costs exactly its blend: `loss(a * t + (1 - a) * u) == a * loss(t) + (1 - a) * loss(u)`
(all but the distances, which measure how far softmax is from the blend itself).
"""

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.errors import ConfigError
from mlcli.tasks.classification.config import (
    BinaryCrossEntropy,
    ClassWeights,
    CrossEntropy,
    Focal,
    Hinge,
    Loss,
    ProbabilityError,
    SmoothProbabilityError,
)


class Criterion:
    """The loss a config names, as a mean over the batch: `sum(share_i * loss(part_i)) == loss(whole)`.

    The mean of `weight[y] * loss` is taken over samples, unlike torch's `weight=`, which divides by the sum of the
    weights: that sum differs from one part of a batch to the next, so accumulated gradients would not add up.

    Args:
        config: the loss section.
        class_weights: float32 [C], or None for no weighting.
    """

    def __init__(self, config: Loss, class_weights: Tensor | None = None) -> None:
        self.config, self.class_weights = config, class_weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits [B, C] of any float type, targets int64 [B] or float32 [B, C] -> scalar float32."""
        logits = logits.float()  # half precision loses what exp and log need
        if isinstance(self.config, CrossEntropy) and targets.ndim == 1 and self.class_weights is None:
            # What most trainings use, by torch's fused kernel: five times as fast as the rows below, and equal to them.
            return functional.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)
        if isinstance(self.config, Hinge):
            assert targets.ndim == 1, "the config refuses blended labels with the hinge loss"
            losses = hinge(logits, targets, self.config.margin, self.config.power)
            return (losses if self.class_weights is None else losses * self._weights(logits)[targets]).mean()
        rows = as_rows(targets, logits)
        weighted = rows if self.class_weights is None else rows * self._weights(logits)
        match self.config:
            case CrossEntropy(label_smoothing=smoothing):
                return cross_entropy(logits, weighted, smoothing).mean()
            case BinaryCrossEntropy(label_smoothing=smoothing):
                return binary_cross_entropy(logits, weighted, smoothing).mean()
            case Focal(gamma=gamma):
                return focal(logits, weighted, gamma).mean()
            case SmoothProbabilityError(beta=beta):
                return (smooth_l1(logits, rows, beta) * weighted.sum(1)).mean()
            case ProbabilityError(name="l1"):
                return (absolute_error(logits, rows) * weighted.sum(1)).mean()
            case _:
                return (squared_error(logits, rows) * weighted.sum(1)).mean()

    def _weights(self, logits: Tensor) -> Tensor:
        assert self.class_weights is not None
        if self.class_weights.device != logits.device:  # once: a copy in every step would wait for the device
            self.class_weights = self.class_weights.to(logits.device)
        return self.class_weights


def as_rows(targets: Tensor, logits: Tensor) -> Tensor:
    """int64 [B] labels as one-hot float32 [B, C]; float [B, C] rows as they are."""
    if targets.ndim == 2:
        return targets.float()
    return torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0)


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax of the true class; smoothing as in Szegedy et al. 2016 (arXiv:1512.00567), section 7."""
    log_p = functional.log_softmax(logits, dim=1)
    smoothed = (1 - label_smoothing) * log_p + label_smoothing * log_p.mean(dim=1, keepdim=True)
    return -(targets * smoothed).sum(dim=1)


def hinge(logits: Tensor, labels: Tensor, margin: float = 1.0, power: int = 1) -> Tensor:
    """Sum over the wrong classes of `max(0, margin - s_true + s_wrong) ** power` (Weston & Watkins 1999).

    labels int64 [B]. torch's multi_margin_loss divides this sum by C.
    """
    true = logits.gather(1, labels[:, None])  # [B, 1]
    misses = (margin - true + logits).clamp(min=0) ** power
    return misses.scatter(1, labels[:, None], 0.0).sum(dim=1)


def binary_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """C questions, one against the rest, each -log of the right answer's sigmoid, averaged over classes.

    Row sums of `targets` other than 1 are class weights: they count for the "no" answers too.
    """
    half = torch.full_like(logits, label_smoothing / 2)
    if_yes = functional.binary_cross_entropy_with_logits(logits, 1 - half, reduction="none")
    if_no = functional.binary_cross_entropy_with_logits(logits, half, reduction="none")
    weight = targets.sum(dim=1, keepdim=True)
    return (targets * if_yes + (weight - targets) * if_no).mean(dim=1)


def focal(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """`(1 - p) ** gamma * -log p` of the true class (Lin et al. 2017, arXiv:1708.02002, eq. 4, with softmax's p)."""
    log_p = functional.log_softmax(logits, dim=1)
    # 1 - p without cancellation; the floor keeps the slope of x ** gamma finite at 0 when gamma is below 1
    miss = (-torch.expm1(log_p)).clamp(min=1e-12)
    return -(targets * miss**gamma * log_p).sum(dim=1)


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of softmax to the target, summed over classes: 0 to 2 (Brier 1950)."""
    return (logits.softmax(dim=1) - targets).square().sum(dim=1)


def absolute_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Absolute distance of softmax to the target, summed over classes: 0 to 2."""
    return (logits.softmax(dim=1) - targets).abs().sum(dim=1)


def smooth_l1(logits: Tensor, targets: Tensor, beta: float = 0.5) -> Tensor:
    """Squared below `beta`, absolute above it, summed over classes (Girshick 2015, arXiv:1504.08083, eq. 3)."""
    return functional.smooth_l1_loss(logits.softmax(dim=1), targets, beta=beta, reduction="none").sum(dim=1)


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """logits [B, C] -> float32 [B, C], rows summing to 1, as the named loss reads them.

    Softmax; for bce each class's sigmoid divided by their sum. The hinge loss defines no probabilities: the softmax of
    its scores keeps their order and is no estimate of how often the answer is right.
    """
    logits = logits.float()
    if loss == "bce":
        logits = functional.logsigmoid(logits)  # sigmoid / sum of sigmoids == softmax of log sigmoid, without 0 / 0
    return logits.softmax(dim=1)


def class_weights(setting: ClassWeights, labels: Tensor, num_classes: int) -> Tensor | None:
    """float32 [C], or None for "none".

    balanced: N / (C * count), as in scikit-learn, then divided by the mean, so that the learning rate keeps its
    meaning. A class without training samples gets 0 and is left out of that mean.

    Args:
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
        raise ConfigError(
            f"{len(setting)} class weights for {num_classes} classes",
            where="loss.class_weights",
            fix=f"give {num_classes} weights in label order, or 'balanced'",
        )
    return torch.tensor(setting, dtype=torch.float32)
