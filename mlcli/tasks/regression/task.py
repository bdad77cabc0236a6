"""Regression: a number for each row.

`Regressor` is what a saved model can do without any data; `RegressionTask` adds what it is learned from. The model
answers in standard deviations of the training targets from their mean, so that a learning rate means the same whether
the target is in grams or in tonnes; predictions and metrics are in the target's own unit.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mlcli.data.augmentations import Augmentation
from mlcli.data.describe import describe_data
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source
from mlcli.engine.contract import Batch, Metrics
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import Loader, Train
from mlcli.models.start import Start, build_seeded, describe_model
from mlcli.tasks.regression.config import Regression
from mlcli.tasks.regression.losses import regression_loss
from mlcli.tasks.regression.metrics import RegressionMetrics

if TYPE_CHECKING:
    from PIL import Image


class Regressor:
    """A model and the unit of its answers: all that predicting needs.

    Args:
        config: of the run; its data section is not looked at.
        info: what was found in the training data, the targets' mean and standard deviation in its preparation.
    """

    def __init__(self, config: Regression, info: DataInfo) -> None:
        self.config, self.info = config, info
        self.model: nn.Module = build_seeded(config.model, info, config.train.seed)

    @property
    def caveat(self) -> str:
        """What a person should know about the predictions: nothing."""
        return ""

    def adopt(self, facts: dict[str, Any]) -> None:
        """Hold to the facts of a checkpoint from here on: its model answers in the scale of its training targets."""
        self.info = DataInfo.from_plain(facts["data"])

    @property
    def target_mean(self) -> float:
        """Mean of the training targets, in their unit."""
        return self.info.preparation["target_mean"]

    @property
    def target_std(self) -> float:
        """Standard deviation of the training targets, in their unit; above 0."""
        return self.info.preparation["target_std"]

    def predict(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """inputs float32 [B, F] -> float32 [B] in the target's unit."""
        return self.in_own_unit(net(inputs))

    def in_own_unit(self, outputs: Tensor) -> Tensor:
        """The model's answers [B, 1] -> float32 [B]"""
        return outputs[:, 0].float() * self.target_std + self.target_mean

    def records(self, predictions: Tensor) -> list[dict[str, Any]]:
        """Predictions [B] as plain data, each under the target's name, to the 7 digits a float32 knows."""
        return [{self.info.target: float(f"{value:.7g}")} for value in predictions.tolist()]


class RegressionTask(Regressor):
    """What the trainer needs to learn a regression; see `mlcli.engine.contract.Task`.

    Raises DataError, ConfigError or CheckpointError for data, sections or weights that do not fit together.
    """

    primary = "rmse"
    is_static = True

    def __init__(self, config: Regression) -> None:
        source = build_source(config.data, regression=True)
        super().__init__(config, source.info)
        self.source = source
        self.start = Start(self.model, config.finetune)
        self.splits = {name: len(samples) for name, samples in source.splits.items()}
        self.facts: dict[str, Any] = {"task": "regression", "data": source.info.to_plain()}

    def describe(self) -> list[tuple[str, str]]:
        """What a person should see before training: subject and line."""
        lines = [("data", describe_data(self.config.data, self.source))]
        lines += [("", note) for note in self.source.notes]
        lines += [("model", describe_model(self.config.model, self.info, self.model))]
        return lines + [("", line) for line in self.start.describe()]

    def feed(
        self,
        runtime: Runtime,
        *,
        source: Source | None = None,
        train: Train | None = None,
        loader: Loader | None = None,
        augment: tuple[Augmentation, ...] | None = None,
    ) -> SampleFeed:
        """Where batches come from; from something else than the config says where something else is given."""
        return SampleFeed(
            source or self.source,
            augment or (),
            train=train or self.config.train,
            loader=loader or self.config.loader,
            device=runtime.device,
        )

    def train_mode(self, epoch: int) -> None:
        self.start.train_mode(epoch)

    def lr_scale(self, parameter_name: str) -> float:
        return self.start.lr_scale(parameter_name)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {self.config.loss.name: self._loss(net(batch.inputs), batch.targets)}

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss term and predictions [B] in the target's unit."""
        outputs = net(batch.inputs)
        return {self.config.loss.name: self._loss(outputs, batch.targets)}, self.in_own_unit(outputs)

    def metrics(self, split: str = "train") -> RegressionMetrics:
        return RegressionMetrics(next(self.model.parameters()).device)

    def batch_picture(self, batch: Batch) -> "Image.Image | None":
        """Rows of features have no picture."""
        return None

    def inspection_pictures(self, batch: Batch) -> "dict[str, Image.Image]":
        """Nothing."""
        return {}

    def embeddings(self, split: str) -> None:
        """There are no classes whose points could be told apart."""

    def pictures(self, split: str, metrics: Metrics) -> "dict[str, Image.Image]":
        """Predicted over true values, and the misses; nothing if no answer is finite."""
        from mlcli.show.evaluation import pictures

        assert isinstance(metrics, RegressionMetrics)
        details = {**metrics.details(), "metrics": metrics.compute(), "unit": self.info.target}
        return {**pictures(details, f"{split}: ")}

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        standardised = (targets - self.target_mean) / self.target_std
        return regression_loss(self.config.loss, outputs[:, 0].float(), standardised)
