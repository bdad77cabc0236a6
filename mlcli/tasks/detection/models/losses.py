"""Step 2, the losses of detectors: hard negatives, focus, the distance between boxes, distributions over distances.

Hard negative mining: SSD (Liu et al. 2016), section 2.2. Focal loss: RetinaNet (Lin et al. 2017), equation 5. Box
losses are 1 minus an overlap: UnitBox (Yu et al. 2016), GIoU, DIoU, CIoU (see boxes.py). Distribution focal loss: Li et
al. 2020 (arXiv:2006.04388), equation 6.
"""

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.tasks.detection.boxes import Overlap, overlap


def hard_negative_mining(losses: Tensor, positive: Tensor, ratio: float = 3.0) -> Tensor:
    """Choose background anchors to learn from: in each image the `ratio` times as many as positives that do worst.

    Args:
        losses: [B, A], each anchor's loss of classification.
        positive: bool [B, A], anchors matched to an object.

    Returns bool [B, A], never true where `positive` is. None for an image without positives.
    """
    hardness = losses.detach().masked_fill(positive, -torch.inf)
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < positive.sum(dim=1, keepdim=True) * ratio) & ~positive


def box_loss(predicted_xyxy: Tensor, target_xyxy: Tensor, kind: Overlap = "ciou") -> Tensor:
    """1 - overlap, pair by pair: [..., 4], [..., 4] -> [...], 0 for equal boxes; 1 for iou, up to 2 or more else."""
    return 1 - overlap(predicted_xyxy, target_xyxy, kind)


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Of each yes-or-no question by itself: [...], [...] in 0..1 -> [...]"""
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")


def focal(logits: Tensor, wanted: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Cross entropy of yes-or-no questions that counts the less the surer the right answer is: most are easy noes.

    logits: [...]; wanted: 0 or 1, [...]. alpha: weight of a yes; a no has 1 - alpha. gamma: 0 for no focus. Returns
    [...].
    """
    wrong = logits * (1 - 2 * wanted)  # the logit of the wrong answer, whose cross entropy is softplus
    return (1 - alpha + (2 * alpha - 1) * wanted) * wrong.sigmoid() ** gamma * functional.softplus(wrong)


def distribution_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of a distribution over 0, 1 ... n - 1 with the two numbers next to the one wanted.

    Their shares are such that their mean is the one wanted. logits: [..., n]; wanted: [...] in 0..n - 1. Returns [...].
    """
    below = wanted.detach().floor().clamp(max=logits.shape[-1] - 2)
    both = torch.stack([below, below + 1], dim=-1).nan_to_num().long()  # of a model that diverged: the loss is NaN
    log_below, log_above = logits.log_softmax(dim=-1).gather(-1, both).unbind(-1)
    return -torch.lerp(log_below, log_above, wanted - below)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels 0..K [...] -> float32 [..., K], all 0 for label 0. PyTorch's own looks at the values, and so waits."""
    return (labels[..., None] == torch.arange(1, num_classes + 1, device=labels.device)).float()
