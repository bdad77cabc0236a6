"""Boxes, masks and names drawn on a picture, distinguishable and legible at any size."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from mlcli.show.drawing import font, scaled, shortened
from mlcli.show.palette import INK, PAPER, TRACK

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
SIDE_BY_LINE = 24  # pixels of a box's side for each of its line's at least: a line hides no small object
MOST_HIDDEN = 0.05
"""Share of a box that names may hide, on average; where it would be more, a legend names all."""
OWN_HIDDEN = 0.1  # share of a box that its own name hides without harm


class Thing(NamedTuple):
    """Marks drawn for one object.

    box_xyxy: in pixels of the picture before it is scaled; without area it becomes a dot. caption: its name; none if
    empty. detail: follows it, and stands alone where a legend names the objects. dashed: instead of a full line. thin:
    one pixel, without an edge. mask: bool [H, W] of the picture.
    """

    box_xyxy: Sequence[float]
    colour: Colour
    caption: str = ""
    detail: str = ""
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
    """The picture, scaled to a longer side of `side` pixels, with everything on it: large boxes first, names last.

    Where names would hide the objects, details stand alone, or nothing does, and a legend is added below.
    """
    factor = side / max(image.size)
    canvas = _with_masks(scaled(image, side), things)
    draw = ImageDraw.Draw(canvas)
    width = max(2, round(side / 240))
    boxes = np.array([thing.box_xyxy for thing in things], dtype=np.float64).reshape(-1, 4) * factor
    order = np.argsort(-_areas(boxes), kind="stable")
    boxes, ordered = boxes[order], [things[place] for place in order.tolist()]
    for thing, box in zip(ordered, boxes.tolist(), strict=True):
        narrow = min(box[2] - box[0], box[3] - box[1])
        _outline(draw, box, thing, min(width, max(1, round(narrow / SIDE_BY_LINE))) if narrow > 0 else width)
    height = min(LARGEST_TYPE, max(SMALLEST_TYPE, side // 36))
    named = [f"{thing.caption} {thing.detail}".rstrip() if thing.caption else "" for thing in ordered]
    for texts in (named, [thing.detail for thing in ordered]):
        tags, hidden = _tags(boxes, texts, canvas.size, height)
        if hidden <= MOST_HIDDEN:
            for text, thing, tag in zip(texts, ordered, tags, strict=True):
                if text:
                    _write(draw, tag.tolist(), text, thing.colour, height)
            break
    return canvas if texts is named and hidden <= MOST_HIDDEN else _with_legend(canvas, things, height)


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


def _tags(boxes: np.ndarray, texts: Sequence[str], size: tuple[int, int], height: int) -> tuple[np.ndarray, float]:
    """Place each text above its box, below or inside it, where it hides least.

    Returns the places, float64 [n, 4], and the share of a box that is hidden, the mean of all boxes.
    """
    down, areas = round(1.35 * height), np.maximum(_areas(boxes), 1)
    tags, hidden = np.zeros_like(boxes), np.zeros(len(boxes))
    for place, text in enumerate(texts):
        if not text:
            continue
        across = font(height).getlength(text) + 2 * TAG_GAP
        left, top, right, bottom = boxes[place]
        corners = np.array([
            (left, top - down), (left, bottom), (left, top), (right - across, top - down), (right - across, bottom),
            (right, top), (left - across, top), (left, bottom - down), (right - across, top),
            (right - across, bottom - down),
        ])  # fmt: skip
        corners = np.clip(corners, 0, np.maximum(0, np.array(size) - np.array((across, down))))
        places = np.concatenate([corners, corners + np.array((across, down))], axis=1)
        shares = _common(places, boxes) / areas  # [10, n]: small boxes should stay visible
        # of names, pixels are hidden; of equals, the first is taken
        cost = _common(places, tags[:place]).sum(axis=1) + across * down * (shares.sum(axis=1) + 0.02 * np.arange(10))
        best = int(cost.argmin())
        tags[place] = places[best]
        shares[best, place] = max(0.0, shares[best, place] - OWN_HIDDEN)
        hidden += shares[best]
    return tags, float(np.minimum(hidden, 1).mean()) if len(boxes) else 0.0


def _write(draw: ImageDraw.ImageDraw, tag: Sequence[float], text: str, colour: Colour, height: int) -> None:
    draw.rectangle(tag, fill=colour)
    red, green, blue = colour
    ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else PAPER
    draw.text((tag[0] + TAG_GAP, (tag[1] + tag[3]) / 2), text, fill=ink, font=font(height), anchor="lm")


def _with_legend(canvas: Image.Image, things: Sequence[Thing], height: int) -> Image.Image:
    """The picture with the names below it, each as a tag of its colour, and how many of it there are."""
    counts = Counter((thing.caption, thing.colour) for thing in things if thing.caption)
    down, gap, x, y = round(1.35 * height), 2 * TAG_GAP, 0.0, canvas.height + 2 * TAG_GAP
    tags = []
    for (caption, colour), count in counts.most_common():
        text = shortened(f"{caption} {count:,}", font(height), canvas.width - 2 * TAG_GAP)
        across = font(height).getlength(text) + 2 * TAG_GAP
        if x and x + across > canvas.width:
            x, y = 0.0, y + down + gap
        tags.append(((x, y, x + across, y + down), text, colour))
        x += across + gap
    page = Image.new("RGB", (canvas.width, y + down + 1), TRACK)
    page.paste(canvas)
    draw = ImageDraw.Draw(page)
    for tag, text, colour in tags:
        _write(draw, tag, text, colour, height)
    return page


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels that boxes share: [n, 4] and [m, 4] -> [n, m]."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.maximum(sides, 0).prod(axis=2)
