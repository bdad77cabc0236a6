"""Random moves of pictures, each picture by its own amount: flips, zoom out, affine, crop, mosaic, mixup.

All but mosaic and mixup draw maps of the plane, float32 [B, 3, 3] (see placement.py). Partners of mosaic (Bochkovskiy
et al. 2020, arXiv:2004.10934, section 3.3) and mixup come from the same micro-batch, so these two depend on how batches
are cut; nothing else does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mlcli.data.augment.geometry import affine_map
from mlcli.data.randomness import KeyedRandom
from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.data.augment.placement import Placement, inverted, scaled, stacked
from mlcli.tasks.detection.targets import Targets

MOST_ELONGATED = 2.0  # width to height of a crop and the other way round, in the picture's own; SSD, section 2.2
PARTS = 4  # pictures of a mosaic
MEETING = (0.3, 0.7)  # where the four meet, in shares of width and height: none gets too small to show anything
MIXED = (0.4, 0.6)  # share of a blend: both stay visible, as the objects of both are to be found


def flip(random: KeyedRandom, image_size: tuple[int, int], *, p: float, others: bool = False) -> Tensor:
    """Mirror left and right with probability p; or those that would not be."""
    mirrored = (random.bernoulli(p) ^ others).float()
    none = torch.zeros_like(mirrored)
    return scaled(1 - 2 * mirrored, none + 1, mirrored * image_size[1], none)


def flip_vertically(random: KeyedRandom, image_size: tuple[int, int], *, p: float) -> Tensor:
    """Mirror top and bottom with probability p."""
    mirrored = random.bernoulli(p).float()
    none = torch.zeros_like(mirrored)
    return scaled(none + 1, 1 - 2 * mirrored, none, mirrored * image_size[0])


def zoom_out(random: KeyedRandom, image_size: tuple[int, int], *, p: float, most: float) -> Tensor:
    """Shrink by a factor between 1 and `most` and shift to a random place."""
    height, width = image_size
    scale = torch.where(random.bernoulli(p), 1 / random.uniform(1, most), 1)
    across, down = random.uniform(shape=(2,)).unbind(1)
    return scaled(scale, scale, across * width * (1 - scale), down * height * (1 - scale))


def affine(
    random: KeyedRandom,
    image_size: tuple[int, int],
    *,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
) -> Tensor:
    """Shear, turn, magnify about the middle, shift; amounts as for classification's affine."""
    height, width = image_size
    angle = random.uniform(-degrees, degrees)
    across, down = random.uniform(-translate, translate, (2,)).unbind(1)
    shift = torch.stack([across * width, down * height], 1)
    magnification, slant = random.uniform(*scale), random.uniform(-shear, shear)
    back = affine_map(angle, shift, magnification, slant)  # counts from the middle
    (a, b, x), (c, d, y) = (row.unbind(1) for row in back.unbind(1))
    middle_x, middle_y = width / 2, height / 2
    x, y = x + middle_x - a * middle_x - b * middle_y, y + middle_y - c * middle_x - d * middle_y
    return inverted(stacked(a, b, x, c, d, y))


def iou_crop(
    random: KeyedRandom,
    image_size: tuple[int, int],
    boxes_xyxy: Tensor,
    valid: Tensor,
    *,
    p: float,
    min_scale: float,
    min_ious: Sequence[float],
    trials: int,
) -> Tensor:
    """Blow a part up to the whole (aspect ratio lost) that overlaps some object enough and holds its middle.

    boxes_xyxy: float32 [B, R, 4], where the objects are now; valid: bool [B, R].
    """
    height, width = image_size
    wanted = random.bernoulli(p)
    least = torch.zeros(len(random), device=valid.device)
    drawn = random.integers(len(min_ious))
    for number, iou in enumerate(min_ious):
        least = torch.where(drawn == number, iou, least)
    sides = random.uniform(min_scale, 1, (trials, 2))
    corner = random.uniform(shape=(trials, 2)) * (1 - sides)
    parts = torch.cat([corner, corner + sides], 2)  # [B, trials, 4], in shares of width and height
    pixels = torch.stack([edge * size for edge, size in zip(parts.unbind(2), (width, height) * 2, strict=True)], 2)

    ratio = sides[..., 0] / sides[..., 1]
    shapely = (ratio <= MOST_ELONGATED) & (ratio >= 1 / MOST_ELONGATED)
    middles = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:])[:, None] / 2  # [B, 1, R, 2]
    held = ((middles > pixels[:, :, None, :2]) & (middles < pixels[:, :, None, 2:])).all(3)
    overlap = iou_matrix(pixels, boxes_xyxy) >= least[:, None, None]  # [B, trials, R]
    fits = shapely & (held & overlap & valid[:, None]).any(2)

    first = fits.to(torch.uint8).argmax(1)[:, None, None].expand(-1, 1, 4)
    whole = torch.stack([least * 0, least * 0, least * 0 + 1, least * 0 + 1], 1)
    part = torch.where((fits.any(1) & wanted)[:, None], parts.gather(1, first)[:, 0], whole)
    x_scale, y_scale = 1 / (part[:, 2] - part[:, 0]), 1 / (part[:, 3] - part[:, 1])
    return scaled(x_scale, y_scale, -part[:, 0] * width * x_scale, -part[:, 1] * height * y_scale)


def mosaic(random: KeyedRandom, image_size: tuple[int, int], placement: Placement, *, p: float) -> Placement:
    """Make pictures, with probability p, the first of four that meet at a random point; draw the others from the batch.

    Each is shrunk until it just covers its quarter, and shifted at random under it.
    """
    height, width = image_size
    batch = len(random)
    chosen = random.bernoulli(p)
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
    # A picture that is not chosen is itself with three others that do not show.
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


def mixup(random: KeyedRandom, images: Tensor, targets: Targets, *, p: float) -> tuple[Tensor, Targets]:
    """Blend pictures, with probability p, with others of the batch: float32, and the rows of objects of both.

    Unlike Zhang et al. 2019 (arXiv:1902.04103) the blend is near to even and objects are not weighted by it.
    """
    batch = len(random)
    chosen, partner = random.bernoulli(p), random.integers(batch)
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
