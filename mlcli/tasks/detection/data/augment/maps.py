"""The random maps of the plane: crop, zoom out, affine, flip. Each picture gets its own: float32 [B, 3, 3]."""

import torch
from torch import Tensor

from mlcli.data.augment.geometry import affine_map
from mlcli.data.randomness import KeyedRandom
from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.data.augment.placement import inverted, scaled, stacked
from mlcli.tasks.detection.data.augmentations import BoxAffine, BoxFlip, IouCrop, ZoomOut

MOST_ELONGATED = 2.0  # width to height of a crop and the other way round, in the picture's own; SSD, section 2.2


def flip(random: KeyedRandom, config: BoxFlip, image_size: tuple[int, int]) -> Tensor:
    """Left becomes right."""
    mirrored = random.bernoulli(config.p).float()
    none = torch.zeros_like(mirrored)
    return scaled(1 - 2 * mirrored, none + 1, mirrored * image_size[1], none)


def zoom_out(random: KeyedRandom, config: ZoomOut, image_size: tuple[int, int]) -> Tensor:
    """Smaller by a factor between 1 and `most`, somewhere."""
    height, width = image_size
    scale = torch.where(random.bernoulli(config.p), 1 / random.uniform(1, config.most), 1)
    across, down = random.uniform(shape=(2,)).unbind(1)
    return scaled(scale, scale, across * width * (1 - scale), down * height * (1 - scale))


def affine(random: KeyedRandom, config: BoxAffine, image_size: tuple[int, int]) -> Tensor:
    """Shear, turn, magnify about the middle, shift; amounts as for classification's affine."""
    height, width = image_size
    angle = random.uniform(-config.degrees, config.degrees)
    across, down = random.uniform(-config.translate, config.translate, (2,)).unbind(1)
    scale = random.uniform(*config.scale)
    shear = random.uniform(-config.shear, config.shear)
    back = affine_map(angle, torch.stack([across * width, down * height], 1), scale, shear)  # counts from the middle
    (a, b, x), (c, d, y) = (row.unbind(1) for row in back.unbind(1))
    middle_x, middle_y = width / 2, height / 2
    x, y = x + middle_x - a * middle_x - b * middle_y, y + middle_y - c * middle_x - d * middle_y
    return inverted(stacked(a, b, x, c, d, y))


def iou_crop(
    random: KeyedRandom, config: IouCrop, image_size: tuple[int, int], boxes_xyxy: Tensor, valid: Tensor
) -> Tensor:
    """A part that overlaps some object enough and holds its middle, blown up to the whole (aspect ratio lost).

    boxes_xyxy: float32 [B, R, 4], where the objects are now; valid: bool [B, R].
    """
    height, width = image_size
    wanted = random.bernoulli(config.p)
    least = torch.zeros(len(random), device=valid.device)
    drawn = random.integers(len(config.min_ious))
    for number, iou in enumerate(config.min_ious):
        least = torch.where(drawn == number, iou, least)
    sides = random.uniform(config.min_scale, 1, (config.trials, 2))
    corner = random.uniform(shape=(config.trials, 2)) * (1 - sides)
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
