"""From the row of an object that each predicted box learns to what it should have said."""

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.tasks.detection.targets import Targets


def assigned(targets: Targets, matched: Tensor, otherwise_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Box and label of the object that each of A boxes learns.

    Args:
        matched: int64 [B, A], a row of the targets, or negative for none.
        otherwise_xyxy: [B, A, 4] or [A, 4], the box where there is none; whatever gives the loss a finite gradient
            there, for 0 times infinity is not 0.

    Returns boxes float32 [B, A, 4] as xyxy in pixels, and labels int64 [B, A] in 1..K, 0 for none.
    """
    there = matched >= 0
    if targets.labels.shape[1] == 0:
        return otherwise_xyxy.expand(*matched.shape, 4), torch.zeros_like(matched)
    rows = matched.clamp(min=0)
    boxes_xyxy = targets.boxes_xyxy.gather(1, rows[..., None].expand(-1, -1, 4))
    return torch.where(there[..., None], boxes_xyxy, otherwise_xyxy), targets.labels.gather(1, rows) * there


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Labels 0..K [...] -> float32 [..., K], all 0 for label 0. PyTorch's own looks at the values, and so waits."""
    return (labels[..., None] == torch.arange(1, num_classes + 1, device=labels.device)).float()


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Of each yes-or-no question by itself: [...], [...] in 0..1 -> [...]"""
    return functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
