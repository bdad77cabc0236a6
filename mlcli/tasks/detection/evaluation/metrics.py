"""Metrics of a detector on a split: COCO's numbers and VOC's, and its mistakes.

All of it in pixels of the original pictures, against the annotations as they are. Crowds and difficult objects are
neither trained on nor counted.
"""

import contextlib
import gc
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mlcli.engine.contract import Batch, Direction
from mlcli.engine.limits import usable_cpus
from mlcli.show.details import Details
from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.evaluation.coco_numbers import (
    COCO_MOST,
    CocoNumbers,
    box_results,
    coco_numbers,
    ground_truth,
    measured,
)
from mlcli.tasks.detection.evaluation.curves import best_threshold, class_rows, confusion, of_class, sampled, voc_ap50
from mlcli.tasks.detection.evaluation.matches import FlatDetections, Matches, match
from mlcli.tasks.detection.evaluation.tide import breakdown
from mlcli.tasks.detection.masks import pasted
from mlcli.tasks.detection.targets import Detections

MASK_PREFIX = "segm_"
BATCHES_TOGETHER = 16  # whose masks are pasted at once: many are pasted faster than few, but all would take memory


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within this context there is no garbage collection. It looks for circles in all objects again and again while a
    result for each of 100,000s of detections is made, which takes a quarter of an evaluation and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class DetectionMetrics:
    """Detections gathered batch by batch, evaluated together at the end.

    COCO gives -1 to sizes of which a split has no object; such metrics are not among `directions` nor computed. Where
    there is nothing at all to find, none can be watched, and all are NaN. Predictions stay on the device that they
    arrive on until the end.

    Args:
        records: the split.
        class_names: K names in label order.
        masks: evaluate masks too, under names that begin with segm_.
        most: detections of a picture and class that COCO's numbers take into account; None for all.
    """

    def __init__(
        self,
        records: Records,
        class_names: Sequence[str],
        *,
        masks: bool = False,
        most: int | None = COCO_MOST,
    ) -> None:
        self.records, self.class_names, self.masks, self.most = records, tuple(class_names), masks, most
        coco = measured(records.area[~records.ignored])
        self._names = [*coco, "voc_ap50", *(MASK_PREFIX + name for name in coco if masks)]
        self.directions: dict[str, Direction] = {} if records.ignored.all() else dict.fromkeys(self._names, "max")
        self._batches: list[tuple[torch.Tensor, Detections]] = []
        self._matches: Matches | None = None
        self._boxes: CocoNumbers | None = None

    def update(self, predictions: Detections, batch: Batch) -> None:
        """Take in the detections of a batch; batch.indices are its pictures. Nothing waits for the device."""
        if self.masks and predictions.masks is not None:
            predictions = replace(predictions, masks=predictions.masks.half())
        elif predictions.masks is not None:
            predictions = replace(predictions, masks=None)
        self._batches.append((batch.indices, predictions))
        self._matches = self._boxes = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes from one process to another: without the split, which each has, and what follows from both."""
        return {**self.__dict__, "records": None, "_matches": None, "_boxes": None}

    def merge(self, other: "DetectionMetrics") -> None:
        """Add the detections that another has gathered of other pictures of the split."""
        self._batches += other._batches
        self._matches = self._boxes = None

    @uncollected()
    def compute(self) -> dict[str, float]:
        """Each from 0 to 1, more is better; NaN where the pictures seen have nothing to find."""
        matches = self.matches
        scores = dict(self._coco.values)
        support = matches.support(len(self.class_names))
        scores["voc_ap50"] = voc_ap50(matches.found, matches.pairs, self.records, support)
        if self.masks:
            truth = ground_truth(self.records, self.seen, len(self.class_names), masks=True)
            values = coco_numbers(truth, self._mask_results(), "segm", self.most).values
            scores |= {MASK_PREFIX + name: value for name, value in values.items()}
        return {name: scores.get(name, math.nan) for name in self._names}

    def learned(self) -> dict[str, Any]:
        """score_threshold: the one that gave the best F1."""
        support = int(self.matches.counted.sum())
        return {"score_threshold": best_threshold(*of_class(self.matches), support)["threshold"]}

    def details(self) -> Details:
        """Return tables and curves at an IoU of 0.5; ap is COCO's, and the confusion that at the best threshold.

        Where there is nothing to find, curves and breakdown are empty, and best_f1 is None.
        """
        matches, names = self.matches, self.class_names
        classes, curves = class_rows(matches, names, self._coco.ap, self._coco.ap50)
        scores, correct = of_class(matches)
        support = int(matches.counted.sum())
        best = best_threshold(scores, correct, support)
        return {
            "classes": classes,
            "confusion": confusion(matches, best["threshold"], len(names)),
            "confusion_names": [*names, "background"],
            "pr_curves": curves,
            "f1_curve": sampled(scores, correct, support) if support else {},
            "best_threshold": best["threshold"],
            "best_f1": best["f1"] if support else None,
            "breakdown": breakdown(matches, len(names)) if support else [],
        }

    @property
    def seen(self) -> np.ndarray:
        """int64: positions of the pictures seen so far, in order of their ids, which decides between equal scores."""
        indices = [indices for indices, _ in self._batches]
        positions = np.unique(torch.cat(indices).numpy()) if indices else np.zeros(0, dtype=np.int64)
        return positions[np.argsort(self.records.ids[positions], kind="stable")]

    @property
    def matches(self) -> Matches:
        """All detections, matched with the ground truth. Waits for the device."""
        if self._matches is None:
            self._matches = match(self._found(), self.records, self.seen)
        return self._matches

    @property
    def _coco(self) -> CocoNumbers:
        if self._boxes is None:
            truth = ground_truth(self.records, self.seen, len(self.class_names), masks=False)
            self._boxes = coco_numbers(truth, box_results(self.matches.found, self.records), "bbox", self.most)
        return self._boxes

    def _found(self) -> FlatDetections:
        """The detections of all batches, in pixels of the originals."""
        parts = []
        for indices, detections in self._batches:
            there = (detections.labels > 0).cpu()
            boxes = original_boxes(detections, indices, self.records)[there]
            pictures = indices[:, None].expand(there.shape)[there]
            parts.append((pictures, boxes, detections.scores.cpu()[there].double(), detections.labels.cpu()[there]))
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            return FlatDetections(nothing, np.zeros((0, 4)), np.zeros(0), nothing)
        columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        order = np.lexsort((self.records.ids[columns[0]], -columns[2]))
        return FlatDetections(*(column[order] for column in columns))

    def _mask_results(self) -> list[dict[str, Any]]:
        """COCO's results with masks, and their area instead of the boxes'. Some batches are at work on each CPU."""
        firsts = range(0, len(self._batches), BATCHES_TOGETHER)
        with ThreadPoolExecutor(usable_cpus()) as pool:
            parts = pool.map(self._results_of, (self._batches[first:][:BATCHES_TOGETHER] for first in firsts))
            return [result for part in parts for result in part]

    @torch.inference_mode()
    def _results_of(self, batches: Sequence[tuple[torch.Tensor, Detections]]) -> list[dict[str, Any]]:
        """COCO's results with masks of some batches.

        Where there is nothing of a class in a picture, COCO compares no mask with another: their areas are all it asks.
        """
        kinds, columns = len(self.class_names) + 1, []
        for indices, detections in batches:
            assert detections.masks is not None, "this model makes no masks"
            there = (detections.labels > 0).cpu()
            boxes = original_boxes(detections, indices, self.records)[there]
            found = (detections.masks, detections.labels, detections.scores)
            pictures = indices[:, None].expand(there.shape)[there]
            columns.append((pictures, boxes, *(column.cpu()[there] for column in found)))
        pictures, boxes, masks, labels, scores = (torch.cat(column) for column in zip(*columns, strict=True))
        there_are = self.records.picture_of * kinds + self.records.labels
        compared = np.isin((pictures * kinds + labels).numpy(), there_are)
        codes, areas = pasted(masks, boxes.numpy(), self.records.sizes[pictures.numpy()], compared)
        numbers = (self.records.ids[pictures.numpy()], labels, scores, areas)
        return [
            {"image_id": picture, "category_id": label, "score": score, "area": area, "segmentation": code}
            for picture, label, score, area, code in zip(*(of.tolist() for of in numbers), codes, strict=True)
        ]


def original_boxes(detections: Detections, indices: torch.Tensor, records: Records) -> torch.Tensor:
    """Boxes in pixels of the originals and inside them: float64 [B, D, 4] on the CPU. indices: int64 [B]."""
    boxes = records.to_original(detections.boxes_xyxy.cpu().double(), indices)
    limits = torch.from_numpy(records.sizes[indices.numpy()]).double().repeat(1, 2)
    return boxes.clamp(min=0).minimum(limits[:, None])
