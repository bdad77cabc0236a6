"""Annotations as they stand in somebody's files, before anything is judged, and where each of them is written."""

import math
from dataclasses import dataclass, field

import numpy as np

from mlcli.tasks.detection.data.records import Segmentation


@dataclass(frozen=True)
class Fault:
    """Something wrong in the annotations or with a picture.

    kind: one of `KINDS` in judge.py, or of what a reader finds: "malformed", "empty_file", "missing_annotation", ...
    where: file and line, or for JSON the place in its lists and the id.
    fixable: whether `on_invalid: fix` can mend it; otherwise it drops the box or picture.
    """

    kind: str
    message: str
    where: str
    fixable: bool = False


@dataclass(eq=False)
class Table:
    """N pictures and T objects as written.

    root: folder the paths are relative to.
    class_names: in label order. category_ids: what the files call them by, in the same order.
    paths, splits, picture_where: N texts each; a split is "" where the files name none.
    ids: int64 [N]; sizes: int64 [N, 2] width and height as written, 0 where they are not.
    picture_of: int64 [T]; boxes_xyxy: float64 [T, 4]; labels: int64 [T], 0 for unknown classes; classes: T texts.
    crowd, difficult: bool [T]; area: float64 [T], NaN where it is not written; segmentations and object_where: T each.
    relative: whether boxes (and polygons) are in shares of the picture instead of pixels.
    faults: what could not be read at all and is therefore in none of these.
    """

    root: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    paths: list[str]
    splits: list[str]
    picture_where: list[str]
    ids: np.ndarray
    sizes: np.ndarray
    picture_of: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    classes: list[str]
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    segmentations: list[Segmentation | None]
    object_where: list[str]
    relative: bool
    faults: list[Fault]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class Scribe:
    """Takes down what a reader finds, one picture or object at a time, and makes a `Table` of it."""

    root: str
    relative: bool = False
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _paths: list[str] = field(default_factory=list)
    _splits: list[str] = field(default_factory=list)
    _picture_where: list[str] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _sizes: list[tuple[int, int]] = field(default_factory=list)
    _objects: list[tuple] = field(default_factory=list)

    def fault(self, kind: str, message: str, where: str, *, fixable: bool = False) -> None:
        self.faults.append(Fault(kind, message, where, fixable))

    def picture(
        self, path: str, where: str, *, split: str = "", size: tuple[int, int] = (0, 0), number: int | None = None
    ) -> int:
        """Returns the picture's position, which its objects are told. number: its id, if it has one."""
        self._paths.append(path)
        self._splits.append(split)
        self._picture_where.append(where)
        self._sizes.append(size)
        self._ids.append(len(self._paths) if number is None else number)
        return len(self._paths) - 1

    def object(
        self,
        picture: int,
        box_xyxy: tuple[float, float, float, float],
        name: str,
        where: str,
        *,
        crowd: bool = False,
        difficult: bool = False,
        area: float = math.nan,
        segmentation: Segmentation | None = None,
    ) -> None:
        """name: of the class."""
        self._objects.append((picture, box_xyxy, name, where, crowd, difficult, area, segmentation))

    def table(self, class_names: tuple[str, ...] | None = None, category_ids: tuple[int, ...] = ()) -> Table:
        """class_names: None for those that training objects have, or all if no split is named."""
        columns = zip(*self._objects, strict=True) if self._objects else iter([()] * 8)
        pictures, boxes, classes, where, crowd, difficult, area, segmentations = map(list, columns)
        if class_names is None:
            class_names = tuple(sorted(self._names_to_learn(pictures, classes)))
        labels = {name: label for label, name in enumerate(class_names, 1)}
        return Table(
            root=self.root,
            class_names=class_names,
            category_ids=category_ids or tuple(range(1, len(class_names) + 1)),
            paths=self._paths,
            splits=self._splits,
            picture_where=self._picture_where,
            ids=np.array(self._ids, dtype=np.int64),
            sizes=np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
            picture_of=np.array(pictures, dtype=np.int64),
            boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array([labels.get(name, 0) for name in classes], dtype=np.int64),
            classes=classes,
            crowd=np.array(crowd, dtype=bool),
            difficult=np.array(difficult, dtype=bool),
            area=np.array(area, dtype=np.float64),
            segmentations=segmentations,
            object_where=where,
            relative=self.relative,
            faults=self.faults,
            notes=self.notes,
        )

    def _names_to_learn(self, pictures: list[int], classes: list[str]) -> set[str]:
        """A name that is met first after training is a slip of the pen: nothing can have been learned about it."""
        known = "train" if "train" in self._splits else ""
        return {name for name, picture in zip(classes, pictures, strict=True) if self._splits[picture] == known} - {""}
