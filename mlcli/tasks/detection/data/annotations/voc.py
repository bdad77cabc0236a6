"""Pascal VOC: one XML file a picture (Everingham et al. 2010), as LabelImg and similar tools write it too."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat
from xml.sax.saxutils import escape

from mlcli.data.decode import is_image_name
from mlcli.data.sources.columns import read_number
from mlcli.data.splits import SPLITS, named_split
from mlcli.errors import DataError
from mlcli.reading import MOST_TEXT_BYTES, read_file, why_absent
from mlcli.tasks.detection.data.annotations.box_csv import corner, digits, read_rows, split_of, whole_number
from mlcli.tasks.detection.data.annotations.contents import (
    LABELME,
    AnnotatedObject,
    AnnotatedPicture,
    Annotations,
    read_flag,
)
from mlcli.text import first_few, plural

CORNERS = ("xmin", "ymin", "xmax", "ymax")
AGAIN = "a second <bndbox>"
"""Path, which no element has, of the texts of an object that has more than one box."""


def read_voc(
    root: Path,
    *,
    images: str = "JPEGImages",
    annotations: str = "Annotations",
    splits: str | None = "ImageSets/Main",
    split_file: Path | Mapping[Any, Path] | None = None,
    one_based: bool = False,
    difficult: Literal["ignore", "use"] = "ignore",
) -> Annotations:
    """Read every XML file that a split lists, or all there are.

    Takes files of VOC, LabelImg, CVAT, Label Studio, Roboflow, makesense, RectLabel: corners may be fractions,
    <difficult> 0, 1, true, false, yes, no or Unspecified, the size missing or 0, and the encoding any that Python
    knows, where the first line declares it. <part> is no object, <polygon> is passed over. Entities are refused.
    Instead of the folder of XML files there may be one for each split, called train, valid and test, with pictures and
    XML files together, as Roboflow exports them.

    Args:
        root: folder of the data set; images, annotations and splits are folders below it.
        split_file: a CSV file with the columns filename and split, or a list for each split, instead of `splits`.
        one_based: whether the first pixel is numbered 1.
        difficult: whether objects marked difficult are used like the others.

    Raises DataError if a folder or list cannot be read.
    """
    found = Annotations(str(root))
    places = [("", images, annotations)]
    if not _xml_files(root / annotations):
        places = [(split, folder, folder) for split, folder in _split_folders(root)]
        found.notes += [f"{folder}/, which holds XML files, is the {split} split" for split, folder, _ in places]
    if not places:
        raise _no_xml(root, root / annotations)
    for folder_split, pictures, folder in places:
        files, by_stem = _xml_files(root / folder), _files_by_stem(root / pictures)
        listed: Iterable[tuple[str, str, str]] = (
            (stem, folder_split, str(root / folder / name)) for stem, name in files.items()
        )
        if not folder_split:
            listed = _listed(listed, root / splits if splits else None, split_file, found)
        listed, before = [*listed], len(found.pictures)
        for stem, split, listed_at in listed:
            path = root / folder / files.get(stem, f"{stem}.xml")
            content = _parse(path, listed_at, found)
            if content is not None:
                _add_picture(found, content, path, pictures, by_stem, split, one_based, difficult == "use")
        used = {os.path.basename(picture.path) for picture in found.pictures[before:]}
        bare = sorted(name for names in by_stem.values() for name in names if name not in used)
        if bare and {stem for stem, *_ in listed} == set(files):
            found.notes.append(f"{plural(len(bare), 'picture')} without an XML file, not used: {first_few(bare)}")
    return found


def _xml_files(folder: Path) -> dict[str, str]:
    """Names of the XML files in a folder by what comes before the ending, sorted; none if it cannot be read."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return {}
    return {name[:-4]: name for name in names if name.lower().endswith(".xml") and not name.startswith(".")}


def _split_folders(root: Path) -> list[tuple[str, str]]:
    """Splits and the names of the folders called after them that hold XML files."""
    names = sorted(os.listdir(root)) if root.is_dir() else []
    found = [(split, name) for name in names if (split := named_split(name)) and _xml_files(root / name)]
    return sorted(found, key=lambda pair: SPLITS.index(pair[0]))


def _no_xml(root: Path, folder: Path) -> DataError:
    """The error of a folder without XML files: where they lie instead, or what lies there."""
    what = "there are no XML files in this folder" if folder.is_dir() else "there is no such folder"
    fix = why_absent(root) or "set data.root and data.annotations"
    if _xml_files(root):
        fix = "the XML files lie in data.root itself: set data.annotations=., and data.images=. if the pictures do too"
    for place in filter(Path.is_dir, (folder, root)):
        if json := next((name for name in sorted(os.listdir(place)) if name.endswith(".json")), ""):
            fix = f"{json} is JSON; `coco` is the format of one JSON file for all pictures; {LABELME}"
    return DataError(what, where=f"data.annotations: {folder}", fix=fix)


def _add_picture(
    found: Annotations,
    content: "_XmlContent",
    path: Path,
    images: str,
    by_stem: dict[str, list[str]],
    split: str,
    one_based: bool,
    use_difficult: bool,
) -> None:
    """Add the picture that an XML file is of, and its objects."""
    size = (whole_number(content.texts.get("/size/width")), whole_number(content.texts.get("/size/height")))
    # XML files often name another file or a folder: their own name comes first, then the one they hold.
    named = os.path.basename(content.texts.get("/filename", "").replace("\\", "/"))
    names = by_stem.get(path.stem) or by_stem.get(os.path.splitext(named)[0]) or [named or f"{path.stem}.jpg"]
    if len(names) > 1 and named not in names:
        found.add_fault("malformed", f"<filename> is '{named}'; which of {first_few(names)} is it?", str(path))
        return
    name = named if named in names else names[0]
    picture = found.add_picture(os.path.join(images, name), str(path), split=split, size=size)
    rotated = 0
    for texts, line in content.objects:
        _add_object(found, picture, texts, f"{path}:{line}", one_based, use_difficult)
        attribute = texts.get("/object/attributes/attribute/name")
        rotated += attribute == "rotation" and bool(read_number(texts.get("/object/attributes/attribute/value", "0")))
    found.note_rotated(rotated, str(path))


def _files_by_stem(folder: Path) -> dict[str, list[str]]:
    """File names of pictures by what comes before the extension, sorted."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"cannot read the folder of pictures: {error.strerror}", where=f"data.images: {folder}"
        ) from error
    found: dict[str, list[str]] = {}
    for name in names:
        if is_image_name(name) and not name.startswith("."):
            found.setdefault(os.path.splitext(name)[0], []).append(name)
    return found


def _listed(
    all_files: Iterable[tuple[str, str, str]],
    lists: Path | None,
    split_file: Path | Mapping[Any, Path] | None,
    found: Annotations,
) -> Iterator[tuple[str, str, str]]:
    """Name without extension, split (empty if none is named) and where it is listed; all_files if nothing lists any."""
    if split_file is not None:
        files: dict[str, Path] = {"": split_file} if isinstance(split_file, Path) else {**split_file}
    else:
        files = {split: lists / f"{split}.txt" for split in SPLITS if lists and (lists / f"{split}.txt").is_file()}
        if lists and "train" not in files and (lists / "trainval.txt").is_file():
            files["train"] = lists / "trainval.txt"
    for split, path in files.items():
        yield from (_from_csv if path.suffix.lower() == ".csv" else _from_text)(path, split, found)
    if not files:
        yield from all_files


def _from_csv(path: Path, split: str, found: Annotations) -> Iterator[tuple[str, str, str]]:
    seen = set()
    for cells, where in read_rows(path, ("filename", *(() if split else ("split",))), found):
        named = split or split_of(cells, where, found)
        stem = _stem(cells["filename"])
        if named == "":
            found.add_fault("malformed", "split must be train, val or test, not ''", where)
        elif named and (stem, named) not in seen:  # perhaps a row for each box
            seen.add((stem, named))
            yield stem, named, where


def _from_text(path: Path, split: str, found: Annotations) -> Iterator[tuple[str, str, str]]:
    """A name a line, perhaps with -1, 0 or 1 behind it."""
    try:
        lines = read_file(path, MOST_TEXT_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of pictures: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _stem(re.sub(r"\s+-?[01]$", "", line.strip())), split, f"{path}:{number}"


def _stem(name: str) -> str:
    """Without the extension of a picture; dots may be part of a name."""
    return os.path.splitext(name)[0] if is_image_name(name) else name


# --- one file --------------------------------------------------------------------------------------------------------


class _UnsafeError(Exception):
    """The file defines entities: a few lines of them can stand for gigabytes ("billion laughs")."""


class _XmlContent:
    """The texts of an XML file by their path below the root, and those of each <object>, with its line."""

    def __init__(self, data: bytes) -> None:
        self.tag = ""
        self.texts: dict[str, str] = {}
        self.objects: list[tuple[dict[str, str], int]] = []
        self._paths: list[str] = []
        self._text = ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True  # a text comes in one piece
        self._parser.EntityDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._take
        self._parser.Parse(data, True)

    def _refuse(self, *_: object) -> None:
        raise _UnsafeError("it defines entities, which are refused")

    def _take(self, text: str) -> None:
        self._text = text

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._text = ""
        if not self._paths:
            self.tag = tag
            self._paths.append("")
            return
        self._paths.append(f"{self._paths[-1]}/{tag}")
        if self._paths[-1] == "/object":
            self.objects.append(({}, self._parser.CurrentLineNumber))

    def _end(self, _: str) -> None:
        path, text = self._paths.pop(), self._text.strip()
        self._text = ""
        if text:
            texts = self.objects[-1][0] if path.startswith("/object/") else self.texts
            if path in texts and path.startswith("/object/bndbox/"):
                texts[AGAIN] = text
            texts.setdefault(path, text)


def _as_utf8(data: bytes) -> bytes:
    """An XML file whose first line declares an encoding that expat does not know, such as GBK or Shift_JIS, in UTF-8.

    Raises LookupError for an encoding that Python does not know either, UnicodeError for bytes that are not in it.
    """
    declared = re.match(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["'][^>]*>""", data)
    encoding = declared[1].decode().lower() if declared else "utf-8"
    if not declared or encoding in ("utf-8", "utf8", "utf-16"):  # expat tells these apart by their first bytes
        return data
    if encoding in ("gb2312", "gb_2312-80", "gbk"):
        encoding = "gb18030"  # holds both; many tools write characters of it under the names of its forerunners
    return data[declared.end() :].decode(encoding).encode()


def _parse(path: Path, listed_at: str, found: Annotations) -> _XmlContent | None:
    """None, and a fault, for a file that is missing, empty or no annotation."""
    try:
        data = read_file(path, MOST_TEXT_BYTES)
    except OSError as error:
        found.add_fault("missing_annotation", f"{path}: {error.strerror}", listed_at)
        return None
    if not data.strip():
        found.add_fault("empty_file", "the file is empty", str(path))
        return None
    try:
        content = _XmlContent(_as_utf8(data))
    except (LookupError, UnicodeError) as error:
        found.add_fault("malformed", f"cannot be read in the encoding that its first line declares: {error}", str(path))
        return None
    except (expat.ExpatError, _UnsafeError) as error:
        line = getattr(error, "lineno", 1)
        found.add_fault("malformed", f"not XML that can be read: {error}", f"{path}:{line}")
        return None
    if content.tag != "annotation":
        found.add_fault("malformed", f"the outermost element is <{content.tag}>, not <annotation>", f"{path}:1")
        return None
    return content


def _add_object(
    found: Annotations, picture: int, texts: dict[str, str], where: str, one_based: bool, use_difficult: bool
) -> None:
    try:
        kind = texts["/object/name"]
        left, top, right, bottom = (corner(texts[f"/object/bndbox/{name}"]) for name in CORNERS)
    except KeyError as error:
        found.add_fault("malformed", f"an object without <{error.args[0].rsplit('/', 1)[-1]}>", where)
        return
    except ValueError as error:
        found.add_fault("malformed", f"<bndbox>: {error}", where)
        return
    if AGAIN in texts:
        found.add_fault("malformed", "an object with more than one <bndbox>", where)
        return
    try:
        difficult = not use_difficult and read_flag(texts.get("/object/difficult"))
    except ValueError as error:
        found.add_fault("malformed", f"<difficult>: {error}", where)
        return
    # VOC counts pixels from 1 and includes the last: 1 to W is the whole picture, which is 0 to W here.
    box = (left - 1, top - 1, right, bottom) if one_based else (left, top, right, bottom)
    found.objects.append(AnnotatedObject(picture, box, kind, where, difficult=difficult))


# --- writing ---------------------------------------------------------------------------------------------------------


def write_voc(annotations: Annotations, out: Path) -> dict[str, Any]:
    """Write JPEGImages, Annotations and ImageSets/Main; pixels are counted from 0, as LabelImg does."""
    folder, lists = out / "Annotations", out / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    lists.mkdir(parents=True)
    for split in annotations.splits():
        stems = []
        for picture, objects in annotations.of_split(split):
            stems.append(os.path.splitext(picture.path)[0])
            (folder / f"{stems[-1]}.xml").write_text(_xml(picture, objects), encoding="utf-8")
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return {"name": "voc", "root": "."}


def _xml(picture: AnnotatedPicture, objects: list[AnnotatedObject]) -> str:
    width, height = picture.size
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(picture.path)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for thing in objects:
        corners = zip(CORNERS, digits(thing.box_xyxy), strict=True)
        lines += [
            "  <object>",
            f"    <name>{escape(thing.name)}</name>",
            f"    <difficult>{int(thing.difficult)}</difficult>",
            f"    <bndbox>{''.join(f'<{tag}>{number}</{tag}>' for tag, number in corners)}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
