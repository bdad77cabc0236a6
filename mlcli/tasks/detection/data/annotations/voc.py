"""Pascal VOC: one XML file a picture (Everingham et al. 2010), as LabelImg and its kin write it too."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from mlcli.data.decode import EXTENSIONS
from mlcli.data.sources.csv_file import SPLIT_WORDS
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.build import SPLITS, build_source
from mlcli.tasks.detection.data.annotations.rows import read_rows
from mlcli.tasks.detection.data.annotations.table import Scribe, Table
from mlcli.tasks.detection.data.source import DetectionSource

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import Voc

_CORNERS = tuple(f"/object/bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax"))


def voc(config: "Voc") -> DetectionSource:
    """Raises DataError for annotations that cannot be learned from."""
    return build_source(config, read_voc(config))


def read_voc(config: "Voc") -> Table:
    """Every XML file that a split lists, or all there are. Raises DataError if the folders are not there."""
    folder = config.root / config.annotations
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=f"data.annotations: {folder}", fix="set data.root and data.annotations"
        )
    scribe = Scribe(str(config.root))
    pictures = _Pictures(config.root, config.images)
    for stem, split, listed_at in _listed(config, folder, scribe):
        path = folder / f"{stem}.xml"
        _read(path, stem, split, listed_at, pictures, config, scribe)
    return scribe.table()


class _Pictures:
    """The files of pictures by what comes before their extension: XML files often name another one or a folder."""

    def __init__(self, root: Path, folder: str) -> None:
        self._folder, self._by_stem = folder, {}
        try:
            for name in sorted(os.listdir(root / folder), reverse=True):
                stem, extension = os.path.splitext(name)
                if extension.lower() in EXTENSIONS:
                    self._by_stem[stem] = name
        except OSError as error:
            raise DataError(
                f"cannot look into the folder of pictures: {error.strerror}", where=f"data.images: {root / folder}"
            ) from error

    def path(self, stem: str, named: str) -> str:
        """Relative to the root. By the XML file's own stem, then by the name it holds."""
        other, _ = os.path.splitext(named)
        return os.path.join(self._folder, self._by_stem.get(stem) or self._by_stem.get(other) or named or f"{stem}.jpg")


def _listed(config: "Voc", folder: Path, scribe: Scribe) -> Iterator[tuple[str, str, str]]:
    """Stem, split ("" if none is named) and where it is listed."""
    if config.split_file is not None:
        files = config.split_file if isinstance(config.split_file, dict) else {"": config.split_file}
        for split, path in files.items():
            yield from _from_file(path, split, scribe)
        return
    lists = config.root / config.splits if config.splits else None
    found = {split: lists / f"{split}.txt" for split in SPLITS if lists and (lists / f"{split}.txt").is_file()}
    if lists and "train" not in found and (lists / "trainval.txt").is_file():
        found["train"] = lists / "trainval.txt"
    for split, path in found.items():
        yield from _from_file(path, split, scribe)
    if not found:
        for name in sorted(os.listdir(folder)):
            if name.lower().endswith(".xml") and not name.startswith("."):
                yield os.path.splitext(name)[0], "", str(folder / name)


def _from_file(path: Path, split: str, scribe: Scribe) -> Iterator[tuple[str, str, str]]:
    """A text file with a name a line (perhaps with -1, 0 or 1 behind it), or a CSV file with the column filename."""
    if path.suffix.lower() == ".csv":
        rows = read_rows(path, scribe, ("filename", *(() if split else ("split",))))
        seen = set()
        for row in rows:
            word = split or SPLIT_WORDS.get(row.cells["split"].lower(), "")
            stem = _stem(row.cells["filename"])
            if not word:
                scribe.fault("malformed", f"split must be train, val or test, not '{row.cells['split']}'", row.where)
            elif (stem, word) not in seen:  # one row for each box, perhaps
                seen.add((stem, word))
                yield stem, word, row.where
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of pictures: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _stem(re.sub(r"\s+-?[01]$", "", line.strip())), split, f"{path}:{number}"


def _stem(name: str) -> str:
    """Without the extension of a picture; dots may be part of a name."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in EXTENSIONS else name


# --- one file --------------------------------------------------------------------------------------------------------


def _read(
    path: Path, stem: str, split: str, listed_at: str, pictures: _Pictures, config: "Voc", scribe: Scribe
) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        scribe.fault("missing_annotation", f"{path}: {error.strerror}", listed_at)
        return
    if not data.strip():
        scribe.fault("empty_file", "the file is empty", str(path))
        return
    try:
        sheet = _Sheet(data)
    except (expat.ExpatError, _UnsafeError) as error:
        line = getattr(error, "lineno", 1)
        scribe.fault("malformed", f"not XML that can be read: {error}", f"{path}:{line}")
        return
    if sheet.tag != "annotation":
        scribe.fault("malformed", f"the outermost element is <{sheet.tag}>, not <annotation>", f"{path}:1")
        return
    size = (_whole(sheet.texts.get("/size/width")), _whole(sheet.texts.get("/size/height")))
    named = os.path.basename(sheet.texts.get("/filename", "").replace("\\", "/"))
    picture = scribe.picture(pictures.path(stem, named), str(path), split=split, size=size)
    for texts, line in sheet.objects:
        _object(picture, texts, f"{path}:{line}", config, scribe)


def _object(picture: int, texts: dict[str, str], where: str, config: "Voc", scribe: Scribe) -> None:
    try:
        name = texts["/object/name"]
        left, top, right, bottom = (float(texts[tag]) for tag in _CORNERS)
    except KeyError as error:
        scribe.fault("malformed", f"an object without <{error.args[0].rsplit('/', 1)[-1]}>", where)
        return
    except ValueError as error:
        scribe.fault("malformed", f"<bndbox>: {error}", where)
        return
    # VOC counts pixels from 1 and includes the last: 1 to W is the whole picture, which is 0 to W here.
    box = (left - 1, top - 1, right, bottom) if config.one_based else (left, top, right, bottom)
    difficult = config.difficult == "ignore" and texts.get("/object/difficult", "0") != "0"
    scribe.object(picture, box, name, where, difficult=difficult)


def _whole(text: str | None) -> int:
    """0 for what is not there or makes no sense: the picture itself knows better."""
    return int(text) if text is not None and text.isdigit() else 0


class _UnsafeError(Exception):
    """The file defines entities: a few lines of them can stand for gigabytes ("billion laughs")."""


class _Sheet:
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
        path = f"{self._paths[-1]}/{tag}"
        self._paths.append(path)
        if path == "/object":
            self.objects.append(({}, self._parser.CurrentLineNumber))

    def _end(self, _: str) -> None:
        path, text = self._paths.pop(), self._text.strip()
        self._text = ""
        if text:
            (self.objects[-1][0] if path.startswith("/object/") else self.texts).setdefault(path, text)
