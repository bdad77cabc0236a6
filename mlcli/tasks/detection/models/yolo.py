"""YOLO: backbone, neck and a head that predicts boxes in every cell of several maps, all in one pass over the picture.

Redmon & Farhadi 2018 (arXiv:1804.02767). The heads differ in what a cell says and which cells an object is learned by:
yolo_free.py and yolo_anchors.py.
"""

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from mlcli.tasks.detection.boxes import Overlap
from mlcli.tasks.detection.models.backbone import compact_fpn
from mlcli.tasks.detection.models.detector import CommonSingleShot, SingleShot
from mlcli.tasks.detection.models.yolo_anchors import AnchorHead
from mlcli.tasks.detection.models.yolo_free import FreeHead
from mlcli.tasks.detection.targets import Targets


class YoloDetector(SingleShot):
    """Terms: box, class, and objectness with head "anchors". See `SingleShot` for what it takes and returns.

    Predictions are raw, float32 [B, N, outputs], for the N boxes of all cells.

    Args:
        head: "free", one box a cell, or "anchors", shifted and scaled ones.
        width: channels of the backbone at stride 2.
        strides: of the maps that predict, in pixels, each twice the one before.
        box_loss: distance between boxes that is learned from.
        anchors_per_stride: boxes of each cell, for head "anchors".
        anchors_wh: their width and height in pixels, from small to large, for each stride in turn; None for squares of
            sizes between two finest cells and the whole picture.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        head: Literal["free", "anchors"] = "free",
        width: int = 16,
        strides: tuple[int, ...] = (8, 16, 32),
        box_loss: Overlap = "ciou",
        anchors_per_stride: int = 3,
        anchors_wh: Sequence[Sequence[float]] | None = None,
        **common: Unpack[CommonSingleShot],
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        self.neck = compact_fpn(width, strides)
        shared = num_classes, image_size, self.neck.out_channels, strides, box_loss
        self.head: FreeHead | AnchorHead = (
            FreeHead(*shared) if head == "free" else AnchorHead(*shared, anchors_per_stride, anchors_wh)
        )

    def predict(self, pixels: Tensor) -> Tensor:
        return self.head(self.neck(pixels))

    def losses(self, predictions: Tensor, targets: Targets) -> dict[str, Tensor]:
        return self.head.losses(predictions, targets)

    def candidates(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.candidates(predictions)
