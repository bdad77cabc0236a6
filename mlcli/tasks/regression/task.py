"""Regression: a number for each row.

The model answers in standard deviations of the training targets from their mean, so that a learning rate means the same
whether the target is in grams or in tonnes; predictions and metrics are in the target's own unit.
"""

from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from mlcli.data.source import Source
from mlcli.engine.contract import Batch, Direction
from mlcli.engine.runtime import to_device
from mlcli.errors import CheckpointError
from mlcli.show.details import Details, Residuals
from mlcli.tasks.regression.answers import NumberAnswers
from mlcli.tasks.regression.config import Regression
from mlcli.tasks.samples import SamplePredictor, SampleTask

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of answers and targets, float32 [B] each, in standard deviations of the target."""
KEPT = 2000
"""Pairs of truth and answer: enough for a picture."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_HASH_BITS, _HASH_FACTOR = 32, 2654435769  # 2 ** 32 / golden ratio: neighbours land far apart (Knuth 1998, 6.4)


class RegressionMetrics:
    """Errors of a regression on a split, in the target's own unit, accumulated on the device.

    The spread of the targets is merged batch by batch from means and squared deviations (Chan, Golub & LeVeque 1983),
    which stays exact where sums of squares would cancel. Some pairs of truth and answer are kept: those whose
    positions, hashed, come first, so that it is the same even sample for any batches (bottom-k sampling, Cohen & Kaplan
    2007).

    Args:
        device: where predictions arrive; `update` leaves everything there.
        offset: what was taken from targets and predictions; `details` adds it again.
    """

    def __init__(self, device: torch.device | str = "cpu", offset: float = 0.0) -> None:
        self._offset = offset
        self.directions: dict[str, Direction] = {"mae": "min", "rmse": "min", "r2": "max"}
        decimals = torch.float32 if torch.device(device).type == "mps" else torch.float64  # mps has no float64
        zero = torch.zeros((), dtype=decimals, device=device)
        self._count, self._mean, self._spread = zero.clone(), zero.clone(), zero.clone()
        self._absolute, self._squared = zero.clone(), zero.clone()
        self._order = torch.full((KEPT,), 2**_HASH_BITS, dtype=torch.int64, device=device)  # hash; beyond all: nothing
        self._indices = torch.zeros_like(self._order)
        self._pairs = torch.zeros(2, KEPT, dtype=decimals, device=device)  # truth, answer

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Take in predictions [B] and batch.targets [B] without waiting for the device."""
        if not len(batch):
            return
        truth = batch.targets.to(self._mean.dtype)
        miss = predictions.to(self._mean.dtype) - truth
        self._absolute += miss.abs().sum()
        self._squared += miss.square().sum()
        mean = truth[0] + (truth - truth[0]).mean()  # exactly equal to all if they are equal, in float32 too
        self._merge_spread(torch.full_like(self._count, len(batch)), mean, (truth - mean).square().sum())
        indices = to_device(batch.indices, truth.device)
        self._keep(indices * _HASH_FACTOR % 2**_HASH_BITS, indices, torch.stack([truth, truth + miss]))

    def merge(self, other: "RegressionMetrics") -> None:
        """Add what another set of metrics has seen."""
        device = self._mean.device
        self._absolute += other._absolute.to(device)
        self._squared += other._squared.to(device)
        self._merge_spread(other._count.to(device), other._mean.to(device), other._spread.to(device))
        self._keep(other._order.to(device), other._indices.to(device), other._pairs.to(device))

    def _keep(self, order: Tensor, indices: Tensor, pairs: Tensor) -> None:
        """Of what was kept and what is new, the first by hash."""
        everything = torch.cat([self._order, order])
        first = everything.argsort(stable=True)[:KEPT]
        self._order = everything[first]
        self._indices = torch.cat([self._indices, indices])[first]
        self._pairs = torch.cat([self._pairs, pairs], dim=1)[:, first]

    def _merge_spread(self, count: Tensor, mean: Tensor, spread: Tensor) -> None:
        total = self._count + count
        share = count / total.clamp(min=1)
        gap = mean - self._mean
        self._mean += gap * share
        self._spread += spread + gap.square() * self._count * share
        self._count = total

    def compute(self) -> dict[str, float]:
        """mae and rmse in the target's unit; r2 the share of its variance explained, at most 1.

        Of a constant target r2 is 1 if it is met exactly and 0 otherwise, as in scikit-learn.
        """
        count, spread, absolute, squared = torch.stack(
            [self._count, self._spread, self._absolute, self._squared]
        ).tolist()
        of_a_constant = 1.0 if squared == 0 else 0.0
        r2 = 1 - squared / spread if spread > 0 else of_a_constant
        return {"mae": absolute / max(count, 1), "rmse": (squared / max(count, 1)) ** 0.5, "r2": r2}

    def learned(self) -> dict[str, Any]:
        """No settings: the output is the answer."""
        return {}

    def details(self) -> Details:
        """Return the residuals of up to 2,000 samples, evenly chosen."""
        kept = ((self._order < 2**_HASH_BITS) & self._pairs.isfinite().all(0)).cpu()  # JSON knows no NaN
        indices, by_position = self._indices.cpu()[kept].sort()
        truth, answer = self._pairs.cpu().double()[:, kept][:, by_position] + self._offset
        shares = torch.tensor(QUANTILES, dtype=torch.float64)
        values = torch.quantile(answer - truth, shares).tolist() if len(truth) else []
        residuals: Residuals = {
            "count": int(self._count),
            "index": indices.tolist(),
            "truth": truth.tolist(),
            "answer": answer.tolist(),
            "quantiles": {f"{100 * share:.0f} %": value for share, value in zip(QUANTILES, values, strict=False)},
        }
        return {"residuals": residuals}


class Regressor(SamplePredictor, NumberAnswers):
    """A model and the unit of its answers: all that predicting needs."""

    @property
    def target_mean(self) -> float:
        """Mean of the training targets, in their unit, without the offset."""
        return self.info.preparation["target_mean"]

    @property
    def target_std(self) -> float:
        """Standard deviation of the training targets, in their unit; above 0."""
        return self.info.preparation["target_std"]

    def adopt(self, facts: dict[str, Any]) -> None:
        """Use the facts of a checkpoint from here on. Raises CheckpointError if the target's unit is not in them."""
        super().adopt(facts)
        if None in (self.info.preparation.get("target_mean"), self.info.preparation.get("target_std")):
            what = "the checkpoint lacks the mean or the spread of the target"
            raise CheckpointError(what, where="facts.data.preparation")

    def answers(self, outputs: Tensor) -> Tensor:
        """Return the model's outputs [B, 1] in the target's unit, without its offset: float32 [B]."""
        return outputs[:, 0].float() * self.target_std + self.target_mean


class RegressionTask(SampleTask, Regressor):
    """The regression task, as the trainer uses it.

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
        return RegressionMetrics(next(self.model.parameters()).device, self.target_offset)

    def pictures(self, split: str, metrics: RegressionMetrics) -> dict[str, Image]:
        """Predicted over true values, and the residuals; nothing if no answer is finite."""
        from mlcli.show.evaluation import pictures

        details: Details = {**metrics.details(), "metrics": {**metrics.compute()}, "unit": self.info.target}
        return pictures(details, f"{split}: ")

    def _standardised(self, targets: Tensor) -> Tensor:
        return (targets - self.target_mean) / self.target_std
