"""Boxes of a batch in tensors of fixed shape: what a detector should find, and what it has found.

Every image has the same number of rows; rows that stand for nothing come last and are labelled 0. So shapes never
depend on the data, and a model that keeps to them compiles and never waits for the host.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Tensors that share their first dimension, one entry an image; those that are None are not there."""

    def __len__(self) -> int:
        return len(self._present()[fields(self)[0].name])

    def __getitem__(self, images: slice | Tensor) -> Self:
        return replace(self, **{name: value[images] for name, value in self._present().items()})

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Self:
        return replace(
            self, **{name: value.to(device, non_blocking=non_blocking) for name, value in self._present().items()}
        )

    def _present(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Targets(Rows):
    """What should be found in B images of H x W pixels, at most M objects in each.

    boxes_xyxy: float32 [B, M, 4], corners in pixels of the model's input; zeros where the label is 0.
    labels: int64 [B, M], 1..K for the classes; 0 for rows that stand for nothing, which come last.
    masks: uint8 [B, M, H, W], 1 inside the object; None where the model needs none.
    proposals_xyxy: float32 [B, P, 4], where to look, for models that are told; zeros where there is none.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    masks: Tensor | None = None
    proposals_xyxy: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """bool [B, M]: rows that stand for an object."""
        return self.labels > 0


@dataclass(frozen=True)
class Detections(Rows):
    """What was found in B images, at most D objects in each, most certain first.

    boxes_xyxy: float32 [B, D, 4], corners in pixels of the model's input, inside the image.
    scores: float32 [B, D] in 0..1; 0 for rows that stand for nothing.
    labels: int64 [B, D], 1..K; 0 for rows that stand for nothing, which come last.
    masks: float32 [B, D, h, w], probability of belonging to the object, over its box; None where the model makes none.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
