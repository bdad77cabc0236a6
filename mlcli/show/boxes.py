"""Boxes, masks and names drawn on a picture, distinguishable and legible at any size."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mlcli.show.drawing import font, scaled
from mlcli.show.palette import INK, PAPER

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (0, 158, 255), (255, 140, 0), (0, 200, 110), (255, 70, 90), (190, 110, 255),
    (255, 215, 0), (0, 215, 220), (255, 120, 200), (160, 110, 60), (170, 230, 60),
)  # fmt: skip
"""Of the first ten classes: light enough for photographs in the dark, strong enough for paper."""
GOLDEN_ANGLE = 0.381966  # of the colour circle: hues of further classes never come close to each other's
SMALLEST_TYPE, LARGEST_TYPE = 11, 24
"""Heights of names in pixels; between them, a 36th of the picture's longer side."""
MASK_SHARE = 0.45  # of the colour in a mask, the rest is the picture
TAG_GAP = 3  # pixels between a name and the edge of its tag


class Thing(NamedTuple):
    """Marks drawn for one object.

    box_xyxy: in pixels of the picture before it is scaled; without area it becomes a dot. caption: its name; none if
    empty. dashed: instead of a full line. thin: one pixel, without an edge. mask: bool [H, W] of the picture.
    """

    box_xyxy: Sequence[float]
    colour: Colour
    caption: str = ""
    dashed: bool = False
    thin: bool = False
    mask: np.ndarray | None = None


def colour_of(label: int) -> Colour:
    """A class's colour, always the same; labels 1..K."""
    if label <= len(COLOURS):
        return COLOURS[label - 1]
    from colorsys import hls_to_rgb

    hue, lightness = label * GOLDEN_ANGLE % 1, (0.4, 0.55, 0.7)[label % 3]
    red, green, blue = (round(255 * part) for part in hls_to_rgb(hue, lightness, 0.85))
    return red, green, blue


def drawn(image: Image.Image, things: Sequence[Thing], side: int) -> Image.Image:
    """The picture, scaled to a longer side of `side` pixels, with everything on it: large boxes first, names last."""
    factor = side / max(image.size)
    canvas = _with_masks(scaled(image, side), things)
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(side / 240))
    ordered = sorted(things, key=lambda thing: -_area(thing.box_xyxy))
    placed = [(thing, [factor * edge for edge in thing.box_xyxy]) for thing in ordered]
    for thing, box in placed:
        _outline(draw, box, thing, width)
    tags: list[tuple[float, float, float, float]] = []
    for thing, box in placed:
        if thing.caption:
            tags.append(_tag(draw, box, thing, canvas.size, tags))
    return canvas


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _with_masks(canvas: Image.Image, things: Sequence[Thing]) -> Image.Image:
    masked = [thing for thing in things if thing.mask is not None]
    if not masked:
        return canvas
    pixels = np.asarray(canvas).astype(np.float32)
    for thing in masked:
        mask = Image.fromarray(np.asarray(thing.mask, dtype=np.uint8) * 255).resize(
            canvas.size, Image.Resampling.NEAREST
        )
        inside = np.asarray(mask) > 127
        pixels[inside] = (1 - MASK_SHARE) * pixels[inside] + MASK_SHARE * np.array(thing.colour)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _outline(draw: ImageDraw.ImageDraw, box: Sequence[float], thing: Thing, width: int) -> None:
    """In the colour, with a dark edge on both sides: seen on any background."""
    left, top, right, bottom = box
    if right <= left and bottom <= top:
        draw.ellipse((left - width, top - width, right + width, bottom + width), fill=thing.colour, outline=INK)
        return
    if thing.thin:
        draw.rectangle((left, top, right, bottom), outline=thing.colour)
        return
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    pieces = [piece for line in pairwise(corners) for piece in (_dashes(*line, 4 * width) if thing.dashed else [line])]
    for colour, thickness in ((INK, width + 2), (thing.colour, width)):
        grow = (thickness - 1) / 2  # square ends, so that corners close
        for start, end in pieces:
            (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(start, end, strict=True))
            draw.rectangle((x0 - grow, y0 - grow, x1 + grow, y1 + grow), fill=colour)


def _dashes(start: tuple[float, float], end: tuple[float, float], length: float) -> list[tuple[tuple, tuple]]:
    distance = abs(end[0] - start[0]) + abs(end[1] - start[1])
    count = max(1, round(distance / length)) | 1  # odd: a dash at both ends
    points = [tuple(s + (e - s) * step / count for s, e in zip(start, end, strict=True)) for step in range(count + 1)]
    return [(points[step], points[step + 1]) for step in range(0, count, 2)]


def _tag(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    thing: Thing,
    size: tuple[int, int],
    others: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """Write the name above the box, below or inside it, where it hides least. Return the place taken."""
    height = min(LARGEST_TYPE, max(SMALLEST_TYPE, max(size) // 36))
    type_ = font(height)
    across, down = type_.getlength(thing.caption) + 2 * TAG_GAP, round(1.35 * height)
    left, top, right, bottom = box
    corners = [
        (left, top - down),
        (left, bottom),
        (left, top),
        (right - across, top - down),
        (right - across, bottom),
        (right, top),
        (left - across, top),
        (left, bottom - down),
        (right - across, top),
        (right - across, bottom - down),
    ]
    places = []
    for x, y in corners:
        x, y = max(0.0, min(x, size[0] - across)), max(0.0, min(y, size[1] - down))
        places.append((x, y, x + across, y + down))

    def cost(number: int) -> float:
        """Pixels of other names hidden; small boxes should stay visible too; of equals, the first."""
        hidden = sum(_common(places[number], other) for other in others)
        own = _common(places[number], box) / max(_area(box), 1.0)
        return hidden + across * down * (own + 0.02 * number)

    place = places[min(range(len(places)), key=cost)]
    draw.rectangle(place, fill=thing.colour)
    red, green, blue = thing.colour
    ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else PAPER
    draw.text((place[0] + TAG_GAP, (place[1] + place[3]) / 2), thing.caption, fill=ink, font=type_, anchor="lm")
    return place


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
