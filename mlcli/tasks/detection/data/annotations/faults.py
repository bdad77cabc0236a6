"""Faults of annotations and their pictures: all of them in one pass, vectorised, and what is left without them."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlcli.data import places
from mlcli.data.decode import ImageSource, opened, orientation, read_image, stream, upright_size
from mlcli.data.inspection import in_chunks
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.contents import AnnotationFault, Annotations
from mlcli.tasks.detection.masks import is_sound, moved, turned
from mlcli.text import plural

Policy = Literal["error", "drop", "fix"]
KINDS = {
    # What is fixed, and how; after it, what cannot be fixed: the picture or the box is dropped.
    "size_mismatch": "pictures have another size than their annotation says",  # boxes scaled if the ratio is equal
    "exif_rotation": "pictures are annotated as stored, but their EXIF orientation turns them",  # boxes turned too
    "duplicate_image": "pictures occur twice in a split, byte by byte",  # the first is kept
    "shared_image": "pictures occur in two splits, byte by byte",  # taken out of training (or of val)
    "swapped_corners": "boxes have their corners swapped",  # swapped back
    "partly_outside": "boxes stick out of their picture",  # cut; by a pixel or less this is no fault
    "duplicate_box": "objects are annotated twice",  # the first is kept
    "bad_mask": "masks are no valid polygons or run-length codes",  # the object is masked by its box
    "unreadable": "pictures cannot be read",  # missing, empty, cut off, no picture
    "not_finite": "boxes have a corner that is no finite number",
    "not_relative": "boxes are given in more than the whole picture",  # YOLO's shares are above 1: perhaps pixels
    "degenerate_box": "boxes have no width or no height",
    "outside": "boxes are outside of their picture",
    "unknown_class": "objects are of a class that is not known",  # not listed, or in no training picture
    # What readers find: the entry, or all of a file, is left out.
    "malformed": "entries cannot be read",
    "empty_file": "files of annotations are empty",
    "missing_annotation": "files of annotations are missing",
    "unknown_image": "objects are of a picture that is not listed",
    "duplicate_id": "ids occur twice",
    "duplicate_name": "names of classes occur twice",
}
"""Plural description of each kind of fault."""
SLACK = 1.0  # pixels that a box may stick out: rounding, or counting from 1
SAME_RATIO = 0.01  # sides are rounded to pixels when a picture is resized
_PRECEDENCE = {"test": 0, "val": 1, "train": 2, "": 3}  # where a picture in several splits stays
_QUOTED = 3  # faults that an error message quotes

# --- pictures --------------------------------------------------------------------------------------------------------

_TAIL = 64  # bytes at a file's end in which its end mark is; JPEGs may have some padding behind it
_ENDINGS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND", b"GI": b"\0;"}
"""Of JPEG (ITU-T T.81, B.1.1.3), PNG and GIF, by how they begin."""
_LENGTHS = {b"RI": (slice(4, 8), 8), b"BM": (slice(2, 6), 0)}
"""Of WebP and BMP: where their header says how many bytes follow what is counted here."""


@dataclass(frozen=True, eq=False)
class PictureHeaders:
    """Facts about N picture files that are read without decoding them.

    sizes: int64 [N, 2], width and height of the upright picture, 0 where it cannot be read.
    stored: int64 [N, 2], size before the EXIF orientation is applied.
    orientations: int64 [N], 1 to 8 as in EXIF.
    unreadable: why a file cannot be read, by position.
    contents: int64 [N], equal for files of the same bytes.
    """

    sizes: np.ndarray
    stored: np.ndarray
    orientations: np.ndarray
    unreadable: dict[int, str]
    contents: np.ndarray


def read_headers(root: places.Root, addresses: np.ndarray) -> PictureHeaders:
    """Read the headers of pictures; files named twice are read once."""
    files, place = np.unique(addresses, return_inverse=True)

    def headers(chunk: np.ndarray) -> list[tuple[tuple[int, int, int, int, int], str]]:
        return [_header(root, address) for address in files[chunk]]

    parts = in_chunks(headers, np.arange(len(files)), "reading headers") if len(files) else ()
    found = [header for part in parts for header in part]
    facts = np.array([fact for fact, _ in found], dtype=np.int64).reshape(-1, 5)[place]
    unreadable = {position: found[file][1] for position, file in enumerate(place.tolist()) if found[file][1]}
    return PictureHeaders(facts[:, :2], facts[:, 2:4], facts[:, 4], unreadable, _contents(root, files)[place])


def _header(root: places.Root, address: places.Address) -> tuple[tuple[int, int, int, int, int], str]:
    try:
        source = places.source(root, address)
        with opened(source) as image:
            upright, stored = upright_size(image), image.size
            turned = orientation(image) if upright != stored else 1
        if _may_be_cut_off(source):
            read_image(source, 3)
    except DataError as error:
        return (0, 0, 0, 0, 1), error.what.removeprefix("cannot read image: ")
    return (*upright, *stored, turned), ""


def _may_be_cut_off(source: ImageSource) -> bool:
    """Whether the file does not end as its format ends, or its format has no such ending; some whole files do not, so
    decoding decides."""
    with stream(source) as file:
        head, length = file.read(8), file.seek(0, os.SEEK_END)
        if head[:2] in _LENGTHS:
            where, before = _LENGTHS[head[:2]]
            return not 0 < int.from_bytes(head[where], "little") <= length - before
        if head[:2] not in _ENDINGS:
            return True
        file.seek(max(0, length - _TAIL))
        return _ENDINGS[head[:2]] not in file.read()


def _contents(root: places.Root, files: np.ndarray) -> np.ndarray:
    """A number for each file, the same for the same bytes. Only files of equal length are read."""
    lengths = places.sizes(root, files).tolist()
    same_length = Counter(lengths)
    numbers: dict[bytes | int, int] = {}

    def key(number: int, length: int) -> bytes | int:
        found = places.content_or_nothing(root, files[number]) if same_length[length] > 1 and length >= 0 else b""
        return hashlib.blake2b(found).digest() if found else number

    return np.array([numbers.setdefault(key(*one), len(numbers)) for one in enumerate(lengths)], dtype=np.int64)


# --- annotations -----------------------------------------------------------------------------------------------------


class CheckedAnnotations:
    """Annotations of N pictures and T objects after one pass that looks for all faults.

    Attributes:
        annotations: what was checked.
        class_names: K names in label order. category_ids: what the files call them by; 1..K where they have no ids.
        faults: all of them.
        clipped: boxes cut by up to `SLACK`.
        sizes: int64 [N, 2], width and height of the upright pictures.
        picture_of: int64 [T]. labels: int64 [T], 0 for unknown classes.
        boxes_xyxy: float64 [T, 4], in pixels of the upright picture, fixed where that is possible.
        area: float64 [T], NaN where it is not known. segmentations: T masks.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        self.faults = list(annotations.faults)
        self.clipped = 0
        self.class_names = annotations.known_names()
        self.category_ids = annotations.category_ids or tuple(range(1, len(self.class_names) + 1))
        pictures, objects = annotations.pictures, annotations.objects
        label_of = {name: label for label, name in enumerate(self.class_names, 1)}
        self.picture_of = np.array([thing.picture for thing in objects], dtype=np.int64)
        self.labels = np.array([label_of.get(thing.name, 0) for thing in objects], dtype=np.int64)
        self.boxes_xyxy = np.array([thing.box_xyxy for thing in objects], dtype=np.float64).reshape(-1, 4)
        self.area = np.array([thing.area for thing in objects], dtype=np.float64)
        self.segmentations = [thing.segmentation for thing in objects]
        self._headers = read_headers(annotations.place, annotations.addresses)
        self._written = np.array([picture.size for picture in pictures], dtype=np.int64).reshape(-1, 2)
        self.sizes = np.where(self._headers.sizes > 0, self._headers.sizes, self._written)
        self._faulty_pictures, self._lost_pictures = np.zeros((2, len(pictures)), dtype=bool)
        self._faulty_objects, self._lost_objects = np.zeros((2, len(objects)), dtype=bool)
        self._check_pictures()
        self._check_objects()

    def kept(self, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
        """The pictures, bool [N], and objects, bool [T], that are left; `error` leaves what `fix` does."""
        drop = policy == "drop"
        pictures = ~(self._faulty_pictures if drop else self._lost_pictures)
        objects = ~(self._faulty_objects if drop else self._lost_objects)
        return pictures, objects & pictures[self.picture_of]

    def _check_pictures(self) -> None:
        """Check files, sizes and duplicates; bring boxes to pixels of the upright picture."""
        unreadable = self._headers.unreadable
        positions = np.array(sorted(unreadable), dtype=np.int64)
        self._report_pictures("unreadable", positions, unreadable.__getitem__, fixable=False)
        self._check_sizes()
        self._check_copies()
        if self.annotations.relative:
            sides = np.where(self.sizes > 0, self.sizes, 1)[self.picture_of]
            self.boxes_xyxy *= np.tile(sides, 2)
            for t, mask in enumerate(self.segmentations):
                if mask is not None:
                    self.segmentations[t] = moved(mask, sides[t], np.zeros(2))

    def _check_sizes(self) -> None:
        written, upright, stored = self._written, self._headers.sizes, self._headers.stored
        differ = ((written > 0) & (upright > 0)).all(axis=1) & (written != upright).any(axis=1)
        sideways = differ & (written == stored).all(axis=1)
        ratios = (written[:, 0] * upright[:, 1]) / np.maximum(1, written[:, 1] * upright[:, 0])
        resized = differ & ~sideways & (abs(ratios - 1) <= SAME_RATIO)

        def sizes(i: int) -> str:
            path = self.annotations.pictures[i].path
            return f"annotated for {_by(written[i])} pixels, but {path} has {_by(upright[i])}"

        self._report_pictures("exif_rotation", np.flatnonzero(sideways), sizes, fixable=True)
        self._report_pictures("size_mismatch", np.flatnonzero(resized), sizes, fixable=True)
        self._report_pictures("size_mismatch", np.flatnonzero(differ & ~sideways & ~resized), sizes, fixable=False)
        for t in np.flatnonzero((sideways | resized)[self.picture_of]).tolist():
            i, mask = self.picture_of[t], self.segmentations[t]
            if sideways[i]:
                orientation = int(self._headers.orientations[i])
                self.boxes_xyxy[t] = _turned_box(self.boxes_xyxy[t], orientation, stored[i])
                self.segmentations[t] = None if mask is None else turned(mask, orientation, stored[i])
            else:
                scale = upright[i] / written[i]
                self.boxes_xyxy[t] *= np.tile(scale, 2)
                self.area[t] *= scale.prod()
                self.segmentations[t] = None if mask is None else moved(mask, scale, np.zeros(2))

    def _check_copies(self) -> None:
        """Of pictures with the same bytes one is kept: the one that is tested on, then the first."""
        contents, pictures = self._headers.contents, self.annotations.pictures
        precedence = np.array([_PRECEDENCE[picture.split] for picture in pictures], dtype=np.int64)
        order = np.lexsort((np.arange(len(contents)), precedence, contents))
        first = np.ones(len(order), dtype=bool)
        first[1:] = contents[order][1:] != contents[order][:-1]
        kept = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]  # for each of `order`
        original = np.empty_like(kept)
        original[order] = kept
        copies = np.flatnonzero((original != np.arange(len(order))) & (self._headers.sizes > 0).all(axis=1))
        same = precedence[copies] == precedence[original[copies]]

        def other(i: int) -> str:
            kept = pictures[original[i]]
            return f"{pictures[i].path} is the same picture as {kept.path}" + (kept.split and f" of {kept.split}")

        self._report_pictures("duplicate_image", copies[same], other, fixable=True)
        self._report_pictures("shared_image", copies[~same], other, fixable=True)
        self._lost_pictures[copies] = True

    def _check_objects(self) -> None:
        """Report the first fault of each box; after one that can be fixed, look at the fixed box."""
        boxes, objects = self.boxes_xyxy, self.annotations.objects
        self._report_objects("not_finite", ~np.isfinite(boxes).all(axis=1), self._corners)
        boxes[~np.isfinite(boxes).all(axis=1)] = 0
        if self.annotations.relative:
            given = np.array([thing.box_xyxy for thing in objects], dtype=np.float64).reshape(-1, 4)
            given[~np.isfinite(given).all(axis=1)] = 0
            beyond = np.maximum(given[:, 2:] - given[:, :2], given[:, 2:] / 2 + given[:, :2] / 2).max(axis=1) > 1.001
            self._report_objects("not_relative", beyond, lambda t: "a share of the picture is above 1: pixels?")
        swapped = (boxes[:, :2] > boxes[:, 2:]).any(axis=1)
        self._report_objects("swapped_corners", swapped, self._corners, fixable=True)
        boxes[...] = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
        self._report_objects("degenerate_box", (boxes[:, :2] == boxes[:, 2:]).any(axis=1), self._corners)
        repeated = self._repeated()  # before boxes are cut at an edge, which makes different ones equal
        self._check_edges()
        self._report_objects("unknown_class", self.labels == 0, lambda t: f"unknown class '{objects[t].name}'")
        self._report_objects("duplicate_box", repeated, self._corners, fixable=True, lost=True)
        sides = self.sizes[self.picture_of]
        bad = [mask is not None and not is_sound(mask, sides[t]) for t, mask in enumerate(self.segmentations)]
        invalid = "the mask is no valid polygon or run-length code"
        self._report_objects("bad_mask", np.array(bad, dtype=bool), lambda t: invalid, fixable=True)
        self.segmentations = [None if wrong else mask for wrong, mask in zip(bad, self.segmentations, strict=True)]

    def _check_edges(self) -> None:
        """Report boxes that stick out of their picture, and cut them."""
        boxes, sides = self.boxes_xyxy, self.sizes[self.picture_of]
        limits = np.where(sides > 0, sides, np.inf)
        outside = np.any((boxes[:, 2:] <= 0) | (boxes[:, :2] >= limits), axis=1)
        by = np.maximum(-boxes[:, :2], boxes[:, 2:] - limits).max(axis=1, initial=0)

        def where(t: int) -> str:
            return f"{self._corners(t)} in a picture of {_by(sides[t])}"

        self._report_objects("outside", outside, where)
        self._report_objects("partly_outside", ~outside & (by > SLACK), where, fixable=True)
        self.clipped = int((~outside & (by > 0) & (by <= SLACK) & ~self._lost_objects).sum())
        inside = np.clip(boxes, 0, np.tile(limits, 2))
        boxes[...] = np.where(outside[:, None], boxes, inside)

    def _repeated(self) -> np.ndarray:
        """bool [T]: the same picture, class, box (to a hundredth of a pixel), marks and mask as one before."""
        things = self.annotations.objects
        rounded = np.rint(self.boxes_xyxy.clip(-1e12, 1e12) * 100).astype(np.int64)
        marks = np.array([(thing.crowd, thing.difficult) for thing in things], dtype=np.int64).reshape(-1, 2)
        rows = np.column_stack([self.picture_of, self.labels, marks, rounded])
        order = np.lexsort(rows.T[::-1])
        again = np.zeros(len(rows), dtype=bool)
        again[order[1:]] = (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
        for before, after in itertools.pairwise(order.tolist()):
            if again[after] and things[before].segmentation != things[after].segmentation:
                again[after] = False
        return again

    def _report_pictures(
        self, kind: str, pictures: np.ndarray, message: Callable[[int], str], *, fixable: bool
    ) -> None:
        places = [self.annotations.pictures[i].where for i in pictures.tolist()]
        messages = map(message, pictures.tolist())
        self.faults += [AnnotationFault(kind, *found, fixable) for found in zip(messages, places, strict=True)]
        self._faulty_pictures[pictures] = True
        if not fixable:
            self._lost_pictures[pictures] = True

    def _report_objects(
        self, kind: str, bad: Any, message: Callable[[int], str], *, fixable: bool = False, lost: bool = False
    ) -> None:
        """lost: dropped though it can be fixed, being one too many. What is lost already is not reported again."""
        found = np.flatnonzero(bad & ~self._lost_objects)
        objects = self.annotations.objects
        self.faults += [AnnotationFault(kind, message(t), objects[t].where, fixable) for t in found.tolist()]
        self._faulty_objects[found] = True
        if lost or not fixable:
            self._lost_objects[found] = True

    def _corners(self, t: int) -> str:
        thing = self.annotations.objects[t]
        left, top, right, bottom = thing.box_xyxy
        return f"{thing.name}: box from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"


def refuse(faults: list[AnnotationFault], where: str) -> None:
    """Raise DataError if there are faults: how many of each kind, and the first ones."""
    if faults:
        fixable = sum(fault.fixable for fault in faults)
        raise DataError(
            f"{plural(len(faults), 'fault')} in the annotations ({counted(faults)})",
            where=told(faults),
            fix=f"`mlcli data check` lists all; data.on_invalid=fix fixes {fixable} and drops {len(faults) - fixable}",
        )


def told(faults: list[AnnotationFault]) -> str:
    """The first faults with their places, and how many more there are."""
    first = "; ".join(f"{fault.where}: {fault.message}" for fault in faults[:_QUOTED])
    return first + (f"; and {len(faults) - _QUOTED} more" if len(faults) > _QUOTED else "")


def counted(faults: Iterable[AnnotationFault]) -> str:
    """ "12 outside, 3 malformed" """
    return ", ".join(f"{count} {kind}" for kind, count in Counter(fault.kind for fault in faults).most_common())


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
