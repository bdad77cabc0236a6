"""Tiles of training pictures drawn at random, at the pictures' own resolution: what `--tiles` shows a model later.

Where the tile of a picture lies depends on its key and nothing else. Pixels are cut while pictures are read, objects
when the targets of the batch are made; both ask for the same draw.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlcli.data.batches import Part
from mlcli.data.decode import PAD_VALUE
from mlcli.data.randomness import KeyedRandom, sample_keys
from mlcli.data.resize import resize
from mlcli.data.source import ImageFilesSamples
from mlcli.errors import ConfigError
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation, RandomTile
from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.tiles import Tiles
from mlcli.text import plural, share

DRAWN = 4_000
"""Tiles drawn to find how many objects one has at most."""
SPARE = 1.5
"""Rows of targets for each object of the fullest of them; of one that is fuller still the largest objects are kept."""


class Drawn(NamedTuple):
    """Tiles of B pictures.

    boxes_xyxy: int64 [B, 4], what is seen of each picture, in its pixels.
    scale, shift: float64 [B, 2], for x and y; `input_xy == original_xy * scale + shift`.
    places_xyxy: int64 [B, 4], where it is in the input.
    """

    boxes_xyxy: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    places_xyxy: np.ndarray


def tile_of(augment: Sequence[DetectionAugmentation]) -> tuple[RandomTile, int] | None:
    """Return the random tile of a YAML and the stream that it draws from, None where there is none. Raises ConfigError
    for two."""
    found = [(config, stream) for stream, config in enumerate(augment) if isinstance(config, RandomTile)]
    if len(found) > 1:
        raise ConfigError("random_tile can be named once only", where="augment", fix="remove all but one")
    return found[0] if found else None


def tiles_of(config: RandomTile, records: Records) -> Tiles:
    """Return the tiles that a random tile is one of."""
    preparation = records.preparation
    return Tiles(config.side or max(preparation.image_size), config.overlap, preparation.image_size, preparation.fit)


class RandomTiles:
    """Draw tiles of the pictures of a split; a call reads them: uint8 [B, 3, H, W].

    Args:
        config: as in the YAML. stream: that is drawn from.
        records: the split.

    Attributes:
        cuts: whether there are original pixels to cut from.
    """

    def __init__(self, config: RandomTile, stream: int, records: Records) -> None:
        self._config, self._stream, self._records = config, stream, records
        self._tiles = tiles_of(config, records)
        learned = np.flatnonzero(~records.ignored)
        self._boxes_xyxy = records.boxes_xyxy[learned].astype(np.float64)
        self._counts = np.bincount(records.picture_of[learned], minlength=len(records))
        self._first = self._counts.cumsum() - self._counts
        height, width = records.preparation.image_size
        self.cuts = isinstance(records.images, ImageFilesSamples) or bool((records.sizes == [width, height]).all())

    def draw(self, part: Part) -> Drawn:
        """Return the tiles of the samples of a part, as their keys say."""
        indices, random = part.indices.numpy(), KeyedRandom(part.keys.cpu(), self._stream)
        anywhere = random.bernoulli(self._config.empty).numpy()
        counts = self._counts[indices]
        chosen = random.integers(torch.from_numpy(counts).clamp(min=1)).numpy()
        along = random.uniform(shape=(2,)).double().numpy()
        sizes = self._records.sizes[indices].astype(np.int64)
        size, scale, shift = self._tiles.placed(sizes)
        room = sizes - size  # how far a tile can go
        low, high = np.zeros_like(room), room
        aimed = (counts > 0) & ~anywhere
        if aimed.any():
            corners = self._boxes_xyxy[self._first[indices[aimed]] + chosen[aimed]]
            # Where the object is seen whole; of one that is larger, where the tile shows nothing else.
            ends = np.stack([np.ceil(corners[:, 2:]) - size[aimed], np.floor(corners[:, :2])]).astype(np.int64)
            low[aimed], high[aimed] = np.clip(np.sort(ends, axis=0), 0, room[aimed])
        origins = low + np.floor(along * (high - low + 1)).astype(np.int64)
        first, wide = shift.astype(np.int64), np.round(size * scale).astype(np.int64)
        return Drawn(
            np.concatenate([origins, origins + size], axis=1),
            scale,
            shift - origins * scale,
            np.concatenate([first, first + wide], axis=1),
        )

    def __call__(self, part: Part) -> Tensor:
        drawn, images = self.draw(part), self._records.images
        if isinstance(images, ImageFilesSamples):
            return images.read_parts(part.indices.numpy(), drawn.boxes_xyxy, drawn.places_xyxy)
        inputs = np.full((len(part), 3, *self._records.preparation.image_size), PAD_VALUE, dtype=np.uint8)
        for row, index in enumerate(part.indices.tolist()):
            (x1, y1, x2, y2), (left, top, right, bottom) = (
                corners[row].tolist() for corners in (drawn.boxes_xyxy, drawn.places_xyxy)
            )
            pixels = images.inputs[index].permute(1, 2, 0).numpy()
            resize(pixels, (x1, y1, x2, y2), inputs[row, :, top:bottom, left:right])
        return torch.from_numpy(inputs)

    def room_for_objects(self, least_visible: float) -> np.ndarray:
        """Return how many objects there has to be room for in tiles as they are drawn: int64 [DRAWN]."""
        indices = torch.arange(DRAWN) % len(self._records)
        drawn, counts = self.draw(Part(indices, sample_keys(0, 0, torch.arange(DRAWN)))), []
        for index, seen in zip(indices.tolist(), drawn.boxes_xyxy, strict=True):
            boxes = self._boxes_xyxy[self._first[index] : self._first[index] + self._counts[index]]
            counts.append(int((shown(boxes, seen) >= least_visible).sum()))
        return np.minimum(np.ceil(SPARE * np.array(counts)), self._counts.max()).astype(np.int64)


def shown(boxes_xyxy: np.ndarray, seen_xyxy: np.ndarray) -> np.ndarray:
    """Return the share of each box, [n, 4], that is inside a window, [4] or [n, 4]; 0 for boxes without area."""
    low, high = np.maximum(boxes_xyxy[:, :2], seen_xyxy[..., :2]), np.minimum(boxes_xyxy[:, 2:], seen_xyxy[..., 2:])
    whole = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1)
    return np.divide(np.clip(high - low, 0, None).prod(axis=1), whole, out=np.zeros(len(whole)), where=whole > 0)


def learned_sides(augment: Sequence[DetectionAugmentation], records: Records) -> np.ndarray:
    """Return width and height in pixels of the input of each object that is learned from, float32 [n, 2]: as a whole
    picture shows it, or a tile of it where those are learned from."""
    if not (found := tile_of(augment)):
        return records.input_sides()
    objects = np.flatnonzero(~records.ignored)
    sizes = records.sizes[records.picture_of[objects]].astype(np.int64)
    size, scale, _ = tiles_of(found[0], records).placed(sizes)
    boxes = records.boxes_xyxy[objects]
    return (np.minimum(boxes[:, 2:] - boxes[:, :2], size) * scale).astype(np.float32)


def told_of_tiles(config: RandomTile, records: Records, least_visible: float) -> tuple[str, list[str]]:
    """Return what a person should know of training on tiles: a line, and warnings.

    Raises ConfigError if no object would be learned from.
    """
    tiles, objects = tiles_of(config, records), np.flatnonzero(~records.ignored)
    width, height = tiles.size_wh.tolist()
    whole = np.all(records.sizes <= tiles.size_wh, axis=1)
    line = f"learned from in tiles of {width}x{height} pixels"
    line += f", {config.per_picture} a picture and epoch" if config.per_picture > 1 else ""
    line += (
        f"; {share(int(whole.sum()), len(records))} of the pictures are no larger and seen whole" if whole.any() else ""
    )
    warnings = []
    if whole.all():
        warnings.append("no training picture is larger than a tile: random_tile changes nothing; a smaller side does")
    sides = records.boxes_xyxy[objects, 2:] - records.boxes_xyxy[objects, :2]
    size, _, _ = tiles.placed(records.sizes[records.picture_of[objects]].astype(np.int64))
    seen = (np.minimum(sides, size) / np.maximum(sides, 1e-9)).prod(axis=1)
    cut, lost = (sides > size).any(axis=1), seen < least_visible
    if lost.all():
        what = f"no object is seen by {100 * least_visible:g} % or more (min_visibility) in a tile of {width}x{height}"
        raise ConfigError(what, where="augment, random_tile", fix="give it a larger side")
    if cut.any():
        fits = int(np.ceil(np.quantile((sides / tiles.size_wh).max(axis=1), 0.95) * max(width, height)))
        text = f"{plural(int(cut.sum()), 'object is', 'objects are')} larger than a tile of {width}x{height} and never "
        text += f"seen whole, {int(lost.sum()):,} of them too little of to be learned from"
        text += f"; a random_tile of side {fits} would hold 95 % of the objects"
        warnings.append(text)
    return line, warnings
