"""One look for every picture: paper, ink and type, and sheets of small pictures with captions.

Everything is drawn dark on white paper with a margin, so that it reads the same on a light and on a dark page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mlcli.show.palette import FAINT, INK, PAPER, TRACK

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

SIDE = 120
"""Pixels of a small picture's side; a caption of some 15 letters fits below it."""
TEXT, TITLE = 13, 17
"""Heights of type in pixels."""
_MARGIN, _GAP, _CLOSE, _LINE = 18, 10, 6, 17


@dataclass(frozen=True)
class Tile:
    """A small picture and the lines below it, the first dark, the others faint; what follows a tab stands right.

    more: pictures that belong to it and stand to its right, as many on every tile of a sheet.
    frame: the colour of a frame around the first `framed` of them.
    """

    picture: Image.Image
    lines: tuple[str, ...] = ()
    more: tuple[Image.Image, ...] = ()
    frame: str | None = None
    framed: int = 1


@cache
def font(size: int, bold: bool = False) -> Font:
    """The type of figures and sheets alike: matplotlib's DejaVu Sans, which knows Greek, Cyrillic and all accents."""
    spec = find_spec("matplotlib")  # found, not imported: that would cost a second
    places = spec.submodule_search_locations if spec else None
    if places:
        path = Path(places[0]) / "mpl-data/fonts/ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def shortened(text: str, font: Font, width: float) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def picture_of(pixels: Tensor) -> Image.Image:
    """One image [C, H, W] of values in 0..255, on any device; other than 1 or 3 channels as their mean."""
    pixels = pixels.detach().float().cpu()
    if len(pixels) not in (1, 3):
        pixels = pixels.mean(0, keepdim=True)
    array = pixels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array if array.shape[2] == 3 else array[:, :, 0]).convert("RGB")


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Its longer side as many pixels as asked for; whole factors keep the pixels of tiny pictures square."""
    longer = max(image.size)
    if longer == side:
        return image.convert("RGB")
    size = (max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer)))
    whole = side >= 2 * longer and side % longer == 0
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def readable_side(image: Image.Image, least: int, most: int) -> int:
    """Pixels of the longer side at which a picture can be looked at: its own if it is in between."""
    longer = max(image.size)
    if longer < least:
        return longer * -(-least // longer)
    return min(longer, most)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a light square; tiny pictures grow by whole factors, so that their pixels stay square."""
    longer = max(picture.size)
    picture = scaled(picture, side - side % longer if 2 * longer <= side else side)
    square = Image.new("RGB", (side, side), TRACK)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def sheet(title: str, note: str, tiles: Sequence[Tile], *, columns: int | None = None, side: int = SIDE) -> Image.Image:
    """Small pictures in rows below a title and a faint note, each with its lines below it, cut where they are long.

    columns: None for as many, from 5 to 8, as leave the last row fullest. side: about that many pixels; whole times the
    pixels of tiny pictures.
    """
    longest = max((max(picture.size) for tile in tiles for picture in (tile.picture, *tile.more)), default=side)
    if 2 * longest <= side:
        side = longest * round(side / longest)
    columns = columns or min(range(8, 4, -1), key=lambda count: -len(tiles) % count)
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    lines = max((len(tile.lines) for tile in tiles), default=0)
    more = max((len(tile.more) for tile in tiles), default=0)
    wide, gap = side + more * (side + _CLOSE), 3 * _GAP if more else _GAP
    across, down = wide + gap, side + _GAP + lines * _LINE + (6 if lines else 0)
    written = max(font(TITLE, bold=True).getlength(title), font(TEXT).getlength(note))
    width = 2 * _MARGIN + max(columns * across - gap, round(written))
    top = _MARGIN + TITLE + 14 + (_LINE if note else 0)
    page = Image.new("RGB", (width, top + rows * down - _GAP + _MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN + TITLE - 3), title, fill=INK, font=font(TITLE, bold=True), anchor="ls")
    draw.text((_MARGIN, _MARGIN + TITLE + _LINE), note, fill=FAINT, font=font(TEXT), anchor="ls")
    for number, tile in enumerate(tiles):
        x, y = _MARGIN + number % columns * across, top + number // columns * down
        for place, picture in enumerate((tile.picture, *tile.more)):
            left = x + place * (side + _CLOSE)
            page.paste(fitted(picture, side), (left, y))
            if tile.frame is not None and place < tile.framed:
                draw.rectangle((left - 3, y - 3, left + side + 2, y + side + 2), outline=tile.frame, width=2)
        for place, line in enumerate(tile.lines):
            base, colour = y + side + _LINE * (place + 1), FAINT if place else INK
            start, _, end = line.partition("\t")
            end = shortened(end, font(TEXT), wide / 2)
            room = wide - font(TEXT).getlength(end) - (6 if end else 0)
            draw.text((x, base), shortened(start, font(TEXT), room), fill=colour, font=font(TEXT), anchor="ls")
            draw.text((x + wide, base), end, fill=colour, font=font(TEXT), anchor="rs")
    return page


# --- values as colours -----------------------------------------------------------------------------------------------

_SIGNED = np.array([[33, 71, 136], [120, 163, 214], [247, 247, 247], [240, 164, 104], [168, 76, 11]], dtype=np.float64)
"""-1, -0.5, 0, 0.5, 1: blue to white to orange, distinct for colour-blind eyes too."""
_RISING = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], dtype=np.float64)
"""0 to 1: five points of viridis (Smith & van der Walt 2015)."""

_MOST_OPAQUE = 0.8
"""Share of the colour where a picture is hottest; what lies below must still be seen."""


def signed(values: np.ndarray) -> Image.Image:
    """[H, W] around 0: blue below, white at, orange above; full colour at the largest magnitude."""
    return _coloured(0.5 + 0.5 * values / max(np.abs(values).max(), 1e-12), _SIGNED)


def rising(values: np.ndarray) -> Image.Image:
    """[H, W] from its smallest value (dark violet) to its largest (yellow)."""
    low, high = values.min(), values.max()
    return _coloured((values - low) / max(high - low, 1e-12), _RISING)


def heated(picture: Image.Image, heat: np.ndarray) -> Image.Image:
    """The picture in grey, coloured as by `rising` the more, the hotter: heat [h, w] from 0 to 1, of any resolution."""
    small = Image.fromarray(heat.astype(np.float32))
    shares = np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR)).clip(0, 1)
    grey = np.asarray(picture.convert("L").convert("RGB"), dtype=np.float64)
    colours = np.asarray(_coloured(shares, _RISING), dtype=np.float64)
    opacity = _MOST_OPAQUE * shares[:, :, None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity).round().astype(np.uint8))


def _coloured(shares: np.ndarray, anchors: np.ndarray) -> Image.Image:
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(shares, places, anchors[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))
