"""COCO: one JSON file for all pictures of a split (Lin et al. 2014), with crowds and masks. Needs no pycocotools."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.build import build_source
from mlcli.tasks.detection.data.annotations.table import Scribe, Table
from mlcli.tasks.detection.data.records import Segmentation
from mlcli.tasks.detection.data.source import DetectionSource

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import Coco


def coco(config: "Coco") -> DetectionSource:
    """Raises DataError for annotations that cannot be learned from."""
    return build_source(config, read_coco(config))


def read_coco(config: "Coco") -> Table:
    """Classes are those of train_file, in the order of their ids: 1..K whatever the ids are."""
    files = {"train": config.train_file, "val": config.val_file, "test": config.test_file}
    given = {split: path for split, path in files.items() if path is not None}
    scribe = Scribe(str(config.root))
    names: dict[int, str] = {}
    for split, path in given.items():
        content = _load(path, scribe)
        categories = _categories(content, path, scribe)
        names = names or categories
        pictures = _pictures(content, path, split if len(given) > 1 else "", scribe)
        _objects(content, path, pictures, categories, scribe)
    unique = {name: number for number, name in reversed(names.items())}
    ordered = sorted(unique, key=lambda name: unique[name])
    return scribe.table(tuple(ordered), tuple(unique[name] for name in ordered))


def _load(path: Path, scribe: Scribe) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    if not text.strip():
        scribe.fault("empty_file", "the file is empty", str(path))
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        scribe.fault("malformed", f"not JSON: {error.msg}", f"{path}:{error.lineno}")
        return {}
    except (UnicodeDecodeError, RecursionError) as error:
        scribe.fault("malformed", f"not JSON: {error}", str(path))
        return {}
    wanted = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in wanted):
        scribe.fault("malformed", f"must be an object with the lists {', '.join(wanted)}", str(path))
        return {}
    return content


def _categories(content: dict[str, Any], path: Path, scribe: Scribe) -> dict[int, str]:
    """Names by id, in the order of ids."""
    found: dict[int, str] = {}
    for index, entry in enumerate(content.get("categories", ())):
        where = f"{path}: categories[{index}]"
        if not isinstance(entry, dict) or not _is_whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            scribe.fault("malformed", "a category needs a whole number `id` and a text `name`", where)
        elif entry["id"] in found:
            scribe.fault("duplicate_id", f"category id {entry['id']} is {found[entry['id']]} already", where)
        elif entry["name"] in found.values():
            scribe.fault("duplicate_name", f"there is another category '{entry['name']}'", where, fixable=True)
            found[entry["id"]] = entry["name"]
        else:
            found[entry["id"]] = entry["name"]
    return dict(sorted(found.items()))


def _pictures(content: dict[str, Any], path: Path, split: str, scribe: Scribe) -> dict[int, int]:
    """Positions of pictures by id."""
    found: dict[int, int] = {}
    for index, entry in enumerate(content.get("images", ())):
        where = f"{path}: images[{index}]"
        if not isinstance(entry, dict) or not _is_whole(entry.get("id")) or not isinstance(entry.get("file_name"), str):
            scribe.fault("malformed", "an image needs a whole number `id` and a text `file_name`", where)
            continue
        number, size = entry["id"], (entry.get("width", 0), entry.get("height", 0))
        where = f"{where} (id {number})"
        if number in found:
            scribe.fault("duplicate_id", f"image id {number} again, for {entry['file_name']}", where)
            continue
        if not all(map(_is_whole, size)):
            scribe.fault("malformed", "width and height must be whole numbers", where, fixable=True)
            size = (0, 0)
        found[number] = scribe.picture(entry["file_name"], where, split=split, size=size, number=number)
    return found


def _objects(
    content: dict[str, Any], path: Path, pictures: dict[int, int], names: dict[int, str], scribe: Scribe
) -> None:
    seen: set[Any] = set()
    for index, entry in enumerate(content.get("annotations", ())):
        if not isinstance(entry, dict):
            scribe.fault("malformed", "not an object", f"{path}: annotations[{index}]")
            continue
        number = entry.get("id")
        where = f"{path}: annotations[{index}] (id {number})"
        if isinstance(number, int | str):
            if number in seen:
                scribe.fault("duplicate_id", f"annotation id {number} again", where, fixable=True)
            seen.add(number)
        box, image, category = entry.get("bbox"), entry.get("image_id"), entry.get("category_id")
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            scribe.fault("malformed", "`bbox` must be [left, top, width, height]", where)
        elif not _is_whole(image) or image not in pictures:
            scribe.fault("unknown_image", f"there is no image with id {image}", where)
        else:
            left, top, width, height = box
            scribe.object(
                pictures[image],
                (left, top, left + width, top + height),
                _name(category, names),
                where,
                crowd=bool(entry.get("iscrowd", 0)),
                difficult=bool(entry.get("difficult", 0)),
                area=_area(entry.get("area")),
                segmentation=_mask(entry.get("segmentation")),
            )


def _mask(given: Any) -> Segmentation | None:
    """Polygons or a run-length code as they are; no polygon at all, which is judged to be bad, for anything else."""
    if not given:
        return None
    if isinstance(given, list) and all(isinstance(part, list) and all(map(_is_number, part)) for part in given):
        return given
    if isinstance(given, dict):
        size, counts = given.get("size"), given.get("counts")
        whole = isinstance(size, list) and len(size) == 2 and all(map(_is_whole, size))
        runs = isinstance(counts, list) and all(_is_whole(count) and count >= 0 for count in counts)
        if whole and (runs or isinstance(counts, str)):
            return given
    return []


def _name(category: Any, names: dict[int, str]) -> str:
    return (names.get(category) if _is_whole(category) else None) or f"category {category}"


def _area(given: Any) -> float:
    """NaN for what is not there or makes no sense."""
    return float(given) if _is_number(given) and math.isfinite(given) and given >= 0 else math.nan


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
