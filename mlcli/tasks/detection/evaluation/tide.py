"""Kinds of mistakes of a detector, and what each of them costs in average precision.

TIDE (Bolya et al. 2020, arXiv:2008.08115), sections 2.2 and 2.3, with the order of its code where kinds overlap. Each
mistake is of one kind; its cost is what the mean AP at an IoU of 0.5 would gain if that kind alone were corrected.
"""

import numpy as np

from mlcli.show.details import MistakeKind
from mlcli.tasks.detection.evaluation.curves import average_precision, mean_over_classes
from mlcli.tasks.detection.evaluation.matches import FAINT_IOU, RIGHT_IOU, Matches, OverlapPairs

KINDS = ("localisation", "class", "duplicate", "background", "both", "missed")
"""localisation: right class, IoU from 0.1 to 0.5; class: IoU of 0.5 or more with an object of another class; duplicate:
right class and place, but a more certain detection has the object; background: IoU of 0.1 at most with all; both: wrong
in class and place; missed: objects that none of the first two is about."""

LOCALISATION, CLASS, DUPLICATE, BACKGROUND, BOTH, MISSED = range(len(KINDS))


def breakdown(matches: Matches, num_classes: int) -> list[MistakeKind]:
    """Return how many mistakes there are of each of KINDS, and what they cost."""
    kinds, targets = _kinds(matches)
    taken, aimed_at = np.zeros(len(matches.counted), dtype=bool), np.zeros(len(matches.counted), dtype=bool)
    taken[matches.object_of[matches.correct]] = True
    aimed_at[targets[targets >= 0]] = True
    missed = matches.counted & ~taken & ~aimed_at
    # Of the mistakes about one object that is not found the most certain is correct once corrected, of any kind;
    # the others would still be one too many.
    aimed = np.flatnonzero(targets >= 0)
    aimed = aimed[~taken[targets[aimed]]]
    correctable = np.zeros(len(targets), dtype=bool)
    correctable[aimed[np.unique(targets[aimed], return_index=True)[1]]] = True
    before = _map50(matches, matches.correct, matches.wrong, matches.found.labels, matches.counted, num_classes)
    rows = list[MistakeKind]()
    for kind, name in enumerate(KINDS):
        labels, correct, wrong, counted = matches.found.labels, matches.correct, matches.wrong, matches.counted
        mine = kinds == kind
        if kind == MISSED:
            count, counted = int(missed.sum()), counted & ~missed
        else:
            count, wrong = int(mine.sum()), wrong & ~mine
            corrected = np.flatnonzero(mine & correctable)
            correct, labels = correct.copy(), labels.copy()
            correct[corrected], labels[corrected] = True, matches.labels[targets[corrected]]
        gain = _map50(matches, correct, wrong, labels, counted, num_classes) - before
        rows.append({"name": name, "count": count, "delta_map50": max(0.0, gain)})
    return rows


def _kinds(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each wrong detection, int64 [n], -1 for the others; and the object it is about, -1 for none."""
    pairs = matches.pairs.only(matches.counted[matches.pairs.objects])
    same = matches.found.labels[pairs.detections] == matches.labels[pairs.objects]
    own_iou, own = _closest(pairs.only(same), len(matches.found))
    other_iou, other = _closest(pairs.only(~same), len(matches.found))
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
    kinds[~matches.wrong] = -1
    targets = np.select([kinds == LOCALISATION, kinds == CLASS], [own, other], -1)
    return kinds, targets


def _closest(pairs: OverlapPairs, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each detection, float64 [n], 0 for none, and the object, int64 [n], the first of equals."""
    order = np.lexsort((pairs.objects, -pairs.ious, pairs.detections))
    detections, first = np.unique(pairs.detections[order], return_index=True)
    ious, objects = np.zeros(count), np.full(count, -1)
    ious[detections], objects[detections] = pairs.ious[order][first], pairs.objects[order][first]
    return ious, objects


def _map50(
    matches: Matches, correct: np.ndarray, wrong: np.ndarray, labels: np.ndarray, counted: np.ndarray, num_classes: int
) -> float:
    """COCO's mean AP at one IoU, over the classes that have objects; a class without anything left is left out."""
    support = np.bincount(matches.labels[counted], minlength=num_classes + 1)
    values = []
    for label in np.flatnonzero(matches.support(num_classes)):
        kept = correct[(correct | wrong) & (labels == label)]
        if support[label] or len(kept):
            values.append(average_precision(kept, int(support[label])))
    return mean_over_classes(values)
