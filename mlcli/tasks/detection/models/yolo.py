"""YOLO: backbone, neck and a head that predicts boxes in every cell of several maps, all in one pass over the picture.

Redmon & Farhadi 2018 (arXiv:1804.02767). The heads differ in what a cell says and which cells an object is learned by:
with anchors, yolo_anchors.py; without, each cell says how far the sides of its box are and, apart from that, what is in
it. Decoupled head: Ge et al. 2021 (YOLOX, arXiv:2107.08430, section 2.1). Distances left, top, right, bottom: Tian et
al. 2019 (FCOS, arXiv:1904.01355, section 3.1), each read off a learned distribution, which has a loss of its own: Li et
al. 2020 (arXiv:2006.04388, section 3.2). Which cells learn an object: those that already do best at it, Feng et al.
2021 (TOOD, arXiv:2108.07755, section 3.2).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from mlcli.engine.terms import Term, Terms
from mlcli.tasks.detection.boxes import Overlap, convert, iou_matrix
from mlcli.tasks.detection.models.anchors import decode_ltrb, encode_ltrb
from mlcli.tasks.detection.models.backbone import branch, by_box, cells, compact_fpn, prior_logit
from mlcli.tasks.detection.models.detector import CommonSingleShot, SingleShot
from mlcli.tasks.detection.models.losses import box_loss, cross_entropy, distribution_focal, one_hot
from mlcli.tasks.detection.models.matching import assigned, task_aligned
from mlcli.tasks.detection.models.yolo_anchors import AnchorHead
from mlcli.tasks.detection.targets import Targets

BINS = 16
"""Distances are expected values over 0, 1 ... 15 strides: 480 pixels on the coarsest map."""

TOPK = 13
"""Cells that an object is learned by, as in TOOD."""

ALPHA, BETA = 1.0, 6.0
"""Alignment = score ** alpha * IoU ** beta, as in TOOD: early on boxes decide, as no score is sure of anything yet."""

LEAST_SIDE = 1.5
"""Smaller objects are learned by cells within this many strides of the finest map, so that each has one."""


class YoloDetector(SingleShot):
    """Terms: box, class; distribution with head "free", objectness with head "anchors". See `SingleShot` for what it
    takes and returns.

    Predictions are raw, float32 [B, N, outputs], for the N boxes of all cells.

    Args:
        head: "free", one box a cell, or "anchors", shifted and scaled ones.
        width: channels of the backbone at stride 2.
        strides: of the maps that predict, in pixels, each twice the one before.
        box_loss: distance between boxes that is learned from.
        box_gain, class_gain, distribution_gain: factors on the terms of head "free"; the last may be 0: no such term.
        anchors_per_stride: boxes of each cell, for head "anchors".
        anchors_wh: their width and height in pixels, from small to large, for each stride in turn; None for squares of
            sizes between two finest cells and the whole picture.
        backbone: another than the compact one, with the same strides.
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
        box_gain: float = 7.5,
        class_gain: float = 0.5,
        distribution_gain: float = 1.5,
        anchors_per_stride: int = 3,
        anchors_wh: Sequence[Sequence[float]] | None = None,
        backbone: nn.Module | None = None,
        **common: Unpack[CommonSingleShot],
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        self.neck = compact_fpn(width, strides, backbone)
        shared = num_classes, image_size, self.neck.out_channels, strides, box_loss
        self.head: FreeHead | AnchorHead = (
            FreeHead(*shared, box_gain, class_gain, distribution_gain)
            if head == "free"
            else AnchorHead(*shared, anchors_per_stride, anchors_wh)
        )

    def predict(self, pixels: Tensor) -> Tensor:
        return self.head(self.neck(pixels))

    def losses(self, predictions: Tensor, targets: Targets) -> Terms:
        return self.head.losses(predictions, targets)

    def candidates(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        return self.head.candidates(predictions)

    def places(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        return self.head.places_and_matches(self.predict(self.normalize(images)), targets)


class FreeHead(nn.Module):
    """Two branches for each map, one for where and one for what. `channels`: of each map."""

    centres_xy: Tensor
    strides: Tensor
    bins: Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        channels: int,
        strides: tuple[int, ...],
        box_loss: Overlap,
        box_gain: float,
        class_gain: float,
        distribution_gain: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_kind = box_loss
        self.box_gain, self.class_gain, self.distribution_gain = box_gain, class_gain, distribution_gain
        self.where = nn.ModuleList(branch(channels, torch.zeros(4 * BINS)) for _ in strides)
        # However many classes there are, empty cells cost the same at first, and pull as hard.
        first_bias = torch.full((num_classes,), prior_logit(num_classes))
        self.what = nn.ModuleList(branch(channels, first_bias) for _ in strides)
        self.least = LEAST_SIDE * strides[0]
        centres_xy, sides = cells(image_size, strides)
        self.register_buffer("centres_xy", centres_xy, persistent=False)  # [A, 2]
        self.register_buffer("strides", sides, persistent=False)  # [A]
        self.register_buffer("bins", torch.arange(BINS, dtype=torch.float32), persistent=False)

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        where = by_box(maps, self.where, 4 * BINS)
        return torch.cat((where, by_box(maps, self.what, self.num_classes)), dim=-1)

    def losses(self, predictions: Tensor, targets: Targets) -> Terms:
        boxes_xyxy, logits = self.read(predictions)
        matched, quality = self.assign(boxes_xyxy.detach(), logits.detach().sigmoid(), targets)
        wanted_xyxy, labels = assigned(targets, matched, boxes_xyxy.detach())
        wrong_class = cross_entropy(logits, one_hot(labels, self.num_classes) * quality[..., None]).sum()
        wrong_box = (box_loss(boxes_xyxy, wanted_xyxy, self.box_kind) * quality).sum()
        objects = quality.sum()
        terms = {
            "box": Term.of(self.box_gain * wrong_box, objects),
            "class": Term.of(self.class_gain * wrong_class, objects),
        }
        if self.distribution_gain:
            distances = encode_ltrb(wanted_xyxy, self.centres_xy, self.strides[:, None]).clamp(0, BINS - 1)
            wrong_distance = distribution_focal(self.distributions(predictions), distances).mean(dim=-1)
            terms["distribution"] = Term.of(self.distribution_gain * (wrong_distance * quality).sum(), objects)
        return terms

    def candidates(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        boxes_xyxy, logits = self.read(predictions)
        return boxes_xyxy, logits.sigmoid()

    def places_and_matches(self, predictions: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return points, the cells' centres, and what they learn."""
        boxes_xyxy, logits = self.read(predictions)
        return self.centres_xy.repeat(1, 2), self.assign(boxes_xyxy, logits.sigmoid(), targets)[0][0]

    def read(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [B, A, 4] in pixels, and the logits of the classes [B, A, K]."""
        distances = self.distributions(predictions).softmax(dim=-1) @ self.bins  # [B, A, 4], strides
        return decode_ltrb(distances, self.centres_xy, self.strides[:, None]), predictions[..., 4 * BINS :]

    def distributions(self, predictions: Tensor) -> Tensor:
        """Logits of the distance of each side in strides, [B, A, 4, BINS]."""
        return predictions[..., : 4 * BINS].unflatten(-1, (4, BINS))

    def assign(self, boxes_xyxy: Tensor, scores: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return what each cell learns, from its boxes [B, A, 4] and scores [B, A, K]: the row of an object, -1 for
        none (int64 [B, A]), and the score it should give, 0 for none (float32 [B, A])."""
        ious = iou_matrix(targets.boxes_xyxy, boxes_xyxy)  # [B, M, A]
        own = (targets.labels - 1).clamp(min=0)[..., None].expand_as(ious)
        own_scores = scores.transpose(1, 2).gather(1, own)  # [B, M, A]
        x, y, width, height = convert(targets.boxes_xyxy, "xyxy", "cxcywh").unbind(-1)
        around = torch.stack((x, y, width.clamp(min=self.least), height.clamp(min=self.least)), dim=-1)
        around_xyxy = convert(around, "cxcywh", "xyxy")
        return task_aligned(
            own_scores, ious, self.centres_xy, around_xyxy, targets.valid, topk=TOPK, alpha=ALPHA, beta=BETA
        )
