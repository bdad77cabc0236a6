"""Non-maximum suppression: of detections that mean the same object, keep one.

Greedy NMS, soft-NMS (Bodla et al. 2017, arXiv:1704.04503), and DIoU-NMS (Zheng et al. 2020, arXiv:1911.08287, section
3.3), each written to be read. Detectors call `suppress`, which does the greedy one with torchvision's compiled kernel;
the tests hold the two to the same answer.
"""

from typing import Literal

import torch
from torch import Tensor

from mlcli.tasks.detection.boxes import Overlap, overlap_matrix
from mlcli.tasks.detection.targets import Detections, to_detections

Method = Literal["hard", "soft", "diou"]

MAX_CANDIDATES = 2000  # of one image: NMS compares each with each; torchvision's RetinaNet takes 1000 of each level


def nms(
    boxes_xyxy: Tensor, scores: Tensor, iou: float, kind: Overlap = "iou", *, labels: Tensor | None = None
) -> Tensor:
    """Suppress greedily and return the indices that are kept, int64 [K], most certain first.

    The most certain box is kept and all that overlap it by more than `iou` are dropped; then the next. Of equal scores,
    the first comes first.

    Args:
        boxes_xyxy: [N, 4].
        scores: [N].
        kind: "diou" lets boxes stand whose centres are apart, as of one person behind another.
        labels: [N], where boxes of another label drop nothing; None for suppression without regard to class.
    """
    order = scores.argsort(descending=True, stable=True)
    drops = overlap_matrix(boxes_xyxy[order], boxes_xyxy[order], kind) > iou
    if labels is not None:
        drops &= labels[order][:, None] == labels[order]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes_xyxy.device)
    for place in range(len(order)):
        alive[place + 1 :] &= ~(alive[place] & drops[place, place + 1 :])  # an `if` would wait for the device
    return order[alive]


def soft_nms(
    boxes_xyxy: Tensor,
    scores: Tensor,
    method: Literal["linear", "gaussian"] = "gaussian",
    *,
    labels: Tensor | None = None,
    iou: float = 0.3,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    most: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of boxes that overlap a more certain one, instead of dropping them.

    Args:
        method: linear: times 1 - overlap, from an overlap of `iou` up; gaussian: times exp(-overlap² / sigma), always.
        labels: [N], where boxes of another label cost nothing; None for suppression without regard to class.
        score_threshold: what falls below is dropped.
        most: stop after so many boxes.

    Returns the indices kept, int64 [K], and their new scores [K], most certain first.
    """
    overlaps = overlap_matrix(boxes_xyxy, boxes_xyxy)
    if labels is not None:
        overlaps = overlaps * (labels[:, None] == labels)
    left, kept, new_scores = scores.clone(), [], []
    for _ in range(len(scores) if most is None else min(most, len(scores))):
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


def suppress(
    boxes_xyxy: Tensor,
    scores: Tensor,
    iou: float = 0.5,
    score_threshold: float = 0.01,
    max_detections: int = 100,
    method: Method = "hard",
) -> Detections:
    """Reduce a batch of raw answers to at most `max_detections` an image, by suppression in each class.

    Args:
        boxes_xyxy: [B, N, 4], clipped to the image.
        scores: [B, N, K], of each class; class k gets the label k + 1. A box can be kept for several classes.
        iou: of two boxes of a class that overlap by more, the less certain is dropped; nothing to "soft".
        score_threshold: only what is above takes part; the MAX_CANDIDATES most certain of it in each image.
        method: "hard" is greedy NMS, "diou" the same by DIoU, "soft" Gaussian soft-NMS.

    Returns Detections of D = max_detections rows, on the same device. Waits for the device, as NMS must.
    """
    from torchvision.ops import batched_nms

    num_classes, images = scores.shape[2], []
    best, place = scores.flatten(1).float().topk(min(MAX_CANDIDATES, scores[0].numel()), dim=1)  # [B, C]
    rows, labels = place // num_classes, place % num_classes + 1
    candidates = boxes_xyxy.float().gather(1, rows[..., None].expand(-1, -1, 4))
    for box, score, label in zip(candidates, best, labels, strict=True):
        above = ~(
            score <= score_threshold
        )  # keeps NaN, so that a broken model does not pass for one that finds nothing
        box, score, label = box[above], score[above], label[above]
        match method:
            case "hard":
                kept = batched_nms(box, score, label, iou)[:max_detections]
            case "diou":
                kept = nms(box, score, iou, "diou", labels=label)[:max_detections]
            case "soft":
                kept, softened = soft_nms(
                    box, score, labels=label, score_threshold=score_threshold, most=max_detections
                )
                score = score.index_copy(0, kept, softened)
        images.append({"boxes": box[kept], "scores": score[kept], "labels": label[kept]})
    return to_detections(images, max_detections)


def both(
    plain: Detections, mirrored: Detections, image_size: tuple[int, int], iou: float, method: Method
) -> Detections:
    """Return what was found in images and in their mirrored selves, of doubles the surer one: D rows, as in each.

    Args:
        mirrored: in the mirrored image's own pixels.
        image_size: height and width.
    """
    left, top, right, bottom = mirrored.boxes_xyxy.unbind(-1)
    back = torch.stack([image_size[1] - right, top, image_size[1] - left, bottom], dim=-1)
    boxes = torch.cat([plain.boxes_xyxy, back], dim=1)  # [B, 2 D, 4]
    labels = torch.cat([plain.labels, mirrored.labels], dim=1)
    scores = torch.cat([plain.scores, mirrored.scores], dim=1)
    of_classes = scores.new_zeros(*scores.shape, int(labels.max()) + 1).scatter(2, labels[..., None], scores[..., None])
    return suppress(boxes, of_classes[..., 1:], iou, 0.0, plain.scores.shape[1], method)
