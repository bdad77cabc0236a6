"""Masks of objects as COCO writes them: polygons and run-length codes (cocoapi's maskApi), to pixels and back.

A run-length code counts zeros and ones in turn, column by column, zeros first.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcli.tasks.detection.data.records import Records, Segmentation


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> {"size": [H, W], "counts": [...]}, the readable form of the code."""
    columns = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    # A mask that is set in its last pixel ends with a run of no zeros.
    return {"size": list(mask.shape), "counts": (counts if counts[-1] else counts[:-1]).tolist()}


def decode(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Polygons or a run-length code of a picture of this size -> bool [height, width]."""
    from faster_coco_eval.core import mask as coco

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        counts = np.asarray(segmentation["counts"])
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")
    return coco.decode(_compressed(segmentation, height, width)).astype(bool)


def _compressed(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    from faster_coco_eval.core import mask as coco

    if isinstance(segmentation, dict):
        return segmentation
    return coco.merge(coco.frPyObjects(segmentation, height, width))


class InputMasks:
    """The masks of a split in pixels of the model's input; `masks(indices, rows)` makes those of a batch.

    Each is brought to the input's size once, when it is first asked for, and kept as a run-length code: a hundred bytes
    instead of H x W.

    objects: int64 [n], those of the records that are learned from, in order. Objects without a mask are masked by
        their box.
    """

    def __init__(self, records: Records, objects: np.ndarray) -> None:
        self._records, self._objects = records, objects
        counts = np.bincount(records.picture_of[objects], minlength=len(records))
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._codes: dict[int, list[dict[str, Any]]] = {}

    def __call__(self, indices: Tensor, rows: int) -> Tensor:
        """indices: int64 [B] on the CPU -> uint8 [B, rows, H, W]."""
        from faster_coco_eval.core import mask as coco

        height, width = self._records.preparation.image_size
        masks = torch.zeros(len(indices), rows, height, width, dtype=torch.uint8)
        for out, index in zip(masks, indices.tolist(), strict=True):
            if index not in self._codes:
                self._codes[index] = self._encoded(index)
            codes = self._codes[index]
            if codes:
                out[: len(codes)] = torch.from_numpy(coco.decode(codes)).permute(2, 0, 1)
        return masks

    def _encoded(self, index: int) -> list[dict[str, Any]]:
        from faster_coco_eval.core import mask as coco

        records = self._records
        scale, shift = (part[0].numpy() for part in records.placements(torch.tensor([index])))
        canvas = np.zeros(records.preparation.image_size, dtype=np.uint8, order="F")
        codes = []
        for t in self._objects[self._offsets[index] : self._offsets[index + 1]].tolist():
            segmentation = records.segmentations[t] if records.segmentations else None
            if segmentation is None:
                segmentation = [_corners(records.boxes_xyxy[t])]
            canvas[...] = placed(segmentation, records.sizes[index], scale, shift, canvas.shape)
            codes.append(coco.encode(canvas))
        return codes


def placed(
    segmentation: Segmentation, size: np.ndarray, scale: np.ndarray, shift: np.ndarray, image_size: tuple[int, ...]
) -> np.ndarray:
    """A mask of an original of `size` (width, height), scaled and shifted (both x, y) onto an input: bool [H, W]."""
    height, width = image_size
    if isinstance(segmentation, list):
        moved = [(np.reshape(polygon, (-1, 2)) * scale + shift).ravel().tolist() for polygon in segmentation]
        return decode(moved, height, width)
    mask = decode(segmentation, int(size[1]), int(size[0]))
    # The pixel of the original that each pixel's middle lies in.
    columns = np.floor((np.arange(width) + 0.5 - shift[0]) / scale[0]).astype(np.int64)
    rows = np.floor((np.arange(height) + 0.5 - shift[1]) / scale[1]).astype(np.int64)
    inside = ((rows >= 0) & (rows < size[1]))[:, None] & ((columns >= 0) & (columns < size[0]))
    return mask[rows.clip(0, size[1] - 1)][:, columns.clip(0, size[0] - 1)] & inside


def _corners(box_xyxy: np.ndarray) -> list[float]:
    left, top, right, bottom = box_xyxy.tolist()
    return [left, top, right, top, right, bottom, left, bottom]


def is_sound(segmentation: Segmentation, size: np.ndarray) -> bool:
    """Whether polygons have three points at least, all finite, or the code fits the picture's size (width, height)."""
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        fits = [width, height] == list(size) or not size.all()
        return fits and (not isinstance(counts, list) or sum(counts) == height * width)
    return bool(segmentation) and all(
        len(polygon) >= 6 and len(polygon) % 2 == 0 and bool(np.isfinite(polygon).all()) for polygon in segmentation
    )


def moved(segmentation: Segmentation, scale: np.ndarray, shift: np.ndarray) -> Segmentation:
    """scale, shift: for x and y. Run-length codes can only be scaled, to whole pixels."""
    if isinstance(segmentation, list):
        return [(np.reshape(polygon, (-1, 2)) * scale + shift).ravel().tolist() for polygon in segmentation]
    height, width = segmentation["size"]
    wanted = (round(height * scale[1]), round(width * scale[0]))
    return encode_rle(placed(segmentation, np.array([width, height]), scale, shift, wanted))


def turned(segmentation: Segmentation, orientation: int, stored: np.ndarray) -> Segmentation:
    """A mask on stored pixels (width, height), on the picture turned upright; orientations 5 to 8 of EXIF."""
    width, height = (int(side) for side in stored)
    if isinstance(segmentation, list):
        return [_turned_points(np.reshape(polygon, (-1, 2)), orientation, width, height) for polygon in segmentation]
    mask = decode(segmentation, height, width)
    mask = mask[::-1] if orientation in (6, 7) else mask
    mask = mask[:, ::-1] if orientation in (7, 8) else mask
    return encode_rle(mask.T)


def _turned_points(points: np.ndarray, orientation: int, width: int, height: int) -> list[float]:
    x, y = points.T
    y = height - y if orientation in (6, 7) else y
    x = width - x if orientation in (7, 8) else x
    return np.column_stack([y, x]).ravel().tolist()
