"""YOLO: backbone, neck and a head that predicts boxes in every cell of several maps, all in one pass over the picture.

Redmon & Farhadi 2018 (arXiv:1804.02767). The heads differ in what a cell says and which cells an object is learned by:
yolo_free.py and yolo_anchors.py. Shapes are those of the image alone, so that it compiles and never waits for the host.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.boxes import clip
from mlcli.tasks.detection.models.backbone import compact_fpn
from mlcli.tasks.detection.models.config import Yolo
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.yolo_anchors import AnchorHead
from mlcli.tasks.detection.models.yolo_free import FreeHead
from mlcli.tasks.detection.nms import suppress
from mlcli.tasks.detection.targets import Detections, Targets


class YoloHead(Protocol):
    """What tells the two forms apart. Predictions are raw, float32 [B, N, outputs], for N boxes of all cells."""

    def __call__(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The neck's maps -> predictions."""

    def losses(self, predictions: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Named terms, each a mean over the objects of the batch times its gain."""

    def candidates(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes float32 [B, N, 4] as xyxy in pixels, and the score of each class in 0..1, float32 [B, N, K]."""


class YoloDetector(Detector):
    """Terms: box, class, and objectness with head: anchors. See `Detector` for what it takes and returns."""

    def __init__(self, config: Yolo, info: DataInfo) -> None:
        super().__init__(info)
        self.config = config
        self.neck = compact_fpn(config.width, config.strides)
        build_head = FreeHead if config.head == "free" else AnchorHead
        self.head: YoloHead = build_head(config, info, self.neck.out_channels)

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[dict[str, Tensor], Detections | None]:
        assert targets is not None or not self.training, "training needs targets"
        predictions = self.head(self.neck(self.normalize(images)))
        with torch.autocast(images.device.type, enabled=False):  # half precision places a box no better than 1 in 2048
            terms = {} if targets is None else self.head.losses(predictions, targets)
            if self.training:
                return terms, None
            boxes_xyxy, scores = self.head.candidates(predictions)
            boxes_xyxy = clip(boxes_xyxy, *self.image_size)
            config = self.config
            return terms, suppress(boxes_xyxy, scores, config.nms_iou, config.score_threshold, config.max_detections)


def yolo(config: Yolo, info: DataInfo) -> Detector:
    """The detector that `config` describes, with weights to be learned from scratch."""
    return YoloDetector(config, info)
