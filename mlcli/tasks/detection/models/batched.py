"""torchvision's assignment of objects, for all pictures of a batch at once instead of one after the other.

What is computed here is compared, selected and moved, never summed, so that all is torchvision's to the last bit.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import batched_nms

from mlcli.engine.runtime import to_device
from mlcli.tasks.detection.boxes import clip, iou_matrix
from mlcli.tasks.detection.models.matching import BACKGROUND, IGNORED, max_iou

MOST_PAIRS = {"cpu": 2**18}
"""Objects times places that are compared at once, by the kind of device: on a CPU what fits into its caches."""
MOST_PAIRS_ELSEWHERE = 2**22
"""There few kernels count; several tensors of as many numbers are in memory then."""


def matched_anchors(
    boxes: Sequence[Tensor], anchors_xyxy: Tensor, *, high: float, low: float, allow_low_quality: bool
) -> Tensor:
    """Return which object each anchor gets by overlap, as `max_iou` does: int64 [B, A].

    boxes: of the objects, B times [n, 4]. anchors_xyxy: [A, 4], the same for all pictures, or [B, A, 4].
    """

    def match(objects: Tensor, valid: Tensor, anchors: Tensor) -> Tensor:
        overlaps = iou_matrix(objects, anchors)
        return max_iou(overlaps, valid, high=high, low=low, allow_low_quality=allow_low_quality)

    return _for_some_at_once(match, boxes, anchors_xyxy)


def matched_points(boxes: Sequence[Tensor], anchors_xyxy: Tensor, places: Sequence[int], radius: float) -> Tensor:
    """Return which object each of FCOS's points gets: int64 [B, N], BACKGROUND for none.

    A point learns the smallest object that it lies in, near the middle of, and whose farthest side is as far away as
    its map is for.

    boxes: of the objects, B times [n, 4]. anchors_xyxy: [N, 4], around the points. places: of each map, from the finest
    to the coarsest. radius: how near the middle, in sides of anchors.
    """
    x, y = ((anchors_xyxy[:, :2] + anchors_xyxy[:, 2:]) / 2).T.contiguous().unbind()
    sides = anchors_xyxy[:, 2] - anchors_xyxy[:, 0]
    least, most = sides * 4, sides * 8
    least[: places[0]] = 0
    most[-places[-1] :] = float("inf")

    def match(objects: Tensor, valid: Tensor, _: Tensor) -> Tensor:
        left, top, right, bottom = (side[..., None] for side in objects.unbind(-1))  # [b, M, 1]
        away = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())  # [b, M, N]
        distances = x - left, y - top, right - x, bottom - y
        nearest, farthest = reduce(torch.minimum, distances), reduce(torch.maximum, distances)
        fits = (away < radius * sides) & (nearest > 0) & valid[..., None]
        fits &= (farthest > least) & (farthest < most)
        size = (right - left) * (bottom - top)
        best, index = (fits * (1e8 - size)).max(dim=1)
        return torch.where(best < 1e-5, BACKGROUND, index)

    return _for_some_at_once(match, boxes, anchors_xyxy)


def matched_labels(labels: Sequence[Tensor], matched: Tensor) -> Tensor:
    """Return the label of what each anchor has got, 0 where that is no object: int64 [B, A].

    labels: of the objects, B times [n], from 1 on. matched: int64 [B, A].
    """
    return taken(labels, matched) * (matched >= 0)


def _for_some_at_once(
    match: Callable[[Tensor, Tensor, Tensor], Tensor], boxes: Sequence[Tensor], anchors_xyxy: Tensor
) -> Tensor:
    """Match as many pictures at once as MOST_PAIRS allows, at least one: int64 [B, A].

    match: objects padded to M [b, M, 4], which of them are there, bool [b, M], and anchors -> int64 [b, A].
    """
    count, device = anchors_xyxy.shape[-2], anchors_xyxy.device
    most = max(len(objects) for objects in boxes)
    if most == 0:
        return torch.full((len(boxes), count), BACKGROUND, device=device)
    step = max(1, MOST_PAIRS.get(device.type, MOST_PAIRS_ELSEWHERE) // max(1, most * count))
    parts = [slice(start, start + step) for start in range(0, len(boxes), step)]
    return torch.cat(
        [match(*_padded(boxes[p]), anchors_xyxy[p] if anchors_xyxy.ndim == 3 else anchors_xyxy) for p in parts]
    )


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """B times [n, ...] -> [B, M, ...], zeros for what is not there, and which rows are: bool [B, M]."""
    values = pad_sequence(list(rows), batch_first=True)
    counts = to_device(torch.tensor([len(one) for one in rows]), values.device)
    return values, torch.arange(values.shape[1], device=values.device) < counts[:, None]


def taken(values: Sequence[Tensor], matched: Tensor) -> Tensor:
    """Return each place's row of B times [n, ...], the first where there is none, zeros without any: [B, A, ...]."""
    padded, _ = _padded(values)
    if padded.shape[1] == 0:
        return padded.new_zeros(*matched.shape, *padded.shape[2:])
    return padded[torch.arange(len(matched), device=matched.device)[:, None], matched.clamp(min=0)]


class Proposals(RegionProposalNetwork):
    """torchvision's network that proposes regions, whose anchors are assigned by the batch."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return labels float32 [A] (1, 0, -1 for what is not learned from) and boxes [A, 4] for each picture."""
        boxes = [target["boxes"] for target in targets]
        matcher = self.proposal_matcher
        matched = matched_anchors(boxes, anchors[0], high=matcher.high_threshold, low=matcher.low_threshold,
                                  allow_low_quality=True)  # fmt: skip
        labels = (matched >= 0).float() - (matched == IGNORED).float()
        return list(labels.unbind()), list(taken(boxes, matched).unbind())

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the boxes [p, 4] and scores [p] of each picture, likeliest first, without doubles within a map.

        Only suppression is left to each picture, unless some boxes are hardly there.
        """
        whole = [proposals, objectness, image_shapes, num_anchors_per_level]
        levels = [torch.full((n,), i, device=proposals.device) for i, n in enumerate(num_anchors_per_level)]
        logits = objectness.detach().reshape(len(proposals), -1)
        best = self._get_top_n_idx(logits, num_anchors_per_level)
        scores, of_level = logits.gather(1, best).sigmoid(), torch.cat(levels)[best]
        boxes = clip(proposals.gather(1, best[..., None].expand(-1, -1, 4)), *image_shapes[0])
        sizes = boxes[..., 2:] - boxes[..., :2]
        if not bool(((sizes >= self.min_size).all(dim=-1) & (scores >= self.score_thresh)).all()):
            return super().filter_proposals(*whole)
        found_boxes, found_scores = [], []
        for of_picture in zip(boxes, scores, of_level, strict=True):
            kept = _kept_first(*of_picture, self.nms_thresh, self.post_nms_top_n())
            found_boxes.append(of_picture[0][kept])
            found_scores.append(of_picture[1][kept])
        return found_boxes, found_scores


def _kept_first(boxes_xyxy: Tensor, scores: Tensor, levels: Tensor, iou: float, most: int) -> Tensor:
    """Return what `batched_nms` would keep, the first of it, `most` at most.

    Whether a box is kept depends on likelier ones only. So it looks among twice as many as are wanted first: of 1,400
    boxes that takes a CPU a fifth of the time that all take.
    """
    order = scores.sort(descending=True, stable=True).indices
    for tried in (order[: 2 * most], order):
        kept = tried[batched_nms(boxes_xyxy[tried], scores[tried], levels[tried], iou)[:most]]
        if len(kept) == most:
            break
    return kept


class Regions(RoIHeads):
    """torchvision's heads that look at regions, which are assigned by the batch."""

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return each region's object, int64 [p], and label, int64 [p] (0 background, -1 not learned from)."""
        regions, _ = _padded(proposals)
        matcher = self.proposal_matcher
        matched = matched_anchors(gt_boxes, regions, high=matcher.high_threshold, low=matcher.low_threshold,
                                  allow_low_quality=False)  # fmt: skip
        labels = torch.where(matched >= 0, taken(gt_labels, matched), 0) - (matched == IGNORED).long()
        counts = [len(one) for one in proposals]
        rows = matched.clamp(min=0)
        return [row[:n] for row, n in zip(rows, counts, strict=True)], [
            row[:n] for row, n in zip(labels, counts, strict=True)
        ]
