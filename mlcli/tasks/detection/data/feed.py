"""Batches on the device from annotated pictures: images and padded targets, augmented while training."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.batches import Part
from mlcli.data.choose import LEAST_CAP
from mlcli.data.feed import BatchFeed
from mlcli.data.randomness import KeyedRandom, sample_keys
from mlcli.data.source import ImageFilesSamples
from mlcli.engine.runtime import to_device
from mlcli.engine.settings import Loader, Train
from mlcli.errors import ConfigError
from mlcli.tasks.detection.data.augment import LEAST_SIDE, BoxAugment
from mlcli.tasks.detection.data.augment.random_tile import RandomTiles, shown, tile_of
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation
from mlcli.tasks.detection.data.records import DetectionSource, Records
from mlcli.tasks.detection.masks import placed, run_length
from mlcli.tasks.detection.rectangles import cut, rectangles
from mlcli.tasks.detection.targets import Targets

FORKS = sys.platform == "linux"
"""Whether worker processes share what this one holds."""
SIZES = 1_000
"""The stream that sizes of inputs are drawn from; augmentations have the numbers of their places."""


class DetectionFeed(BatchFeed):
    """Batches of pictures with `Targets`.

    Args:
        source: the data set.
        augment: random changes to training pictures, as in the YAML.
        min_visibility: objects of which augmentation leaves a smaller share of the box in the picture are left out.
        train, loader, device: as for every `BatchFeed`.
        masks: whether the model learns from masks.
        max_objects: most objects of a training picture, the largest being kept; None for as many as there are.
        sizes: heights and widths that training batches are brought to, by turns at random; none for one size.
        steps_at_one: steps before another is drawn.
        rectangular: evaluate pictures together that fill alike parts of their inputs. trained_so: train on them so.

    Raises ConfigError as `BatchFeed`.
    """

    def __init__(
        self,
        source: DetectionSource,
        augment: Sequence[DetectionAugmentation],
        min_visibility: float,
        *,
        train: Train,
        loader: Loader,
        device: torch.device,
        masks: bool = False,
        max_objects: int | None = None,
        sizes: Sequence[tuple[int, int]] = (),
        steps_at_one: int = 1,
        rectangular: bool = False,
        trained_so: bool = False,
    ) -> None:
        records = source.splits["train"]
        counted = ~records.ignored
        holds, counts = (records.picture_of[counted], records.labels[counted]), records.learned_counts
        self._cut_targets: CutTargets | None = None
        tiled, times = None, 1
        if found := tile_of(augment):
            config, stream = found
            tiles, times = RandomTiles(config, stream, records), config.per_picture
            counts = tiles.room_for_objects(min_visibility)
            most = max(1, int(counts.max()))
            rows = min(most, max_objects or most)
            self._cut_targets = CutTargets(records, tiles, min_visibility, rows, device, masks=masks)
            tiled = tiles if tiles.cuts else None
            if loader.cache not in ("auto", "none") and isinstance(records.images, ImageFilesSamples):
                what = "random_tile cuts from the files' own pixels, which are not held"
                raise ConfigError(what, where=f"loader.cache={loader.cache}", fix="loader.cache=none")
        super().__init__(
            source.pictures,
            tiled,
            train=train,
            loader=loader,
            device=device,
            cropped_by="random_tile" if tiled else "",
            times=times,
            holds=holds,
            filled=rectangles(records.sizes, records.preparation.image_size) if trained_so else None,
        )
        self._records, self._masks = source.splits, masks
        self._sizes, self._steps_at_one, self._rectangular = sizes, steps_at_one, rectangular
        asked = loader.workers
        one_size = not sizes and not trained_so
        if asked != "auto" and augment and one_size and device.type == "cpu" and self._cache != "none" and FORKS:
            self._changing = min(asked, LEAST_CAP)
        self._tables: dict[str, TargetTable] = {}
        self._augment = BoxAugment(
            augment,
            counts=counts,
            epochs=train.epochs,
            min_visibility=min_visibility,
            max_objects=max_objects,
        )

    @property
    def mixes(self) -> bool:
        return self._augment.mixes

    def changed(self, inputs: Tensor, part: Part) -> tuple[Tensor, Targets]:
        if self._cut_targets is None:
            targets = self.targets("train", part)
            if part.size:
                inputs, targets = cut(inputs, targets, part.size)
            images, targets = self._augment(inputs, targets, part)
        else:
            targets, shares = self._cut_targets(part)
            images, targets = self._augment(inputs, targets, part, shares)
        if self._sizes:
            images, targets = at_size(images, targets, self._size(part))
        return images, replace(targets, keys=to_device(part.keys, self._device))

    def _size(self, part: Part) -> tuple[int, int]:
        """Height and width of the inputs of a step."""
        keys = sample_keys(part.seed, part.step // self._steps_at_one, torch.zeros(1, dtype=torch.int64))
        return self._sizes[int(KeyedRandom(keys, SIZES).integers(len(self._sizes)))]

    def alike(self, split: str) -> np.ndarray | None:
        if not self._rectangular:
            return None
        records = self._records[split]
        return np.unique(rectangles(records.sizes, records.preparation.image_size), axis=0, return_inverse=True)[1]

    def targets(self, split: str, part: Part) -> Targets:
        if split not in self._tables:
            self._tables[split] = TargetTable(self._records[split], self._device, masks=self._masks)
        return self._tables[split](part.indices)


def at_size(images: Tensor, targets: Targets, size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Return pictures resized, float32 in 0..255, and their targets with them; the same where they have the size.

    images: [B, 3, H, W]. size: height and width.
    """
    height, width = images.shape[2:]
    if (height, width) == size:
        return images, targets
    scale = to_device(torch.tensor([size[1] / width, size[0] / height] * 2), images.device)
    resized = functional.interpolate(images.float(), size, mode="bilinear", antialias=size[0] < height)
    masks, proposals = targets.masks, targets.proposals_xyxy
    return resized, replace(
        targets,
        boxes_xyxy=targets.boxes_xyxy * scale,
        masks=None if masks is None else functional.interpolate(masks, size, mode="nearest-exact"),
        proposals_xyxy=None if proposals is None else proposals * scale,
    )


class TargetTable:
    """The objects of a split that are learned from, on the device; `table(indices)` makes the `Targets` of a batch.

    Every batch has as many rows as the fullest picture of the split has objects, at least one.

    Attributes:
        counts: int64 [N], objects of each picture.
    """

    def __init__(self, records: Records, device: torch.device, *, masks: bool) -> None:
        chosen = np.flatnonzero(~records.ignored)
        pictures = torch.from_numpy(records.picture_of[chosen])
        boxes = torch.from_numpy(records.boxes_xyxy[chosen])
        counts = torch.from_numpy(records.learned_counts)
        self._boxes_xyxy = _or_one_row(records.to_input(boxes, pictures)).to(device)
        self._labels = _or_one_row(torch.from_numpy(records.labels[chosen])).to(device)
        self._first = (counts.cumsum(0) - counts).to(device)
        self._rows = torch.arange(max(1, int(counts.max())), device=device)
        self._masks = InputMasks(records, chosen) if masks else None
        self.counts = counts.to(device)
        self._proposals_xyxy = None
        if records.proposals_xyxy is not None:
            proposals = torch.from_numpy(records.proposals_xyxy)
            placed = records.to_input(proposals, torch.arange(len(records)))
            nothing = (proposals == 0).all(dim=2, keepdim=True)
            self._proposals_xyxy = placed.masked_fill(nothing, 0).to(device)

    def __call__(self, indices: Tensor) -> Targets:
        """indices: int64 [B] on the CPU."""
        there = to_device(indices, self._first.device)
        real = self._rows < self.counts[there, None]  # [B, M]
        objects = torch.where(real, self._first[there, None] + self._rows, 0)
        masks = None
        if self._masks is not None:
            masks = to_device(self._masks(indices, len(self._rows)), there.device)
        return Targets(
            boxes_xyxy=self._boxes_xyxy[objects] * real[..., None],
            labels=self._labels[objects] * real,
            masks=masks,
            proposals_xyxy=None if self._proposals_xyxy is None else self._proposals_xyxy[there],
        )


def _or_one_row(rows: Tensor) -> Tensor:
    """Something to point at where a split has no objects at all."""
    return rows if len(rows) else rows.new_zeros(1, *rows.shape[1:])


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
        scale, shift = (part[0].numpy() for part in self._records.placements(torch.tensor([index])))
        objects = self._objects[self._offsets[index] : self._offsets[index + 1]].tolist()
        return [run_length(input_mask(self._records, t, index, scale, shift)) for t in objects]


def input_mask(records: Records, t: int, index: int, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the mask of object `t` of a picture in the model's input, where scale and shift (x, y) place that: bool
    [H, W]. Objects without a mask are masked by their box."""
    segmentation = records.segmentations[t] if records.segmentations else None
    if segmentation is None:
        left, top, right, bottom = records.boxes_xyxy[t].tolist()
        segmentation = [[left, top, right, top, right, bottom, left, bottom]]
    return placed(segmentation, records.sizes[index], scale, shift, records.preparation.image_size)


class CutTargets:
    """The objects of a split that are learned from, as random tiles show them; a call makes those of a batch.

    Args:
        records: the split. tiles: of its pictures.
        min_visibility: least share of a box that its tile must show for the object to be kept.
        rows: objects of a tile; the largest are kept.
        masks: whether the model learns from masks.
    """

    def __init__(
        self,
        records: Records,
        tiles: RandomTiles,
        min_visibility: float,
        rows: int,
        device: torch.device,
        *,
        masks: bool,
    ) -> None:
        self._records, self._tiles, self._masks = records, tiles, masks
        self._min_visibility, self._rows, self._device = min_visibility, rows, device
        self._objects = np.flatnonzero(~records.ignored)
        self._offsets = np.concatenate([[0], np.cumsum(records.learned_counts)])

    def __call__(self, part: Part) -> tuple[Targets, Tensor]:
        """Return the targets, and how much of each object is shown: float32 [B, rows]."""
        drawn, records, batch = self._tiles.draw(part), self._records, len(part)
        boxes, labels = np.zeros((batch, self._rows, 4), np.float32), np.zeros((batch, self._rows), np.int64)
        shares = np.zeros((batch, self._rows), np.float32)
        masks = np.zeros((batch, self._rows, *records.preparation.image_size), np.uint8) if self._masks else None
        for row, index in enumerate(part.indices.tolist()):
            objects, seen = self._objects[self._offsets[index] : self._offsets[index + 1]], drawn.boxes_xyxy[row]
            whole, scale, shift = records.boxes_xyxy[objects].astype(np.float64), drawn.scale[row], drawn.shift[row]
            share = shown(whole, seen)
            cut = np.clip(whole, np.tile(seen[:2], 2), np.tile(seen[2:], 2)) * np.tile(scale, 2) + np.tile(shift, 2)
            sides = cut[:, 2:] - cut[:, :2]
            kept = np.flatnonzero((share >= self._min_visibility) & (sides >= LEAST_SIDE).all(axis=1))
            kept = kept[np.argsort(-sides[kept].prod(axis=1), kind="stable")][: self._rows]
            boxes[row, : len(kept)], shares[row, : len(kept)] = cut[kept], share[kept]
            labels[row, : len(kept)] = records.labels[objects[kept]]
            if masks is not None:
                for place, t in enumerate(objects[kept].tolist()):
                    masks[row, place] = input_mask(records, t, index, scale, shift)
        targets = Targets(torch.from_numpy(boxes), torch.from_numpy(labels), None)
        if masks is not None:
            targets = replace(targets, masks=torch.from_numpy(masks))
        return targets.to(self._device), to_device(torch.from_numpy(shares), self._device)
