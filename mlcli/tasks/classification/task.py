"""Classification: one label out of several for each image or row.

`Classifier` is what a saved model can do without any data; `ClassificationTask` adds what it is learned from.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from mlcli.data.changes import KINDS
from mlcli.data.changes import views as views_of
from mlcli.data.info import DataInfo
from mlcli.data.source import Source
from mlcli.engine.contract import Batch, Embeddings
from mlcli.engine.hooks import watch
from mlcli.engine.predicting import Record
from mlcli.errors import ConfigError
from mlcli.models.layers import last_layer
from mlcli.show.details import Details
from mlcli.tasks.classification.answers import ClassAnswers
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.losses import Criterion, SampleLoss
from mlcli.tasks.classification.metrics import ClassificationMetrics
from mlcli.tasks.samples import SamplePredictor, SampleTask
from mlcli.text import sides

MOST_EMBEDDED, EMBEDDED_AT_ONCE = 2000, 256
MOST_EXPLAINED, SAMPLES_PER_EXPLAINED = 12, 30
"""Mistakes that are explained at most, and samples there must be for each: one takes two passes and a bit, so that all
of them take less than a tenth of the evaluation."""


class Classifier(SamplePredictor, ClassAnswers):
    """A model, the classes it knows, and the loss it learned by: all that predicting needs."""

    def __init__(self, config: Classification, info: DataInfo, loss: SampleLoss) -> None:
        super().__init__(config, info, caveat=loss.caveat)
        self._probabilities = loss.probabilities

    def answers(self, outputs: Tensor) -> Tensor:
        """Return probabilities float32 [B, C] from the model's outputs [B, C]."""
        return self._probabilities(outputs.float())

    def explained(self, inputs: Any, record: Record, name: str) -> Image:
        """Return an input [1, C, H, W] beside what in it spoke for its answer; see `mlcli.engine.predicting`."""
        from mlcli.models.explain import heat_maps
        from mlcli.tasks.classification.pictures import ALONE_SIDE, explained_sheet

        if self.info.kind != "image":
            what = "rows of a table have no places that a heat map could lie over"
            raise ConfigError(what, where="--explain", fix="mlcli evaluate measures the importance of columns")
        images = torch.as_tensor(inputs).to(next(self.model.parameters()).device)
        label = self.info.class_names.index(record["label"])
        heat = heat_maps(self.model, images, torch.tensor([label]))
        note = f"yellow: what spoke for it ({heat.method}, {sides(heat.maps.shape[1:])} places)"
        title = f"{record['label']} {record['probability']:.1%}"
        return explained_sheet(images, heat.maps, [(name,)], title, note, ALONE_SIDE)


class ClassificationTask(SampleTask, Classifier):
    """The classification task, as the trainer uses it.

    Args:
        config: of the run.
        source: the data set.
        criterion: the loss.
    """

    primary = "accuracy"

    def __init__(self, config: Classification, source: Source, criterion: Criterion) -> None:
        super().__init__(config, source, config.augment, loss=criterion.loss)
        self.criterion = criterion

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.criterion(outputs, targets)

    @property
    def changes(self) -> tuple[str, ...]:
        """All of images, none of rows of features."""
        return tuple(KINDS) if self.info.kind == "image" else ()

    @property
    def views(self) -> tuple[str, ...]:
        return ("flip", "scale", "shift") if self.info.kind == "image" else ()

    def evaluate_views(self, net: torch.nn.Module, batch: Batch, views: Sequence[str]) -> Tensor:
        """Return the mean of the views' probabilities, [B, C]."""
        asked = views_of(views)
        answers = {seen: self.answers(net(seen(batch.inputs))) for seen in dict.fromkeys(asked)}
        return torch.stack([answers[seen] for seen in asked]).mean(dim=0)

    def loss_at_chance(self, batch: Batch) -> tuple[float, str]:
        """Return the loss of equal scores for all classes, and the formula it follows."""
        return self.criterion.at_chance(batch.targets, self.info.num_classes)

    def metrics(self, split: str = "train") -> ClassificationMetrics:
        device = next(self.model.parameters()).device
        name_of = self.source.splits[split].name
        return ClassificationMetrics(self.info.num_classes, self.info.class_names, device, name_of)

    def batch_picture(self, batch: Batch) -> Image | None:
        """Return the first images of a training batch with their labels; None of rows of features."""
        from mlcli.tasks.classification.pictures import batch_sheet

        if self.info.kind != "image":
            return None
        return batch_sheet(batch.inputs, batch.targets, self.info.class_names)

    def pictures(self, split: str, metrics: ClassificationMetrics) -> dict[str, Image]:
        """confusion, calibration; of images also mistakes, filters and feature maps, as far as there are any."""
        from mlcli.models.filters import feature_maps, filters
        from mlcli.show.evaluation import pictures

        details: Details = {
            "confusion": metrics.confusion.tolist(),
            "confusion_names": [*self.info.class_names],
            "calibration": metrics.calibration(),
        }
        drawn: dict[str, Image | None] = {**pictures(details, f"{split}: ")}
        if self.info.kind == "image":
            drawn |= self._mistake_pictures(split, metrics)
            drawn["filters"] = filters(self.model, self.info.input_shape, self.info.class_names)
            (first,) = self.source.splits[split].read(np.zeros(1, dtype=np.int64))
            drawn["feature maps"] = feature_maps(self.model, first, f"{split}: feature maps")
        return {title: picture for title, picture in drawn.items() if picture is not None}

    def _mistake_pictures(self, split: str, metrics: ClassificationMetrics) -> dict[str, Image]:
        """Return the mistakes with the highest probability as the model saw them, and the surest of them beside what
        spoke for the wrong answer: not where the model has no maps, or where it would take long beside the evaluation.
        Empty if there is no mistake."""
        from mlcli.models.explain import heat_maps
        from mlcli.tasks.classification.pictures import explained_sheet, mistakes_sheet

        mistakes, names = metrics.mistakes.read(), self.info.class_names
        if not mistakes:
            return {}
        images = self.source.splits[split].read(np.array([mistake.position for mistake in mistakes]))
        wrong = metrics.confusion.sum() - metrics.confusion.trace()
        which = "all" if len(mistakes) == wrong else f"the most confident {len(mistakes)} of"
        of_all = f"{int(wrong):,} wrong answers to {self.splits[split]:,} samples"
        note = f"{which} {of_all}; below each the answer and the truth"
        drawn = {"mistakes": mistakes_sheet(images, mistakes, names, f"{split}: mistakes", note)}
        surest = mistakes[: min(MOST_EXPLAINED, self.splits[split] // SAMPLES_PER_EXPLAINED)]
        if surest:
            images, answers = images[: len(surest)], torch.tensor([mistake.answer for mistake in surest])
            with contextlib.suppress(ConfigError):  # a model without maps
                heat = heat_maps(self.model, images.to(next(self.model.parameters()).device), answers)
                lines = [(f"{names[m.answer]}\t{m.probability:.0%}", f"is {names[m.truth]}") for m in surest]
                note = f"the surest mistakes; yellow: what spoke for the wrong answer ({heat.method})"
                drawn["what decided"] = explained_sheet(images, heat.maps, lines, f"{split}: what decided", note)
        return drawn

    def embeddings(self, split: str, limit: int = MOST_EMBEDDED) -> Embeddings:
        """Return the inputs of the last layer for up to `limit` samples, evenly spread over the split; maps as their
        mean. The model is put into evaluation mode and left in it."""
        from mlcli.tasks.classification.pictures import sprites

        samples, seen, small = self.source.splits[split], [], []
        indices = np.unique(np.linspace(0, len(samples) - 1, min(limit, len(samples))).round().astype(np.int64))
        head = last_layer(self.model)

        def remember(name: str, layer: torch.nn.Module, inputs: tuple) -> None:
            seen.append((inputs[0].mean(dim=(2, 3)) if inputs[0].ndim == 4 else inputs[0]).float().cpu())

        self.model.eval()
        with watch([head], before=remember), torch.inference_mode():
            for start in range(0, len(indices), EMBEDDED_AT_ONCE):
                inputs = samples.read(indices[start : start + EMBEDDED_AT_ONCE])
                self.model(inputs.to(head[1].weight.device))
                if inputs.ndim == 4:
                    small.append(sprites(inputs))
        labels = [self.info.class_names[label] for label in samples.targets[torch.from_numpy(indices)].tolist()]
        return Embeddings(torch.cat(seen), labels, torch.cat(small) if small else None)
