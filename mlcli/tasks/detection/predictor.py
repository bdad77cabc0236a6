"""A saved detector without its data: it finds objects in pictures, and their place in the original."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.models.build import seeded
from mlcli.tasks.detection.answers import ObjectAnswers, matched
from mlcli.tasks.detection.arrays import Found
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.augment.random_tile import tile_of
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.targets import Detections
from mlcli.tasks.exporting import Again, Check


class ObjectDetector(ObjectAnswers):
    """A model and the classes it knows: all that predicting needs.

    Args:
        config: of the run; its data section is not looked at.
        info: what was found in the training data.
    """

    def __init__(self, config: Detection, info: DataInfo) -> None:
        super().__init__(info, max_detections=config.model.max_detections)
        self.config = config
        with seeded(config.train.seed):
            detector = build(config.model, info)
        self.model: nn.Module = detector
        self.is_static, self.counts_alike = detector.is_static, detector.counts_alike
        self.has_masks = detector.has_masks

    @property
    def caveat(self) -> str:
        """Return how many tiles were looked at; of whole pictures, that the model has learned from tiles."""
        found = tile_of(self.config.augment)
        if self.tiles or not found:
            return super().caveat
        side = found[0].side or max(self.info.input_shape[1:])
        return f"this model has learned from tiles of {side} pixels: --tiles {side} looks at pictures as it knows them"

    def predict(self, net: nn.Module, inputs: Tensor) -> Detections:
        """inputs uint8 [B, 3, H, W] -> what was found, in pixels of the input."""
        _, detections = net(inputs)
        return detections

    def arrays(self, predictions: Detections | Found) -> Found:
        """Return detections as arrays on the CPU."""
        if isinstance(predictions, Found):
            return predictions
        parts = (predictions.boxes_xyxy, predictions.scores, predictions.labels, predictions.masks)
        return Found(*(None if part is None else part.detach().cpu().numpy() for part in parts))  # type: ignore[arg-type]

    def exportable(self) -> nn.Module:
        """Return the detector in a form that can be exported; see `mlcli.tasks.exporting.Exportable`."""
        from mlcli.tasks.detection.exporting import exportable

        return exportable(self.model, getattr(self.config.model, "nms", "hard"))  # type: ignore[arg-type]

    def outputs_of(self, predictions: Detections) -> tuple[Tensor, ...]:
        """Return boxes, scores and labels."""
        return predictions.boxes_xyxy, predictions.scores, predictions.labels

    def predictions_of(self, outputs: Sequence[Tensor]) -> Detections:
        """Return an exported model's outputs as detections."""
        return Detections(*outputs)

    def compare(
        self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], again: Again | None = None
    ) -> list[Check]:
        """Compare detections, each with the one of its label that it overlaps most; see `matched`."""
        return matched(Found(*ours), Found(*theirs), self.score_threshold, again)
