"""Pictures of the run, inside the page: most confident mistakes, filters, boxes, whatever was drawn."""

import base64
import io
from pathlib import Path

from mlcli.report.page.markup import Html, el, section
from mlcli.report.record import SPLITS, Record

MOST = 24
LARGE_BYTES = 300_000
"""Above, a picture is kept as WebP, which is several times smaller and looks the same."""
WEBP_QUALITY = 85
WIDE = 700
"""Pixels from which a picture has a row of the page for itself."""
DRAWN_HERE = ("confusion", "calibration", "residuals", "predicted and true", "pr curves", "precision recall")
"""Pictures of what the page draws itself, sharper and in its own colours."""


def pictures(record: Record) -> Html | None:
    """Every picture that the page does not draw itself, of the headline's split first; train's last."""
    order = {split: i for i, split in enumerate((record.split, *(s for s in SPLITS if s != record.split)))}
    found, seen = [], set()
    for path in sorted(record.pictures, key=lambda p: order.get(_named(p)[0], len(SPLITS))):
        split, title = _named(path)
        if title not in DRAWN_HERE and title not in seen:  # the same of another split says little more
            found.append((path, split, title))
            seen.add(title)
    figures = [figure for figure in (_figure(*entry) for entry in found[:MOST]) if figure]
    if not figures:
        return None
    figures.sort(key=lambda figure: 'class="picture wide"' not in figure)  # large ones first, small ones side by side
    return section("pictures", "To look at", None, el("div", *figures, class_="gallery"))


def _named(path: Path) -> tuple[str, str]:
    """test-feature-maps.png -> ("test", "feature maps")"""
    split, _, title = path.stem.partition("-")
    if split not in SPLITS or not title:
        return "", path.stem.replace("-", " ")
    return split, title.replace("-", " ")


def _figure(path: Path, split: str, title: str) -> Html | None:
    """None for a file that is no picture."""
    source, width = _embedded(path)
    if not source:
        return None
    words = title[:1].upper() + title[1:]
    picture = el("img", src=source, alt=f"{words}, {split}" if split else words, width=width, loading="lazy")
    caption = el("figcaption", el("strong", words), el("span", f"{split} split") if split else None)
    class_ = "picture wide" if width > WIDE else "picture"
    return el("figure", caption, el("div", picture, class_="paper"), class_=class_)


def _embedded(path: Path) -> tuple[str, int]:
    """The picture as an address that holds it, and its width in pixels; an empty one if it cannot be read."""
    from PIL import Image

    try:
        content, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(content)) as image:
            width = image.width
            if len(content) > LARGE_BYTES:
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "WEBP", quality=WEBP_QUALITY, method=2)
                content, kind = smaller.getvalue(), "webp"
            else:
                image.verify()
    except (OSError, ValueError, SyntaxError):
        return "", 0
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width
