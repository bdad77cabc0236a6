"""Pictures of a detector's inputs, its detections and its mistakes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlcli.data.decode import read_image
from mlcli.show.boxes import Thing, colour_of, drawn
from mlcli.show.drawing import Tile, picture_of, readable_side, sheet
from mlcli.tasks.detection.data.records import Records
from mlcli.tasks.detection.masks import decode
from mlcli.tasks.detection.models.matching import BACKGROUND
from mlcli.tasks.detection.targets import Targets
from mlcli.text import plural

if TYPE_CHECKING:
    from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics

LEAST_SIDE, MOST_SIDE = 480, 1280
"""Pixels of the longer side of a picture on its own."""
PANEL = 320  # pixels of a picture on a sheet
LARGE_PANEL = 480
MOST_PAIRS = 6  # pictures on a sheet of truth and answer
MOST_SHOWN = 12  # of a training batch
MOST_CANDIDATES = 300  # boxes drawn before suppression; more would cover the picture
GREY = (150, 155, 162)


def annotate(image_path: Path, record: dict[str, Any], class_names: Sequence[str], whole: bool = False) -> Image.Image:
    """An image with its objects: boxes and masks in the classes' colours, names and scores.

    record: as `ObjectDetector.records` makes it. whole: never smaller than it is. Raises DataError for an
    unreadable image.
    """
    image = read_image(image_path, channels=3)
    label_of = {name: label for label, name in enumerate(class_names, start=1)}
    things = []
    for found in record["objects"]:
        left, top, width, height = found["bbox"]
        code = found.get("segmentation")
        mask = None if code is None else decode(code, image.height, image.width)
        name, score = found["label"], f"{found['score']:.0%}"
        box_xyxy = (left, top, left + width, top + height)
        things.append(Thing(box_xyxy, colour_of(label_of[name]), name, score, mask=mask))
    side = readable_side(image, LEAST_SIDE, MOST_SIDE)
    return drawn(image, things, max(side, *image.size) if whole else side)


def batch_sheet(images: Tensor, targets: Targets, class_names: Sequence[str]) -> Image.Image:
    """The first pictures of a batch as the model sees them, with what it should find.

    images: [B, 3, H, W] of values in 0..255; boxes in their pixels.
    """
    tiles: list[Tile] = []
    for image, boxes, labels in zip(images[:MOST_SHOWN], targets.boxes_xyxy, targets.labels, strict=False):
        row = len(tiles)
        masks = None if targets.masks is None else targets.masks[row].cpu().numpy().astype(bool)
        things = [
            Thing(box, colour_of(label), class_names[label - 1], mask=None if masks is None else masks[m])
            for m, (box, label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True))
            if label
        ]
        tiles.append(Tile(drawn(picture_of(image), things, PANEL), (plural(len(things), "object"),)))
    return sheet("a training batch", "as the model sees it, after augmentation", tiles, columns=4, side=PANEL)


def answer_sheets(records: Records, metrics: "DetectionMetrics") -> dict[str, Image.Image]:
    """Return the pictures of an evaluation by title. `metrics` has seen the split."""
    from mlcli.show import evaluation

    details = metrics.details()
    threshold = details["best_threshold"]
    seen = np.sort(metrics.seen)
    if not len(seen):
        return {}
    steps = np.unique(np.linspace(0, len(seen) - 1, min(MOST_PAIRS, len(seen))).round().astype(int))
    faults = mistakes_by_picture(metrics, threshold)
    worst = seen[np.argsort(-faults[seen], kind="stable")][:MOST_PAIRS]
    pictures = {"truth and answer": truth_and_answer(records, metrics, seen[steps], threshold)}
    if faults[worst].any():
        worst = worst[faults[worst] > 0]
        pictures["most mistakes"] = truth_and_answer(records, metrics, worst, threshold, title="most mistakes")
    return pictures | evaluation.pictures(details)


def mistakes_by_picture(metrics: "DetectionMetrics", threshold: float) -> np.ndarray:
    """int64 [N]: wrong detections with a score of at least `threshold`, and objects without a correct one."""
    matches, records = metrics.matches, metrics.records
    wrong, missed = _mistakes(metrics, threshold)
    count = len(records)
    return np.bincount(matches.found.pictures[wrong], minlength=count) + np.bincount(
        records.picture_of[missed], minlength=count
    )


def truth_and_answer(
    records: Records,
    metrics: "DetectionMetrics",
    indices: Sequence[int] | np.ndarray,
    threshold: float,
    *,
    title: str = "truth and answer",
) -> Image.Image:
    """Pairs of pictures: the ground truth, and the detections with a score of at least `threshold`.

    Dashed are missed objects on the left and wrong detections on the right; grey is what does not count.
    """
    matches, names = metrics.matches, metrics.class_names
    found = matches.found
    wrong, missed = _mistakes(metrics, threshold)
    shown = found.scores >= threshold
    tiles = []
    for index in np.asarray(indices).tolist():
        image = records.original(index)
        objects = range(*records.offsets[index : index + 2].tolist())
        truth = []
        for t in objects:
            mark = " (crowd)" if records.crowd[t] else " (difficult)" if records.difficult[t] else ""
            colour = GREY if records.ignored[t] else colour_of(int(records.labels[t]))
            name, box = names[records.labels[t] - 1] + mark, records.boxes_xyxy[t].tolist()
            truth.append(Thing(box, colour, name, dashed=bool(missed[t])))
        rows = np.flatnonzero(shown & (found.pictures == index)).tolist()
        answer = [
            Thing(
                found.boxes_xyxy[d].tolist(),
                GREY if matches.ignored[d] else colour_of(int(found.labels[d])),
                names[found.labels[d] - 1],
                f"{found.scores[d]:.0%}",
                dashed=bool(wrong[d]),
            )
            for d in rows
        ]
        counted = [t for t in objects if matches.counted[t]]
        bad, gone = sum(bool(wrong[d]) for d in rows), sum(bool(missed[t]) for t in counted)
        tiles.append(Tile(drawn(image, truth, PANEL), (Path(records.name(index)).name, plural(len(counted), "object"))))
        tiles.append(Tile(drawn(image, answer, PANEL), (f"{len(counted) - gone} found, {gone} missed", f"{bad} wrong")))
    note = f"left: ground truth, right: detections with a score of {threshold:.0%} or more; dashed: missed, wrong"
    return sheet(title, note, tiles, columns=4 if len(tiles) > 2 else 2, side=PANEL)


def anchors_and_matches(
    image: Tensor,
    anchors_xyxy: Tensor,
    boxes_xyxy: Tensor,
    labels: Tensor,
    matched: Tensor,
    class_names: Sequence[str],
) -> Image.Image:
    """Three views of one picture: the anchors around its middle, its objects, and the anchors that learn each of them.

    Args:
        image: [3, H, W] of values in 0..255.
        anchors_xyxy: [A, 4] in its pixels; boxes without area (points) are drawn as dots.
        boxes_xyxy, labels: [M, 4] and [M], the objects; labels 1..K, 0 for padding.
        matched: int64 [A], the object each anchor is to learn, or negative (see matching.py).
    """
    picture = picture_of(image)
    anchors, matched, classes = anchors_xyxy.cpu(), matched.cpu(), labels.tolist()
    middle = torch.tensor([picture.width / 2, picture.height / 2])
    distance = ((anchors[:, :2] + anchors[:, 2:]) / 2 - middle).norm(dim=1)
    near = (distance <= distance.min() + 1e-3).nonzero().flatten().tolist()
    shapes = [Thing(anchors[a].tolist(), colour_of(n + 1)) for n, a in enumerate(near)]
    objects = [
        Thing(box, colour_of(label), class_names[label - 1])
        for box, label in zip(boxes_xyxy.tolist(), classes, strict=True)
        if label
    ]
    learning = (matched > BACKGROUND).nonzero().flatten().tolist()
    matches = [Thing(anchors[a].tolist(), colour_of(classes[int(matched[a])]), thin=True) for a in learning]
    ignored = int((matched < BACKGROUND).sum())
    counts = f"{len(learning):,} of {len(anchors):,}" + (f", {ignored:,} ignored" if ignored else "")
    without = len(objects) - len({int(matched[a]) for a in learning})
    tiles = [
        Tile(drawn(picture, shapes, LARGE_PANEL), (f"{len(near)} of {len(anchors):,} anchors, nearest the middle",)),
        Tile(drawn(picture, objects, LARGE_PANEL), (plural(len(objects), "object"),)),
        Tile(drawn(picture, matches, LARGE_PANEL), (f"anchors that learn an object: {counts}",)),
    ]
    note = f"{plural(without, 'object')} without an anchor" if without else "every object has an anchor to learn it"
    return sheet("anchors", note, tiles, columns=3, side=LARGE_PANEL)


def before_and_after_nms(
    image: Tensor, boxes_xyxy: Tensor, scores: Tensor, labels: Tensor, kept: Tensor, class_names: Sequence[str]
) -> Image.Image:
    """All candidates of non-maximum suppression, and those that it keeps.

    Args:
        image: [3, H, W] of values in 0..255.
        boxes_xyxy, scores, labels: [N, 4], [N] and [N], the candidates; labels 1..K.
        kept: int64 [k], those left.
    """
    picture = picture_of(image)
    boxes, names = boxes_xyxy.tolist(), labels.tolist()
    most_certain = scores.argsort(descending=True)[:MOST_CANDIDATES].flip(0).tolist()
    before = [Thing(boxes[n], colour_of(names[n]), thin=True) for n in most_certain]
    after = [
        Thing(boxes[n], colour_of(names[n]), class_names[names[n] - 1], f"{float(scores[n]):.0%}")
        for n in kept.tolist()
    ]
    shown = f", the {len(before)} most certain drawn" if len(before) < len(boxes) else ""
    tiles = [
        Tile(drawn(picture, before, LARGE_PANEL), (f"before: {plural(len(boxes), 'box', 'boxes')}{shown}",)),
        Tile(drawn(picture, after, LARGE_PANEL), (f"after: {plural(len(after), 'box', 'boxes')}",)),
    ]
    note = "of boxes of one class that overlap, the most certain stays"
    return sheet("non-maximum suppression", note, tiles, columns=2, side=LARGE_PANEL)


def _mistakes(metrics: "DetectionMetrics", threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Wrong detections of at least `threshold`, bool [n], and objects missed at it, bool [T]."""
    matches = metrics.matches
    shown = matches.found.scores >= threshold
    missed = matches.counted.copy()
    missed[matches.object_of[matches.correct & shown]] = False
    return matches.wrong & shown, missed
