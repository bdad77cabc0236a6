"""Matching of detections with the ground truth: which overlap which objects, and which of them are correct.

The rule is COCO's at one IoU (cocoapi's cocoeval.py, evaluateImg): in each picture and class the most certain detection
chooses first, the object it overlaps most among those not taken. What is matched to no counted object but lies in an
ignored one (a crowd, a difficult object) is neither correct nor wrong.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from mlcli.tasks.detection.boxes import area, overlap
from mlcli.tasks.detection.data.records import Records

RIGHT_IOU = 0.5
"""Overlap from which a detection is of an object, as in Pascal VOC."""
FAINT_IOU = 0.1
"""Overlap from which a detection is near an object; less is background (Bolya et al. 2020, section 2.2)."""
PAIRS = 1 << 20  # of detections and objects, measured at a time: about 200 MB


@dataclass(frozen=True)
class FlatDetections:
    """n detections of a split in pixels of the originals, most certain first; of equals, in order of the pictures' ids.

    pictures: int64 [n], positions in the split; boxes_xyxy: float64 [n, 4]; scores: float64 [n];
    labels: int64 [n], 1..K.
    """

    pictures: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class OverlapPairs:
    """Detections and objects of a picture that overlap by FAINT_IOU or more, regardless of their classes.

    detections, objects: int64 [p], rows of `FlatDetections` and `Records`, sorted by detection.
    ious: float64 [p], intersection over union.
    insides: float64 [p], the intersection as a share of the detection.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray
    insides: np.ndarray

    def only(self, which: np.ndarray) -> "OverlapPairs":
        """The chosen pairs; which: bool [p]."""
        return OverlapPairs(self.detections[which], self.objects[which], self.ious[which], self.insides[which])


@dataclass(frozen=True)
class Matches:
    """Find the detections that are correct at RIGHT_IOU, and those that are wrong.

    found, pairs: what was matched.
    object_of: int64 [n], the object that each detection finds; -1 for none.
    ignored: bool [n], neither correct nor wrong.
    counted: bool [T], objects of the pictures seen that are to be found; those ignored are not.
    labels: int64 [T], of the objects, 1..K.
    """

    found: FlatDetections
    pairs: OverlapPairs
    object_of: np.ndarray
    ignored: np.ndarray
    counted: np.ndarray
    labels: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """bool [n]"""
        return self.object_of >= 0

    @property
    def wrong(self) -> np.ndarray:
        """bool [n]"""
        return (self.object_of < 0) & ~self.ignored

    def support(self, num_classes: int) -> np.ndarray:
        """int64 [K + 1], objects to be found by label; none of label 0."""
        return np.bincount(self.labels[self.counted], minlength=num_classes + 1)


def match(found: FlatDetections, records: Records, seen: np.ndarray) -> Matches:
    """Match detections with objects. seen: int64, positions of the pictures that were looked at."""
    counted = np.isin(records.picture_of, seen) & ~records.ignored
    pairs = overlapping(found, records)
    crowd = records.ignored[pairs.objects]
    # Of an ignored region a detection need only lie inside, as in COCO: the number of objects in it is unknown.
    overlap = np.where(crowd, pairs.insides, pairs.ious)
    same = (found.labels[pairs.detections] == records.labels[pairs.objects]) & (overlap >= RIGHT_IOU)
    object_of, ignored = np.full(len(found), -1), np.zeros(len(found), dtype=bool)
    taken: set[int] = set()
    candidates: dict[int, list[tuple[float, int]]] = {}
    for row in np.flatnonzero(same & ~crowd).tolist():
        candidates.setdefault(int(pairs.detections[row]), []).append((float(overlap[row]), int(pairs.objects[row])))
    for detection, choices in candidates.items():  # pairs are sorted by detection, so the most certain comes first
        free = [choice for choice in choices if choice[1] not in taken]
        if free:
            object_of[detection] = max(free)[1]  # of equals the last object, as in COCO
            taken.add(object_of[detection])
    ignored[pairs.detections[same & crowd]] = True
    return Matches(found, pairs, object_of, ignored & (object_of < 0), counted, records.labels)


def overlapping(found: FlatDetections, records: Records) -> OverlapPairs:
    """All pairs that overlap by FAINT_IOU or more."""
    counts = records.counts[found.pictures]  # of the objects in each detection's picture
    ends = counts.cumsum()
    begins = records.offsets[found.pictures] - (ends - counts)  # what takes the number of a pair to that of its object
    parts = []
    for rows in np.split(np.arange(len(found)), np.searchsorted(ends, range(PAIRS, int(counts.sum()), PAIRS))):
        detections = np.repeat(rows, counts[rows])
        pairs = np.arange(len(detections)) + (ends[rows[0]] - counts[rows[0]] if len(rows) else 0)
        objects = pairs + begins[detections]
        boxes = torch.from_numpy(found.boxes_xyxy[detections])
        truth = torch.from_numpy(records.boxes_xyxy[objects].astype(np.float64))
        ious, own = overlap(boxes, truth), area(boxes)
        insides = ious * (own + area(truth)) / (1 + ious) / own.clamp(min=1e-12)
        near = (torch.maximum(ious, insides) >= FAINT_IOU).numpy()
        parts.append(OverlapPairs(detections, objects, ious.numpy(), insides.numpy()).only(near))
    columns = ([getattr(part, field.name) for part in parts] for field in fields(OverlapPairs))
    return OverlapPairs(*(np.concatenate(column) for column in columns))
