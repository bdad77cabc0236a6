"""Writing annotations in each of the four formats; what is read again is the same but for what the format cannot say.

Each writer takes the `Sheets` of a data set and the folder to write into, and returns the data section of a YAML that
reads it, as plain data. Numbers are written with as many digits as a float32 has.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from mlcli.schema.yaml12 import dump
from mlcli.tasks.detection.data.annotations.box_csv import COLUMNS
from mlcli.tasks.detection.data.records import Records


@dataclass(frozen=True, eq=False)
class Sheets:
    """What is to be written.

    splits: train, and val and test where there are any.
    names: for each split the file names that its pictures are given, without folder, all different up to the extension.
    """

    splits: dict[str, Records]
    names: dict[str, list[str]]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def pictures(self, split: str) -> Iterator[tuple[int, str, tuple[int, int], range]]:
        """Position, file name, (width, height) and positions of the objects of each picture."""
        records = self.splits[split]
        for index, name in enumerate(self.names[split]):
            objects = records.objects_of(index)
            width, height = records.sizes[index].tolist()
            yield index, name, (width, height), range(objects.start, objects.stop)

    def class_name(self, label: int) -> str:
        return self.class_names[label - 1]


def write_voc(sheets: Sheets, out: Path) -> dict[str, Any]:
    """JPEGImages, Annotations and ImageSets/Main; pixels are counted from 0, as LabelImg does."""
    annotations, lists = out / "Annotations", out / "ImageSets" / "Main"
    annotations.mkdir(parents=True)
    lists.mkdir(parents=True)
    for split, records in sheets.splits.items():
        stems = []
        for _, name, size, objects in sheets.pictures(split):
            stems.append(os.path.splitext(name)[0])
            text = _voc_sheet(name, size, [_voc_object(sheets, records, t) for t in objects])
            (annotations / f"{stems[-1]}.xml").write_text(text, encoding="utf-8")
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return {"name": "voc", "root": "."}


def _voc_sheet(name: str, size: tuple[int, int], objects: list[str]) -> str:
    head = f"<annotation>\n  <folder>JPEGImages</folder>\n  <filename>{escape(name)}</filename>\n"
    sides = f"  <size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>\n"
    return head + sides + "".join(objects) + "</annotation>\n"


def _voc_object(sheets: Sheets, records: Records, t: int) -> str:
    corners = zip(COLUMNS[2:], _digits(records.boxes_xyxy[t]), strict=True)
    box = "".join(f"<{tag}>{number}</{tag}>" for tag, number in corners)
    return (
        f"  <object>\n    <name>{escape(sheets.class_name(int(records.labels[t])))}</name>\n"
        f"    <difficult>{int(records.difficult[t])}</difficult>\n    <bndbox>{box}</bndbox>\n  </object>\n"
    )


def write_coco(sheets: Sheets, out: Path) -> dict[str, Any]:
    """annotations/SPLIT.json beside images; `difficult`, which COCO does not know, is a key of its own where set."""
    (out / "annotations").mkdir(parents=True)
    categories = [
        {"id": number, "name": name} for number, name in zip(sheets.category_ids, sheets.class_names, strict=True)
    ]
    for split, records in sheets.splits.items():
        images, annotations = [], []
        for index, name, (width, height), objects in sheets.pictures(split):
            number = int(records.ids[index])
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            annotations += [_coco_object(sheets, records, t, number) for t in objects]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (out / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    files = {f"{split}_file": f"annotations/{split}.json" for split in sheets.splits}
    return {"name": "coco", "root": "images", **files}


def _coco_object(sheets: Sheets, records: Records, t: int, image: int) -> dict[str, Any]:
    left, top, right, bottom = records.boxes_xyxy[t].tolist()
    mask = records.segmentations[t] if records.segmentations else None
    return {
        "id": t + 1,
        "image_id": image,
        "category_id": sheets.category_ids[int(records.labels[t]) - 1],
        "bbox": [left, top, right - left, bottom - top],
        "area": float(records.area[t]),
        "iscrowd": int(records.crowd[t]),
        **({"difficult": 1} if records.difficult[t] else {}),
        **({"segmentation": mask} if mask is not None else {}),
    }


def write_yolo_txt(sheets: Sheets, out: Path) -> dict[str, Any]:
    """images/SPLIT, labels/SPLIT and data.yaml."""
    for split, records in sheets.splits.items():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for _, name, size, objects in sheets.pictures(split):
            lines = [_yolo_line(records.boxes_xyxy[t], size, int(records.labels[t]) - 1) for t in objects]
            (folder / f"{os.path.splitext(name)[0]}.txt").write_text("".join(lines))
    plain = {split: f"images/{split}" for split in sheets.splits} | {"names": list(sheets.class_names)}
    (out / "data.yaml").write_text(dump(plain), encoding="utf-8")
    return {"name": "yolo_txt", "file": "data.yaml"}


def _yolo_line(box_xyxy: np.ndarray, size: tuple[int, int], number: int) -> str:
    left, top, right, bottom = box_xyxy.astype(np.float64) / np.tile(size, 2)
    shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return f"{number} " + " ".join(f"{share:.10g}" for share in shares) + "\n"


def write_box_csv(sheets: Sheets, out: Path) -> dict[str, Any]:
    """boxes.csv beside images, with a row of its own for each picture without objects."""
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMNS[0], "width", "height", *COLUMNS[1:], "split"])
        for split, records in sheets.splits.items():
            for _, name, size, objects in sheets.pictures(split):
                for t in objects:
                    name_of_class = sheets.class_name(int(records.labels[t]))
                    writer.writerow([name, *size, name_of_class, *_digits(records.boxes_xyxy[t]), split])
                if not objects:
                    writer.writerow([name, *size, *[""] * 5, split])
    return {"name": "box_csv", "file": "boxes.csv", "root": "images"}


def _digits(box_xyxy: np.ndarray) -> list[str]:
    return [f"{side:.9g}" for side in box_xyxy.tolist()]
