"""Boxes of a batch in tensors of fixed shape: what a detector should find, and what it has found.

Every image has the same number of rows; rows that stand for nothing come last and are labelled 0. So shapes never
depend on the data, and a model that keeps to them compiles and never waits for the host.

torchvision has lists with an entry of its own length for each image instead. A list needs its lengths on the host, so
`to_lists`, `boxes_to_lists` and their inverses wait for the device once a batch, not once an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.engine.runtime import to_device


@dataclass(frozen=True)
class Rows:
    """Tensors that share their first dimension, one entry an image; those that are None are not there."""

    def __len__(self) -> int:
        return len(self._present()[fields(self)[0].name])

    def __getitem__(self, images: slice | Tensor) -> Self:
        return replace(self, **{name: value[images] for name, value in self._present().items()})

    def to(self, device: torch.device) -> Self:
        return replace(self, **{name: to_device(value, device) for name, value in self._present().items()})

    def _present(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Targets(Rows):
    """The objects of B images of H x W pixels, at most M objects in each.

    boxes_xyxy: float32 [B, M, 4], corners in pixels of the model's input; zeros where the label is 0.
    labels: int64 [B, M], 1..K for the classes; 0 for rows that stand for nothing, which come last.
    masks: uint8 [B, M, H, W], 1 inside the object; None where the model needs none.
    proposals_xyxy: float32 [B, P, 4], where to look, for models that look only there; zeros where there is none.
    keys: int64 [B], what a model draws for each image follows from (see `mlcli.data.randomness`); None for torch's own
        generator.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    masks: Tensor | None = None
    proposals_xyxy: Tensor | None = None
    keys: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """bool [B, M]: rows that stand for an object."""
        return self.labels > 0


@dataclass(frozen=True)
class Detections(Rows):
    """Objects found in B images, at most D in each, most certain first.

    boxes_xyxy: float32 [B, D, 4], corners in pixels of the model's input, inside the image.
    scores: float32 [B, D] in 0..1; 0 for rows that stand for nothing.
    labels: int64 [B, D], 1..K; 0 for rows that stand for nothing, which come last.
    masks: float32 [B, D, h, w], probability of belonging to the object, over its box; None where the model makes none.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def to_lists(targets: Targets) -> list[dict[str, Tensor]]:
    """Return for each image boxes float32 [n, 4], labels int64 [n] in 1..K, and masks uint8 [n, H, W] if there are any.

    Boxes without width or height are left out: torchvision aborts at the first of them, and an offset to one is
    infinite.
    """
    real = targets.valid & _solid(targets.boxes_xyxy)
    columns = {"boxes": targets.boxes_xyxy, "labels": targets.labels}
    if targets.masks is not None:
        columns["masks"] = targets.masks
    counts = real.sum(dim=1).tolist()
    split = {name: rows[real].split(counts) for name, rows in columns.items()}
    return [{name: rows[image] for name, rows in split.items()} for image in range(len(counts))]


def boxes_to_lists(boxes_xyxy: Tensor) -> list[Tensor]:
    """float32 [B, P, 4] -> B times [p, 4], without the rows that stand for nothing, wherever they are."""
    real = _solid(boxes_xyxy)
    return list(boxes_xyxy[real].split(real.sum(dim=1).tolist()))


def padded(lists: Sequence[Tensor], most: int) -> Tensor:
    """B times [n, ...] -> [B, most, ...]; what is beyond `most` is cut off, what is missing is zeros."""
    cut = [rows[:most] for rows in lists]
    return torch.stack([functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, most - len(rows))) for rows in cut])


def to_detections(found: Sequence[dict[str, Tensor]], most: int) -> Detections:
    """torchvision's boxes [n, 4], scores [n], labels [n] in 1..K, perhaps masks [n, 1, h, w], most certain first."""
    masks = padded([one["masks"][:, 0] for one in found], most) if "masks" in found[0] else None
    boxes, scores, labels = (padded([one[name] for one in found], most) for name in ("boxes", "scores", "labels"))
    return Detections(boxes, scores, labels, masks)


def _solid(boxes_xyxy: Tensor) -> Tensor:
    """Whether boxes have a width and a height: [..., 4] -> bool [...]"""
    return (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all(dim=-1)
