"""Step 2, how wrong a regression is: means over the batch, between standardised numbers."""

from torch import Tensor
from torch.nn import functional

from mlcli.tasks.regression.config import L1, Loss, SmoothL1


def regression_loss(config: Loss, predictions: Tensor, targets: Tensor) -> Tensor:
    """float32 [B], [B] in standard deviations of the target -> scalar.

    Squared error (Legendre 1805), absolute error (Laplace 1774) or the smooth step between them (Girshick 2015,
    arXiv:1504.08083, eq. 3, which is Huber's 1964 loss divided by beta).
    """
    match config:
        case L1():
            return functional.l1_loss(predictions, targets)
        case SmoothL1(beta=beta):
            return functional.smooth_l1_loss(predictions, targets, beta=beta)
        case _:
            return functional.mse_loss(predictions, targets)
