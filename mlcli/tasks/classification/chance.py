"""What each loss is worth when a classifier answers at random: every score the same, every class as likely.

A network just made should be near it. By formula, for C classes and unmixed labels; weights of classes multiply it.
"""

from math import log

import torch
from torch import Tensor

from mlcli.tasks.classification.config import (
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Hinge,
    Loss,
    ProbabilityError,
    SmoothProbabilityError,
)
from mlcli.tasks.classification.losses import Criterion


def loss_at_random(criterion: Criterion, targets: Tensor, num_classes: int) -> tuple[float, str]:
    """The loss of equal scores for these targets, and the formula it follows.

    targets: as in `Batch.targets`; blended labels and weights of classes are counted as the loss counts them.
    """
    value = criterion(torch.zeros(len(targets), num_classes, device=targets.device), targets).item()
    words, plain = chance_formula(criterion.config, num_classes)
    formula = f"{words} = {plain:.4g}"
    if abs(value - plain) > 1e-4 * plain:
        formula += ", for this batch's weights of classes and blends of labels"
    return value, formula


def chance_formula(config: Loss, num_classes: int) -> tuple[str, float]:
    """In words, and its value."""
    c = num_classes
    match config:
        case CrossEntropy():
            return f"ln C = ln {c}", log(c)
        case BinaryCrossEntropy():
            return "ln 2", log(2)
        case Focal(gamma=gamma):
            return f"(1 - 1/C)^gamma ln C = (1 - 1/{c})^{gamma:g} ln {c}", (1 - 1 / c) ** gamma * log(c)
        case Hinge(margin=margin, power=power):
            return f"(C - 1) margin^power = {c - 1} * {margin:g}^{power}", (c - 1) * margin**power
        case ProbabilityError(name="l1"):
            return f"2 (1 - 1/C) = 2 (1 - 1/{c})", 2 * (1 - 1 / c)
        case SmoothProbabilityError(beta=beta):
            true, wrong = _smooth(1 - 1 / c, beta), _smooth(1 / c, beta)
            return f"h(1 - 1/C) + (C - 1) h(1/C), h the smooth step of beta {beta:g}", true + (c - 1) * wrong
        case _:
            return f"1 - 1/C = 1 - 1/{c}", 1 - 1 / c


def _smooth(distance: float, beta: float) -> float:
    return distance**2 / (2 * beta) if distance < beta else distance - beta / 2
