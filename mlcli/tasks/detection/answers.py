"""Objects in pixels of the originals: what a detector's predictions become for people. No torch in here."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from mlcli.data.decode import read_size
from mlcli.data.info import DataInfo
from mlcli.data.inputs import ImageInputs, WholeImages, find_inputs
from mlcli.errors import CheckpointError
from mlcli.tasks.detection.arrays import Found, iou_of_each, placement
from mlcli.tasks.detection.tiles import Tiles
from mlcli.tasks.exporting import Again, Check, told_ties

if TYPE_CHECKING:
    from PIL import Image

    from mlcli.engine.predicting import Inputs, Record

DEFAULT_THRESHOLD = 0.3
"""Score from which a detection is reported where no validation has found a better one."""
SAME_PLACE_IOU = 0.8
"""Overlap from which two detections of different classes are two names for one object. Evaluation counts each name by
itself, as COCO does; a prediction reports the likelier one."""


LEAST_IOU, MOST_SCORE_ERROR = 0.95, 0.01
"""Of an exported model's objects beside the model's own, each and on average; the error in the surest score."""
TRIES = 3
"""Times that a model is asked again about pictures of which its exported form finds others."""
NOTEWORTHY = 0.05
"""Score of detections that are compared; below it, which of many like boxes is kept is chance."""
SAME_PIXELS = 0.01
"""Between corners of boxes that count as equal: the IoU of boxes that are as thin as a rounding error says nothing."""


class ObjectAnswers:
    """Answers of objects, each with its place.

    Args:
        info: what was found in the training data.
        score_threshold: detections less certain than this are not reported.
        max_detections: most detections of one picture, of an exported model.
    """

    output_names: ClassVar[tuple[str, ...]] = ("boxes", "scores", "labels")

    def __init__(
        self, info: DataInfo, score_threshold: float = DEFAULT_THRESHOLD, max_detections: int | None = None
    ) -> None:
        self.info, self.max_detections = info, max_detections
        self.score_threshold = score_threshold
        """Detections less certain than this are not reported."""
        self.class_thresholds: dict[str, float] = {}
        """The same for single classes, by their names."""
        self.image_ids: dict[str, int] = {}
        """Ids of inputs by their names; empty for their numbers."""
        self.tiles: Tiles | None = None
        """How pictures are cut, where they are not looked at whole."""

    @property
    def caveat(self) -> str:
        """Return how many tiles were looked at, where any were."""
        return str(self.tiles) if self.tiles else ""

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """`A.from_facts(a.answer_facts())` answers as `a` does. Raises CheckpointError for other numbers."""
        found = cls(DataInfo.from_plain(facts["data"]), max_detections=facts.get("max_detections"))
        found.adopt(facts)
        return found

    def answer_facts(self) -> dict[str, Any]:
        """Return what answering needs, as JSON's types."""
        limits = {"score_threshold": self.score_threshold, "max_detections": self.max_detections}
        return {"data": self.info.to_plain(), **limits}

    def adopt(self, facts: dict[str, Any]) -> None:
        """Use the facts of a checkpoint from here on: its classes, and the threshold its validation found best."""
        self.info = DataInfo.from_plain(facts["data"])
        threshold = facts.get("score_threshold", DEFAULT_THRESHOLD)
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise CheckpointError(
                f"scores lie between 0 and 1, and {threshold!r} does not", where="facts.score_threshold"
            )
        self.score_threshold = threshold

    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each output for one picture."""
        most = self.max_detections
        if not isinstance(most, int) or not 0 < most <= 2**20:
            raise CheckpointError(f"{most!r} is no number of objects", where="max_detections")
        return (most, 4), (most,), (most,)

    def predictions(self, outputs: Sequence[np.ndarray]) -> Found:
        """Return what `records` takes, from the outputs of an exported model."""
        return Found(*outputs)

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> "Inputs":
        """Return what a person named, prepared as the training data were, or as it is to be cut into tiles. Raises
        DataError."""
        found = find_inputs(paths, self.info, invert=invert)
        return WholeImages(found) if self.tiles and isinstance(found, ImageInputs) else found

    def arrays(self, predictions: Any) -> Found:
        """Return predictions as arrays on the CPU."""
        return predictions

    def in_tiles(
        self, compute: Callable[[Any], Any], side: int, overlap: float
    ) -> Callable[[Iterable[np.ndarray]], Found]:
        """Look at pictures in tiles from here on; see `engine.predicting.LooksInTiles` and `Tiles`."""
        _, height, width = self.info.input_shape
        self.tiles = tiles = Tiles(side, overlap, (height, width), self.info.preparation["fit"])
        return lambda pictures: tiles.found(lambda inputs: self.arrays(compute(inputs)), pictures)

    def records(
        self, predictions: Any, inputs: "Inputs", positions: Sequence[int], top: int | None = None
    ) -> "list[Record]":
        """Return what was found in the pictures at some positions; see `answers` and `engine.predicting.Predictor`."""
        assert inputs.paths is not None
        predictions = self.arrays(predictions)
        numbers = [part for part in (predictions.boxes_xyxy, predictions.scores, predictions.masks) if part is not None]
        finite = np.all([np.isfinite(part).reshape(len(part), -1).all(axis=1) for part in numbers], axis=0)
        answers = self.answers(predictions, [read_size(inputs.paths[position]) for position in positions])
        return [
            {"objects": answer["objects"][:top]} if ok else {"error": "the model's answer is not finite"}
            for answer, ok in zip(answers, finite.tolist(), strict=True)
        ]

    def rows(self, record: "Record") -> "list[Record]":
        """Return a row for each object with its label, score and box; an empty one where nothing was found."""
        columns = ("label", "score", "left", "top", "width", "height")
        cells = [(thing["label"], thing["score"], *thing["bbox"]) for thing in record["objects"]] or [("",) * 6]
        rest = {key: value for key, value in record.items() if key != "objects"}
        return [rest | dict(zip(columns, row, strict=True)) for row in cells]

    @property
    def formats(self) -> "Mapping[str, Callable[[list[Record]], str]]":
        """COCO's list of results; image_id is as `use_image_ids` said, or else the number of the input, from 1, and
        file_name says which file that is."""
        return {".json": self._as_coco}

    def _as_coco(self, records: "list[Record]") -> str:
        results = [
            result | {"file_name": record["input"]}
            for number, record in enumerate(records, start=1)
            if "error" not in record
            for result in self.coco_results(record, self.image_ids.get(record["input"], number))
        ]
        return "[\n" + ",\n".join(json.dumps(result, ensure_ascii=False) for result in results) + "\n]\n"

    def use_image_ids(self, inputs: "Inputs", file: Path) -> None:
        """Call the inputs by the ids of a COCO data set in results from here on. Raises DataError for those without."""
        from mlcli.tasks.detection.data.annotations.coco import image_ids

        assert inputs.paths is not None
        self.image_ids = dict(zip(inputs.names, image_ids(file, inputs.paths), strict=True))

    def write_data_set(
        self, records: "Sequence[Record]", paths: Sequence[Path], format: str, folder: Path
    ) -> list[str]:
        """Write the answers as a data set; see `engine.predicting.WritesDataSets`."""
        from mlcli.tasks.detection.data.annotations.convert import Thing, write_answers

        answers: list[tuple[Path, list[Thing]]] = []
        for path, record in zip(paths, records, strict=True):
            if "error" not in record:
                boxes = np.array([thing["bbox"] for thing in record["objects"]], dtype=np.float32).reshape(-1, 4)
                boxes[:, 2:] += boxes[:, :2]
                labels = [thing["label"] for thing in record["objects"]]
                corners = [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.tolist()]
                found: list[Thing] = [*zip(corners, labels, strict=True)]
                answers.append((path, found))
        return write_answers(answers, self.info.class_names, self._category_ids, format, folder)

    def answers(self, predictions: Any, sizes_wh: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return what was found in each picture as plain data: {"objects": [...]}, most certain first.

        What is less certain than the threshold of its class, or lies where something more certain does, is left out. An
        object has its label, its score to 6 decimals, its bbox as COCO has it, [left, top, width, height] in pixels of
        the upright original to 2 decimals, and, from a model that makes masks, its segmentation, run-length coded.

        Args:
            predictions: of B pictures.
            sizes_wh: width and height of each upright original.
        """
        predictions = self.arrays(predictions)
        boxes = self._in_originals(predictions.boxes_xyxy, sizes_wh)
        names, least = self.info.class_names, self.score_threshold
        thresholds = np.array([least, *(self.class_thresholds.get(name, least) for name in names)])
        sure = (predictions.labels > 0) & (predictions.scores >= thresholds[predictions.labels])
        records = []
        for i, size_wh in enumerate(sizes_wh):
            rows = np.flatnonzero(sure[i])
            rows = rows[one_each(boxes[i, rows], predictions.scores[i, rows], SAME_PLACE_IOU)]
            records.append({"objects": [self._object(predictions, boxes, i, d, size_wh) for d in rows.tolist()]})
        return records

    def coco_results(self, record: dict[str, Any], image_id: int) -> list[dict[str, Any]]:
        """Return the objects of one record as COCO's results, with category_id as in the training data."""
        category = dict(zip(self.info.class_names, self._category_ids, strict=True))
        return [
            {"image_id": image_id, "category_id": category[thing["label"]]}
            | {key: value for key, value in thing.items() if key != "label"}
            for thing in record["objects"]
        ]

    @property
    def _category_ids(self) -> tuple[int, ...]:
        """What the training data call the classes by."""
        return tuple(self.info.preparation.get("category_ids") or range(1, self.info.num_classes + 1))

    def caption(self, record: "Record") -> str:
        """Return how many objects were found."""
        return f"{len(record['objects'])} objects"

    def picture(self, image_path: Path, record: dict[str, Any]) -> "Image.Image":
        """Draw an image with what was found in it. Raises DataError if it cannot be read."""
        from mlcli.tasks.detection.pictures.sheets import annotate

        return annotate(image_path, record, self.info.class_names, whole=self.tiles is not None)

    def _in_originals(self, boxes_xyxy: np.ndarray, sizes_wh: Sequence[tuple[int, int]]) -> np.ndarray:
        """Convert boxes [B, D, 4] of the input to pixels of the originals, clipped to them: float64."""
        preparation = self.info.preparation
        sizes = np.array(sizes_wh, dtype=np.float64).reshape(-1, 2)
        scale, shift = placement(sizes, preparation["image_size"], preparation["fit"])
        boxes = (boxes_xyxy.astype(np.float64) - np.tile(shift, 2)[:, None]) / np.tile(scale, 2)[:, None]
        return np.clip(boxes, 0, np.tile(sizes, 2)[:, None])

    def _object(
        self, predictions: Found, boxes: np.ndarray, image: int, place: int, size_wh: tuple[int, int]
    ) -> dict[str, Any]:
        left, top, right, bottom = box = boxes[image, place].tolist()
        thing = {
            "label": self.info.class_names[int(predictions.labels[image, place]) - 1],
            "score": round(float(predictions.scores[image, place]), 6),
            "bbox": [round(side, 2) for side in (left, top, right - left, bottom - top)],
        }
        if predictions.masks is not None:
            from mlcli.tasks.detection.masks import pasted

            (code,), _ = pasted(predictions.masks[image, place][None], np.array([box]), np.array([size_wh]))
            thing["segmentation"] = code | {"counts": code["counts"].decode()}
        return thing


def one_each(boxes_xyxy: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Return the boxes left of those that overlap a more certain one by more than `iou`: int64 [K], most certain first.

    Greedy non-maximum suppression without regard to class; of equal scores, the first comes first. What detectors do
    themselves is in `mlcli.tasks.detection.nms`.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, alive = boxes_xyxy[order], np.ones(len(order), dtype=bool)
    for place in range(len(order)):  # row by row: of a picture in many tiles, all pairs at once would not fit
        if alive[place]:
            alive[place + 1 :] &= iou_of_each(boxes[place, None], boxes[place + 1 :])[0] <= iou
    return order[alive]


class Pairs(NamedTuple):
    """Objects that two models found in the same pictures, paired.

    pictures: int64 [N], which each is in. ious: float64 [N], 0 without a partner. misses: float64 [N], between scores.
    """

    pictures: np.ndarray
    ious: np.ndarray
    misses: np.ndarray

    def unlike(self, most: float) -> set[int]:
        """Return the pictures with an object that is below the bar, `most` that of the misses."""
        good = (self.ious > LEAST_IOU) & (self.misses < most)  # false for NaN
        return set(self.pictures[~good].tolist())


def matched(
    ours: Found, theirs: Found, score_threshold: float = DEFAULT_THRESHOLD, again: Again | None = None
) -> list[Check]:
    """Compare detections of a model and of its exported form, in pixels of the input: each picture's are to be alike.

    Objects count above a score of `NOTEWORTHY`, or of the threshold of the model's answers if that is lower; where no
    score of ours is as high, all do. Which of two boxes is kept, of equal scores or at the very overlap of suppression,
    is chance: a picture whose objects are unlike is a tie if those of the model itself are as well, with weights that
    are hardly changed (`again`). If these are more than half, nothing is proven.
    """
    least = min(NOTEWORTHY, score_threshold)
    if not (ours.scores > least).any():
        least = 0.0
    pairs = paired(ours, theirs, least)
    if not len(pairs.ious):
        return [Check("objects", "none found by either, so nothing was compared", "some", False)]
    most = MOST_SCORE_ERROR * min(1.0, float(ours.scores.max()))
    unlike, ties = pairs.unlike(most), set[int]()
    for seed in range(TRIES if again is not None else 0):
        if unlike - ties and again is not None:
            ties |= unlike & paired(ours, Found(*again(seed)), least).unlike(most)
    count, iou, miss = len(ours.scores), float(pairs.ious.mean()), float(pairs.misses.mean())
    told = f"{count - len(unlike - ties)} of {count}{told_ties(len(ties))}"
    return [
        Check("objects matched", f"{(pairs.ious > 0).sum():,} of {len(pairs.ious):,}"),
        Check("IoU of them", f"{iou:.6f}", f"> {LEAST_IOU}", iou > LEAST_IOU),
        Check("score differs by", f"{miss:.2g}", f"< {most:.2g}", miss < most),
        Check("worst of them", f"IoU {pairs.ious.min():.6f}, score {pairs.misses.max():.2g}"),
        Check("pictures alike", told, "all", unlike == ties and 2 * len(ties) <= count),
    ]


def paired(ours: Found, theirs: Found, least: float) -> Pairs:
    """Pair the objects of a label in a picture by IoU, the largest first, so that neither's order matters.

    Boxes whose corners are within `SAME_PIXELS` have an IoU of 1 whatever their area. What is without a partner has an
    IoU of 0 and its own score as the difference. least: pairs count of which one score is above it.
    """
    pictures, ious, misses = list[int](), list[float](), list[float]()
    for image in range(len(ours.scores)):
        # partners are looked for below the least score as well: the same score may lie on either side of it
        a, b = (np.flatnonzero((one.labels[image] > 0) & (one.scores[image] > least / 2)) for one in (ours, theirs))
        boxes_a, boxes_b = ours.boxes_xyxy[image, a], theirs.boxes_xyxy[image, b]
        scores_a, scores_b = ours.scores[image, a], theirs.scores[image, b]
        overlaps = iou_of_each(boxes_a, boxes_b)
        overlaps[np.abs(boxes_a[:, None] - boxes_b).max(axis=-1) <= SAME_PIXELS] = 1.0
        overlaps[ours.labels[image, a][:, None] != theirs.labels[image, b]] = 0.0
        far = np.abs(scores_a[:, None] - scores_b)
        rows, columns = np.nonzero(overlaps)
        # of like overlaps, the nearest scores: two boxes may lie in the same place
        order = np.lexsort((far[rows, columns], -overlaps[rows, columns].round(3)))
        free_a, free_b, before = np.ones(len(a), dtype=bool), np.ones(len(b), dtype=bool), len(ious)
        for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
            if free_a[row] and free_b[column]:
                free_a[row] = free_b[column] = False
                if max(scores_a[row], scores_b[column]) > least:
                    ious.append(float(overlaps[row, column]))
                    misses.append(float(far[row, column]))
        alone = [score for scores, free in ((scores_a, free_a), (scores_b, free_b)) for score in scores[free].tolist()]
        alone = [score for score in alone if score > least]
        ious += [0.0] * len(alone)
        misses += alone
        pictures += [image] * (len(ious) - before)
    return Pairs(np.array(pictures, dtype=np.int64), np.array(ious), np.array(misses))
