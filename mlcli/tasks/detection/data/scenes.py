"""Generated pictures with exact boxes and masks: handwritten digits pasted onto photographs. No download.

The digits are scikit-learn's (8x8, 1,797 of them), the photographs its two. Every picture follows from (seed, split,
number) alone, and no digit of the training pictures is in the others.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from mlcli.data.decode import Preparation
from mlcli.data.source import Arrays
from mlcli.data.splits import Divisible, split_indices
from mlcli.tasks.detection.data.records import Records, rarest_labels
from mlcli.tasks.detection.masks import encode_rle

SIDES = (0.17, 0.48)
"""Height of a digit in shares of the picture's shorter side: on 128 pixels, 22 to 61."""
LEAST_WIDTH = 0.45  # in heights: a thinner one looks like a stroke of the background, and is hard to box
MOST_COVERED = 0.1  # share of the smaller of two boxes that the other may cover
TRIES = 20  # places tried for a digit before it is left out
LEAST_CONTRAST = 90  # grey levels between a digit and what lies behind it; photographs vary by 50 around their mean
EVAL_SHARE = 5  # one validation picture for so many training pictures


class DigitInks(NamedTuple):
    """Ink 0..1 of the digits as drawn, each cut to where it has any, and their labels 1..10."""

    inks: list[np.ndarray]
    labels: np.ndarray


class Scene(NamedTuple):
    """pixels uint8 [H, W, 3]; labels of n objects, and their masks, bool [H, W] each, none hidden by another's."""

    pixels: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def make_scenes(preparation: Preparation, count: int, most_digits: int = 5, seed: int = 0) -> dict[str, Records]:
    """Splits train, with `count` pictures, val and test, with a fifth as many each.

    preparation: its image size is the pictures' own. most_digits: digits in a picture are 1 to this many.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    held_out = -(-count // EVAL_SHARE)
    counts = {"train": count, "val": held_out, "test": held_out}
    splits = {}
    for number, (split, digits) in enumerate(_digits().items()):
        scenes = [
            make_scene(
                np.random.default_rng([seed, number, index]), photographs, digits, preparation.image_size, most_digits
            )
            for index in range(counts[split])
        ]
        splits[split] = _records(scenes, preparation, f"scenes/{split}")
    return splits


def _digits() -> dict[str, DigitInks]:
    """The digits that each split may use."""
    from sklearn.datasets import load_digits

    data = load_digits()
    inks = []
    for image in data.images / 16:
        rows, columns = (np.flatnonzero((image > 0.25).any(axis=axis)) for axis in (1, 0))
        inks.append(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    digits = Divisible(len(inks), data.target, tuple("0123456789"))
    indices = split_indices(digits, {"val": 0.15, "test": 0.15}, seed=0)
    return {split: DigitInks([inks[i] for i in chosen], data.target[chosen] + 1) for split, chosen in indices.items()}


def _records(scenes: list[Scene], preparation: Preparation, origin: str) -> Records:
    height, width = preparation.image_size
    pixels = np.empty((len(scenes), 3, height, width), dtype=np.uint8)
    for row, scene in zip(pixels, scenes, strict=True):
        row[...] = scene.pixels.transpose(2, 0, 1)
    labels = np.array([label for scene in scenes for label in scene.labels], dtype=np.int64)
    masks = [mask for scene in scenes for mask in scene.masks]
    offsets = np.concatenate([[0], np.cumsum([len(scene.labels) for scene in scenes])])
    nothing = np.zeros(len(masks), dtype=bool)
    return Records(
        images=Arrays(torch.from_numpy(pixels), rarest_labels(labels, offsets), origin),
        preparation=preparation,
        ids=np.arange(1, len(scenes) + 1),
        sizes=np.full((len(scenes), 2), (width, height), dtype=np.int32),
        offsets=offsets,
        boxes_xyxy=np.array([tight_box(mask) for mask in masks], dtype=np.float32),
        labels=labels,
        crowd=nothing,
        difficult=nothing,
        area=np.array([mask.sum() for mask in masks], dtype=np.float32),
        segmentations=[encode_rle(mask) for mask in masks],
    )


def make_scene(
    random: np.random.Generator,
    photographs: list[np.ndarray],
    digits: DigitInks,
    image_size: tuple[int, int],
    most_digits: int,
) -> Scene:
    """One picture of (height, width) pixels with 1 to `most_digits` digits; fewer if there is no room."""
    canvas = _background(random, photographs, image_size)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    masks: list[np.ndarray] = []
    for _ in range(random.integers(1, most_digits + 1)):
        chosen = random.integers(len(digits.labels))
        opacity = _enlarged(random, digits.inks[chosen], image_size)
        box = _free_place(random, opacity.shape, image_size, boxes)
        if box is None:
            continue
        left, top, right, bottom = box
        region = canvas[top:bottom, left:right]
        region += opacity[..., None] * (_colour(random, region, opacity) - region)
        mask = np.zeros(image_size, dtype=bool)
        mask[top:bottom, left:right] = opacity > 0.5
        for other in masks:
            other &= ~mask
        boxes.append(box)
        masks.append(mask)
        labels.append(int(digits.labels[chosen]))
    # A digit without a photograph's noise would be found by its smoothness.
    noise = 4 * random.standard_normal(canvas.shape, dtype=np.float32)
    return Scene(np.clip(np.rint(canvas + noise), 0, 255).astype(np.uint8), labels, masks)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom around what is set in bool [H, W]; right and bottom are one past the last pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _background(random: np.random.Generator, photographs: list[np.ndarray], image_size: tuple[int, int]) -> np.ndarray:
    """A part of a photograph, mirrored or not: float32 [H, W, 3]."""
    photograph = Image.fromarray(photographs[random.integers(len(photographs))])
    height, width = image_size
    largest = min(photograph.width / width, photograph.height / height)
    scale = largest * random.uniform(0.35, 1)
    left = random.uniform(0, photograph.width - scale * width)
    top = random.uniform(0, photograph.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    return np.array(pixels[:, ::-1] if random.random() < 0.5 else pixels)


def _enlarged(random: np.random.Generator, ink: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Opacity 0..1 of the strokes at a random size: float32, with an edge of one or two pixels.

    Small and large are equally likely on a logarithmic scale.
    """
    height = min(image_size) * np.exp(random.uniform(*np.log(SIDES)))
    width = round(height * max(LEAST_WIDTH, ink.shape[1] / ink.shape[0]) * random.uniform(0.9, 1.1))
    height = round(height)
    padded = Image.fromarray(np.pad(ink, 1).astype(np.float32))
    smooth = padded.resize(
        (width + 2, height + 2), Image.Resampling.BICUBIC, box=(0.5, 0.5, padded.width - 0.5, padded.height - 0.5)
    )
    steepness = max(1.0, height / ink.shape[0] / 2)  # enlarging blurs the edges as it widens the strokes
    return np.clip((np.asarray(smooth) - 0.5) * steepness + 0.5, 0, 1)


def _free_place(
    random: np.random.Generator,
    shape: tuple[int, ...],
    image_size: tuple[int, int],
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int] | None:
    """A box of the shape that hardly covers what is there; None if none is found."""
    height, width = shape
    if height > image_size[0] or width > image_size[1]:
        return None
    for _ in range(TRIES):
        top, left = random.integers(image_size[0] - height + 1), random.integers(image_size[1] - width + 1)
        box = (int(left), int(top), int(left + width), int(top + height))
        if all(_covered(box, other) <= MOST_COVERED for other in taken):
            return box
    return None


def _covered(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection in shares of the smaller box."""
    across = max(0, min(box[2], other[2]) - max(box[0], other[0]))
    down = max(0, min(box[3], other[3]) - max(box[1], other[1]))
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return across * down / smaller


def _colour(random: np.random.Generator, region: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Red, green, blue of a digit that stands out from what it is pasted on; mostly near to grey, as ink and chalk."""
    behind = float((region.mean(axis=2) * opacity).sum() / max(opacity.sum(), 1e-6))
    darker, brighter = behind - LEAST_CONTRAST, behind + LEAST_CONTRAST
    down = random.random() * (max(darker, 0) + max(255 - brighter, 0)) < max(darker, 0)
    grey = random.uniform(0, darker) if down else random.uniform(brighter, 255)
    return np.clip(grey + random.normal(0, 20, 3), 0, 255).astype(np.float32)
