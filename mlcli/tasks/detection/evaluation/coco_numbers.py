"""COCO's twelve numbers (Lin et al. 2014, arXiv:1405.0312; cocodataset.org, Detection Evaluation), by faster-coco-eval.

It repeats the official pycocotools to the last digit, in compiled code. What COCO calls -1, a number about objects that
do not occur, is left out or NaN here.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.evaluation.matches import FlatDetections

METRICS = (
    *("map", "map50", "map75", "map_small", "map_medium", "map_large"),
    *("mar1", "mar10", "mar100", "mar_small", "mar_medium", "mar_large"),
)
"""In COCO's order: mean average precision over IoUs of 0.5 to 0.95, at 0.5, at 0.75, of objects by their size; mean
recall with at most 1, 10 and 100 detections a picture, and by size. All from 0 to 1."""
COCO_MOST = 100
"""Detections of a picture and class that COCO takes into account, the most certain."""
AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e5**2)}
"""Square pixels of the original, both ends included."""


@dataclass(frozen=True)
class CocoNumbers:
    """values: those of METRICS that are defined. ap: float64 [K], each class's average precision, NaN without objects.
    ap50: the same at an IoU of 0.5."""

    values: dict[str, float]
    ap: np.ndarray
    ap50: np.ndarray


def measured(areas: np.ndarray) -> tuple[str, ...]:
    """The METRICS that objects of these areas define: those by size only where there is an object of that size."""
    present = {name for name, (low, high) in AREAS.items() if ((areas >= low) & (areas <= high)).any()}
    absent = set(AREAS) - present
    return tuple(name for name in METRICS if name.rpartition("_")[2] not in absent)


def ground_truth(records: Records, seen: np.ndarray, num_classes: int, *, masks: bool) -> dict[str, Any]:
    """The ground truth of some pictures as a COCO data set. Categories are called by their label, 1..K.

    Crowds and difficult objects are both crowds here: COCO's way of saying that finding them does not count.

    Args:
        seen: int64, positions in the split.
        masks: with them; an object without is masked by its box.
    """
    images = [
        {"id": int(records.ids[i]), "width": int(records.sizes[i, 0]), "height": int(records.sizes[i, 1])} for i in seen
    ]
    annotations = []
    for i in seen.tolist():
        for t in range(*records.offsets[i : i + 2].tolist()):
            left, top, right, bottom = records.boxes_xyxy[t].astype(float).tolist()
            one = {
                "id": t + 1,  # COCO's matching takes 0 for no object
                "image_id": int(records.ids[i]),
                "category_id": int(records.labels[t]),
                "bbox": [left, top, right - left, bottom - top],
                "area": float(records.area[t]),
                "iscrowd": int(records.crowd[t] or records.difficult[t]),
            }
            if masks:
                mask = records.segmentations[t] if records.segmentations else None
                one["segmentation"] = mask or [[left, top, right, top, right, bottom, left, bottom]]
            annotations.append(one)
    categories = [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def box_results(found: FlatDetections, records: Records) -> list[dict[str, Any]]:
    """Detections as COCO's list of results."""
    sides = found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]
    boxes_xywh = np.concatenate([found.boxes_xyxy[:, :2], sides], axis=1).tolist()
    columns = (records.ids[found.pictures].tolist(), found.labels.tolist(), boxes_xywh, found.scores.tolist())
    return [
        {"image_id": picture, "category_id": label, "bbox": box, "score": score, "area": box[2] * box[3]}
        for picture, label, box, score in zip(*columns, strict=True)
    ]


def coco_numbers(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    kind: Literal["bbox", "segm"],
    most: int | None = COCO_MOST,
) -> CocoNumbers:
    """Evaluate results by boxes or by masks.

    Args:
        truth: a COCO data set; `ground_truth` makes one. It is changed.
        results: dicts of image_id, category_id, score, area, and bbox or segmentation (run-length coded). Changed too.
        most: detections of a picture and class that count, the most certain; None for all. mar1, mar10 and mar100 are
            what they say all the same.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    def silent(*_: object) -> None:
        """In place of print."""

    class Whole(COCO):
        """A data set of which all annotations are evaluated, so that no index of them is made."""

        def createIndex(self) -> None:  # noqa: N802
            self.imgs, self.cats = ({one["id"]: one for one in self.dataset[of]} for of in ("images", "categories"))

        def getAnnIds(self, *_: object, **__: object) -> list[int]:  # noqa: N802
            return []

        def loadAnns(self, ids: object = None) -> list[dict[str, Any]]:  # noqa: N802
            return self.dataset["annotations"]

    for number, result in enumerate(results, start=1):
        result |= {"id": number, "iscrowd": 0}
    # `COCO.loadRes` would measure one mask after the other.
    reference, found = (Whole(truth | more, print_function=silent) for more in ({}, {"annotations": results}))
    evaluation = COCOeval_faster(reference, found, kind, print_function=silent)
    more = []
    if most is None and results:
        more = [max(Counter((one["image_id"], one["category_id"]) for one in results).values())]
    evaluation.params.maxDets = [*(1, 10, COCO_MOST), *(number for number in more if number > COCO_MOST)]
    evaluation.run()
    stats = np.asarray(evaluation.stats).tolist()
    if len(evaluation.params.maxDets) > 3:
        del stats[9]  # recall with all detections, after that with 100
    values = dict(zip(METRICS, stats[: len(METRICS)], strict=True))
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # [IoUs, recalls, K], all sizes
    return CocoNumbers(
        {name: value for name, value in values.items() if value >= 0},
        np.where(precision[0, 0] < 0, np.nan, precision.mean(axis=(0, 1))),
        np.where(precision[0, 0] < 0, np.nan, precision[0].mean(axis=0)),
    )
