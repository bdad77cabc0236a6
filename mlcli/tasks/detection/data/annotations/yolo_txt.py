"""YOLO's text files: one a picture, a line an object, all in shares of the picture; a data.yaml names the classes.

Written from the format as people use it: `class x y width height`, or `class x1 y1 x2 y2 ...` around the object.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlcli.data.decode import EXTENSIONS
from mlcli.data.sources.csv_file import SPLIT_WORDS
from mlcli.errors import DataError
from mlcli.schema.places import Origin
from mlcli.schema.yaml12 import dump, parse, read_text
from mlcli.tasks.detection.data.annotations.contents import AnnotatedObject, Annotations
from mlcli.tasks.detection.masks import Segmentation


def read_yolo_txt(file: Path) -> Annotations:
    """Read the pictures that a data.yaml names, and their text files.

    Raises DataError, or ConfigError for broken YAML, if it does not name pictures and classes.
    """
    if not file.is_file():
        raise DataError("there is no such file", where=f"data.file: {file}", fix="set data.file to the data.yaml")
    text = read_text(file)
    plain = parse(text, Origin(str(file), tuple(text.splitlines()))).data
    if not isinstance(plain, dict):
        raise DataError("this is not a data.yaml: no keys", where=str(file), fix="path, train, val and names")
    names = _names(plain, file)
    root = file.parent / str(plain.get("path") or "")
    found = Annotations(str(root), relative=True, class_names=tuple(names.values()), category_ids=tuple(names))
    for key, entry in plain.items():
        split = SPLIT_WORDS.get(key, "")
        for path, where in _pictures(entry, root, f"{file}: {key}") if split else ():
            picture = found.add_picture(os.path.relpath(path, root), where, split=split)
            _add_objects(_labels_of(path), picture, names, found)
    return found


def _names(plain: dict[str, Any], file: Path) -> dict[int, str]:
    """Classes by number, in order; a list, or a mapping from numbers."""
    names = plain.get("names")
    given = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(given, dict) or not given or not all(str(number).isdigit() for number in given):
        raise DataError(
            "no names of classes", where=f"{file}: names", fix="names: [cat, dog], or names: {0: cat, 1: dog}"
        )
    return dict(sorted((int(number), str(name)) for number, name in given.items()))


def _pictures(entry: Any, root: Path, where: str) -> Iterator[tuple[str, str]]:
    """Paths of pictures and where they are named: a folder, a file that lists them, or several of both."""
    for one in entry if isinstance(entry, list) else [entry] if entry else []:
        path = root / str(one)
        if not path.exists() and str(one).startswith("../"):
            path = root / str(one)[3:]  # one exporter writes its paths as if data.yaml lay a folder deeper
        if path.is_dir():
            yield from ((picture, picture) for picture in _below(path))
        elif path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
                if line.strip():
                    beside = path.parent / line.strip()
                    yield str(beside if beside.exists() else root / line.strip()), f"{path}:{number}"
        else:
            raise DataError(f"there is no {path}", where=where, fix="paths are relative to `path`, or to the data.yaml")


def _below(folder: Path) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(here, name)


def _labels_of(picture: str) -> str:
    """The last folder called images becomes labels; without one the text lies next to the picture."""
    folder, name = os.path.split(picture)
    parts = folder.split(os.sep)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return os.path.join(os.sep.join(parts), os.path.splitext(name)[0] + ".txt")


def _add_objects(path: str, picture: int, names: dict[int, str], found: Annotations) -> None:
    """A picture without a text, or with an empty one, has no objects."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        found.add_fault("malformed", f"cannot be read: {error}", path)
        return
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            kind, *values = map(float, line.split())
            box, outline = _box(values)
        except ValueError as error:
            found.add_fault("malformed", f"{error}; a line is `class x y width height`", f"{path}:{number}")
            continue
        name = names.get(int(kind), f"{kind:g}") if kind.is_integer() else f"{kind:g}"
        found.objects.append(AnnotatedObject(picture, box, name, f"{path}:{number}", segmentation=outline))


def _box(values: list[float]) -> tuple[tuple[float, float, float, float], Segmentation | None]:
    """Corners, and the outline if there is one. Raises ValueError for the wrong number of values."""
    if len(values) == 4:
        x, y, width, height = values
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), None
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{len(values) + 1} values")
    across, down = values[::2], values[1::2]
    return (min(across), min(down), max(across), max(down)), [values]


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
