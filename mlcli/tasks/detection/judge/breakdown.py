"""What kinds of mistakes a detector makes and what each of them costs.

TIDE (Bolya et al. 2020, arXiv:2008.08115), sections 2.2 and 2.3, with the order of its code where kinds overlap. Each
mistake is of one kind; its cost is what the mean AP at an IoU of 0.5 would gain if that kind alone were mended.
"""

from typing import Any

import numpy as np

from mlcli.tasks.detection.judge.curves import average_precision, mean_over_classes
from mlcli.tasks.detection.judge.judged import FAINT_IOU, RIGHT_IOU, Judged, Pairs

KINDS = ("localisation", "class", "duplicate", "background", "both", "missed")
"""localisation: right class, IoU from 0.1 to 0.5; class: IoU of 0.5 or more with an object of another class; duplicate:
right class and place, but a more certain detection has the object; background: IoU of 0.1 at most with all; both: wrong
in class and place; missed: objects that none of the first two is about."""

LOCALISATION, CLASS, DUPLICATE, BACKGROUND, BOTH, MISSED = range(len(KINDS))


def breakdown(judged: Judged, num_classes: int) -> list[dict[str, Any]]:
    """For each of KINDS: name, count, and delta_map50, what mending it would add to the mean AP at 0.5, from 0 to 1."""
    kinds, targets = _kinds(judged)
    taken, aimed_at = np.zeros(len(judged.counted), dtype=bool), np.zeros(len(judged.counted), dtype=bool)
    taken[judged.matches[judged.right]] = True
    aimed_at[targets[targets >= 0]] = True
    missed = judged.counted & ~taken & ~aimed_at
    mendable = _first_at_free(targets, taken)
    before = _map50(judged, judged.right, judged.wrong, judged.found.labels, judged.counted, num_classes)
    rows = []
    for kind, name in enumerate(KINDS):
        labels, right, wrong, counted = judged.found.labels, judged.right, judged.wrong, judged.counted
        mine = kinds == kind
        if kind == MISSED:
            count, counted = int(missed.sum()), counted & ~missed
        else:
            count, wrong = int(mine.sum()), wrong & ~mine
            mended = np.flatnonzero(mine & mendable)
            right, labels = right.copy(), labels.copy()
            right[mended], labels[mended] = True, judged.labels[targets[mended]]
        gain = _map50(judged, right, wrong, labels, counted, num_classes) - before
        rows.append({"name": name, "count": count, "delta_map50": max(0.0, gain)})
    return rows


def _kinds(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each wrong detection, int64 [n], -1 for the others; and the object it is about, -1 for none."""
    pairs = judged.pairs.only(judged.counted[judged.pairs.objects])
    same = judged.found.labels[pairs.detections] == judged.labels[pairs.objects]
    own_iou, own = _closest(pairs.only(same), len(judged.found))
    other_iou, other = _closest(pairs.only(~same), len(judged.found))
    kinds = np.select(
        [
            (own_iou >= FAINT_IOU) & (own_iou <= RIGHT_IOU),
            other_iou >= RIGHT_IOU,
            own_iou >= RIGHT_IOU,
            np.maximum(own_iou, other_iou) <= FAINT_IOU,
        ],
        [LOCALISATION, CLASS, DUPLICATE, BACKGROUND],
        BOTH,
    )
    kinds[~judged.wrong] = -1
    targets = np.select([kinds == LOCALISATION, kinds == CLASS], [own, other], -1)
    return kinds, targets


def _closest(pairs: Pairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each detection, float64 [n], 0 for none, and the object, int64 [n], the first of equals."""
    order = np.lexsort((pairs.objects, -pairs.ious, pairs.detections))
    detections, first = np.unique(pairs.detections[order], return_index=True)
    ious, objects = np.zeros(count), np.full(count, -1)
    ious[detections], objects[detections] = pairs.ious[order][first], pairs.objects[order][first]
    return ious, objects


def _first_at_free(targets: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """bool [n]: of the mistakes about one object that nobody has found, the most certain, of whatever kind.

    It is right once mended; the others would still be one too many.
    """
    rows = np.flatnonzero(targets >= 0)
    rows = rows[~taken[targets[rows]]]
    mended = np.zeros(len(targets), dtype=bool)
    mended[rows[np.unique(targets[rows], return_index=True)[1]]] = True
    return mended


def _map50(
    judged: Judged, right: np.ndarray, wrong: np.ndarray, labels: np.ndarray, counted: np.ndarray, num_classes: int
) -> float:
    """COCO's mean AP at one IoU, over the classes that have objects; a class with nothing left to say is left out."""
    support = np.bincount(judged.labels[counted], minlength=num_classes + 1)
    values = []
    for label in np.flatnonzero(judged.support(num_classes)):
        kept = right[(right | wrong) & (labels == label)]
        if support[label] or len(kept):
            values.append(average_precision(kept, int(support[label])))
    return mean_over_classes(values)
