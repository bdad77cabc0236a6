"""Several pictures in one: mosaic (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3) and mixup of detection.

Partners come from the same micro-batch, so these two depend on how batches are cut; nothing else does.
"""

import torch
from torch import Tensor

from mlcli.data.randomness import KeyedRandom
from mlcli.tasks.detection.data.augment.placement import Placement, scaled
from mlcli.tasks.detection.data.augmentations import BoxMixup, Mosaic
from mlcli.tasks.detection.targets import Targets

PARTS = 4
MEETING = (0.3, 0.7)  # where the four meet, in shares of width and height: none gets too small to show anything
MIXED = (0.4, 0.6)  # share of a blend: both stay visible, as the objects of both are to be found


def mosaic(placement: Placement, random: KeyedRandom, config: Mosaic, image_size: tuple[int, int]) -> Placement:
    """Some pictures become the first of four that meet at a random point; the others are drawn from the batch.

    Each is shrunk until it just covers its quarter, and shifted at random under it.
    """
    height, width = image_size
    batch = len(random)
    chosen = random.bernoulli(config.p)
    own = torch.arange(batch, device=chosen.device)[:, None]
    picture = torch.cat([own, random.integers(batch, (PARTS - 1,))], 1)
    x, y = random.uniform(*MEETING, (2,)).unbind(1)
    x, y = (x * width).round(), (y * height).round()
    none = torch.zeros_like(x)
    left, right = torch.stack([none, x, none, x], 1), torch.stack([x, none + width, x, none + width], 1)
    top, bottom = torch.stack([none, none, y, y], 1), torch.stack([y, y, none + height, none + height], 1)

    scale = torch.maximum((right - left) / width, (bottom - top) / height)
    slack_x, slack_y = scale * width - (right - left), scale * height - (bottom - top)
    across, down = random.uniform(shape=(PARTS, 2)).unbind(2)
    quarters = scaled(scale, scale, left - across * slack_x, top - down * slack_y)  # [B, P, 3, 3]

    before = placement.outer @ placement.inner[:, 0]  # there is one picture each so far
    # Pictures that are not chosen are themselves beside three that do not show.
    first = torch.arange(PARTS, device=x.device) == 0
    left, top, right, bottom = (
        torch.where(chosen[:, None], edge, torch.where(first, whole, 0))
        for edge, whole in zip((left, top, right, bottom), placement.windows, strict=True)
    )
    return Placement(
        picture=picture,
        inner=torch.where(chosen[:, None, None, None], quarters @ before[picture], before[:, None]),
        windows=(left, top, right, bottom),
        outer=torch.eye(3, device=x.device).expand(batch, 3, 3),
    )


def mixup(images: Tensor, targets: Targets, random: KeyedRandom, config: BoxMixup) -> tuple[Tensor, Targets]:
    """Blend some pictures with others of the batch; float32. Twice as many rows of objects come out, those of both.

    Unlike Zhang et al. 2019 (arXiv:1902.04103) the blend is near to even and objects are not weighted by it.
    """
    batch = len(random)
    chosen, partner = random.bernoulli(config.p), random.integers(batch)
    share = torch.where(chosen, random.uniform(*MIXED), 1)
    blend = torch.lerp(images[partner].float(), images.float(), share.view(-1, 1, 1, 1))
    other = targets[partner]
    both = Targets(
        boxes_xyxy=torch.cat([targets.boxes_xyxy, other.boxes_xyxy * chosen[:, None, None]], 1),
        labels=torch.cat([targets.labels, other.labels * chosen[:, None]], 1),
        masks=_both(targets.masks, other.masks, chosen[:, None, None, None]),
        proposals_xyxy=_both(targets.proposals_xyxy, other.proposals_xyxy, chosen[:, None, None]),
    )
    return blend, both


def _both(own: Tensor | None, others: Tensor | None, chosen: Tensor) -> Tensor | None:
    return None if own is None or others is None else torch.cat([own, others * chosen], 1)
