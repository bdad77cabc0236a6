"""What each loss is worth when a regression knows nothing and answers the mean of the training targets."""

import torch
from torch import Tensor

from mlcli.tasks.regression.config import Loss
from mlcli.tasks.regression.losses import regression_loss

WORDS = {
    "mse": "the variance of the standardised target, 1 over the whole training split",
    "l1": "the mean distance of the standardised target from its mean",
    "smooth_l1": "the smooth distance of the standardised target from its mean",
}


def loss_at_mean(config: Loss, standardised: Tensor) -> tuple[float, str]:
    """The loss of the answer 0 for targets in standard deviations from their mean, float32 [B], and what that is."""
    return regression_loss(config, torch.zeros_like(standardised), standardised).item(), WORDS[config.name]
