"""Recognition of annotated pictures: which format lies in a folder or file, and the data section that reads it.

Only what tells the formats apart is looked at; the readers of `annotations` read the rest. No torch.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from mlcli.data.decode import is_image_name
from mlcli.data.sources.csv_file import CsvFile, read_csv
from mlcli.data.sources.shards import first_sample, has_shards, storage_at
from mlcli.data.sources.tar_index import MOST_JSON
from mlcli.data.splits import SPLITS, named_split
from mlcli.errors import DataError, UserError
from mlcli.reading import MOST_TEXT_BYTES, read_file
from mlcli.schema.places import Origin
from mlcli.schema.yaml12 import parse, read_text
from mlcli.tasks.detection.data.config import AnnotatedShards, AnnotationFiles, BoxCsv, Coco, Voc, YoloTxt

COLUMNS = {"filename", "class", "xmin", "ymin", "xmax", "ymax"}
CORNERS = ({"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"}, {"left", "top", "right", "bottom"},
           {"x_min", "y_min", "x_max", "y_max"}, {"x", "y", "w", "h"}, {"x", "y", "width", "height"},
           {"bbox"}, {"region_shape_attributes"})  # fmt: skip
"""What others call the columns of boxes, in small letters."""
NAMES = ("classes.txt", "obj.names", "labels/classes.txt")
"""Files that name YOLO's classes where there is no data.yaml."""
MOST_FOLDERS = 50
"""Folders within a folder that are looked into; data sets in parts have few, classes may be thousands."""
HEAD_BYTES = 2000
LABEL = re.compile(rb"\d+( +-?\d*\.?\d+(e-?\d+)?){4,}\s")
"""A line of YOLO's label files."""


def recognise(path: Path) -> list[AnnotationFiles]:
    """Return the data sections that could read a folder or file, the likeliest first; none if nothing is annotated.

    Looks into folders below where a folder itself holds nothing. Raises DataError where it is asked for more: several
    data sets side by side, label files whose classes have no names, and JSON of a kind that is no annotation.
    """
    if has_shards(path):
        return list(_shards(path))
    if path.is_file():
        return list(_of_file(path))
    if not path.is_dir():
        return []
    if found := _of_folder(path):
        return found
    for depth in ("*", "*/*"):
        folders = sorted(folder for folder in path.glob(depth) if folder.is_dir() and not folder.name.startswith("."))
        below = [(folder, _of_folder(folder)) for folder in folders[:MOST_FOLDERS]]
        sets = [(folder, found) for folder, found in below if found]
        if len(sets) > 1:
            names = ", ".join(str(folder) for folder, _ in sets[:4])
            raise DataError(f"there are {len(sets)} sets of annotated pictures: {names}", where=str(path),
                            fix=f"mlcli init {sets[0][0]}")  # fmt: skip
        if sets:
            return sets[0][1]
    return []


def _shards(path: Path) -> Iterator[AnnotatedShards]:
    """Tar files whose first picture has a JSON member with objects."""
    try:
        storage = storage_at(path)
        shard = storage.shard(storage.names()[0])
        member = first_sample(storage, shard).get("json")
        told = json.loads(storage.read(shard, member.offset, member.size)) if member and member.size < MOST_JSON else 0
    except (DataError, ValueError, IndexError, RecursionError):
        return
    if isinstance(told, list) or (isinstance(told, dict) and isinstance(told.get("annotations"), list)):
        yield AnnotatedShards(name="shards", root=path)


def _of_file(path: Path) -> Iterator[AnnotationFiles]:
    match path.suffix.lower():
        case ".yaml" | ".yml" if _is_data_yaml(path):
            yield YoloTxt(name="yolo_txt", file=path)
        case ".json" if _is_coco(path):
            yield _coco(path.parent, {"train": path})
        case ".csv" | ".tsv" if _has_boxes(path):
            yield _box_csv(path.parent, {"train": path})


def _of_folder(folder: Path) -> list[AnnotationFiles]:
    found: list[AnnotationFiles] = [*_yolo(folder), *_voc(folder)]
    below, refused = ("", *_named_after_splits(folder)), list[DataError]()
    try:
        if files := _by_split(folder, below, ".csv", _has_boxes):
            found.append(_box_csv(folder, files))
    except DataError as error:
        refused.append(error)
    try:
        if files := _by_split(folder, (*below, "annotations"), ".json", _is_coco):
            found.append(_coco(folder, files))
    except DataError as error:
        refused.append(error)
    if refused and not found:  # what is no annotation as it should be matters only where there is nothing else
        raise refused[0]
    return found


# --- YOLO ------------------------------------------------------------------------------------------------------------


def _yolo(folder: Path) -> Iterator[YoloTxt]:
    yamls = [folder / name for name in _listed(folder) if name.lower().endswith((".yaml", ".yml"))]
    names = [folder / name for name in NAMES if (folder / name).is_file()]
    files = [path for path in sorted(yamls, key=lambda path: path.stem != "data") if _is_data_yaml(path)]
    labels = _first_label_file(folder) if not files else None
    if files or (labels and names):
        yield YoloTxt(name="yolo_txt", file=(files or names)[0])
    elif labels:
        what = f"there are label files of YOLO, such as {labels}, but nothing says what their classes are called"
        raise DataError(what, where=str(folder), fix=f"write {folder / 'classes.txt'}: a name a line, class 0 first")


def _is_data_yaml(path: Path) -> bool:
    """Whether it names classes and pictures."""
    try:
        text = read_text(path)
        plain = parse(text, Origin(str(path), tuple(text.splitlines()))).data
    except UserError:
        return False
    return isinstance(plain, dict) and "names" in plain and any(named_split(str(key)) for key in plain)


def _first_label_file(folder: Path) -> Path | None:
    """A text file beside a picture of its name, or in a folder called labels, whose first line is an object."""
    splits = (f"labels/{name}" for name in _named_after_splits(folder / "labels"))
    for below in ("labels", "obj_train_data", ".", *splits):
        names = _listed(folder / below)
        stems = _stems(names)
        for name in names:
            beside = "labels" in below or name[:-4] in stems
            if name.endswith(".txt") and beside and LABEL.match(_head(folder / below / name)):
                return folder / below / name
    return None


def _stems(names: Iterable[str]) -> set[str]:
    """Names of picture files without their endings."""
    return {os.path.splitext(name)[0] for name in filter(is_image_name, names)}


# --- Pascal VOC ------------------------------------------------------------------------------------------------------


def _voc(folder: Path) -> Iterator[Voc]:
    """As VOC, LabelImg, CVAT and Label Studio lay it out, or Roboflow with a folder for each split."""
    if any(_first_xml(folder / name) for name in _named_after_splits(folder)):
        yield Voc(name="voc", root=folder)
        return
    folders = ["Annotations", "annotations", *_folders(folder), "."]
    annotations = next((name for name in folders if _first_xml(folder / name)), None)
    if annotations is None:
        return
    stem = os.path.splitext(_first_xml(folder / annotations))[0]
    pictures = ["JPEGImages", "images", annotations, ".", *_folders(folder)]
    shown = {name: _stems(_listed(folder / name)) for name in pictures}
    images = next((name for name in pictures if stem in shown[name]), None)
    images = images or next((name for name in pictures if shown[name]), "JPEGImages")
    lists: dict[Any, Path] = _by_split(folder, ("", "data"), ".csv", lambda path: {"filename"} <= _header(path))
    has_lists = any((folder / "ImageSets" / "Main" / f"{name}.txt").is_file() for name in ("train", "trainval"))
    split_file = lists if "train" in lists and len(lists) > 1 and not has_lists else None
    yield Voc(name="voc", root=folder, images=images, annotations=annotations, split_file=split_file)


def _first_xml(folder: Path) -> str:
    """The name of the first XML file if it is an annotation; empty if it is not."""
    name = next((name for name in _listed(folder) if name.lower().endswith(".xml")), "")
    return name if name and re.search(rb"<\s*annotation[\s>]", _head(folder / name)) else ""


# --- COCO and CSV ----------------------------------------------------------------------------------------------------


def _coco(folder: Path, files: dict[str, Path]) -> Coco:
    first, *rest = [split for split in SPLITS if split in files]
    root = folder.parent if folder.name == "annotations" else folder
    names = [picture.get("file_name") for picture in _coco_lists(files[first])["images"] if isinstance(picture, dict)]
    inside = names and isinstance(names[0], str) and (root / "images" / names[0]).is_file()
    held = {split: files[split] for split in rest}
    root = root / "images" if inside else root
    return Coco(name="coco", root=root, train_file=files[first], val_file=held.get("val"), test_file=held.get("test"))


def _is_coco(path: Path) -> bool:
    """Whether a JSON file has boxes of objects as COCO has them. Raises DataError for other tools' annotations."""
    things = _coco_lists(path).get("annotations", ())
    return any(isinstance(thing, dict) and not {"bbox", "segmentation"}.isdisjoint(thing) for thing in things)


def _coco_lists(path: Path) -> dict[str, Any]:
    from mlcli.tasks.detection.data.annotations.coco import load_coco  # needs torch, which most folders do not
    from mlcli.tasks.detection.data.annotations.contents import Annotations

    return load_coco(path, Annotations(""))


def _box_csv(folder: Path, files: dict[str, Path]) -> BoxCsv:
    first, *rest = [split for split in SPLITS if split in files]
    table = read_csv(files[first])
    name = next(iter(table.column("filename")), "")
    roots = [files[first].parent, folder, *(folder / below for below in _folders(folder))]
    root = next((root for root in roots if (root / name).is_file()), roots[0])
    held = {split: files[split] for split in rest}
    val_file, test_file = held.get("val"), held.get("test")
    own = None if root == roots[0] else root
    return BoxCsv(name="box_csv", file=files[first], root=own, val_file=val_file, test_file=test_file)


def _has_boxes(path: Path) -> bool:
    """Whether a CSV file has boxes. Raises DataError if it has, but in columns of other names."""
    table = read_csv(path)
    header = {name.lower() for name in table.header}
    if header >= COLUMNS:
        return {*table.header} >= COLUMNS or _refuse_names(path, table)
    corners = any(header >= names for names in CORNERS)
    if corners and any(is_image_name(cell) for row in table.rows[:20] for cell in row):
        _refuse_names(path, table)
    return False


def _refuse_names(path: Path, table: CsvFile) -> NoReturn:
    what = f"these are boxes, but their columns are called {', '.join(table.header)}"
    raise DataError(what, where=str(path), fix="call them filename, class, xmin, ymin, xmax, ymax (corners in pixels)")


def _header(path: Path) -> set[str]:
    try:
        return set(read_csv(path).header)
    except UserError:
        return set()


# --- folders ---------------------------------------------------------------------------------------------------------


def _by_split(folder: Path, below: Iterable[str], ending: str, fits: Callable[[Path], bool]) -> dict[str, Path]:
    """Files that fit, by the split that they or their folder are called after; where there is none such, a file that is
    called after none is "train".

    The first of several of one split, instances before captions and keypoints.
    """
    found: dict[str, Path] = {}
    for place in below:
        names = [name for name in _listed(folder / place) if name.lower().endswith(ending)]
        for name in sorted(names, key=lambda name: "instances" not in name):
            words = [place, *re.split(r"[^A-Za-z0-9]+", os.path.splitext(name)[0])]
            split = next(filter(None, map(named_split, words)), "")
            if split not in found and fits(folder / place / name):
                found[split] = folder / place / name
    rest = found.pop("", None)
    return found or ({"train": rest} if rest else {})


def _listed(folder: Path) -> list[str]:
    """The names in a folder that are not hidden, sorted; none if it cannot be read."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _folders(folder: Path) -> list[str]:
    return [name for name in _listed(folder)[:MOST_FOLDERS] if (folder / name).is_dir()]


def _named_after_splits(folder: Path) -> list[str]:
    return [name for name in _folders(folder) if named_split(name)]


def _head(path: Path) -> bytes:
    """The first bytes of a text file; none if it cannot be read."""
    try:
        return read_file(path, MOST_TEXT_BYTES)[:HEAD_BYTES] + b"\n"
    except OSError:
        return b""
