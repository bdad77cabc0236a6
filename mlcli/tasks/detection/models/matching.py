"""Assignment of objects to anchors or points: by best overlap, one to one, or by the model's own predictions; samples.

Max-IoU: Faster R-CNN (Ren et al. 2015, arXiv:1506.01497), section 3.1.2. Bipartite: SSD (Liu et al. 2016,
arXiv:1512.02325), section 2.2. Task alignment: TOOD (Feng et al. 2021, arXiv:2108.07755), section 3.2.

Objects are padded to M rows; `valid` bool [..., M] says which are there. Shapes are static and nothing waits for the
device. The answer is int64 [..., A]: the index of an object, BACKGROUND or IGNORED.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mlcli.data.randomness import KeyedRandom
from mlcli.tasks.detection.targets import Targets

BACKGROUND = -1
"""No object: learned as background."""
IGNORED = -2
"""Neither object nor background: not learned from."""
FIRST_STREAM = 2**20
"""Stream of random numbers of a model's first sampler: beyond those of all augmentations."""


def max_iou(
    ious: Tensor, valid: Tensor, *, high: float, low: float | None = None, allow_low_quality: bool = False
) -> Tensor:
    """Each anchor gets the object it overlaps most, if by `high` or more; from `low` up it is ignored.

    Args:
        ious: [..., M, A], of each object with each anchor.
        valid: bool [..., M].
        high: least overlap of a match.
        low: anchors of less are background; None for `high`: then none is ignored.
        allow_low_quality: an object's best anchors are matched however little they overlap it (and to the object that
            they overlap most), so that few objects stay without any.
    """
    if ious.shape[-2] == 0:
        return _nothing(ious)
    ious = ious.masked_fill(~valid[..., None], -1.0)
    best, index = ious.max(dim=-2)
    matched = torch.where(best >= high, index, IGNORED)
    matched = torch.where(best < (high if low is None else low), BACKGROUND, matched)
    if not allow_low_quality:
        return matched
    most = ious.amax(dim=-1, keepdim=True)  # of each object
    # an object that no anchor touches ties with 0 everywhere: it would take them all
    is_best = (ious == torch.where(most > 0, most, torch.inf)).any(dim=-2)
    return torch.where(is_best, index, matched)


def bipartite(ious: Tensor, valid: Tensor, *, threshold: float) -> Tensor:
    """Every object gets an anchor of its own, the largest overlaps first; the others go by `threshold`.

    An anchor that is no object's own gets the object it overlaps most, if by `threshold` or more, else background.

    Args:
        ious: [..., M, A], of each object with each anchor.
        valid: bool [..., M].
    """
    if ious.shape[-2] == 0:
        return _nothing(ious)
    ious = ious.masked_fill(~valid[..., None], -1.0)
    best, index = ious.max(dim=-2)
    matched = torch.where(best >= threshold, index, BACKGROUND)
    flat = ious.reshape(-1, *ious.shape[-2:])
    return _own_anchors(flat, matched.reshape(-1, matched.shape[-1])).view(matched.shape)


def _own_anchors(ious: Tensor, matched: Tensor) -> Tensor:
    """Put the greedy one-to-one pairs of ious [B, M, A] into matched [B, A].

    Others can take at most M - 1 anchors from an object, so its M best are all that need looking at.
    """
    batch, objects, anchors = ious.shape
    count = min(objects, anchors)
    free, anchor_of = ious.topk(count, dim=-1)  # [B, M, count]
    rows = torch.arange(batch, device=ious.device)
    matched = torch.cat([matched, matched[:, :1]], dim=1)  # a spare column for pairs that are none
    for _ in range(objects):
        largest, place = free.flatten(1).max(dim=1)
        owner, taken = place // count, anchor_of.flatten(1)[rows, place]
        matched[rows, torch.where(largest > 0, taken, anchors)] = owner
        gone = anchor_of == taken[:, None, None]
        gone[rows, owner] = True
        free = free.masked_fill(gone, -1.0)
    return matched[:, :anchors]


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    ious: Tensor,
    centres_xy: Tensor,
    boxes_xyxy: Tensor,
    valid: Tensor,
    *,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> tuple[Tensor, Tensor]:
    """Each object gets the `topk` points inside it that do best by `score ** alpha * iou ** beta` already.

    A point that several objects want goes to the one its box overlaps most.

    Args:
        scores: [..., M, A] in 0..1, what each point says of each object's class.
        ious: [..., M, A], overlap of each object with the box each point predicts.
        centres_xy: [A, 2] in pixels.
        boxes_xyxy: [..., M, 4], the objects in pixels.
        valid: bool [..., M].

    Returns the match [..., A], never IGNORED, and its quality [..., A] in 0..1, which scores are to learn: the
    alignment, scaled so that the best of an object's points has that object's largest IoU (section 3.2.2); 0 for
    background. No gradients flow.
    """
    if ious.shape[-2] == 0:
        return _nothing(ious), ious.sum(dim=-2)
    x, y = centres_xy.T.contiguous().unbind()
    left, top, right, bottom = (side[..., None] for side in boxes_xyxy.unbind(-1))
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    alignment = scores.pow(alpha) * ious.pow(beta) * (inside & valid[..., None])  # [..., M, A]
    least = alignment.topk(min(topk, alignment.shape[-1]), dim=-1).values[..., -1:]
    wanted = (alignment >= least) & (alignment > 0)
    rival, index = torch.where(wanted, ious, -1.0).max(dim=-2)
    matched = torch.where(rival >= 0, index, BACKGROUND)
    mine = wanted & (torch.arange(ious.shape[-2], device=ious.device)[:, None] == matched[..., None, :])
    own = torch.where(mine, alignment, 0.0)
    best_iou = torch.where(mine, ious, 0.0).amax(dim=-1, keepdim=True)
    best = own.amax(dim=-1, keepdim=True)
    quality = own / torch.where(best > 0, best, 1.0) * best_iou
    return matched, quality.amax(dim=-2)


def _nothing(ious: Tensor) -> Tensor:
    """Background for all anchors: there is not even padding."""
    return torch.full((*ious.shape[:-2], ious.shape[-1]), BACKGROUND, dtype=torch.int64, device=ious.device)


def assigned(targets: Targets, matched: Tensor, otherwise_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return box and label of the object that each of A boxes learns.

    Args:
        matched: int64 [B, A], a row of the targets, or negative for none.
        otherwise_xyxy: [B, A, 4] or [A, 4], the box where there is none; any that gives the loss a finite gradient, for
            0 times infinity is not 0.

    Returns boxes float32 [B, A, 4] as xyxy in pixels, and labels int64 [B, A] in 1..K, 0 for none.
    """
    there = matched >= 0
    if targets.labels.shape[1] == 0:
        return otherwise_xyxy.expand(*matched.shape, 4), torch.zeros_like(matched)
    rows = matched.clamp(min=0)
    boxes_xyxy = targets.boxes_xyxy.gather(1, rows[..., None].expand(-1, -1, 4))
    return torch.where(there[..., None], boxes_xyxy, otherwise_xyxy), targets.labels.gather(1, rows) * there


class KeyedSampler:
    """Draw of the anchors or regions of an image that are learned from, some of objects and the others of background.

    Does what torchvision's BalancedPositiveNegativeSampler does and stands in for it, but what it draws of an image
    follows from the image's key alone, whatever else is in the batch.

    Args:
        most: drawn of one image.
        positive_share: most of them that are of objects.
        stream: another for each sampler of a model.

    Attributes:
        keys: int64 [B], of the images of the next call.
        drawn, positive: how many the last call has drawn, and how many of these are of objects.
    """

    def __init__(self, most: int, positive_share: float, stream: int) -> None:
        self.most, self.positive_share, self.stream = most, positive_share, stream
        self.keys: Tensor | None = None
        self.drawn, self.positive = 0, 0

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """labels: B times [A], above 0 for objects, 0 for background, below to be left out. Returns what is drawn of
        objects and of background: B times uint8 [A] each, 1 for those drawn."""
        keys = torch.randint(2**62, (len(labels),)) if self.keys is None else self.keys
        padded = pad_sequence(labels, batch_first=True, padding_value=-1)
        order = KeyedRandom(keys.to(padded.device), self.stream).bits(
            (padded.shape[1],)
        )  # of the first places the same
        positive = _first(order, padded >= 1, torch.full_like(keys, int(self.most * self.positive_share)), self.most)
        negative = _first(order, padded == 0, self.most - positive.sum(dim=1), self.most)
        self.positive, num_negative = torch.stack([positive.sum(), negative.sum()]).tolist()
        self.drawn = self.positive + num_negative
        sizes = [len(label) for label in labels]
        positives, negatives = ([row[:size] for row, size in zip(drawn, sizes, strict=True)]
                                for drawn in (positive, negative))  # fmt: skip
        return positives, negatives


def draw_by_keys(part: Any, number: int) -> KeyedSampler:
    """Have torchvision's RegionProposalNetwork or RoIHeads draw by the keys of images.

    number: of the sampler in its model.
    """
    given = part.fg_bg_sampler
    part.fg_bg_sampler = KeyedSampler(given.batch_size_per_image, given.positive_fraction, FIRST_STREAM + number)
    return part.fg_bg_sampler


def _first(order: Tensor, allowed: Tensor, wanted: Tensor, most: int) -> Tensor:
    """Choose the first by order [B, A] of those that are allowed, `wanted` [B] of each row, which is `most` or less:
    uint8 [B, A], 1 for those."""
    ranked = order.masked_fill(~allowed, torch.iinfo(order.dtype).max)
    first = ranked.topk(min(most, order.shape[1]), largest=False).values
    num = torch.minimum(wanted.to(order.device), allowed.sum(dim=1))[:, None]
    last = first.gather(1, (num - 1).clamp(min=0))
    return (allowed & (ranked <= last) & (num > 0)).to(torch.uint8)
