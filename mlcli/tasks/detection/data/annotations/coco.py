"""COCO: one JSON file for all pictures of a split (Lin et al. 2014), with crowds and masks. Needs no pycocotools."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlcli.data.sources.columns import read_number
from mlcli.data.splits import named_split
from mlcli.errors import DataError
from mlcli.reading import MOST_TEXT_BYTES, read_file, why_absent
from mlcli.tasks.detection.data.annotations.contents import LABELME, AnnotatedObject, Annotations, read_flag
from mlcli.tasks.detection.masks import Segmentation
from mlcli.text import plural


def read_coco(
    root: Path, train_file: Path, *, val_file: Path | None = None, test_file: Path | None = None
) -> Annotations:
    """Read a JSON file for each split; file names in it are relative to root, or where the first is not there to the
    JSON file's own folder or to a folder below root that is called after the split.

    Takes the files of COCO, CVAT, Label Studio, Roboflow, makesense and VIA's export: ids as numbers or texts of
    digits, `iscrowd` as number, text or true, boxes as texts, or around the polygons where there are none, and
    `segmentation` of none, [[]], polygons or a run-length code. An area of 0 is that of the box. Roboflow's root
    category, id 0 above the others and without objects, is no class. The JSON of labelme, VIA and Label Studio itself
    is refused by name.

    Classes are those of train_file, in the order of their ids: 1..K regardless of the ids. Raises DataError if a file
    cannot be read.
    """
    files = {"train": train_file, "val": val_file, "test": test_file}
    given = {split: path for split, path in files.items() if path is not None}
    found = Annotations(str(root))
    names: dict[int, str] = {}
    for split, path in given.items():
        content = load_coco(path, found)
        categories = read_categories(content, path, found)
        _drop_root(content, categories, path, found)
        names = names or categories
        folder = _picture_folder(content, path, split, root)
        if folder.startswith(".."):
            found.notes.append(f"the file names of {path} are read from its own folder, not from data.root ({root})")
        pictures = _add_pictures(content, path, split if len(given) > 1 else "", folder, found)
        add_objects(content, str(path), pictures, categories, found)
    unique = {name: number for number, name in reversed(names.items())}
    found.class_names = tuple(sorted(unique, key=lambda name: unique[name]))
    found.category_ids = tuple(unique[name] for name in found.class_names)
    return found


def load_coco(path: Path, found: Annotations) -> dict[str, Any]:
    """Return what a JSON file holds if it is COCO's; otherwise nothing, and `found` is given the fault.

    Raises DataError if it cannot be read, or is of a kind that other tools write.
    """
    try:
        text = read_file(path, MOST_TEXT_BYTES)
    except OSError as error:
        fix = "; ".join(filter(None, [why_absent(path), "data.train_file, val_file and test_file name such files"]))
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path), fix=fix) from error
    if not text.strip():
        found.add_fault("empty_file", "the file is empty", str(path))
        return {}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        found.add_fault("malformed", f"not JSON: {error.msg}", f"{path}:{error.lineno}")
        return {}
    except (ValueError, RecursionError) as error:  # not UTF-8, or a number of thousands of digits
        found.add_fault("malformed", f"not JSON: {error}", str(path))
        return {}
    wanted = ("images", "annotations", "categories")
    if dialect := _dialect(content):
        raise DataError(f"this is not COCO's JSON but {dialect[0]}", where=str(path), fix=dialect[1])
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in wanted):
        found.add_fault("malformed", f"must be an object with the lists {', '.join(wanted)}", str(path))
        return {}
    return content


def image_ids(file: Path, paths: Sequence[Path]) -> list[int]:
    """Return the ids by which a JSON file of COCO knows pictures; file names in it may lack folders, or have others.

    Raises DataError if it cannot be read, or a picture is in it not at all or several times.
    """
    known: dict[str, list[tuple[str, int]]] = {}
    for entry in load_coco(file, Annotations("")).get("images", ()):
        if isinstance(entry, dict) and _is_name(entry.get("file_name")) and _is_whole(number := _id(entry.get("id"))):
            known.setdefault(os.path.basename(entry["file_name"]), []).append((entry["file_name"], number))
    ids = []
    for path in paths:
        named = known.get(path.name, [])
        exact = [number for name, number in named if f"/{path.as_posix()}".endswith(f"/{name}")]
        numbers = exact or [number for _, number in named]
        if len(numbers) != 1:
            what = f"{path} is there {len(numbers)} times" if numbers else f"{path} is not among the images"
            raise DataError(what, where=str(file), fix="name the file that lists all of these pictures once")
        ids += numbers
    return ids


def _dialect(content: Any) -> tuple[str, str] | None:
    """The other kind of JSON file that it is, and what to do with it; None for COCO's or an unknown one."""
    if isinstance(content, dict) and "shapes" in content:
        return "labelme's, of one picture", LABELME
    first = next(iter(content.values() if isinstance(content, dict) else content), None) if content else None
    keys = set(first) if isinstance(first, dict) else set()
    if "_via_img_metadata" in (content or ()) or {"regions", "filename"} <= keys:
        return "VIA's", "in VIA choose Annotation, Export Annotations (COCO format)"
    if not isinstance(content, list):
        return None
    if {"annotations", "data"} <= keys:
        return "Label Studio's", "in Label Studio choose Export, COCO"
    if {"image_id", "category_id", "score"} <= keys:
        return "a list of a detector's answers", "name the file of the ground truth"
    return None


def read_categories(content: dict[str, Any], path: Path, found: Annotations) -> dict[int, str]:
    """Names by id, in the order of ids."""
    names: dict[int, str] = {}
    for index, entry in enumerate(content.get("categories", ())):
        where = f"{path}: categories[{index}]"
        entry = {**entry, "id": _id(entry.get("id"))} if isinstance(entry, dict) else {}
        if not _is_whole(entry.get("id")) or not _is_name(entry.get("name")):
            needed = "a category needs a whole number `id` (64 bits) and a text `name` (no NUL, no half surrogate)"
            found.add_fault("malformed", needed, where)
        elif entry["id"] in names:
            found.add_fault("duplicate_id", f"category id {entry['id']} is {names[entry['id']]} already", where)
        else:
            if entry["name"] in names.values():
                found.add_fault("duplicate_name", f"there is another category '{entry['name']}'", where, fixable=True)
            names[entry["id"]] = entry["name"]
    return dict(sorted(names.items()))


def _drop_root(content: dict[str, Any], categories: dict[int, str], path: Path, found: Annotations) -> None:
    """Take out Roboflow's category 0: the only one whose supercategory is "none", of which there is no object."""
    entries = [entry for entry in content.get("categories", ()) if isinstance(entry, dict)]
    roots = [_id(entry.get("id")) for entry in entries if entry.get("supercategory") == "none"]
    objects = (entry for entry in content.get("annotations", ()) if isinstance(entry, dict))
    alone = roots == [0] and len(categories) > 1 and 0 in categories
    if alone and all(_id(entry.get("category_id")) != 0 for entry in objects):
        found.notes.append(f"category 0 '{categories.pop(0)}' has no object and is no class: {path}")


def _picture_folder(content: dict[str, Any], path: Path, split: str, root: Path) -> str:
    """The folder that file names are relative to, relative to root; root itself unless the first picture is in another.

    Roboflow puts a split's pictures and JSON file into one folder, COCO its pictures into train2017, val2017.
    """
    first = next((entry.get("file_name") for entry in content.get("images", ()) if isinstance(entry, dict)), None)
    if not isinstance(first, str) or not _is_name(first) or (root / first).is_file():
        return ""
    below = [folder for parent in (root, root / "images") if parent.is_dir() for folder in sorted(parent.iterdir())]
    folders = [path.parent, *(folder for folder in below if named_split(folder.name) == split)]
    return next((os.path.relpath(folder, root) for folder in folders if (folder / first).is_file()), "")


def _add_pictures(content: dict[str, Any], path: Path, split: str, folder: str, found: Annotations) -> dict[int, int]:
    """Return the positions of pictures by id."""
    positions: dict[int, int] = {}
    of_name: dict[str, int] = {}
    for index, entry in enumerate(content.get("images", ())):
        where = f"{path}: images[{index}]"
        entry = {**entry, "id": _id(entry.get("id"))} if isinstance(entry, dict) else {}
        if not _is_whole(entry.get("id")) or not _is_name(entry.get("file_name")):
            needed = "an image needs a whole number `id` (64 bits) and a text `file_name` (no NUL, no half surrogate)"
            found.add_fault("malformed", needed, where)
            continue
        number, size = entry["id"], (_id(entry.get("width")) or 0, _id(entry.get("height")) or 0)
        where = f"{where} (id {number})"
        if number in positions:
            found.add_fault("duplicate_id", f"image id {number} again, for {entry['file_name']}", where)
            continue
        if not all(map(_is_whole, size)):
            found.add_fault("malformed", "width and height must be whole numbers", where, fixable=True)
            size = (0, 0)
        name = os.path.join(folder, entry["file_name"])
        if name not in of_name:
            of_name[name] = found.add_picture(name, where, split=split, size=size, id=number)
        positions[number] = of_name[name]
    if again := len(positions) - len(of_name):
        found.notes.append(f"{plural(again, 'image entry names', 'image entries name')} a file once more, as "
                           f"some tools write one for each object: their objects are put together: {path}")  # fmt: skip
    return positions


def add_objects(
    content: dict[str, Any], path: str, pictures: dict[int, int], names: dict[int, str], found: Annotations
) -> None:
    """Add the objects of a file. pictures: positions by id; names: of classes by id."""
    seen: set[Any] = set()
    rotated = 0
    for index, entry in enumerate(content.get("annotations", ())):
        if not isinstance(entry, dict):
            found.add_fault("malformed", "not an object", f"{path}: annotations[{index}]")
            continue
        number = entry.get("id")
        where = f"{path}: annotations[{index}] (id {number})"
        if isinstance(number, int | str):
            if number in seen:
                found.add_fault("duplicate_id", f"annotation id {number} again", where, fixable=True)
            seen.add(number)
        box, image, category = entry.get("bbox"), _id(entry.get("image_id")), _id(entry.get("category_id"))
        mask = _mask(entry.get("segmentation"))
        if isinstance(box, list):
            numbers = [read_number(side) if isinstance(side, str) else math.nan for side in box]
            box = [side if math.isnan(number) else number for side, number in zip(box, numbers, strict=True)]
        elif box is None and isinstance(mask, list) and mask:
            across, down = [x for part in mask for x in part[::2]], [y for part in mask for y in part[1::2]]
            box = [min(across), min(down), max(across) - min(across), max(down) - min(down)] if down else None
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            found.add_fault("malformed", "`bbox` must be [left, top, width, height]", where)
        elif not _is_whole(image) or image not in pictures:
            found.add_fault("unknown_image", f"there is no image with id {image}", where)
        else:
            try:
                crowd, difficult = read_flag(entry.get("iscrowd")), read_flag(entry.get("difficult"))
            except ValueError as error:
                found.add_fault("malformed", f"`iscrowd` or `difficult`: {error}", where)
                continue
            attributes = entry.get("attributes")
            rotated += isinstance(attributes, dict) and bool(attributes.get("rotation"))
            left, top, width, height = box
            thing = AnnotatedObject(
                pictures[image],
                (left, top, left + width, top + height),
                _name(category, names),
                where,
                crowd=crowd,
                difficult=difficult,
                area=_area(entry.get("area")),
                segmentation=mask,
            )
            found.objects.append(thing)
    found.note_rotated(rotated, path)


def _mask(given: Any) -> Segmentation | None:
    """Polygons or a run-length code as they are; for anything else an empty list, which is reported as a fault."""
    if not given or (isinstance(given, list) and not any(given)):  # [[]]: several tools write it for no mask
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
    """NaN for what is missing or makes no sense, as 0 for an object with a box does not."""
    return float(given) if _is_number(given) and math.isfinite(given) and given > 0 else math.nan


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number of 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _id(value: Any) -> Any:
    """An id as a number where it is written as text or as 3.0; anything else as it is."""
    if isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_name(value: Any) -> bool:
    """Whether it is a text that can name a file or class: without NUL and halves of surrogate pairs."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def written_object(thing: AnnotatedObject, category_id: int) -> dict[str, Any]:
    """Return an annotation of COCO without ids of its own; `difficult`, which COCO does not know, where it is set."""
    left, top, right, bottom = thing.box_xyxy
    return {
        "category_id": category_id,
        "bbox": [left, top, right - left, bottom - top],
        "area": thing.area,
        "iscrowd": int(thing.crowd),
        **({"difficult": 1} if thing.difficult else {}),
        **({"segmentation": thing.segmentation} if thing.segmentation is not None else {}),
    }


def write_coco(annotations: Annotations, out: Path) -> dict[str, Any]:
    """Write annotations/SPLIT.json next to images; `difficult`, which COCO does not know, is an extra key where set."""
    (out / "annotations").mkdir(parents=True)
    number_of = dict(zip(annotations.class_names or (), annotations.category_ids, strict=True))
    categories = [{"id": number, "name": name} for name, number in number_of.items()]
    for split in annotations.splits():
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for picture, things in annotations.of_split(split):
            width, height = picture.size
            images.append({"id": picture.id, "file_name": picture.path, "width": width, "height": height})
            for thing in things:
                entry = written_object(thing, number_of[thing.name])
                objects.append({"id": len(objects) + 1, "image_id": picture.id, **entry})
        content = {"images": images, "annotations": objects, "categories": categories}
        (out / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    files = {f"{split}_file": f"annotations/{split}.json" for split in annotations.splits()}
    return {"name": "coco", "root": "images", **files}
