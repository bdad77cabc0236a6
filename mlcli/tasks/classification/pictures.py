"""Sheets of images: an answer written below one, sheets of many, sprites for TensorBoard."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from mlcli.data.decode import read_image
from mlcli.show.drawing import Tile, font, heated, picture_of, readable_side, scaled, sheet, shortened
from mlcli.show.palette import INK, PAPER, TRACK
from mlcli.tasks.classification.metrics import Mistake
from mlcli.text import sides

MIN_SIDE, MAX_SIDE = 320, 960
"""Pixels of the longer side: digits of 8x8 are enlarged until a caption fits, photographs reduced to fit a screen."""
MIN_WIDTH = 240
"""Pixels a caption needs."""
SURE, UNSURE = (24, 128, 56), (217, 119, 6)
MOST_SHOWN = 24
COLUMNS = 6
PAIR_SIDE, ALONE_SIDE = 120, 320
"""Pixels of an image beside its heat map, of several and of one."""
_MENTIONED = 0.01  # a smaller share of a blended label is not worth a line
SPRITE_SIDE = 32


def annotate(image_path: Path, label: str, probability: float) -> Image.Image:
    """The image, enlarged if tiny, above a bar with its label, the probability, and its length as a line.

    The line is green from a probability of 0.5, amber below. Raises DataError for an unreadable image.
    """
    return caption(read_image(image_path, channels=3), label, probability)


def caption(image: Image.Image, label: str, probability: float) -> Image.Image:
    """An RGB image with the bar of `annotate` below it."""
    image = scaled(image, readable_side(image, MIN_SIDE, MAX_SIDE))
    if image.width < MIN_WIDTH:
        wide = Image.new("RGB", (MIN_WIDTH, image.height), TRACK)  # too narrow for a caption: grey on both sides
        wide.paste(image, ((wide.width - image.width) // 2, 0))
        image = wide
    unit = min(36, max(16, image.width // 16))  # the text's height in pixels; everything else follows from it
    type_ = font(unit)
    bar = Image.new("RGB", (image.width, round(2.6 * unit)), PAPER)
    draw, edge, line_y = ImageDraw.Draw(bar), round(0.6 * unit), round(2.05 * unit)
    share = f"{probability:.1%}"
    share_x = bar.width - edge - draw.textlength(share, font=type_)
    draw.text((share_x, 1.35 * unit), share, fill=INK, font=type_, anchor="ls")
    draw.text((edge, 1.35 * unit), shortened(label, type_, share_x - 2 * edge), fill=INK, font=type_, anchor="ls")
    length = bar.width - 2 * edge
    height, color = max(3, unit // 5), SURE if probability >= 0.5 else UNSURE
    draw.rounded_rectangle((edge, line_y, edge + length, line_y + height), height // 2, fill=TRACK)
    filled = max(height, round(length * probability))
    draw.rounded_rectangle((edge, line_y, edge + filled, line_y + height), height // 2, fill=color)
    canvas = Image.new("RGB", (image.width, image.height + bar.height), PAPER)
    canvas.paste(image, (0, 0))
    canvas.paste(bar, (0, image.height))
    return canvas


def batch_sheet(images: Tensor, targets: Tensor, class_names: Sequence[str]) -> Image.Image:
    """The first 24 images [B, C, H, W] of values in 0..255, with their labels int64 [B] or blends float32 [B, C]."""
    images, targets = images[:MOST_SHOWN], targets[:MOST_SHOWN].cpu()
    tiles = [
        Tile(picture_of(image), _label_lines(target, class_names))
        for image, target in zip(images, targets, strict=True)
    ]
    size = sides(reversed(images.shape[2:]))
    return sheet("a training batch", f"after augmentation, {size} pixels", tiles, columns=COLUMNS)


def mistakes_sheet(
    images: Tensor, mistakes: Sequence[Mistake], class_names: Sequence[str], title: str, note: str
) -> Image.Image:
    """Images [N, C, H, W] of values in 0..255 with the wrong answer, its probability and the truth below each."""
    tiles = [
        Tile(picture_of(image), (f"{class_names[m.answer]}\t{m.probability:.0%}", f"is {class_names[m.truth]}"))
        for image, m in zip(images, mistakes, strict=True)
    ]
    return sheet(title, note, tiles, columns=COLUMNS)


def explained_sheet(
    images: Tensor, maps: Tensor, lines: Sequence[tuple[str, ...]], title: str, note: str, side: int = PAIR_SIDE
) -> Image.Image:
    """Images [N, C, H, W] of values in 0..255, each beside itself under its heat map [N, h, w], with lines below."""
    factor = max(1, round(side / max(images.shape[2:])))  # the map is finer than the pixels of a tiny image
    tiles = []
    for image, heat, below in zip(images, maps, lines, strict=True):
        small = picture_of(image)
        shown = scaled(small, factor * max(small.size))
        tiles.append(Tile(shown, below, more=(heated(shown, heat.numpy()),)))
    side = factor * max(images.shape[2:]) if factor > 1 else side  # whole pixels stay whole
    return sheet(title, note, tiles, columns=COLUMNS // 2, side=side)


def _label_lines(target: Tensor, class_names: Sequence[str]) -> tuple[str, ...]:
    """`cat`, or of a blend `cat 0.7` and `dog 0.3`, the larger first."""
    if target.ndim == 0:
        return (class_names[int(target)],)
    shares, labels = target.sort(descending=True, stable=True)
    parts = [(share, class_names[c]) for share, c in zip(shares.tolist(), labels.tolist(), strict=True)][:2]
    if parts[1][0] < _MENTIONED:
        return (parts[0][1],)
    return tuple(f"{name}\t{share:.2f}" for share, name in parts)


def sprites(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] -> uint8 [B, 3, 32, 32], stretched to squares."""
    shown = images if images.shape[1] in (1, 3) else images[:, :1]
    small = functional.interpolate(shown.float(), (SPRITE_SIDE, SPRITE_SIDE), mode="area")
    return small.round().byte().expand(-1, 3, -1, -1)
