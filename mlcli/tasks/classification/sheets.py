"""Sheets of small pictures with labels below: a batch after augmentation, the most confident mistakes."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from mlcli.show.drawing import Tile, picture_of, sheet
from mlcli.tasks.classification.mistakes import Mistake
from mlcli.text import sides

MOST_SHOWN = 24
COLUMNS = 6
_MENTIONED = 0.01  # a smaller share of a blended label is not worth a line


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


def _label_lines(target: Tensor, class_names: Sequence[str]) -> tuple[str, ...]:
    """`cat`, or of a blend `cat 0.7` and `dog 0.3`, the larger first."""
    if target.ndim == 0:
        return (class_names[int(target)],)
    shares, labels = target.sort(descending=True, stable=True)
    parts = [(share, class_names[c]) for share, c in zip(shares.tolist(), labels.tolist(), strict=True)][:2]
    if parts[1][0] < _MENTIONED:
        return (parts[0][1],)
    return tuple(f"{name}\t{share:.2f}" for share, name in parts)
