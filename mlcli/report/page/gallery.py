"""Pictures of the run, inside the page: most confident mistakes, filters, boxes, whichever there are."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlcli.report.record import SPLITS, Record
from mlcli.show.evaluation import CHARTS

MOST = 24
LARGE_BYTES = 300_000
"""Above, a picture is kept as WebP, which is several times smaller and looks the same."""
WEBP_QUALITY = 85
WIDE = 700
"""Pixels from which a picture has a row of the page for itself."""


@dataclass(frozen=True)
class Picture:
    """source: an address that holds the picture itself; width: in pixels."""

    title: str
    split: str
    source: str
    width: int

    @property
    def is_wide(self) -> bool:
        return self.width > WIDE


def pictures(record: Record) -> dict[str, Any] | None:
    """Every picture that is no chart of the page, of the headline's split first; train's last."""
    order = {split: i for i, split in enumerate((record.split, *(s for s in SPLITS if s != record.split)))}
    seen = set(CHARTS) if record.detail else set()
    found: list[Picture] = []
    for path in sorted(record.pictures, key=lambda path: order.get(_named(path)[0], len(SPLITS))):
        split, name = _named(path)
        if name in seen or len(found) == MOST:
            continue
        seen.add(name)  # the same of another split says little more
        source, width = _embedded(path)
        if source:
            found.append(Picture(name[:1].upper() + name[1:], split, source, width))
    # Large ones first, small ones side by side.
    return {"figures": sorted(found, key=lambda picture: not picture.is_wide)} if found else None


def _named(path: Path) -> tuple[str, str]:
    """test-feature-maps.png -> ("test", "feature maps")"""
    split, _, title = path.stem.partition("-")
    if split not in SPLITS or not title:
        return "", path.stem.replace("-", " ")
    return split, title.replace("-", " ")


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
