"""A saved detector without its data: it finds objects in pictures, and their place in the original."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.data.inputs import ImageInputs
from mlcli.engine.terms import Terms
from mlcli.models.build import seeded
from mlcli.tasks.detection.answers import ObjectAnswers, matched
from mlcli.tasks.detection.arrays import Found
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.augment.random_tile import tile_of
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.models.config import without_weights
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.sizes import Size, Sizes
from mlcli.tasks.detection.rectangles import Rectangles, in_whole
from mlcli.tasks.detection.targets import Detections, Targets
from mlcli.tasks.exporting import Again, Check

if TYPE_CHECKING:
    from mlcli.engine.predicting import Inputs


class ObjectDetector(ObjectAnswers):
    """A model and the classes it knows: all that predicting needs.

    Args:
        config: of the run; of its data section, only whether pictures are looked at without bars.
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
        plain, key = without_weights(config.model), "multi_scale" if config.multi_scale else "data.rectangular"
        self._sizes = Sizes(lambda size: build(plain, replace(self.info, input_shape=(3, *size))), key)

    @property
    def caveat(self) -> str:
        """Return how many tiles were looked at; of whole pictures, that the model has learned from tiles."""
        found = tile_of(self.config.augment)
        if self.tiles or not found:
            return super().caveat
        side = found[0].side or max(self.info.input_shape[1:])
        return f"this model has learned from tiles of {side} pixels: --tiles {side} looks at pictures as it knows them"

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> "Inputs":
        """Return what a person named, without grey bars where the configuration says so."""
        found = super().inputs(paths, invert=invert)
        if self.config.data.rectangular and isinstance(found, ImageInputs):
            return Rectangles(found)
        return found

    def predict(self, net: nn.Module, inputs: Tensor) -> Detections:
        """inputs uint8 [B, 3, h, w], as `computed` takes them -> what was found, in pixels of the whole input."""
        return self.computed(net, inputs)[1]

    def computed(self, net: nn.Module, inputs: Tensor, targets: Targets | None = None) -> tuple[Terms, Detections]:
        """Return loss terms, where they come at no further cost, and what was found, in pixels of the whole input.

        inputs: uint8 [B, 3, H, W], or the middle of such, [B, 3, h, w], to whose size the model is fitted meanwhile.
        targets: in pixels of the inputs.
        """
        height, width = inputs.shape[2:]
        _, *whole = self.info.input_shape
        if [height, width] == whole:
            self._fit(net, (height, width))
            return net(inputs, targets)
        detector = self._plain(net)
        with self._sizes.at(detector, (height, width)):
            terms, found = detector(inputs, targets)
        assert found is not None
        return terms, in_whole(found, whole, (height, width))

    def _fit(self, net: nn.Module, size: Size) -> None:
        """Have the model, or the copy of it that is called, take inputs of this height and width."""
        self._sizes.fit(self._plain(net), size)

    def _plain(self, net: nn.Module) -> Detector:
        """Return what is called, or the model in place of a compiled form."""
        detector = net if isinstance(net, Detector) else self.model
        assert isinstance(detector, Detector)
        return detector

    def arrays(self, predictions: Detections | Found) -> Found:
        """Return detections as arrays on the CPU."""
        if isinstance(predictions, Found):
            return predictions
        parts = (predictions.boxes_xyxy, predictions.scores, predictions.labels, predictions.masks)
        return Found(*(None if part is None else part.detach().cpu().numpy() for part in parts))  # type: ignore[arg-type]

    def exportable(self) -> nn.Module:
        """Return the detector in a form that can be exported; see `mlcli.tasks.exporting.Exportable`."""
        from mlcli.tasks.detection.exporting import exportable

        return exportable(self._plain(self.model))

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
