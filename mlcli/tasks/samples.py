"""Shared by classification and regression, which answer each sample independently with a label or a number.

`SamplePredictor` is what a saved model can do without any data; `SampleTask` adds what it is learned from.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mlcli.data.augmentations import Augmentation
from mlcli.data.config import ClassificationData, ImageCsv, RegressionData
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo, features_of
from mlcli.data.source import Source, describe_data
from mlcli.engine.contract import Batch, Metrics, Named
from mlcli.engine.membership import Membership
from mlcli.engine.predicting import Inputs, Record
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import Loader, Train
from mlcli.engine.terms import Term, Terms
from mlcli.models.build import begin_with_data, build_seeded, describe_model, fine_tuning
from mlcli.models.config import FineTune, Model
from mlcli.show.details import ColumnImportance, Importance
from mlcli.tasks.answers import SampleAnswers
from mlcli.tasks.exporting import Again, Check, closeness, same_labels

MOST_PASSES, MOST_REPEATS, MOST_ROWS = 1000, 5, 2000
"""Bounds on what importance costs: passes of so many rows at most, fewer repeats where there are many columns."""


class SampleSettings(Protocol):
    """The sections that the configurations of these tasks have in common."""

    @property
    def task(self) -> str: ...
    @property
    def data(self) -> ClassificationData | RegressionData: ...
    @property
    def model(self) -> Model: ...
    @property
    def loss(self) -> Named: ...
    @property
    def finetune(self) -> FineTune | None: ...
    @property
    def train(self) -> Train: ...
    @property
    def loader(self) -> Loader: ...


class SamplePredictor(SampleAnswers):
    """A model and the facts about its data; see `mlcli.engine.predicting.Predictor`.

    Args:
        config: of the run.
        info: what was found in the training data.
        caveat: notes on the answers for the reader.
    """

    def __init__(self, config: SampleSettings, info: DataInfo, *, caveat: str = "") -> None:
        column = config.data.path_column if isinstance(config.data, ImageCsv) else "path"
        super().__init__(info, caveat=caveat, path_column=column)
        self.config = config
        self.model: nn.Module = build_seeded(config.model, info, config.train.seed)

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """Return predictions, [B] or [B, C], from the model's outputs [B, C]."""

    def adopt(self, facts: dict[str, Any]) -> None:
        """Use the facts of a checkpoint from here on; they must be of the same classes, columns and shape."""
        self.info = DataInfo.from_plain(facts["data"])

    def predict(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """Return predictions for inputs as in `Batch.inputs`."""
        return self.answers(net(inputs))

    def exportable(self) -> nn.Module:
        """Return the model with its answers; see `mlcli.tasks.exporting.Exportable`."""
        return _Whole(self)

    def outputs_of(self, predictions: Tensor) -> tuple[Tensor, ...]:
        """Return the predictions as the one output."""
        return (predictions,)

    def predictions_of(self, outputs: Sequence[Tensor]) -> Tensor:
        """Return the one output as predictions."""
        return outputs[0]

    def compare(
        self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], again: Again | None = None
    ) -> list[Check]:
        """Compare predictions: how far apart, and of probabilities whether the same class is the likeliest."""
        return closeness(ours[0], theirs[0]) + ([same_labels(ours[0], theirs[0])] if ours[0].ndim == 2 else [])

    def records(
        self,
        predictions: Any,
        inputs: Inputs | None = None,
        positions: Sequence[int] = (),
        top: int | None = None,
    ) -> list[Record]:
        """Return predictions as plain data; see `SampleAnswers.records`."""
        return super().records(predictions.detach().cpu().numpy(), inputs, positions, top)


class _Whole(nn.Module):
    """The model with what makes answers of its outputs."""

    def __init__(self, predictor: SamplePredictor) -> None:
        super().__init__()
        self.net, self._answers = predictor.model, predictor.answers

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (self._answers(self.net(inputs)),)


class SampleTask(SamplePredictor):
    """Base of the tasks that learn from such samples; see `mlcli.engine.contract.Task`.

    Args:
        config: of the run.
        source: the data set.
        augment: random changes to training images.
        predicting: what the predictor takes beside these.

    Raises ConfigError or CheckpointError for sections or weights that do not fit together.
    """

    is_static = True
    counts_alike = True

    def __init__(
        self, config: SampleSettings, source: Source, augment: tuple[Augmentation, ...] = (), **predicting: Any
    ) -> None:
        super().__init__(config, source.info, **predicting)
        self.source, self.augment = source, augment
        trained = source.splits["train"]
        begin_with_data(self.model, config.model, self.info, len(trained), trained.read)
        self.finetuning = fine_tuning(self.model, config.finetune)
        self.splits = {name: len(samples) for name, samples in source.splits.items()}
        self.facts: dict[str, Any] = {"task": config.task, "data": source.info.to_plain()}

    def adopt(self, facts: dict[str, Any]) -> None:
        super().adopt(facts)
        self.source = self.source.as_in(self.info)

    primary: str

    @abstractmethod
    def metrics(self, split: str = "train") -> Metrics:
        """Return a fresh, empty set of metrics for one split."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of the model's outputs [B, C] for targets as in `Batch.targets`."""

    def membership(self) -> Membership:
        """Return which samples are in which split."""
        return self.source.membership()

    @property
    def baseline_source(self) -> Source:
        """The data, on which classical models can be fitted as well."""
        return self.source

    def describe(self) -> list[tuple[str, str]]:
        """Return what a person should see before training: subject and line."""
        lines = [("data", describe_data(self.config.data, self.source))]
        lines += [("", note) for note in self.source.notes]
        lines += [("model", describe_model(self.config.model, self.info, self.model))]
        return lines + [("", line) for line in self.finetuning.describe()]

    def feed(
        self,
        runtime: Runtime,
        *,
        train: Train | None = None,
        loader: Loader | None = None,
        augment: tuple[Augmentation, ...] | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> SampleFeed:
        """Return where batches come from; other settings than the config's where some are given."""
        return SampleFeed(
            self.source.in_memory(*memory) if memory else self.source,
            self.augment if augment is None else augment,
            train=train or self.config.train,
            loader=loader or self.config.loader,
            device=runtime.device,
        )

    def train_mode(self, epoch: int) -> None:
        self.finetuning.train_mode(epoch)

    def lr_scale(self, parameter_name: str) -> float:
        return self.finetuning.lr_scale(parameter_name)

    def importance(self, split: str) -> Importance | None:
        """Return the permutation importance of a table's columns; see `mlcli.engine.contract.HasImportance`.

        Breiman 2001, "Random Forests", section 10: the values of a column are dealt out anew among the rows, all its
        features together; how much worse the task's own metric becomes is measured several times. Columns that say the
        same stand in for each other, and each then counts little.
        """
        columns = self.info.preparation.get("columns", []) if self.info.kind == "features" else []
        names = self.info.preparation.get("features", [])
        places = {c["name"]: [names.index(f) for f in features_of(c) if f in names] for c in columns}
        if not places or 2 * len(places) > MOST_PASSES:
            return None
        samples, device = self.source.splits[split], next(self.model.parameters()).device
        rows = np.unique(np.linspace(0, len(samples) - 1, min(MOST_ROWS, len(samples))).round().astype(np.int64))
        inputs, indices = samples.read(rows).to(device), torch.from_numpy(rows)
        targets = samples.targets[indices].to(device)

        def score(inputs: Tensor) -> float:
            metrics = self.metrics(split)
            metrics.update(self.answers(self.model(inputs)), Batch(inputs, targets, indices))
            return metrics.compute()[self.primary]

        self.model.eval()
        sign = 1 if self.metrics(split).directions[self.primary] == "max" else -1
        repeats = min(MOST_REPEATS, MOST_PASSES // len(places))
        found = list[ColumnImportance]()
        with torch.inference_mode():
            whole = score(inputs)
            for name, features in places.items():
                losses = []
                for repeat in range(repeats):
                    order = np.random.default_rng([self.config.train.seed, repeat]).permutation(len(rows))
                    dealt = inputs.clone()
                    dealt[:, features] = inputs[torch.from_numpy(order).to(device)][:, features]
                    losses.append(sign * (whole - score(dealt)))
                found.append({"name": name, "mean": float(np.mean(losses)), "std": float(np.std(losses))})
        if not np.isfinite([column["std"] for column in found]).all():  # nor are the answers
            return None
        found.sort(key=lambda column: -column["mean"])
        return {"metric": self.primary, "repeats": repeats, "samples": len(rows), "columns": found}

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        return {self.config.loss.name: Term(self.loss(net(batch.inputs), batch.targets), len(batch))}

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[Terms, Tensor]:
        """Return the loss term and the predictions."""
        outputs = net(batch.inputs)
        return {self.config.loss.name: Term(self.loss(outputs, batch.targets), len(batch))}, self.answers(outputs)
