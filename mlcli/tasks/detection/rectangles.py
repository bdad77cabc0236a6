"""Pictures looked at without most of the grey bars that make them fit the model's input: at their own aspect ratio.

A rectangle is the middle of the input, as much of it as the picture fills, its sides multiples of the coarsest stride.
What is left out are whole rows and columns of grey: the pixels of the picture are the same, and a box in the rectangle
is the same box moved by whole pixels.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mlcli.data.decode import read_size
from mlcli.data.inputs import Errors, ImageInputs
from mlcli.engine.contract import Batch
from mlcli.engine.runtime import to_device
from mlcli.errors import DataError
from mlcli.tasks.detection.arrays import placement
from mlcli.tasks.detection.data.config import STRIDES
from mlcli.tasks.detection.targets import Detections, Targets

Size = tuple[int, int]


def rectangles(sizes_wh: np.ndarray, image_size: Sequence[int]) -> np.ndarray:
    """Return height and width of the rectangles that pictures are looked at in: int64 [..., 2].

    sizes_wh: [..., 2], width and height of the upright originals. image_size: height and width of the whole input.
    """
    scale, _ = placement(sizes_wh, image_size, "pad")
    return (np.ceil(np.round(sizes_wh * scale) / STRIDES[-1]) * STRIDES[-1]).astype(np.int64)[..., ::-1]


def begins(whole: Sequence[int], size: Sequence[int]) -> Size:
    """Return the row and the column of a whole input in which the rectangle in its middle begins."""
    return (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2


def without_bars(batch: Batch, sizes_wh: np.ndarray) -> Batch:
    """Return a batch of whole inputs cut to the rectangle that holds all of its pictures, the targets along with it.

    sizes_wh: int [B, 2], of the originals.
    """
    height, width = rectangles(sizes_wh, batch.inputs.shape[2:]).max(axis=0).tolist()
    inputs, targets = cut(batch.inputs, batch.targets, (height, width))
    return replace(batch, inputs=inputs, targets=targets)


def cut(inputs: Tensor, targets: Targets, size: Size) -> tuple[Tensor, Targets]:
    """Return the rectangles of a height and width in the middle of whole inputs [B, 3, H, W], and their targets."""
    top, left = begins(inputs.shape[2:], size)
    there = ..., slice(top, top + size[0]), slice(left, left + size[1])
    corner = to_device(torch.tensor([left, top] * 2), targets.boxes_xyxy.device)
    boxes_xyxy = targets.boxes_xyxy - corner * targets.valid[..., None]
    masks = None if targets.masks is None else targets.masks[there]
    return inputs[there], replace(targets, boxes_xyxy=boxes_xyxy, masks=masks)


def in_whole(found: Detections, whole: Sequence[int], size: Size) -> Detections:
    """Return what was found in rectangles of a height and width in pixels of the whole inputs."""
    top, left = begins(whole, size)
    corner = torch.tensor([left, top] * 2, device=found.boxes_xyxy.device)
    return replace(found, boxes_xyxy=found.boxes_xyxy + corner * (found.labels > 0)[..., None])


class Rectangles:
    """Image files without bars; those that are read together are cut alike, to the rectangle that holds them all."""

    def __init__(self, inputs: ImageInputs) -> None:
        self._inputs, self.names, self.paths = inputs, inputs.names, inputs.paths
        self._rectangle = lru_cache(maxsize=1024)(self._read_rectangle)  # asked for twice: to group, and to cut

    def alike(self, positions: Sequence[int]) -> list[list[int]]:
        """Return the positions in groups, each of one rectangle."""
        groups = dict[Size, list[int]]()
        for position in positions:
            groups.setdefault(self._rectangle(position), []).append(position)
        return [*groups.values()]

    def read(self, positions: Sequence[int]) -> tuple[list[int], np.ndarray, Errors]:
        """uint8 [B, 3, h, w]"""
        good, pixels, errors = self._inputs.read(positions)
        height, width = np.max([self._rectangle(position) for position in positions], axis=0).tolist()
        top, left = begins(pixels.shape[2:], (height, width))
        return good, pixels[:, :, top : top + height, left : left + width], errors

    def _read_rectangle(self, position: int) -> Size:
        """Of one picture; the whole input of what cannot be read."""
        height, width = whole = self._inputs.preparation.image_size
        with contextlib.suppress(DataError):
            height, width = rectangles(np.array(read_size(self.paths[position])), whole).tolist()
        return height, width
