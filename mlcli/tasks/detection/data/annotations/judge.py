"""Judging annotations: every fault in one pass, vectorised; and what becomes of what is faulty.

| kind            | what is wrong                                              | fix                                   |
|-----------------|------------------------------------------------------------|---------------------------------------|
| unreadable      | picture missing, empty, cut off, no picture                | the picture is left out               |
| size_mismatch   | annotated for another size                                 | boxes scaled if the ratio is equal    |
| exif_rotation   | annotated as stored, but EXIF says that it is turned       | boxes turned with the picture         |
| duplicate_image | the same bytes twice in a split                            | the first is kept                     |
| shared_image    | the same bytes in two splits                               | taken out of training (or of val)     |
| not_finite      | a corner is NaN or infinite                                | box dropped                           |
| not_relative    | YOLO's shares are above 1: perhaps pixels                  | box dropped                           |
| swapped_corners | right of left, or below above                              | swapped back                          |
| degenerate_box  | no width or height                                         | box dropped                           |
| outside         | nothing of the box is inside the picture                   | box dropped                           |
| partly_outside  | it sticks out by more than a pixel (less is cut, unasked)  | cut                                   |
| unknown_class   | not one of the classes, or in no training picture          | box dropped                           |
| duplicate_box   | the same box and class again                               | the first is kept                     |
| bad_mask        | polygon or run-length code that makes no sense             | the object is masked by its box       |
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.pictures import Headers, read_headers
from mlcli.tasks.detection.data.annotations.segments import is_sound, moved, turned
from mlcli.tasks.detection.data.annotations.table import Fault, Table

Policy = Literal["error", "drop", "fix"]
SLACK = 1.0  # pixels that a box may stick out: rounding, or counting from 1
SAME_RATIO = 0.01  # sides are rounded to pixels when a picture is resized
_PRECEDENCE = {"test": 0, "val": 1, "train": 2, "": 3}  # where a picture in several splits stays
_SHOWN = 3  # faults that an error message quotes


@dataclass(eq=False)
class Verdict:
    """faults: all of them. table: what is left, mended as the policy says. clipped: boxes cut by up to `SLACK`."""

    faults: list[Fault]
    table: Table
    clipped: int


def judge(table: Table, policy: Policy) -> Verdict:
    """Look for all faults, then keep, mend or drop. `error` is treated as `fix` here; `refuse` raises."""
    court = _Court(table, read_headers(table.root, table.paths))
    court.pictures()
    court.objects()
    return court.verdict(mend=policy != "drop")


def refuse(faults: list[Fault], where: str) -> None:
    """Raise DataError if there are faults: how many of each kind, and the first ones."""
    if faults:
        fixable = sum(fault.fixable for fault in faults)
        first = "; ".join(f"{fault.where}: {fault.message}" for fault in faults[:_SHOWN])
        rest = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise DataError(
            f"{len(faults)} faults in the annotations ({counted(faults)})",
            where=first + rest,
            fix=f"`mlcli data check` lists all; data.on_invalid=fix mends {fixable} and drops {len(faults) - fixable}",
        )


def counted(faults: Iterable[Fault]) -> str:
    """ "12 outside, 3 malformed" """
    return ", ".join(f"{count} {kind}" for kind, count in Counter(fault.kind for fault in faults).most_common())


class _Court:
    """The state of one judgement: what has been found, and what would be left."""

    def __init__(self, table: Table, headers: Headers) -> None:
        self.table, self.headers = table, headers
        self.faults = list(table.faults)
        self.boxes = table.boxes_xyxy.copy()
        self.segmentations = list(table.segmentations)
        self.area = table.area.copy()
        self.bad_pictures, self.lost_pictures = np.zeros((2, len(table)), dtype=bool)
        self.bad_objects, self.lost_objects = np.zeros((2, len(self.boxes)), dtype=bool)
        self.clipped = 0
        self.sizes = np.where(headers.sizes > 0, headers.sizes, table.sizes)

    # --- pictures ----------------------------------------------------------------------------------------------------

    def pictures(self) -> None:
        """Files, sizes, duplicates; boxes are brought to pixels of the upright picture."""
        trouble = np.array(sorted(self.headers.trouble), dtype=np.int64)
        self._picture_faults("unreadable", trouble, lambda i: self.headers.trouble[i], fixable=False)
        self._sizes_differ()
        self._copies()
        if self.table.relative:
            sides = np.where(self.sizes > 0, self.sizes, 1)[self.table.picture_of]
            self.boxes *= np.tile(sides, 2)
            for t, segmentation in enumerate(self.segmentations):
                if segmentation is not None:
                    self.segmentations[t] = moved(segmentation, sides[t], np.zeros(2))

    def _sizes_differ(self) -> None:
        written, upright, stored = self.table.sizes, self.headers.sizes, self.headers.stored
        differ = ((written > 0) & (upright > 0)).all(axis=1) & (written != upright).any(axis=1)
        sideways = differ & (written == stored).all(axis=1)
        ratios = (written[:, 0] * upright[:, 1]) / np.maximum(1, written[:, 1] * upright[:, 0])
        resized = differ & ~sideways & (abs(ratios - 1) <= SAME_RATIO)

        def sizes(i: int) -> str:
            return f"annotated for {_by(written[i])} pixels, but {self.table.paths[i]} has {_by(upright[i])}"

        self._picture_faults("exif_rotation", np.flatnonzero(sideways), sizes, fixable=True)
        self._picture_faults("size_mismatch", np.flatnonzero(resized), sizes, fixable=True)
        self._picture_faults("size_mismatch", np.flatnonzero(differ & ~sideways & ~resized), sizes, fixable=False)
        for t in np.flatnonzero(sideways[self.table.picture_of]).tolist():
            i = self.table.picture_of[t]
            orientation, size = int(self.headers.orientations[i]), stored[i]
            self.boxes[t] = _turned_box(self.boxes[t], orientation, size)
            mask = self.segmentations[t]
            self.segmentations[t] = None if mask is None else turned(mask, orientation, size)
        for t in np.flatnonzero(resized[self.table.picture_of]).tolist():
            i = self.table.picture_of[t]
            scale = upright[i] / written[i]
            self.boxes[t] *= np.tile(scale, 2)
            self.area[t] *= scale.prod()
            mask = self.segmentations[t]
            self.segmentations[t] = None if mask is None else moved(mask, scale, np.zeros(2))

    def _copies(self) -> None:
        """Of pictures with the same bytes one is kept: the one that is judged on, then the first."""
        contents, splits = self.headers.contents, self.table.splits
        precedence = np.array([_PRECEDENCE[split] for split in splits], dtype=np.int64)
        order = np.lexsort((np.arange(len(contents)), precedence, contents))
        first = np.ones(len(order), dtype=bool)
        first[1:] = contents[order][1:] != contents[order][:-1]
        kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]  # for each of `order`
        original = np.empty_like(kept)
        original[order] = kept
        copies = np.flatnonzero((original != np.arange(len(order))) & (self.headers.sizes > 0).all(axis=1))
        same = np.array([splits[i] == splits[original[i]] for i in copies], dtype=bool)

        def other(i: int) -> str:
            split = f" of {splits[original[i]]}" if splits[original[i]] else ""
            return f"{self.table.paths[i]} is the same picture as {self.table.paths[original[i]]}{split}"

        self._picture_faults("duplicate_image", copies[same], other, fixable=True)
        self._picture_faults("shared_image", copies[~same], other, fixable=True)
        self.lost_pictures[copies] = True

    # --- objects -----------------------------------------------------------------------------------------------------

    def objects(self) -> None:
        """Each box is told its first fault; after one that can be mended it is looked at as if it were."""
        boxes, table = self.boxes, self.table
        self._object_faults("not_finite", ~np.isfinite(boxes).all(axis=1), self._corners)
        boxes[~np.isfinite(boxes).all(axis=1)] = 0
        if table.relative:
            given = table.boxes_xyxy
            beyond = np.maximum(given[:, 2:] - given[:, :2], given[:, 2:] / 2 + given[:, :2] / 2).max(axis=1) > 1.001
            self._object_faults("not_relative", beyond, lambda t: "a share of the picture is above 1: pixels?")
        swapped = (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
        self._object_faults("swapped_corners", swapped, self._corners, fixable=True)
        boxes[...] = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        self._object_faults("degenerate_box", (boxes[:, :2] == boxes[:, 2:]).any(axis=1), self._corners)
        self._outside()
        self._object_faults("unknown_class", table.labels == 0, lambda t: f"unknown class '{table.classes[t]}'")
        self._object_faults("duplicate_box", self._repeated(), self._corners, fixable=True, lost=True)
        self._masks()

    def _outside(self) -> None:
        boxes = self.boxes
        sides = self.sizes[self.table.picture_of]
        limits = np.where(sides > 0, sides, np.inf)
        outside = np.any((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limits), axis=1)
        by = np.maximum(-boxes[:, :2], boxes[:, 2:] - limits).max(axis=1, initial=0)
        said = self._corners

        def where(t: int) -> str:
            return f"{said(t)} in a picture of {_by(sides[t])}"

        self._object_faults("outside", outside, where)
        self._object_faults("partly_outside", ~outside & (by > SLACK), where, fixable=True)
        self.clipped = int((~outside & (by > 0) & (by <= SLACK) & ~self.lost_objects).sum())
        inside = np.clip(boxes, 0, np.tile(limits, 2))
        boxes[...] = np.where(outside[:, None], boxes, inside)

    def _repeated(self) -> np.ndarray:
        """bool [T]: the same picture, class and box (to a hundredth of a pixel) as one before."""
        rounded = np.rint(self.boxes * 100).astype(np.int64)
        rows = np.column_stack([self.table.picture_of, self.table.labels, rounded])
        order = np.lexsort(rows.T[::-1])
        again = np.zeros(len(rows), dtype=bool)
        again[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
        return again

    def _masks(self) -> None:
        sides = self.sizes[self.table.picture_of]
        bad = np.zeros(len(self.boxes), dtype=bool)
        for t, mask in enumerate(self.segmentations):
            bad[t] = mask is not None and not is_sound(mask, sides[t])
        self._object_faults("bad_mask", bad, lambda t: "the mask makes no sense", fixable=True)
        for t in np.flatnonzero(bad).tolist():
            self.segmentations[t] = None

    # --- the end -----------------------------------------------------------------------------------------------------

    def verdict(self, *, mend: bool) -> Verdict:
        pictures = ~(self.lost_pictures if mend else self.bad_pictures)
        objects = ~(self.lost_objects if mend else self.bad_objects) & pictures[self.table.picture_of]
        return Verdict(self.faults, self._left(pictures, objects), self.clipped)

    def _left(self, pictures: np.ndarray, objects: np.ndarray) -> Table:
        table = self.table
        position = np.cumsum(pictures) - 1
        chosen, kept = np.flatnonzero(objects).tolist(), np.flatnonzero(pictures).tolist()
        return replace(
            table,
            paths=[table.paths[i] for i in kept],
            splits=[table.splits[i] for i in kept],
            picture_where=[table.picture_where[i] for i in kept],
            ids=table.ids[pictures],
            sizes=self.sizes[pictures],
            picture_of=position[table.picture_of[objects]],
            boxes_xyxy=self.boxes[objects],
            labels=table.labels[objects],
            classes=[table.classes[t] for t in chosen],
            crowd=table.crowd[objects],
            difficult=table.difficult[objects],
            area=self.area[objects],
            segmentations=[self.segmentations[t] for t in chosen],
            object_where=[table.object_where[t] for t in chosen],
            relative=False,
        )

    def _picture_faults(self, kind: str, pictures: np.ndarray, say: Callable[[int], str], *, fixable: bool) -> None:
        self.faults += [Fault(kind, say(i), self.table.picture_where[i], fixable) for i in pictures.tolist()]
        self.bad_pictures[pictures] = True
        if not fixable:
            self.lost_pictures[pictures] = True

    def _object_faults(
        self, kind: str, bad: Any, say: Callable[[int], str], *, fixable: bool = False, lost: bool = False
    ) -> None:
        """lost: dropped though it can be mended, being one too many. What is lost already is not judged again."""
        found = np.flatnonzero(bad & ~self.lost_objects)
        self.faults += [Fault(kind, say(t), self.table.object_where[t], fixable) for t in found.tolist()]
        self.bad_objects[found] = True
        if lost or not fixable:
            self.lost_objects[found] = True

    def _corners(self, t: int) -> str:
        left, top, right, bottom = self.table.boxes_xyxy[t].tolist()
        return f"{self.table.classes[t]}: box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"


def _by(size: Any) -> str:
    return f"{size[0]}x{size[1]}"


def _turned_box(box_xyxy: np.ndarray, orientation: int, stored: np.ndarray) -> np.ndarray:
    """A box on stored pixels (width, height), on the picture turned upright; orientations 5 to 8 of EXIF."""
    width, height = stored
    left, top, right, bottom = box_xyxy
    if orientation in (6, 7):
        top, bottom = height - bottom, height - top
    if orientation in (7, 8):
        left, right = width - right, width - left
    return np.array([top, left, bottom, right])
