"""YOLO's text files: one a picture, a line an object, all in shares of the picture; a data.yaml names the classes.

Written from the format as people use it: `class x y width height`, or `class x1 y1 x2 y2 ...` around the object.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlcli.data.decode import is_image_name
from mlcli.data.sources.image_folder import look_below
from mlcli.data.splits import named_split
from mlcli.errors import DataError
from mlcli.reading import MOST_TEXT_BYTES, read_file, why_absent
from mlcli.schema.places import Origin
from mlcli.schema.yaml12 import dump, parse, read_text
from mlcli.tasks.detection.data.annotations.box_csv import corner
from mlcli.tasks.detection.data.annotations.contents import AnnotatedObject, Annotations
from mlcli.tasks.detection.masks import Segmentation
from mlcli.text import first_few, plural

POSE_SHARE = 0.8
"""Of rows with equally many numbers, the share that must look like poses for it to be asked whether they are."""

NO_LABELS = {"classes.txt", "notes.txt", "train.txt", "val.txt", "valid.txt", "test.txt"}
"""Texts that tools leave among the label files."""


class _Row(NamedTuple):
    """A line of a label file: the picture's position, the class and the numbers behind it."""

    picture: int
    kind: float
    values: list[float]
    where: str


def read_yolo_txt(file: Path) -> Annotations:
    """Read the pictures that a data.yaml names, and their text files.

    Takes the data sets of Ultralytics and Roboflow, and those of CVAT (YOLO 1.1), Label Studio, LabelImg and makesense,
    which have a text with a name a line (obj.names, classes.txt) instead of a data.yaml.
    A line is a box (4 numbers behind the class), an outline (3 points or more) or a pose: a box and keypoints of 2 or 3
    numbers, as `kpt_shape` says or, without it, as the third number of each keypoint shows, which is 0, 1 or 2. The
    boxes of poses are read. `kpt_shape: null` says that rows which look like poses are outlines.

    Raises DataError, or ConfigError for broken YAML, if it does not name pictures and classes, if rows could be
    outlines or poses, and if classes are numbered from 1 but named from 0.
    """
    if not file.is_file():
        fix = why_absent(file) or "set data.file to the data.yaml"
        raise DataError("there is no such file", where=f"data.file: {file}", fix=fix)
    text = read_text(file)
    if file.suffix.lower() in (".txt", ".names"):
        plain: Any = _beside_names(text, file)
    else:
        plain = parse(text, Origin(str(file), tuple(text.splitlines()))).data
    if not isinstance(plain, dict):
        raise DataError("this is not a data.yaml: no keys", where=str(file), fix="path, train, val and names")
    names = _names(plain, file)
    root = file.parent / os.path.expanduser(str(plain.get("path") or ""))
    found = Annotations(str(root), relative=True, class_names=tuple(names.values()), category_ids=tuple(names))
    rows: list[_Row] = []
    text_of: dict[str, str] = {}
    for key, entry in plain.items():
        split = named_split(str(key))
        for path, where in _pictures(entry, root, f"{file}: {key}", found.notes) if split else ():
            picture = found.add_picture(os.path.relpath(path, root), where, split=split)
            text_of[path] = _labels_of(path)
            rows += _rows(text_of[path], picture, found)
    _refuse_counting_from_one(rows, names, file)
    keypoint = _keypoint_numbers(rows, plain, file)
    for row in rows:
        _add_object(row, keypoint, names, found)
    if keypoint:
        found.notes.append("the label files hold poses: their boxes are read, their keypoints are left out")
    found.notes += _unmatched(text_of, file)
    return found


def _beside_names(text: str, file: Path) -> dict[str, Any]:
    """What a data.yaml would say of the pictures next to a list of names: as train.txt and others list them, or as they
    lie in images/ or next to the names, perhaps in folders called after the splits."""
    root = file.parent.parent if file.parent.name == "labels" else file.parent
    plain: dict[str, Any] = {
        "path": str(root.absolute()),
        "names": [line.strip() for line in text.split("\n") if line.strip()],
    }
    images = "images" if (root / "images").is_dir() else "."
    lists = {name: name for name in os.listdir(root) if name.endswith(".txt")}
    folders = {name: os.path.join(images, name) for name in os.listdir(root / images)}
    folders = {name: folder for name, folder in folders.items() if (root / folder).is_dir()}
    for named in (lists, folders):
        splits = {split: place for name, place in named.items() if (split := named_split(os.path.splitext(name)[0]))}
        if "train" in splits:
            return plain | splits
    return plain | {"train": images}


def _names(plain: dict[str, Any], file: Path) -> dict[int, str]:
    """Classes by number, in order; a list, or a mapping from numbers."""
    names = plain.get("names")
    given = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(given, dict) or not given or not all(re.fullmatch("[0-9]{1,9}", str(number)) for number in given):
        raise DataError(
            "no names of classes", where=f"{file}: names", fix="names: [cat, dog], or names: {0: cat, 1: dog}"
        )
    odd = [name for name in given.values() if not isinstance(name, str | int) or isinstance(name, bool)]
    if odd:
        what = (
            f"names of classes must be texts, not {first_few(['null' if name is None else str(name) for name in odd])}"
        )
        raise DataError(what, where=f"{file}: names", fix="put names that look like other values in quotes")
    twice = [str(name) for name, count in Counter(given.values()).items() if count > 1]
    if twice:
        fix = "give each class a name of its own, or both the same number in the label files"
        raise DataError(f"two classes have the same name: {first_few(twice)}", where=f"{file}: names", fix=fix)
    count = plain.get("nc")
    if count is not None and count != len(given):
        what = f"nc is {count}, but there are {plural(len(given), 'name')}"
        raise DataError(what, where=f"{file}: nc, names", fix="name every class, or correct nc")
    return dict(sorted((int(number), str(name)) for number, name in given.items()))


def _pictures(entry: Any, root: Path, where: str, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Paths of pictures and where they are named: a folder, a file that lists them, or several of both.

    notes: is added what is passed over in the folders.
    """
    for one in entry if isinstance(entry, list) else [entry] if entry else []:
        one = os.path.expanduser(str(one))
        path = root / one
        if not os.path.exists(path):
            one = one.replace("\\", "/")  # written on Windows
            path = root / one
        if not os.path.exists(path) and one.startswith("../"):
            path = root / one[3:]  # one exporter writes its paths as if data.yaml lay a folder deeper
        if os.path.isdir(path):
            pictures, passed_over = look_below(path)
            notes += [str(found) for found in passed_over if found.kind != "other-files"]  # labels may lie there
            yield from ((str(picture), str(picture)) for picture in pictures)
        elif is_image_name(path.name):
            yield str(path), where
        elif os.path.isfile(path):
            try:
                lines = read_file(path, MOST_TEXT_BYTES).decode("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read the list of pictures: {error}", where=str(path)) from error
            for number, line in enumerate(lines, 1):
                name = line.strip().replace("\\", "/") if "\\" in line else line.strip()
                if name:
                    if name.startswith("data/") and not os.path.exists(root / name):
                        name = name.removeprefix("data/")  # CVAT's, as darknet wants them
                    beside = path.parent / name
                    yield str(beside if beside.exists() else root / name), f"{path}:{number}"
        else:
            fix = why_absent(path) or "paths are relative to `path`, or to the data.yaml"
            raise DataError(f"there is no {path}", where=where, fix=fix)


def _labels_of(picture: str) -> str:
    """The last folder called images becomes labels; without one the text lies next to the picture."""
    folder, name = os.path.split(picture)
    parts = folder.split(os.sep)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return os.path.join(os.sep.join(parts), os.path.splitext(name)[0] + ".txt")


def _rows(path: str, picture: int, found: Annotations) -> Iterator[_Row]:
    """The lines of a label file. A picture without one, or with an empty one, has no objects."""
    try:
        lines = read_file(path, MOST_TEXT_BYTES).decode("utf-8-sig").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        found.add_fault("malformed", f"cannot be read: {error}", path)
        return
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            kind, *values = map(corner, line.split())
            yield _Row(picture, kind, values, f"{path}:{number}")
        except ValueError as error:
            found.add_fault("malformed", f"{error}; a line is `class x y width height`", f"{path}:{number}")


def _refuse_counting_from_one(rows: Sequence[_Row], names: dict[int, str], file: Path) -> None:
    """Raise DataError if the rows' classes are 1 to K and the names' 0 to K - 1: dropping class K would leave every
    other class under its neighbour's name."""
    count = len(names)
    kinds = {row.kind for row in rows}
    if set(names) == set(range(count)) and count in kinds and kinds <= set(range(1, count + 1)):
        numbered = ", ".join(f"{number + 1}: {name}" for number, name in names.items())
        raise DataError(
            f"class {count} is unknown: the label files count classes from 1 to {count}, but names count from 0 to "
            f"{count - 1}",
            where=next(row.where for row in rows if row.kind == count),
            fix=f"if ids begin at 1, write in {file.name} names: {{{numbered}}}; otherwise correct class {count}",
        )


def _keypoint_numbers(rows: Sequence[_Row], plain: dict[str, Any], file: Path) -> int:
    """Numbers of a keypoint, 2 or 3, if the rows are poses; 0 if they are boxes and outlines.

    Raises DataError for a `kpt_shape` that is none, and for rows that could be either.
    """
    if "kpt_shape" in plain:
        shape = plain["kpt_shape"]
        if shape is None:
            return 0
        whole = isinstance(shape, list) and len(shape) == 2 and all(type(part) is int for part in shape)
        if not whole or shape[0] < 1 or shape[1] not in (2, 3):
            fix = "kpt_shape: [17, 3], for 17 keypoints of 3 numbers each; null if there are none"
            raise DataError(f"kpt_shape is {shape}", where=f"{file}: kpt_shape", fix=fix)
        return shape[1]
    long = [row for row in rows if len(row.values) > 4]
    if not long or len({len(row.values) for row in long}) > 1:
        return 0  # outlines have as many points as they need, poses all the same number
    numbers = len(long[0].values) - 4
    if numbers % 3 == 0 and all({*row.values[6::3]} <= {0, 1, 2} and _may_be_pose(row.values, 3) for row in long):
        return 3
    alike = sum(_may_be_pose(row.values, 2) for row in long)
    if numbers % 2 or alike < POSE_SHARE * len(long):
        return 0
    raise DataError(
        f"rows of {numbers + 5} numbers could be outlines, or poses: a box and {numbers // 2} keypoints",
        where=long[0].where,
        fix=f"say so in {file.name}: kpt_shape: [{numbers // 2}, 2] for poses, kpt_shape: null for outlines",
    )


def _may_be_pose(values: list[float], numbers: int) -> bool:
    """Whether the first four numbers are a box in the picture and the keypoints lie in it, or at 0 0 if unlabelled."""
    x, y, width, height = values[:4]
    points = list(zip(values[4::numbers], values[5::numbers], strict=False))
    inside = all(
        (across, down) == (0, 0) or (abs(across - x) <= 0.55 * width and abs(down - y) <= 0.55 * height)
        for across, down in points
    )
    edges = (x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2)
    return inside and width > 0 and height > 0 and min(edges) > -0.01


def _add_object(row: _Row, keypoint: int, names: dict[int, str], found: Annotations) -> None:
    values = row.values
    if keypoint and len(values) > 4 and (len(values) - 4) % keypoint == 0:
        values = values[:4]
    try:
        if keypoint and len(values) != 4:
            raise ValueError(f"{len(values) + 1} values; a pose is a class, a box and keypoints of {keypoint} numbers")
        box, outline = _box(values)
    except ValueError as error:
        found.add_fault("malformed", f"{error}; a line is `class x y width height`", row.where)
        return
    kind = row.kind
    name = names.get(int(kind), f"{kind:g}") if kind.is_integer() else f"{kind:g}"
    found.objects.append(AnnotatedObject(row.picture, box, name, row.where, segmentation=outline))


def _box(values: list[float]) -> tuple[tuple[float, float, float, float], Segmentation | None]:
    """Corners, and the outline if there is one. Raises ValueError for the wrong number of values."""
    if len(values) == 4:
        x, y, width, height = values
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values) + 1} values")
    across, down = values[::2], values[1::2]
    return (min(across), min(down), max(across), max(down)), [values]


def _unmatched(text_of: dict[str, str], file: Path) -> list[str]:
    """Notes about label files without a picture and pictures without a label file.

    text_of: path of the label file of each picture. Raises DataError where two pictures share a label file, and for
    label files that would not be read for their place or name: their pictures would be taught as empty.
    """
    texts = Counter(text_of.values())
    shared = [path for path, text in text_of.items() if texts[text] > 1]
    if shared:
        raise DataError(
            f"{len(shared)} pictures share a label file with another of the same name: {first_few(shared)}",
            where=f"{text_of[shared[0]]}, named by {file}",
            fix="remove the pictures that the label files are not about, or give them names of their own",
        )
    there: set[str] = set()
    folders = {os.path.dirname(path) for path in (*texts, *text_of)}
    folders |= {os.path.dirname(os.path.dirname(text)) for text in texts}
    for folder in sorted(folders):
        listed = os.listdir(folder) if os.path.isdir(folder) else []
        there |= {os.path.join(folder, name) for name in listed if name.lower().endswith(".txt")}
    bare = [path for path, text in text_of.items() if text not in there]
    astray = {text_of[path]: text for path in bare for text in _elsewhere(path, text_of[path], there)}
    if astray:
        wanted, text = next(iter(astray.items()))
        raise DataError(
            f"{plural(len(astray), 'label file')} would not be read, and the pictures taken as without objects: "
            f"{first_few(sorted(astray.values()))}",
            where=str(file),
            fix=f"move or rename the label files: {text} to {wanted}",
        )
    notes = []
    label_folders = {os.path.dirname(text) for text in texts}
    orphans = [path for path in sorted(there - set(texts)) if os.path.dirname(path) in label_folders]
    orphans = [path for path in orphans if os.path.basename(path).lower() not in NO_LABELS]
    if orphans:
        notes.append(f"{plural(len(orphans), 'label file')} of no picture, not read: {first_few(orphans)}")
    if bare:
        example = f"{first_few(bare)}; looked for {text_of[bare[0]]}"
        notes.append(f"{plural(len(bare), 'picture')} without a label file, taken as without objects: {example}")
    return notes


def _elsewhere(picture: str, wanted: str, there: set[str]) -> Iterator[str]:
    """Label files that are probably a picture's though they are not called or placed so."""
    name, folder = os.path.basename(picture), os.path.dirname(wanted)
    stem = os.path.splitext(name)[0]
    beside = (os.path.splitext(picture)[0], picture) if os.path.dirname(picture) != folder else ()
    above = (os.path.join(os.path.dirname(folder), stem),) if "labels" in folder.split(os.sep)[:-1] else ()
    tried = (os.path.join(folder, stem), os.path.join(folder, name), *beside, *above)
    endings = (".txt", ".TXT", ".Txt", ".txt.txt")
    yield from (path + ending for path in tried for ending in endings if path + ending in there)


def write_yolo_txt(annotations: Annotations, out: Path) -> dict[str, Any]:
    """Write labels/SPLIT and data.yaml next to images/SPLIT."""
    names = list(annotations.class_names or ())
    number_of = {name: number for number, name in enumerate(names)}
    for split in annotations.splits():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for picture, objects in annotations.of_split(split):
            width, height = picture.size
            lines = []
            for thing in objects:
                left, top, right, bottom = (
                    edge / side for edge, side in zip(thing.box_xyxy, (width, height) * 2, strict=True)
                )
                shares = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                lines.append(f"{number_of[thing.name]} " + " ".join(f"{share:.10g}" for share in shares) + "\n")
            (folder / f"{os.path.splitext(picture.path)[0]}.txt").write_text("".join(lines))
    plain = {split: f"images/{split}" for split in annotations.splits()} | {"names": names}
    (out / "data.yaml").write_text(dump(plain), encoding="utf-8")
    return {"name": "yolo_txt", "file": "data.yaml"}
