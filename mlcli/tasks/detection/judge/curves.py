"""What a threshold on the score trades: precision, recall and F1 over it, average precision, confusion with background.

VOC's average precision: Everingham et al. 2010, all points as since 2010 (devkit, VOCevaldet). COCO's: 101 points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.judge.judged import RIGHT_IOU, Found, Judged, Pairs

THRESHOLDS = np.linspace(0, 1, 101)
"""Scores that curves are sampled at, ascending."""
RECALLS = np.linspace(0, 1, 101)  # where COCO reads the precision


@dataclass(frozen=True)
class Cut:
    """The threshold with the best F1, and what it gives: detections with that score or more are kept."""

    threshold: float
    precision: float
    recall: float
    f1: float


def average_precision(right: np.ndarray, support: int, *, all_points: bool = False) -> float:
    """Area under precision over recall, with precision made to fall only.

    Args:
        right: bool [n], whether each detection is, most certain first, the ignored left out.
        support: objects there are.
        all_points: the whole area, as VOC; else the mean at RECALLS, as COCO.

    0 where there is no object or no detection.
    """
    if not support or not len(right):
        return 0.0
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(right) + 1), hits / support
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    if all_points:
        return float((np.diff(recall, prepend=0) * falling).sum())
    reached = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(falling, 0)[reached].mean())


def best_cut(scores: np.ndarray, right: np.ndarray, support: int) -> Cut:
    """Where F1 is best: the threshold lies halfway to the next less certain detection, so that rounding moves none.

    scores, right: [n], most certain first, the ignored left out. Without any detection: threshold 1, all else 0.
    """
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # detections of one score stand or fall together
    if not len(ends) or not support:
        return Cut(1.0, 0.0, 0.0, 0.0)
    hits, kept = np.cumsum(right)[ends], ends + 1
    f1 = 2 * hits / (kept + support)
    best = int(f1.argmax())
    below = scores[ends[best + 1]] if best + 1 < len(ends) else 0.0
    threshold = float((scores[ends[best]] + below) / 2)
    return Cut(threshold, float(hits[best] / kept[best]), float(hits[best] / support), float(f1[best]))


def sampled(scores: np.ndarray, right: np.ndarray, support: int) -> dict[str, list[float] | list[int]]:
    """The curves at THRESHOLDS: lists threshold, precision, recall, f1, tp, fp, tn, fn.

    scores, right: [n], most certain first, the ignored left out. Precision is 1 where nothing is kept; tn is 0, as
    nobody can count the places where nothing is and nothing was found.
    """
    kept = np.searchsorted(-scores, -THRESHOLDS, side="right")
    tp = np.append(0, np.cumsum(right))[kept]
    fp, fn = kept - tp, support - tp
    values = {
        "threshold": THRESHOLDS,
        "precision": np.where(kept > 0, tp / np.maximum(kept, 1), 1.0),
        "recall": tp / max(support, 1),
        "f1": 2 * tp / np.maximum(kept + support, 1),
        "tp": tp,
        "fp": fp,
        "tn": np.zeros_like(tp),
        "fn": fn,
    }
    return {name: column.round(6).tolist() for name, column in values.items()}


def voc_ap50(found: Found, pairs: Pairs, records: Records, support: np.ndarray) -> float:
    """Mean over classes of VOC's average precision at an IoU of 0.5; classes without objects are left out.

    VOC's rule differs from COCO's: a detection means the object it overlaps most, and is wrong if that one is taken.
    Difficult objects and crowds are ignored. support: int64 [K + 1].
    """
    same = pairs.only(found.labels[pairs.detections] == records.labels[pairs.objects])
    by_iou = same.only(np.lexsort((-same.ious, same.detections)))
    detections, first = np.unique(by_iou.detections, return_index=True)  # the largest overlap of each
    sure = by_iou.ious[first] >= RIGHT_IOU
    detections, objects = detections[sure], by_iou.objects[first][sure]
    ignored = np.zeros(len(found), dtype=bool)
    ignored[detections[records.ignored[objects]]] = True
    right = np.zeros(len(found), dtype=bool)
    right[detections[np.unique(objects, return_index=True)[1]]] = True  # the most certain of each object
    return mean_over_classes(
        [
            average_precision(right[(found.labels == label) & ~ignored], int(support[label]), all_points=True)
            for label in np.flatnonzero(support)
        ]
    )


def mean_over_classes(values: list[float]) -> float:
    """Their mean; 0 for none."""
    return float(np.mean(values)) if values else 0.0


def confusion(judged: Judged, threshold: float, num_classes: int) -> list[list[int]]:
    """Objects by class (row) and by what was said of them (column), [K + 1, K + 1]; the last is background.

    Only detections of at least `threshold` speak. Whatever their class, they are paired with objects they overlap by
    RIGHT_IOU, the largest overlap first; what is left over is background. Ignored objects and what was found in them
    are left out.
    """
    found, pairs = judged.found, judged.pairs
    speaks = (found.scores >= threshold) & ~judged.ignored
    sure = pairs.only(judged.counted[pairs.objects] & speaks[pairs.detections] & (pairs.ious >= RIGHT_IOU))
    sure = sure.only(np.argsort(-sure.ious, kind="stable"))
    partner: dict[int, int] = {}
    taken: set[int] = set()
    for detection, thing in zip(sure.detections.tolist(), sure.objects.tolist(), strict=True):
        if detection not in partner and thing not in taken:
            partner[detection] = thing
            taken.add(thing)
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    detections, things = np.array([*partner], dtype=np.int64), np.array([*partner.values()], dtype=np.int64)
    np.add.at(matrix, (judged.labels[things] - 1, found.labels[detections] - 1), 1)
    speaks[detections] = False
    np.add.at(matrix, (num_classes, found.labels[speaks] - 1), 1)
    missed = judged.counted.copy()
    missed[things] = False
    np.add.at(matrix, (judged.labels[missed] - 1, num_classes), 1)
    return matrix.tolist()


def class_rows(
    judged: Judged, class_names: tuple[str, ...], ap: np.ndarray, ap50: np.ndarray
) -> tuple[list[dict[str, Any]], dict[str, dict]]:
    """The table of classes, each at its own best threshold, and the curves of each by name."""
    support = judged.support(len(class_names))
    rows, curves = [], {}
    for label, name in enumerate(class_names, start=1):
        scores, right = of_class(judged, label)
        cut = best_cut(scores, right, int(support[label]))
        rows.append(
            {
                "name": name,
                "ap": float(ap[label - 1]),
                "ap50": float(ap50[label - 1]),
                "precision": cut.precision,
                "recall": cut.recall,
                "f1": cut.f1,
                "threshold": cut.threshold,
                "support": int(support[label]),
            }
        )
        curves[name] = sampled(scores, right, int(support[label]))
    return rows, curves


def of_class(judged: Judged, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] and whether right [n], most certain first, the ignored left out; of one class or of all."""
    which = ~judged.ignored
    if label is not None:
        which = which & (judged.found.labels == label)
    return judged.found.scores[which], judged.right[which]
