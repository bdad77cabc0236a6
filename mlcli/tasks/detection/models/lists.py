"""Between our padded tensors and torchvision's lists, which have one entry of its own length for each picture.

A list needs to know its lengths on the host, so each direction waits for the device once a batch, not once a picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.tasks.detection.targets import Detections, Targets


def to_lists(targets: Targets) -> list[dict[str, Tensor]]:
    """For each picture boxes float32 [n, 4], labels int64 [n] in 1..K, and masks uint8 [n, H, W] where there are any.

    Boxes without width or height are left out: torchvision aborts at the first of them, and an offset to one is
    infinite.
    """
    real = targets.valid & _solid(targets.boxes_xyxy)
    fields = {"boxes": targets.boxes_xyxy, "labels": targets.labels}
    if targets.masks is not None:
        fields["masks"] = targets.masks
    counts = real.sum(dim=1).tolist()
    split = {name: rows[real].split(counts) for name, rows in fields.items()}
    return [{name: rows[image] for name, rows in split.items()} for image in range(len(counts))]


def boxes_to_lists(boxes_xyxy: Tensor) -> list[Tensor]:
    """float32 [B, P, 4] -> B times [p, 4], without the rows that stand for nothing, wherever they are."""
    real = _solid(boxes_xyxy)
    return list(boxes_xyxy[real].split(real.sum(dim=1).tolist()))


def to_boxes(lists: Sequence[Tensor], most: int) -> Tensor:
    """The inverse: B times [p, 4] -> [B, most, 4]; what is beyond `most` is cut off, what is missing is zeros."""
    return torch.stack([_padded(boxes, most) for boxes in lists])


def to_detections(found: Sequence[dict[str, Tensor]], most: int) -> Detections:
    """What torchvision found: boxes [n, 4], scores [n], labels [n] in 1..K, masks [n, 1, h, w] or none; most certain
    first."""
    masks = torch.stack([_padded(one["masks"][:, 0], most) for one in found]) if "masks" in found[0] else None
    boxes, scores, labels = (
        torch.stack([_padded(one[name], most) for one in found]) for name in ("boxes", "scores", "labels")
    )
    return Detections(boxes, scores, labels, masks)


def _solid(boxes_xyxy: Tensor) -> Tensor:
    """Which boxes have a width and a height: bool, without the last dimension."""
    return (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all(dim=-1)


def _padded(rows: Tensor, most: int) -> Tensor:
    """[n, ...] -> [most, ...]"""
    rows = rows[:most]
    return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, most - len(rows)))
