"""Regression: a number for each row.

The model answers in standard deviations of the training targets from their mean, so that a learning rate means the same
whether the target is in grams or in tonnes; predictions and metrics are in the target's own unit.
"""

from collections.abc import Callable

import torch
from PIL.Image import Image
from torch import Tensor

from mlcli.data.source import Source
from mlcli.engine.contract import Batch, Record
from mlcli.tasks.regression.config import Regression
from mlcli.tasks.regression.metrics import RegressionMetrics
from mlcli.tasks.samples import SamplePredictor, SampleTask

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of answers and targets, float32 [B] each, in standard deviations of the target."""


class Regressor(SamplePredictor):
    """A model and the unit of its answers: all that predicting needs."""

    @property
    def target_mean(self) -> float:
        """Mean of the training targets, in their unit."""
        return self.info.preparation["target_mean"]

    @property
    def target_std(self) -> float:
        """Standard deviation of the training targets, in their unit; above 0."""
        return self.info.preparation["target_std"]

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the model's outputs [B, 1] in the target's unit: float32 [B]."""
        return outputs[:, 0].float() * self.target_std + self.target_mean

    def plain(self, predictions: Tensor, top: int | None = None) -> list[Record]:
        """Return predictions [B] under the target's name, to the 7 digits a float32 knows."""
        return [{self.info.target: float(f"{value:.7g}")} for value in predictions.tolist()]


class RegressionTask(SampleTask, Regressor):
    """What the trainer needs to learn a regression.

    Args:
        config: of the run.
        source: the data set.
        criterion: the loss.
        chance: what `criterion` measures if the mean of the training targets is answered, in words.
    """

    primary = "rmse"

    def __init__(self, config: Regression, source: Source, criterion: Criterion, chance: str) -> None:
        super().__init__(config, source)
        self.criterion, self.chance = criterion, chance

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(outputs[:, 0].float(), self._standardised(targets))

    def loss_at_chance(self, batch: Batch) -> tuple[float, str]:
        """Return the loss of answering the mean of the training targets, and what that is."""
        truth = self._standardised(batch.targets)
        return self.criterion(torch.zeros_like(truth), truth).item(), self.chance

    def metrics(self, split: str = "train") -> RegressionMetrics:
        return RegressionMetrics(next(self.model.parameters()).device)

    def pictures(self, split: str, metrics: RegressionMetrics) -> dict[str, Image]:
        """Predicted over true values, and the residuals; nothing if no answer is finite."""
        from mlcli.show.evaluation import pictures

        details = {**metrics.details(), "metrics": metrics.compute(), "unit": self.info.target}
        return {**pictures(details, f"{split}: ")}

    def _standardised(self, targets: Tensor) -> Tensor:
        return (targets - self.target_mean) / self.target_std
