"""YOLO with anchors: boxes laid out in every cell are shifted, scaled, and said to hold an object or not.

YOLOv3 (Redmon & Farhadi 2018, arXiv:1804.02767, section 2): the anchor that an object fits best learns it, in the cell
that holds its centre; other boxes that overlap an object well do not learn background. From YOLOv4 (Bochkovskiy
et al. 2020, arXiv:2004.10934, section 3.4): every anchor that fits well enough learns, CIoU instead of squared errors,
and centres that reach the cell's border.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mlcli.engine.terms import Term, Terms
from mlcli.tasks.detection.boxes import Overlap, convert, iou_matrix
from mlcli.tasks.detection.models.anchors import MAX_LOG_SCALE
from mlcli.tasks.detection.models.backbone import branch, by_box, cells, map_size, prior_logit
from mlcli.tasks.detection.models.losses import box_loss, cross_entropy, one_hot
from mlcli.tasks.detection.models.matching import BACKGROUND, IGNORED, assigned
from mlcli.tasks.detection.targets import Targets

IGNORE_IOU = 0.5
"""Background boxes whose anchor overlaps an object by more are not learned from (arXiv:1804.02767, section 2.1)."""

POSITIVE_IOU = 0.5
"""Anchors that overlap an object by more, were they on its centre, learn it as well as the best one."""

CENTRE_REACH = 1.1
"""Width in cells of the range that a centre can be in: beyond 1, since a sigmoid never quite reaches its ends."""

BOX_GAIN, OBJECTNESS_GAIN, CLASS_GAIN = 5.0, 1.0, 1.0
"""YOLOX's (Ge et al. 2021). With 2 for boxes classes come sooner, but boxes stay looser however long it learns."""

EVEN_CLASSES = 10
"""Of up to so many, each has a first score of a half; of more the first scores sum up to as much as theirs, or a
thousand classes would pull a thousand times as hard as one."""


class AnchorHead(nn.Module):
    """One branch for each map: x, y, log width, log height, objectness and classes of each of its anchors.

    N boxes: map after map, row by row, cell by cell, anchor by anchor from small to large.

    Args:
        channels: of each map.
        per_cell: n, anchors of each of the L maps.
        anchors_wh: sides in pixels from small to large, L * n; None for squares, evenly spread in ratio between two
            finest strides and the picture.
    """

    anchors_wh: Tensor
    places: Tensor
    boxes: Tensor
    boxes_xyxy: Tensor
    reach: Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        channels: int,
        strides: tuple[int, ...],
        box_loss: Overlap = "ciou",
        per_cell: int = 3,
        anchors_wh: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_kind = box_loss
        self.per_cell = per_cell
        bias = torch.zeros(per_cell, 5 + num_classes)
        bias[:, 4] = prior_logit()
        bias[:, 5:] = -math.log(max(1.0, num_classes / EVEN_CLASSES))
        self.branches = nn.ModuleList(branch(channels, bias.flatten()) for _ in strides)
        count = len(strides) * per_cell
        if anchors_wh is None:
            sides = torch.logspace(math.log10(2.0 * strides[0]), math.log10(min(image_size)), count)
            laid_out = torch.stack((sides, sides), dim=-1)
        else:
            assert len(anchors_wh) == count, f"{len(anchors_wh)} anchors for {count} places"
            laid_out = torch.tensor(anchors_wh, dtype=torch.float32)
        places, boxes_wh, start = [], [], 0
        for stride, of_map in zip(strides, laid_out.split(per_cell), strict=True):
            rows, columns = map_size(image_size, stride)
            places += [(stride, rows, columns, start + anchor) for anchor in range(per_cell)]
            boxes_wh.append(of_map.repeat(rows * columns, 1))
            start += rows * columns * per_cell
        points_xy, sides = (values.repeat_interleave(per_cell, dim=0) for values in cells(image_size, strides))
        boxes = torch.cat((points_xy, torch.cat(boxes_wh)), dim=-1)
        # No checkpoint needs these: they follow from the anchors, which are among the facts of the data.
        self.register_buffer("anchors_wh", laid_out, persistent=False)  # [L * n, 2]
        self.register_buffer("places", torch.tensor(places).T.contiguous(), persistent=False)  # [4, L * n]
        self.register_buffer("boxes", boxes, persistent=False)  # [N, 4], cxcywh
        self.register_buffer("boxes_xyxy", convert(boxes, "cxcywh", "xyxy"), persistent=False)  # [N, 4]
        self.register_buffer("reach", sides[:, None] * CENTRE_REACH, persistent=False)  # [N, 1], pixels

    def forward(self, maps: Mapping[str, Tensor]) -> Tensor:
        return by_box(maps, self.branches, 5 + self.num_classes)

    def losses(self, predictions: Tensor, targets: Targets) -> Terms:
        boxes_xyxy, objectness, logits = self.read(predictions)
        matched = self.assign(targets)
        positive = matched >= 0
        boxes = positive.sum()
        wanted_xyxy, labels = assigned(targets, matched, boxes_xyxy.detach())
        wrong_box = box_loss(boxes_xyxy, wanted_xyxy, self.box_kind) * positive
        wrong_objectness = cross_entropy(objectness, positive.float()) * (matched != IGNORED)
        wrong_class = cross_entropy(logits, one_hot(labels, self.num_classes)) * positive[..., None]
        return {
            "box": Term.of(BOX_GAIN * wrong_box.sum(), boxes),
            "objectness": Term.of(OBJECTNESS_GAIN * wrong_objectness.sum(), boxes),
            "class": Term.of(CLASS_GAIN * wrong_class.sum(), boxes),
        }

    def candidates(self, predictions: Tensor) -> tuple[Tensor, Tensor]:
        boxes_xyxy, objectness, logits = self.read(predictions)
        return boxes_xyxy, logits.sigmoid() * objectness.sigmoid()[..., None]

    def places_and_matches(self, predictions: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Return the anchors and what they learn, which does not depend on the predictions."""
        return self.boxes_xyxy, self.assign(targets)[0]

    def read(self, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, N, 4] in pixels, logits of there being an object [B, N] and of its class [B, N, K]."""
        shift, scale, objectness, logits = predictions.split((2, 2, 1, self.num_classes), dim=-1)
        centres = self.boxes[:, :2] + (shift.sigmoid() - 0.5) * self.reach
        sizes = self.boxes[:, 2:] * scale.clamp(max=MAX_LOG_SCALE).exp()
        return convert(torch.cat((centres, sizes), dim=-1), "cxcywh", "xyxy"), objectness[..., 0], logits

    def assign(self, targets: Targets) -> Tensor:
        """The row of the object that each box learns, BACKGROUND or IGNORED: int64 [B, N]."""
        batch, objects = targets.labels.shape
        matched = torch.full((batch, len(self.boxes)), BACKGROUND, device=targets.labels.device)
        if objects == 0:
            return matched
        # IoU of objects with each anchor, were it on their centre: [B, M, L * n]
        sizes_wh = targets.boxes_xyxy[..., 2:] - targets.boxes_xyxy[..., :2]
        centred = torch.cat((-sizes_wh, sizes_wh), dim=-1) / 2
        fit = iou_matrix(centred, torch.cat((-self.anchors_wh, self.anchors_wh), dim=-1) / 2)
        best = fit == fit.amax(dim=-1, keepdim=True)
        learns = (best | (fit > POSITIVE_IOU)) & targets.valid[..., None]
        # Of two objects that want a box, one whose best anchor it is goes first, then the one that comes later.
        claim = torch.arange(objects, device=matched.device)[:, None] + objects * best
        claim = torch.where(learns, claim, BACKGROUND)
        claimed = matched.scatter_reduce(1, self._places_of(targets.boxes_xyxy).flatten(1), claim.flatten(1), "amax")
        near = (iou_matrix(targets.boxes_xyxy, self.boxes_xyxy) > IGNORE_IOU).any(dim=1)  # [B, N]
        return torch.where(claimed >= 0, claimed % objects, torch.where(near, IGNORED, BACKGROUND))

    def _places_of(self, boxes_xyxy: Tensor) -> Tensor:
        """Return which of the N boxes each anchor is in the cell of an object's centre: int64 [B, M, L * n]."""
        stride, rows, columns, first = self.places  # each [L * n]
        x, y = ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2)[..., None].unbind(-2)  # each [B, M, 1]
        column = (x / stride).long().clamp(min=0).minimum(columns - 1)
        row = (y / stride).long().clamp(min=0).minimum(rows - 1)
        return first + (row * columns + column) * self.per_cell
