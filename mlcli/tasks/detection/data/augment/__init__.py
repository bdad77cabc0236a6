"""Random changes to batches of annotated pictures: pixels, boxes, masks and proposals change together.

What a picture gets depends on its key and nothing else (see `mlcli.data.randomness`), except for mosaic and mixup,
which need the rest of the batch. Colours are changed first and mixup comes last, regardless of their order in the YAML;
everything between moves pixels, and is multiplied into one map (placement.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.augment.colour import random_colour
from mlcli.data.augmentations import HorizontalFlip, VerticalFlip
from mlcli.data.batches import Part
from mlcli.data.randomness import KeyedRandom
from mlcli.engine.runtime import to_device
from mlcli.errors import ConfigError
from mlcli.tasks.detection.boxes import area
from mlcli.tasks.detection.data.augment import moves
from mlcli.tasks.detection.data.augment.placement import Placement, Resample
from mlcli.tasks.detection.data.augmentations import (
    BoxAffine,
    BoxMixup,
    DetectionAugmentation,
    IouCrop,
    Mosaic,
    Photometric,
    RandomTile,
    ZoomOut,
)
from mlcli.tasks.detection.targets import Targets

LEAST_SIDE = 2.0  # pixels; what is left of a box that is thinner shows nothing that could be found
CROWDED = 0.999  # share of mosaics whose objects all have a row
_DRAWS = 20_000  # of mosaics, to find how many objects they have; 20 of them are in the tail that is cut


class _Numbered(NamedTuple):
    """An augmentation, the stream that it draws from (its place in the YAML), and the keywords of its function."""

    stream: int
    config: DetectionAugmentation
    keywords: dict[str, Any]


class BoxAugment:
    """The augmentations of a YAML. Empty changes nothing but for `max_objects`.

    Args:
        augment: as in the YAML.
        counts: int64 [N], objects of each training picture.
        epochs: of the training, at whose end mosaic and mixup are switched off.
        min_visibility: least share of a moved box that must still be seen for its object to be kept.
        max_objects: rows of the targets that come out; None for the most that a picture has, or nearly all mosaics.

    Attributes:
        mixes: whether pictures are put together with others.
        rows: objects that each picture can have; the largest are kept.

    Raises ConfigError for two mosaics.
    """

    def __init__(
        self,
        augment: Sequence[DetectionAugmentation],
        *,
        counts: np.ndarray,
        epochs: int,
        min_visibility: float,
        max_objects: int | None,
    ) -> None:
        numbered = [
            _Numbered(stream, config, config.model_dump(exclude={"name", "off_share"}))
            for stream, config in enumerate(augment)
        ]
        self._streams = len(numbered)
        self._colours = [one for one in numbered if isinstance(one.config, Photometric)]
        self._mixups = [one for one in numbered if isinstance(one.config, BoxMixup)]
        self._moves = [one for one in numbered if not isinstance(one.config, RandomTile | Photometric | BoxMixup)]
        mosaics = sum(isinstance(config, Mosaic) for config in augment)
        if mosaics > 1:
            raise ConfigError("mosaic can be named once only", where="augment", fix="remove all but one")
        self.mixes = mosaics > 0 or bool(self._mixups)
        self._epochs, self._min_visibility = epochs, min_visibility
        pictures = moves.PARTS**mosaics * 2 ** len(self._mixups)
        together = np.random.default_rng(0).choice(counts, (_DRAWS, pictures)).sum(axis=1)
        crowded = np.quantile(together, CROWDED) if pictures > 1 else 0
        self.rows = max_objects or max(1, int(counts.max()), int(crowded))

    def __call__(
        self, images: Tensor, targets: Targets, part: Part, shown: Tensor | None = None
    ) -> tuple[Tensor, Targets]:
        """Return pictures as uint8 or float32 in 0..255, and targets of `rows` rows.

        images: uint8 [B, 3, H, W]. shown: float32 [B, M], how much of each object the pictures show; None for all.
        """
        num_proposals = 0 if targets.proposals_xyxy is None else targets.proposals_xyxy.shape[1]
        randoms = KeyedRandom.of_streams(to_device(part.keys, images.device), self._streams)
        for stream, _, keywords in self._colours:
            images = random_colour(images, randoms[stream], **keywords)
        chosen = [move for move in self._moves if self._on(move.config, part.epoch)]
        for place, (stream, config, _) in enumerate(chosen):
            if isinstance(config, HorizontalFlip):
                others = config.alternate and part.epoch % 2 == 1
                chosen[place] = _Numbered(stream, config, {"p": config.p, "others": others})
                if config.alternate:
                    randoms[stream] = KeyedRandom(to_device(part.first_keys(), images.device), stream)
        if chosen:
            images, targets = self._moved(images, targets, randoms, chosen, shown)
        for stream, config, keywords in self._mixups:
            if self._on(config, part.epoch):
                images, targets = moves.mixup(randoms[stream], images, targets, **keywords)
        return images, _filled(targets, self.rows, num_proposals)

    def _on(self, config: DetectionAugmentation, epoch: int) -> bool:
        off_share = config.off_share if isinstance(config, Mosaic | BoxMixup) else 0.0
        return epoch < self._epochs - round(off_share * self._epochs)

    def _moved(
        self,
        images: Tensor,
        targets: Targets,
        randoms: Sequence[KeyedRandom],
        chosen: Sequence[_Numbered],
        shown: Tensor | None,
    ) -> tuple[Tensor, Targets]:
        placement, size = Placement.unchanged(len(images), images.device), (images.shape[2], images.shape[3])
        for move in chosen:
            placement = self._next(placement, targets, randoms[move.stream], move, shown, size)
        boxes, valid = self._seen(placement, targets, shown, size)
        resample = Resample(placement, size)
        labels = targets.labels[placement.picture].flatten(1) * valid
        masks = None if targets.masks is None else resample.masks(targets.masks) * valid[:, :, None, None]
        proposals = None
        if targets.proposals_xyxy is not None:
            looked_at, visible = placement.move(targets.proposals_xyxy, size)
            proposals = looked_at * (visible >= self._min_visibility)[..., None]
            # The best of each picture, then the second of each, and so on.
            proposals = proposals.unflatten(1, (*placement.picture.shape[1:], -1)).transpose(1, 2).flatten(1, 2)
        return resample.images(images), Targets(boxes * valid[..., None], labels, masks, proposals)

    def _next(
        self,
        placement: Placement,
        targets: Targets,
        random: KeyedRandom,
        move: _Numbered,
        shown: Tensor | None,
        size: tuple[int, int],
    ) -> Placement:
        keywords = move.keywords
        match move.config:
            case HorizontalFlip():
                return placement.then(moves.flip(random, size, **keywords))
            case VerticalFlip():
                return placement.then(moves.flip_vertically(random, size, **keywords))
            case ZoomOut():
                return placement.then(moves.zoom_out(random, size, **keywords))
            case BoxAffine():
                return placement.then(moves.affine(random, size, **keywords))
            case IouCrop():
                seen = self._seen(placement, targets, shown, size)
                return placement.then(moves.iou_crop(random, size, *seen, **keywords))
            case Mosaic():
                return moves.mosaic(random, size, placement, **keywords)
            case RandomTile() | Photometric() | BoxMixup():
                raise AssertionError(f"{move.config.name} moves nothing")
            case _:
                assert_never(move.config)

    def _seen(
        self, placement: Placement, targets: Targets, shown: Tensor | None, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the boxes as moved so far, [B, P * M, 4], and the mask of objects still visible, bool [B, P * M]."""
        boxes, visible = placement.move(targets.boxes_xyxy, size)
        if shown is not None:
            visible = visible * shown[placement.picture].flatten(1)
        sides = boxes[..., 2:] - boxes[..., :2]
        labels = targets.labels[placement.picture].flatten(1)
        return boxes, (labels > 0) & (visible >= self._min_visibility) & (sides >= LEAST_SIDE).all(-1)


def _filled(targets: Targets, rows: int, num_proposals: int) -> Targets:
    """Exactly `rows` rows: the largest objects first, then nothing; and the first proposals that are left."""
    boxes = targets.boxes_xyxy
    order = torch.where(targets.valid, area(boxes), -1).argsort(dim=1, descending=True, stable=True)[:, :rows]
    missing = rows - order.shape[1]
    masks, proposals = targets.masks, targets.proposals_xyxy
    if masks is not None:
        chosen = masks.gather(1, order[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
        masks = functional.pad(chosen, (0, 0, 0, 0, 0, missing))
    if proposals is not None:
        nothing = (area(proposals) <= 0).to(torch.uint8)
        kept = nothing.argsort(dim=1, stable=True)[:, :num_proposals]
        proposals = proposals.gather(1, kept[..., None].expand(-1, -1, 4))
    return Targets(
        boxes_xyxy=functional.pad(boxes.gather(1, order[..., None].expand(-1, -1, 4)), (0, 0, 0, missing)),
        labels=functional.pad(targets.labels.gather(1, order), (0, missing)),
        masks=masks,
        proposals_xyxy=proposals,
    )
