"""The contents of annotation files before they are checked: pictures, objects and faults, each with its place.

Every reader returns `Annotations`, and every writer takes them.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mlcli.data.places import Root, Shards
from mlcli.tasks.detection.masks import Segmentation
from mlcli.text import plural

LABELME = "labelme's files become one of COCO by: pip install labelme2coco && labelme2coco FOLDER"
"""What to do with JSON files of one picture each."""


@dataclass(frozen=True)
class AnnotationFault:
    """Something wrong in the annotations or with a picture.

    kind: a key of `KINDS` in faults.py.
    where: file and line, or for JSON the place in its lists and the id.
    fixable: whether `on_invalid: fix` can fix it; otherwise it drops the box or picture.
    """

    kind: str
    message: str
    where: str
    fixable: bool = False


class AnnotatedPicture(NamedTuple):
    """path: relative to the root. where: the place it is annotated or listed at. split: empty if the files name none.
    size: width and height as written, 0 where they are not."""

    path: str
    where: str
    split: str
    size: tuple[int, int]
    id: int


class AnnotatedObject(NamedTuple):
    """picture: its position. name: of the class. area: NaN where it is not written."""

    picture: int
    box_xyxy: tuple[float, float, float, float]
    name: str
    where: str
    crowd: bool = False
    difficult: bool = False
    area: float = math.nan
    segmentation: Segmentation | None = None


def read_flag(value: object) -> bool:
    """Return whether a mark such as `difficult` or `iscrowd` is set, however its tool writes it.

    1, true and yes are true; 0, false, no, unspecified and nothing are false, in any case, as texts or values; 1.0 and
    0.0 as well. Raises ValueError for anything else.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in ("true", "yes", "1", "1.0"):
        return True
    if text in ("false", "no", "unspecified", "", "0", "0.0"):
        return False
    raise ValueError(f"{value!r} is neither 0 nor 1")


@dataclass(eq=False)
class Annotations:
    """N pictures and T objects as written.

    root: folder that the paths are relative to.
    relative: whether boxes and polygons are in shares of the picture instead of pixels.
    class_names: in label order; None where the format does not list them.
    category_ids: what the files call the classes by, in the same order.
    faults: what could not be read at all and is therefore in none of these.
    notes: what is no fault but a person should know.
    """

    root: str
    relative: bool = False
    class_names: tuple[str, ...] | None = None
    category_ids: tuple[int, ...] = ()
    pictures: list[AnnotatedPicture] = field(default_factory=list)
    objects: list[AnnotatedObject] = field(default_factory=list)
    faults: list[AnnotationFault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shards: Shards | None = None
    """Where the pictures lie, if not below `root`, and their rows there, one for each picture."""
    rows: list[int] = field(default_factory=list)

    @property
    def place(self) -> Root:
        return self.root if self.shards is None else self.shards

    @property
    def addresses(self) -> np.ndarray:
        """Of each picture in its place: bytes [N], or rows of shards, int64 [N]."""
        if self.shards is not None:
            return np.array(self.rows, dtype=np.int64)
        return np.array([os.fsencode(picture.path) for picture in self.pictures], dtype=bytes)

    def add_fault(self, kind: str, message: str, where: str, *, fixable: bool = False) -> None:
        self.faults.append(AnnotationFault(kind, message, where, fixable))

    def note_rotated(self, count: int, where: str) -> None:
        """Note boxes that were drawn at an angle, as CVAT writes them, if there are any."""
        if count:
            boxes = plural(count, "box is", "boxes are")
            self.notes.append(f"{boxes} rotated, and read as if not: export polygons for boxes around them: {where}")

    def add_picture(
        self, path: str, where: str, *, split: str = "", size: tuple[int, int] = (0, 0), id: int | None = None
    ) -> int:
        """Return the picture's position. Without an id it is numbered from 1. Windows' backslashes separate folders
        where no file is called so."""
        if "\\" in path and not os.path.lexists(os.path.join(self.root, path)):
            path = path.replace("\\", "/")
        number = len(self.pictures) + 1 if id is None else id
        self.pictures.append(AnnotatedPicture(path, where, split, size, number))
        return len(self.pictures) - 1

    def known_names(self) -> tuple[str, ...]:
        """Class names in label order; where none are listed, those of the training objects, or of all if no split is
        named. A name that only occurs outside of training is a typo: nothing can have been learned about it."""
        if self.class_names is not None:
            return self.class_names
        known = "train" if "train" in self.splits() else ""
        names = {thing.name for thing in self.objects if self.pictures[thing.picture].split == known}
        return tuple(sorted(names - {""}))

    def of_split(self, split: str) -> Iterator[tuple[AnnotatedPicture, list[AnnotatedObject]]]:
        """The pictures of a split, each with its objects."""
        of_picture: dict[int, list[AnnotatedObject]] = {}
        for thing in self.objects:
            of_picture.setdefault(thing.picture, []).append(thing)
        for position, picture in enumerate(self.pictures):
            if picture.split == split:
                yield picture, of_picture.get(position, [])

    def splits(self) -> list[str]:
        """The splits that are named, in order of appearance."""
        return list(dict.fromkeys(picture.split for picture in self.pictures))
