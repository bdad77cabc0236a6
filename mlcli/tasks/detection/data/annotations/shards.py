"""Shards: a JSON member beside each picture, with its objects as COCO has them; classes in categories.json or by name.

    {"id": 7, "width": 640, "height": 480, "annotations": [{"bbox": [left, top, width, height], "category_id": 1,
     "iscrowd": 0, "area": 812.5, "segmentation": [...]}, {"bbox": [...], "category": "cat"}]}

All but `annotations` and a class may be left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlcli.data.finding import refuse
from mlcli.data.sources.shards import OpenShards, open_shards
from mlcli.tasks.detection.data.annotations.coco import add_objects, read_categories
from mlcli.tasks.detection.data.annotations.contents import AnnotatedPicture, Annotations

CATEGORIES = "categories.json"
"""File beside the shards: COCO's list of categories, [{"id": 1, "name": "cat"}, ...]."""
_READ_AT_ONCE = 256


def read_shards(root: Path | str, *, shards: Mapping[str, str] | None = None) -> Annotations:
    """Read the objects of each picture; `shards` are the patterns of each split's, None to go by their names.

    Classes are those of categories.json in the order of their ids, or else those that the training pictures name.
    Raises DataError if shards cannot be read, are damaged, or lack members.
    """
    opened, of_split, findings = open_shards(root, shards, "json")
    refuse(findings, str(opened))
    found = Annotations(str(opened), shards=opened, notes=[str(finding) for finding in findings])
    names = _categories(opened, found)
    if names:
        found.class_names, found.category_ids = tuple(names.values()), tuple(names)
    split_of_shard = np.full(len(opened.index.shards), "", dtype="U5")
    for split, numbers in of_split.items() if len(of_split) > 1 else ():
        split_of_shard[numbers] = split
    taken: dict[str, set[int]] = {}
    for start in range(0, len(opened.index), _READ_AT_ONCE):
        rows = range(start, min(start + _READ_AT_ONCE, len(opened.index)))
        for row, content in zip(rows, opened.read_labels(rows), strict=True):
            split = str(split_of_shard[opened.index.shard_of[row]])
            _add_picture(found, row, content, split, names, taken.setdefault(split, set()))
    return found


def _categories(opened: OpenShards, found: Annotations) -> dict[int, str]:
    """Names by id, in the order of ids; none where no file lists them."""
    content = opened.storage.small(CATEGORIES)
    if content is None:
        return {}
    try:
        return read_categories({"categories": json.loads(content)}, Path(opened.storage.address, CATEGORIES), found)
    except (ValueError, RecursionError) as error:
        found.add_fault("malformed", f"not JSON: {error}", f"{opened}/{CATEGORIES}")
        return {}


def _add_picture(
    found: Annotations, row: int, content: bytes, split: str, names: dict[int, str], taken: set[int]
) -> None:
    """Add a picture with its objects, or the fault that keeps it out. taken: the ids of its split so far."""
    assert isinstance(found.shards, OpenShards)
    path = found.shards.path(row).decode(errors="backslashreplace")
    where = f"{path}, its JSON"
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        found.add_fault("malformed", f"not JSON: {str(error)[:200]}", where)
        return
    told = {"annotations": told} if isinstance(told, list) else told
    if not isinstance(told, dict) or not isinstance(told.get("annotations"), list):
        found.add_fault("malformed", "must be an object with the list `annotations`", where)
        return
    number = told.get("id", row + 1)
    number = number if isinstance(number, int) and abs(number) < 2**62 else row + 1
    if number in taken:
        found.add_fault("duplicate_id", f"image id {number} again", where)
        return
    taken.add(number)
    sides = [told.get(key) for key in ("width", "height")]
    width, height = (side if isinstance(side, int) and 0 < side < 2**31 else 0 for side in sides)
    size = (width, height) if width and height else (0, 0)
    position = len(found.pictures)
    found.pictures.append(AnnotatedPicture(path, where, split, size, number))
    found.rows.append(row)
    things = [_with_category(thing, position, names, found) for thing in told["annotations"]]
    add_objects({"annotations": things}, where, {position: position}, names, found)


def _with_category(thing: Any, position: int, names: dict[int, str], found: Annotations) -> Any:
    """An annotation with the picture it is of, and with an id for the class that it names."""
    if not isinstance(thing, dict):
        return thing
    name = thing.get("category", thing.get("category_name"))
    if isinstance(name, str) and name and name.isprintable():
        number = next((number for number, known in names.items() if known == name), None)
        if number is None and found.class_names is None:
            number = -1 - len(names)
            names[number] = name
        thing = {**thing, "category_id": number}
    return {**thing, "image_id": position}
