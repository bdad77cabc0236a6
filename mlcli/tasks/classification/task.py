"""Classification: one label out of several for each image or row.

`Classifier` is what a saved model can do without any data; `ClassificationTask` adds what it is learned from.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from mlcli.data.augmentations import Augmentation
from mlcli.data.describe import describe_data
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source
from mlcli.engine.contract import Batch, Embeddings, Metrics
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import Loader, Train
from mlcli.models.start import Start, build_seeded, describe_model
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.losses import Criterion, class_weights, probabilities
from mlcli.tasks.classification.metrics import ClassificationMetrics

if TYPE_CHECKING:
    from PIL import Image


class Classifier:
    """A model and the classes it knows: all that predicting needs.

    Args:
        config: of the run; its data section is not looked at.
        info: what was found in the training data.
    """

    def __init__(self, config: Classification, info: DataInfo) -> None:
        self.config, self.info = config, info
        self.model: nn.Module = build_seeded(config.model, info, config.train.seed)

    @property
    def caveat(self) -> str:
        """What a person should know about the predictions; empty if nothing."""
        if self.config.loss.name == "hinge":
            return "the hinge loss defines no probabilities; these are softmaxed scores, right in order only"
        return ""

    def adopt(self, facts: dict[str, Any]) -> None:
        """Hold to the facts of a checkpoint from here on; they must be of the same classes and shape."""
        self.info = DataInfo.from_plain(facts["data"])

    def predict(self, net: nn.Module, inputs: Tensor) -> Tensor:
        """inputs as in `Batch.inputs` -> probabilities float32 [B, C]."""
        return probabilities(net(inputs), self.config.loss.name)

    def records(self, predictions: Tensor) -> list[dict[str, Any]]:
        """Probabilities [B, C] as plain data: label, its probability, and the probabilities in label order.

        Rounded to 6 decimals; a float32 knows no more.
        """
        names = self.info.class_names
        best = predictions.argmax(dim=1).tolist()
        rows = predictions.cpu().double().round(decimals=6).tolist()
        return [
            {"label": names[c], "probability": row[c], "probabilities": dict(zip(names, row, strict=True))}
            for c, row in zip(best, rows, strict=True)
        ]

    def picture(self, image_path: Path, record: dict[str, Any]) -> "Image.Image":
        """An image with its answer below it. Raises DataError if it cannot be read."""
        from mlcli.tasks.classification.pictures import annotate

        return annotate(image_path, record["label"], record["probability"])


class ClassificationTask(Classifier):
    """What the trainer needs to learn a classification; see `mlcli.engine.contract.Task`.

    Raises DataError, ConfigError or CheckpointError for data, sections or weights that do not fit together.
    """

    primary = "accuracy"
    is_static = True

    def __init__(self, config: Classification) -> None:
        source = build_source(config.data)
        super().__init__(config, source.info)
        self.source = source
        self.start = Start(self.model, config.finetune)
        labels = source.splits["train"].targets
        self.criterion = Criterion(
            config.loss, class_weights(config.loss.class_weights, labels, source.info.num_classes)
        )
        self.splits = {name: len(samples) for name, samples in source.splits.items()}
        self.facts: dict[str, Any] = {"task": "classification", "data": source.info.to_plain()}

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
        config = self.config
        return SampleFeed(
            source or self.source,
            config.augment if augment is None else augment,
            train=train or config.train,
            loader=loader or config.loader,
            device=runtime.device,
        )

    def train_mode(self, epoch: int) -> None:
        self.start.train_mode(epoch)

    def lr_scale(self, parameter_name: str) -> float:
        return self.start.lr_scale(parameter_name)

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {self.config.loss.name: self.criterion(net(batch.inputs), batch.targets)}

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The loss term and probabilities [B, C]."""
        logits = net(batch.inputs)
        loss = self.config.loss.name
        return {loss: self.criterion(logits, batch.targets)}, probabilities(logits, loss)

    def metrics(self, split: str = "train") -> ClassificationMetrics:
        device = next(self.model.parameters()).device
        name_of = self.source.splits[split].name
        return ClassificationMetrics(self.info.num_classes, self.info.class_names, device, name_of)

    def batch_picture(self, batch: Batch) -> "Image.Image | None":
        """The first images of a training batch with their labels; None of rows of features."""
        from mlcli.tasks.classification.sheets import batch_sheet

        if self.info.kind != "image":
            return None
        return batch_sheet(batch.inputs, batch.targets, self.info.class_names)

    def pictures(self, split: str, metrics: Metrics) -> "dict[str, Image.Image]":
        """confusion, calibration; of images also mistakes, filters and feature maps, as far as there are any."""
        from mlcli.models.pictures import feature_maps, filters
        from mlcli.show.evaluation import pictures

        assert isinstance(metrics, ClassificationMetrics)
        details = {
            "confusion": metrics.confusion.cpu().numpy(),
            "confusion_names": self.info.class_names,
            "calibration": metrics.calibration(),
        }
        drawn: dict[str, Image.Image | None] = {**pictures(details, f"{split}: ")}
        if self.info.kind == "image":
            drawn["mistakes"] = self._mistakes_picture(split, metrics)
            drawn["filters"] = filters(self.model, self.info)
            (first,) = self.source.splits[split].read(np.zeros(1, dtype=np.int64))
            drawn["feature maps"] = feature_maps(self.model, first, f"{split}: feature maps")
        return {title: picture for title, picture in drawn.items() if picture is not None}

    def inspection_pictures(self, batch: Batch) -> "dict[str, Image.Image]":
        """Nothing: its filters tell something once it has learned."""
        return {}

    def embeddings(self, split: str, limit: int = 2000) -> Embeddings:
        """What the layer before the last makes of up to `limit` samples of a split; see `Embeddings`."""
        from mlcli.tasks.classification.embeddings import embed

        return embed(self.model, self.source.splits[split], self.info.class_names, limit)

    def _mistakes_picture(self, split: str, metrics: ClassificationMetrics) -> "Image.Image | None":
        """The surest mistakes with their pictures as the model saw them; None if there is no mistake."""
        from mlcli.tasks.classification.sheets import mistakes_sheet

        mistakes = metrics.mistakes.read()
        if not mistakes:
            return None
        images = self.source.splits[split].read(np.array([mistake.position for mistake in mistakes]))
        wrong = metrics.confusion.sum() - metrics.confusion.trace()
        which = "all" if len(mistakes) == wrong else f"the surest {len(mistakes)} of"
        of_all = f"{int(wrong):,} wrong answers to {self.splits[split]:,} samples"
        note = f"{which} {of_all}; below each the answer and the truth"
        return mistakes_sheet(images, mistakes, self.info.class_names, f"{split}: mistakes", note)
