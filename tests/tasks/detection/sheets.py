"""Small annotated pictures on disk, for tests: grey noise with a rectangle of its own brightness for each object."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((60, 40), (40, 60), (50, 50), (64, 48), (30, 30), (48, 64))
"""Width and height of the pictures, in turn."""
BOXES = (
    [(5, 6, 25, 30), (30, 4, 58, 20)],
    [(2, 3, 38, 41)],
    [],
    [(10, 10, 30, 44), (33, 8, 60, 30), (40, 32, 62, 46)],
    [(0, 0, 30, 28)],
    [(4, 5, 20, 60), (24, 30, 46, 62)],
)
LABELS = ([1, 2], [2], [], [1, 1, 2], [1], [2, 1])
NAMES = ("cat", "dog")


def draw(folder: Path, *, count: int = 6, extension: str = "png") -> list[str]:
    """Write pictures of one object each and return their names; no two are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{number}.{extension}" for number in range(count)]
    for number, name in enumerate(names):
        picture(number).save(folder / name)
    return names


def picture(number: int) -> Image.Image:
    width, height = SIZES[number % len(SIZES)]
    pixels = np.random.default_rng(number).integers(0, 60, (height, width, 3), dtype=np.uint8)
    for box, label in zip(BOXES[number % len(BOXES)], LABELS[number % len(BOXES)], strict=True):
        pixels[box[1] : box[3], box[0] : box[2]] = 100 * label
    return Image.fromarray(pixels)


def xml(number: int, *, name: str | None = None, extra: str = "") -> str:
    """A VOC sheet of picture `number`: one element a line, the first <object> on line 4."""
    width, height = SIZES[number % len(SIZES)]
    objects = "".join(
        xml_object(box, NAMES[label - 1])
        for box, label in zip(BOXES[number % len(BOXES)], LABELS[number % len(BOXES)], strict=True)
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name or f'p{number}.png'}</filename>\n{size}\n{objects}{extra}</annotation>\n"


def xml_object(box, name: str, extra: str = "") -> str:
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>\n"


def voc_folder(root: Path, *, count: int = 6) -> None:
    draw(root / "JPEGImages", count=count)
    (root / "Annotations").mkdir()
    for number in range(count):
        (root / "Annotations" / f"p{number}.xml").write_text(xml(number))


def coco_content(*, count: int = 6) -> dict:
    """Class ids 7 and 20, picture ids 100, 110, ...; object ids from 1."""
    images, annotations = [], []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        images.append({"id": 100 + 10 * number, "file_name": f"p{number}.png", "width": width, "height": height})
        for box, label in zip(BOXES[number % len(BOXES)], LABELS[number % len(BOXES)], strict=True):
            left, top, right, bottom = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + 10 * number,
                    "category_id": (7, 20)[label - 1],
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    categories = [{"id": 20, "name": "dog"}, {"id": 7, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}
