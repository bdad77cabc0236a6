"""Precision, recall and F1 over the score threshold, average precision, and confusion with background.

VOC's average precision: Everingham et al. 2010, all points as since 2010 (devkit, VOCevaldet). COCO's: 101 points.
"""

import math
from typing import TypedDict

import numpy as np

from mlcli.show.details import ClassRow, Curve
from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.evaluation.matches import RIGHT_IOU, FlatDetections, Matches, OverlapPairs

THRESHOLDS = np.linspace(0, 1, 101)
"""Scores that curves are sampled at, ascending."""
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


def average_precision(correct: np.ndarray, support: int, *, all_points: bool = False) -> float:
    """Area under precision over recall, with precision made to fall only.

    Args:
        correct: bool [n], whether each detection is correct, most certain first, the ignored left out.
        support: objects there are.
        all_points: the whole area, as VOC; else the mean at RECALLS, as COCO.

    0 where there is no object or no detection.
    """
    if not support or not len(correct):
        return 0.0
    hits = np.cumsum(correct)
    precision, recall = hits / np.arange(1, len(correct) + 1), hits / support
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    if all_points:
        return float((np.diff(recall, prepend=0) * falling).sum())
    reached = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(falling, 0)[reached].mean())


class AtThreshold(TypedDict):
    """Scores of what is found at a threshold."""

    precision: float
    recall: float
    f1: float
    threshold: float


def best_threshold(scores: np.ndarray, correct: np.ndarray, support: int) -> AtThreshold:
    """Return the threshold with the best F1, halfway to the next less certain detection, so that rounding moves none.

    scores, correct: [n], most certain first, the ignored left out. Without any detection: threshold 1, all else 0.
    """
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # detections of one score stand or fall together
    if not len(ends) or not support:
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "threshold": 1.0}
    hits, kept = np.cumsum(correct)[ends], ends + 1
    f1 = 2 * hits / (kept + support)
    best = int(f1.argmax())
    below = scores[ends[best + 1]] if best + 1 < len(ends) else 0.0
    return {
        "precision": float(hits[best] / kept[best]),
        "recall": float(hits[best] / support),
        "f1": float(f1[best]),
        "threshold": float((scores[ends[best]] + below) / 2),
    }


def sampled(scores: np.ndarray, correct: np.ndarray, support: int) -> Curve:
    """Return the curves at THRESHOLDS.

    scores, correct: [n], most certain first, the ignored left out. Precision is 1 where nothing is kept; tn is 0, as
    places without an object and without a detection cannot be counted.
    """
    kept = np.searchsorted(-scores, -THRESHOLDS, side="right")
    tp = np.append(0, np.cumsum(correct))[kept]
    fp, fn = kept - tp, support - tp
    return {
        "threshold": THRESHOLDS.round(6).tolist(),
        "precision": np.where(kept > 0, tp / np.maximum(kept, 1), 1.0).round(6).tolist(),
        "recall": (tp / max(support, 1)).round(6).tolist(),
        "f1": (2 * tp / np.maximum(kept + support, 1)).round(6).tolist(),
        "tp": tp.tolist(),
        "fp": fp.tolist(),
        "tn": [0] * len(tp),
        "fn": fn.tolist(),
    }


def voc_ap50(found: FlatDetections, pairs: OverlapPairs, records: Records, support: np.ndarray) -> float:
    """Mean over classes of VOC's average precision at an IoU of 0.5; classes without objects are left out.

    VOC's rule differs from COCO's: a detection stands for the object it overlaps most, and is wrong if that is taken.
    Difficult objects and crowds are ignored. support: int64 [K + 1].
    """
    same = pairs.only(found.labels[pairs.detections] == records.labels[pairs.objects])
    by_iou = same.only(np.lexsort((-same.ious, same.detections)))
    detections, first = np.unique(by_iou.detections, return_index=True)  # the largest overlap of each
    sure = by_iou.ious[first] >= RIGHT_IOU
    detections, objects = detections[sure], by_iou.objects[first][sure]
    ignored = np.zeros(len(found), dtype=bool)
    ignored[detections[records.ignored[objects]]] = True
    correct = np.zeros(len(found), dtype=bool)
    correct[detections[np.unique(objects, return_index=True)[1]]] = True  # the most certain of each object
    return mean_over_classes(
        [
            average_precision(correct[(found.labels == label) & ~ignored], int(support[label]), all_points=True)
            for label in np.flatnonzero(support)
        ]
    )


def mean_over_classes(values: list[float]) -> float:
    """Their mean; NaN for none."""
    return float(np.mean(values)) if values else math.nan


def confusion(matches: Matches, threshold: float, num_classes: int) -> list[list[int]]:
    """Objects by class (row) and by predicted class (column), [K + 1, K + 1]; the last is background.

    Only detections of at least `threshold` count. Regardless of their class, they are paired with objects they overlap
    by RIGHT_IOU, the largest overlap first; what is left over is background. Ignored objects and what was found in them
    are left out.
    """
    found, pairs = matches.found, matches.pairs
    shown = (found.scores >= threshold) & ~matches.ignored
    sure = pairs.only(matches.counted[pairs.objects] & shown[pairs.detections] & (pairs.ious >= RIGHT_IOU))
    sure = sure.only(np.argsort(-sure.ious, kind="stable"))
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for detection, thing in zip(sure.detections.tolist(), sure.objects.tolist(), strict=True):
        if detection not in partner and thing not in taken:
            partner[detection] = thing
            taken.add(thing)
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    detections, things = np.array([*partner], dtype=np.int64), np.array([*partner.values()], dtype=np.int64)
    np.add.at(matrix, (matches.labels[things] - 1, found.labels[detections] - 1), 1)
    shown[detections] = False
    np.add.at(matrix, (num_classes, found.labels[shown] - 1), 1)
    missed = matches.counted.copy()
    missed[things] = False
    np.add.at(matrix, (matches.labels[missed] - 1, num_classes), 1)
    return matrix.tolist()


def class_rows(
    matches: Matches, class_names: tuple[str, ...], ap: np.ndarray, ap50: np.ndarray
) -> tuple[list[ClassRow], dict[str, Curve]]:
    """The table of classes, each at its own best threshold, and the curves of each by name.

    Classes without objects cannot be measured: None in the table, and no curve.
    """
    support = matches.support(len(class_names)).tolist()
    rows, curves = list[ClassRow](), dict[str, Curve]()
    for label, name in enumerate(class_names, start=1):
        if not support[label]:
            rows.append({"name": name, "ap": None, "ap50": None, "precision": None, "recall": None, "f1": None,
                         "threshold": None, "support": 0})  # fmt: skip
            continue
        scores, correct = of_class(matches, label)
        rows.append(
            {
                "name": name,
                "ap": float(ap[label - 1]),
                "ap50": float(ap50[label - 1]),
                **best_threshold(scores, correct, support[label]),
                "support": support[label],
            }
        )
        curves[name] = sampled(scores, correct, support[label])
    return rows, curves


def of_class(matches: Matches, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] and whether each is correct, bool [n], most certain first, but the ignored; of one class or all."""
    which = ~matches.ignored
    if label is not None:
        which = which & (matches.found.labels == label)
    return matches.found.scores[which], matches.correct[which]
