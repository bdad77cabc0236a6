"""Pictures to look at: samples of each class, pairs that show the same, and labels that are doubted."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mlcli.data.check.collection import Collection, readable
from mlcli.data.check.duplicates import Pair
from mlcli.data.check.finding import Sheet
from mlcli.data.check.suspicion import Suspicions
from mlcli.show.drawing import Font, font
from mlcli.show.palette import FAINT, INK, PAPER, TRACK
from mlcli.text import plural

TILE = 112
"""Pixels of the square that an image is fitted into; digits of 8x8 become 14 times as large, pixel by pixel."""
GAP, MARGIN = 8, 28
PER_CLASS, MAX_CLASSES = 10, 40
MAX_PAIRS, MAX_SUSPECTS = 48, 24
AMBER, RED = "#c27004", "#c53028"
LARGE, TEXT, SMALL = font(20, bold=True), font(14), font(12)


class Canvas:
    """White paper with a title; things are put at pixel positions."""

    def __init__(self, width: int, height: int, title: str, subtitle: str) -> None:
        self.image = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.text(MARGIN, MARGIN - 6, title, LARGE)
        self.text(MARGIN, MARGIN + 24, subtitle, TEXT, FAINT, width - 2 * MARGIN)

    def text(self, x: int, y: int, text: str, type_: Font = TEXT, ink: str = INK, width: int | None = None) -> None:
        shown = text if width is None else ending(text, type_, width)
        self.draw.text((x, y), shown, fill=ink, font=type_)

    def tile(self, x: int, y: int, image: Image.Image | None, frame: str | None = None) -> None:
        """An image within the square at (x, y); nothing but the square where it cannot be read."""
        self.draw.rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=TRACK)
        if image is not None:
            fitted = fit(image)
            self.image.paste(fitted, (x + (TILE - fitted.width) // 2, y + (TILE - fitted.height) // 2))
        if frame is not None:
            self.draw.rectangle((x - 3, y - 3, x + TILE + 2, y + TILE + 2), outline=frame, width=2)

    def rule(self, y: int) -> None:
        self.draw.line((MARGIN, y, self.image.width - MARGIN, y), fill=TRACK)


HEAD = MARGIN + 60
"""Where a canvas begins below its title."""


def fit(image: Image.Image) -> Image.Image:
    """Longer side as long as a tile's; small images pixel by pixel."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def ending(text: str, type_: Font, width: float) -> str:
    """The text, or as much of its end as fits: of a path, the end says most."""
    if type_.getlength(text) <= width:
        return text
    while text and type_.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


# --- classes ---------------------------------------------------------------------------------------------------------


def class_sheet(collection: Collection, usable: np.ndarray) -> Sheet | None:
    """A few samples of each class, drawn at random from a fixed seed. usable: positions of images that can be read."""
    labels = collection.labels[usable]
    classes = [label for label in range(len(collection.class_names)) if (labels == label).any()]
    if not classes:
        return None
    shown = classes[:MAX_CLASSES]
    left = MARGIN + 150
    width = left + PER_CLASS * (TILE + GAP) - GAP + MARGIN
    step = TILE + GAP
    subtitle = f"{plural(len(usable), 'image')} · {plural(len(classes), 'class', 'classes')}"
    if len(shown) < len(classes):
        subtitle += f", the first {len(shown)} shown"
    canvas = Canvas(width, HEAD + len(shown) * step + MARGIN, "Samples of each class", subtitle)
    random = np.random.default_rng(0)
    for row, label in enumerate(shown):
        members, y = usable[labels == label], HEAD + row * step
        canvas.text(MARGIN, y + TILE // 2 - 18, collection.class_names[label], TEXT, INK, 138)
        canvas.text(MARGIN, y + TILE // 2 + 3, f"{len(members):,}", SMALL, FAINT)
        drawn = random.choice(members, min(PER_CLASS, len(members)), replace=False)
        for column, index in enumerate(drawn.tolist()):
            canvas.tile(left + column * (TILE + GAP), y, readable(collection.pictures, index))
    return Sheet("classes", f"{PER_CLASS} samples of each class", canvas.image)


# --- pairs -----------------------------------------------------------------------------------------------------------


def pair_sheet(collection: Collection, pairs: Sequence[Pair]) -> Sheet | None:
    """What shows the same, side by side: across splits and under two labels first."""
    if not pairs:
        return None

    def worst_first(pair: Pair) -> tuple[bool, bool, float]:
        across = collection.split_of[pair.first] != collection.split_of[pair.second]
        disagree = collection.labels[pair.first] != collection.labels[pair.second]
        return not disagree, not across, -pair.score

    chosen = sorted(pairs, key=worst_first)[:MAX_PAIRS]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    wide, high = 2 * TILE + GAP // 2 + 3 * GAP, TILE + 62
    subtitle = plural(len(pairs), "pair") + (f", {len(chosen)} of them shown" if len(chosen) < len(pairs) else "")
    subtitle += " · red: under two labels · amber: in two splits"
    width = max(2 * MARGIN + columns * wide - 3 * GAP, 2 * MARGIN + round(TEXT.getlength(subtitle)))
    canvas = Canvas(width, HEAD + rows * high + GAP, "Images that show the same", subtitle)
    for number, pair in enumerate(chosen):
        x, y = MARGIN + number % columns * wide, HEAD + number // columns * high
        disagree, across, _ = worst_first(pair)
        frame = RED if not disagree else AMBER if not across else None
        for place, index in enumerate((pair.first, pair.second)):
            at = x + place * (TILE + GAP // 2)
            canvas.tile(at, y, readable(collection.pictures, index))
            canvas.text(at, y + TILE + 5, os.path.basename(collection.name(index)), SMALL, INK, TILE)
            where = " · ".join(word for word in (collection.split(index), collection.label(index)) if word)
            canvas.text(at, y + TILE + 21, where, SMALL, frame or FAINT, TILE)
        said = pair.likeness + ("" if pair.score >= 0.995 else f" {pair.score:.2f}")
        canvas.text(x, y + TILE + 37, said, SMALL, FAINT)
    return Sheet("duplicates", "pairs of images that show the same", canvas.image)


# --- doubted labels --------------------------------------------------------------------------------------------------


def suspicion_sheet(collection: Collection, found: Suspicions | None) -> Sheet | None:
    """Each doubted image beside the nearest of the class it looks like; the most confident first."""
    if found is None or not len(found.suspects):
        return None
    shown = min(MAX_SUSPECTS, len(found.suspects))
    columns = min(2, shown)
    rows = -(-shown // columns)
    beside = found.neighbours.shape[1]
    wide, high = (1 + beside) * (TILE + GAP) + 4 * GAP, TILE + 52
    subtitle = f"{plural(len(found.suspects), 'label')} doubted"
    if shown < len(found.suspects):
        subtitle += f", the first {shown} shown"
    subtitle += " · framed: the image · beside it: the most similar images of the class it looks like"
    width = max(2 * MARGIN + columns * wide - 5 * GAP, 2 * MARGIN + round(TEXT.getlength(subtitle)))
    canvas = Canvas(width, HEAD + rows * high, "Labels to look at", subtitle)
    for number in range(shown):
        x, y = MARGIN + number % columns * wide, HEAD + number // columns * high
        index = int(found.suspects[number])
        likely = collection.class_names[found.likely[number]]
        canvas.tile(x, y, readable(collection.pictures, index), AMBER)
        for place, neighbour in enumerate(found.neighbours[number].tolist()):
            canvas.tile(x + (1 + place) * (TILE + GAP) + GAP, y, readable(collection.pictures, neighbour))
        said = f"'{collection.label(index)}' looks like '{likely}' ({found.confidence[number]:.2f})"
        canvas.text(x, y + TILE + 6, said, TEXT, INK, wide - 5 * GAP)
        canvas.text(x, y + TILE + 25, collection.name(index), SMALL, FAINT, wide - 5 * GAP)
    return Sheet("suspicious", "labels to look at, beside what they look like", canvas.image)
