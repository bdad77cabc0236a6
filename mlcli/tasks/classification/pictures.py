"""Images with the answer written below them, for people to look through."""

from pathlib import Path

from PIL import Image, ImageDraw

from mlcli.data.decode import read_image
from mlcli.show.drawing import font, shortened
from mlcli.show.palette import INK, PAPER, TRACK

MIN_SIDE, MAX_SIDE = 320, 960
"""Pixels of the longer side: digits of 8x8 are enlarged until a caption fits, photographs reduced to fit a screen."""
MIN_WIDTH = 240
"""Pixels a caption needs."""
SURE, UNSURE = (24, 128, 56), (217, 119, 6)


def annotate(image_path: Path, label: str, probability: float) -> Image.Image:
    """The image, enlarged if tiny, above a bar with its label, the probability, and its length as a line.

    The line is green from a probability of 0.5, amber below. Raises DataError for an unreadable image.
    """
    return caption(read_image(image_path, channels=3), label, probability)


def caption(image: Image.Image, label: str, probability: float) -> Image.Image:
    """An RGB image with the bar of `annotate` below it."""
    image = _resized(image.convert("RGB"))
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


def _resized(image: Image.Image) -> Image.Image:
    """Longer side between MIN_SIDE and MAX_SIDE; tiny images by whole factors, so that their pixels stay square."""
    longer = max(image.size)
    if longer < MIN_SIDE:
        factor = -(-MIN_SIDE // longer)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    elif longer > MAX_SIDE:
        scale = MAX_SIDE / longer
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if image.width >= MIN_WIDTH:
        return image
    wide = Image.new("RGB", (MIN_WIDTH, image.height), TRACK)  # too narrow for a caption: grey on both sides
    wide.paste(image, ((wide.width - image.width) // 2, 0))
    return wide
