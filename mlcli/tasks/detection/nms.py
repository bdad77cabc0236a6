"""Non-maximum suppression: of detections that mean the same object, keep one.

Greedy NMS by class or over all, soft-NMS (Bodla et al. 2017, arXiv:1704.04503), and DIoU-NMS (Zheng et al. 2020,
arXiv:1911.08287, section 3.3), each written to be read. Models call `suppress`, which does the greedy one by class with
torchvision's compiled kernel; the tests hold the two to the same answer.
"""

from typing import Literal

import torch
from torch import Tensor

from mlcli.tasks.detection.boxes import Overlap, overlap_matrix
from mlcli.tasks.detection.targets import Detections

MAX_CANDIDATES = 2000  # of one image: NMS compares each with each; torchvision's RetinaNet takes 1000 of each level


def nms(boxes_xyxy: Tensor, scores: Tensor, iou: float, kind: Overlap = "iou") -> Tensor:
    """Greedy suppression without regard to class: indices that are kept, int64 [K], most certain first.

    The most certain box is kept and all that overlap it by more than `iou` are dropped; then the next. Of equal scores,
    the first comes first.

    Args:
        boxes_xyxy: [N, 4].
        scores: [N].
        kind: "diou" lets boxes stand whose centres are apart, as of one person behind another.
    """
    order = scores.argsort(descending=True, stable=True)
    overlaps = overlap_matrix(boxes_xyxy[order], boxes_xyxy[order], kind)
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes_xyxy.device)
    for place in range(len(order)):
        if alive[place]:
            alive[place + 1 :] &= overlaps[place, place + 1 :] <= iou
    return order[alive]


def nms_by_class(boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, iou: float, kind: Overlap = "iou") -> Tensor:
    """`nms` among boxes of one label [N] only: indices that are kept, most certain first."""
    kept = [
        same[nms(boxes_xyxy[same], scores[same], iou, kind)]
        for same in ((labels == label).nonzero().flatten() for label in labels.unique())
    ]
    survivors = torch.cat(kept).sort().values if kept else labels.new_zeros(0, dtype=torch.int64)
    return survivors[scores[survivors].argsort(descending=True, stable=True)]


def diou_nms(boxes_xyxy: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """`nms` by DIoU: what overlaps but has its centre elsewhere is likelier to be another object."""
    return nms(boxes_xyxy, scores, threshold, "diou")


def soft_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    method: Literal["linear", "gaussian"] = "gaussian",
    *,
    iou: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Boxes that overlap a more certain one lose certainty instead of being dropped.

    Args:
        method: linear: times 1 - overlap, from an overlap of `iou` up; gaussian: times exp(-overlap² / sigma), always.
        score_threshold: what falls below is dropped.

    Returns the indices kept, int64 [K], and their new scores [K], most certain first.
    """
    overlaps = overlap_matrix(boxes_xyxy, boxes_xyxy)
    left, kept, new_scores = scores.clone(), [], []
    for _ in range(len(scores)):
        best = left.argmax()
        if left[best] < score_threshold:
            break
        kept.append(best)
        new_scores.append(left[best].clone())
        if method == "linear":
            decay = torch.where(overlaps[best] > iou, 1 - overlaps[best], 1.0)
        else:
            decay = torch.exp(-overlaps[best].square() / sigma)
        left = left * decay
        left[best] = -torch.inf
    if not kept:
        return scores.new_zeros(0, dtype=torch.int64), scores.new_zeros(0)
    return torch.stack(kept), torch.stack(new_scores)


def suppress(boxes_xyxy: Tensor, scores: Tensor, iou: float, score_threshold: float, max_detections: int) -> Detections:
    """What models call: from a batch of raw answers to at most `max_detections` an image, by greedy NMS in each class.

    Args:
        boxes_xyxy: [B, N, 4], clipped to the image.
        scores: [B, N, K], of each class; class k gets the label k + 1. A box can be kept for several classes.
        iou: of two boxes of a class that overlap by more, the less certain is dropped.
        score_threshold: only what is above takes part; the MAX_CANDIDATES most certain of it in each image.

    Returns Detections of D = max_detections rows, on the same device. Waits for the device, as NMS must.
    """
    num_classes = scores.shape[2]
    best, place = scores.flatten(1).float().topk(min(MAX_CANDIDATES, scores[0].numel()), dim=1)  # [B, C]
    rows, labels = place // num_classes, place % num_classes + 1
    candidates = boxes_xyxy.float().gather(1, rows[..., None].expand(-1, -1, 4))
    found = zip(candidates, best, labels, strict=True)
    images = [_suppress_one(b, s, c, iou, score_threshold, max_detections) for b, s, c in found]
    return Detections(*(torch.stack(parts) for parts in zip(*images, strict=True)))


def _suppress_one(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, score_threshold: float, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One image's candidates [C, 4], [C], [C], most certain first -> the same of `rows` rows, zeros at the end."""
    from torchvision.ops import batched_nms

    above = ~(scores <= score_threshold)  # keeps NaN, so that a broken model does not pass for one that finds nothing
    boxes, scores, labels = boxes[above], scores[above], labels[above]
    kept = batched_nms(boxes, scores, labels, iou)[:rows]
    out = boxes.new_zeros(rows, 4), scores.new_zeros(rows), labels.new_zeros(rows)
    for whole, part in zip(out, (boxes, scores, labels), strict=True):
        whole[: len(kept)] = part[kept]
    return out
