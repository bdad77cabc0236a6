"""Non-maximum suppression: of detections that mean the same object, keep one.

Greedy NMS, soft-NMS (Bodla et al. 2017, arXiv:1704.04503), and DIoU-NMS (Zheng et al. 2020, arXiv:1911.08287, section
3.3), each written to be read. Detectors call `suppress`, which does the greedy one with torchvision's compiled kernel;
the tests hold the two to the same answer.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlcli.engine.runtime import to_device
from mlcli.tasks.detection.boxes import Overlap, overlap_matrix
from mlcli.tasks.detection.targets import Detections, padded

Method = Literal["hard", "soft", "diou"]

MAX_CANDIDATES = 2000  # of one image: NMS compares each with each; torchvision's RetinaNet takes 1000 of each level
APART = 1000
"""More candidates of an image are suppressed class by class on a CPU, where comparing each with each takes longer."""


class Candidates(NamedTuple):
    """Boxes before suppression: float32 [B, C, 4] in pixels, clipped; scores float32 [B, C]; labels int64 [B, C]."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor


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
    return reduced(likeliest(boxes_xyxy, scores, MAX_CANDIDATES), iou, score_threshold, max_detections, method)


def likeliest(boxes_xyxy: Tensor, scores: Tensor, most: int) -> Candidates:
    """Return the `most` candidates of the highest scores, and labels from 1 on.

    boxes_xyxy: [B, N, 4]; scores: [B, N, K], of each class.
    """
    classes = scores.shape[2]
    best, place = scores.flatten(1).float().topk(min(most, scores.shape[1] * classes), dim=1)
    boxes = boxes_xyxy.float().gather(1, (place // classes)[..., None].expand(-1, -1, 4))
    return Candidates(boxes, best, place % classes + 1)


def reduced(
    found: Candidates, iou: float, score_threshold: float, max_detections: int, method: Method = "hard"
) -> Detections:
    """Suppress among candidates, most certain first; see `suppress`.

    Waits once for how many of each image are above the threshold. Then nothing but NMS itself is done image by image.
    """
    from torchvision.ops import batched_nms
    from torchvision.ops import nms as nms_kernel

    above = ~(found.scores <= score_threshold)  # keeps NaN, so that a broken model does not pass for one without finds
    counts = above.sum(dim=1).tolist()
    boxes, scores, labels = (column[:, : max(1, *counts)] for column in found)
    # The classes of an image are moved apart, each by more than the image, so that none suppresses another.
    farthest = boxes.masked_fill(~above[:, : boxes.shape[1], None], 0).amax(dim=(1, 2))
    apart = boxes + (labels.to(boxes) * (farthest + 1)[:, None])[..., None]
    kept, softened = [], []
    for image, count in enumerate(counts):
        box, score, label = boxes[image, :count], scores[image, :count], labels[image, :count]
        match method:
            case "hard" if count > APART and box.device.type == "cpu":
                kept.append(batched_nms(box, score, label, iou))
            case "hard":
                kept.append(nms_kernel(apart[image, :count], score, iou))
            case "diou":
                kept.append(nms(box, score, iou, "diou", labels=label))
            case "soft":
                best = soft_nms(box, score, labels=label, score_threshold=score_threshold, most=max_detections)
                kept.append(best[0])
                softened.append(best[1])
    place = padded(kept, max_detections)  # [B, D]
    numbers = to_device(torch.tensor([len(one) for one in kept]), place.device)
    missing = torch.arange(max_detections, device=place.device) >= numbers[:, None]
    return Detections(
        boxes.gather(1, place[..., None].expand(-1, -1, 4)).masked_fill(missing[..., None], 0),
        padded(softened, max_detections) if softened else scores.gather(1, place).masked_fill(missing, 0),
        labels.gather(1, place).masked_fill(missing, 0),
    )


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
    classes = max(1, int(labels.max()))
    of_classes = scores.new_zeros(*scores.shape, classes + 1).scatter(2, labels[..., None], scores[..., None])
    return suppress(boxes, of_classes[..., 1:], iou, 0.0, plain.scores.shape[1], method)
