"""A saved detector without its data: it finds objects in pictures, and their place in the original."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mlcli.data.decode import read_size
from mlcli.data.info import DataInfo
from mlcli.data.inputs import find_inputs
from mlcli.engine.contract import Inputs, Record
from mlcli.errors import CheckpointError
from mlcli.models.build import seeded
from mlcli.tasks.detection.boxes import clip, convert, placement
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.annotations.coco import image_ids
from mlcli.tasks.detection.masks import paste, run_length
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.nms import nms
from mlcli.tasks.detection.targets import Detections

if TYPE_CHECKING:
    from PIL import Image


DEFAULT_THRESHOLD = 0.3
"""Score from which a detection is reported where no validation has found a better one."""
SAME_PLACE_IOU = 0.8
"""Overlap from which two detections of different classes are two names for one object. Evaluation counts each name by
itself, as COCO does; a prediction reports the likelier one."""


class ObjectDetector:
    """A model and the classes it knows: all that predicting needs.

    Args:
        config: of the run; its data section is not looked at.
        info: what was found in the training data.
    """

    def __init__(self, config: Detection, info: DataInfo) -> None:
        self.config, self.info = config, info
        with seeded(config.train.seed):
            detector = build(config.model, info)
        self.model: nn.Module = detector
        self.is_static, self.counts_alike = detector.is_static, detector.counts_alike
        self.has_masks = detector.has_masks
        self.score_threshold = DEFAULT_THRESHOLD
        """Detections less certain than this are not reported."""
        self.image_ids: dict[str, int] = {}
        """Ids of inputs by their names; empty for their numbers."""

    @property
    def caveat(self) -> str:
        """Return what a person should know about the predictions: nothing."""
        return ""

    def adopt(self, facts: dict[str, Any]) -> None:
        """Use the facts of a checkpoint from here on: its classes, and the threshold its validation found best."""
        self.info = DataInfo.from_plain(facts["data"])
        threshold = facts.get("score_threshold", DEFAULT_THRESHOLD)
        if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            raise CheckpointError(
                f"scores lie between 0 and 1, and {threshold!r} does not", where="facts.score_threshold"
            )
        self.score_threshold = threshold

    def predict(self, net: nn.Module, inputs: Tensor) -> Detections:
        """inputs uint8 [B, 3, H, W] -> what was found, in pixels of the input."""
        _, detections = net(inputs)
        return detections

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> Inputs:
        """Return what a person named, prepared as the training data were. Raises DataError."""
        return find_inputs(paths, self.info, invert=invert)

    def records(
        self, predictions: Detections, inputs: Inputs, positions: Sequence[int], top: int | None = None
    ) -> list[Record]:
        """Return what was found in the pictures at some positions; see `answers` and `engine.contract.Predictor`."""
        assert inputs.paths is not None
        predictions = predictions.to(torch.device("cpu"))
        numbers = [part for part in (predictions.boxes_xyxy, predictions.scores, predictions.masks) if part is not None]
        finite = torch.stack([part.isfinite().reshape(len(part), -1).all(dim=1) for part in numbers]).all(dim=0)
        answers = self.answers(predictions, [read_size(inputs.paths[position]) for position in positions])
        return [
            {"objects": answer["objects"][:top]} if ok else {"error": "the model's answer is not finite"}
            for answer, ok in zip(answers, finite.tolist(), strict=True)
        ]

    def rows(self, record: Record) -> list[Record]:
        """Return a row for each object with its label, score and box; an empty one where nothing was found."""
        columns = ("label", "score", "left", "top", "width", "height")
        cells = [(thing["label"], thing["score"], *thing["bbox"]) for thing in record["objects"]] or [("",) * 6]
        rest = {key: value for key, value in record.items() if key != "objects"}
        return [rest | dict(zip(columns, row, strict=True)) for row in cells]

    @property
    def formats(self) -> Mapping[str, Callable[[list[Record]], str]]:
        """COCO's list of results; image_id is as `use_image_ids` said, or else the number of the input, from 1, and
        file_name says which file that is."""
        return {".json": self._as_coco}

    def _as_coco(self, records: list[Record]) -> str:
        results = [
            result | {"file_name": record["input"]}
            for number, record in enumerate(records, start=1)
            if "error" not in record
            for result in self.coco_results(record, self.image_ids.get(record["input"], number))
        ]
        return "[\n" + ",\n".join(json.dumps(result, ensure_ascii=False) for result in results) + "\n]\n"

    def use_image_ids(self, inputs: Inputs, file: Path) -> None:
        """Call the inputs by the ids of a COCO data set in results from here on. Raises DataError for those without."""
        assert inputs.paths is not None
        self.image_ids = dict(zip(inputs.names, image_ids(file, inputs.paths), strict=True))

    def write_data_set(self, records: Sequence[Record], paths: Sequence[Path], format: str, folder: Path) -> list[str]:
        """Write the answers as a data set; see `engine.contract.WritesDataSets`."""
        from mlcli.tasks.detection.data.annotations.convert import Thing, write_answers

        answers: list[tuple[Path, list[Thing]]] = []
        for path, record in zip(paths, records, strict=True):
            if "error" not in record:
                boxes = torch.tensor([thing["bbox"] for thing in record["objects"]]).reshape(-1, 4)
                corners = map(tuple, convert(boxes, "xywh", "xyxy").tolist())
                answers.append((path, [*zip(corners, (thing["label"] for thing in record["objects"]), strict=True)]))
        return write_answers(answers, self.info.class_names, self._category_ids, format, folder)

    def answers(self, predictions: Detections, sizes_wh: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """Return what was found in each picture as plain data: {"objects": [...]}, most certain first.

        What is less certain than `score_threshold`, or lies where something more certain does, is left out. An object
        has its label, its score to 6 decimals, its bbox as COCO has it, [left, top, width, height] in pixels of the
        upright original to 2 decimals, and, from a model that makes masks, its segmentation, run-length coded.

        Args:
            predictions: on the CPU.
            sizes_wh: width and height of each upright original.
        """
        boxes = self._in_originals(predictions.boxes_xyxy, sizes_wh)
        sure = (predictions.labels > 0) & (predictions.scores >= self.score_threshold)
        records = []
        for i, size_wh in enumerate(sizes_wh):
            rows = sure[i].nonzero().flatten()
            rows = rows[nms(boxes[i, rows], predictions.scores[i, rows], SAME_PLACE_IOU)]
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
        return tuple(self.info.preparation.get("category_ids", range(1, self.info.num_classes + 1)))

    def caption(self, record: Record) -> str:
        """Return how many objects were found."""
        return f"{len(record['objects'])} objects"

    def picture(self, image_path: Path, record: dict[str, Any]) -> "Image.Image":
        """Draw an image with what was found in it. Raises DataError if it cannot be read."""
        from mlcli.tasks.detection.pictures.sheets import annotate

        return annotate(image_path, record, self.info.class_names)

    def _in_originals(self, boxes_xyxy: Tensor, sizes_wh: Sequence[tuple[int, int]]) -> Tensor:
        """Convert boxes [B, D, 4] of the input to pixels of the originals, clipped to them: float64."""
        preparation = self.info.preparation
        scale, shift = placement(torch.tensor(sizes_wh), preparation["image_size"], preparation["fit"])
        boxes = (boxes_xyxy.double() - shift.repeat(1, 2)[:, None]) / scale.repeat(1, 2)[:, None]
        return torch.stack([clip(one, height, width) for one, (width, height) in zip(boxes, sizes_wh, strict=True)])

    def _object(
        self, predictions: Detections, boxes: Tensor, image: int, place: int, size_wh: tuple[int, int]
    ) -> dict[str, Any]:
        box = boxes[image, place]
        thing = {
            "label": self.info.class_names[int(predictions.labels[image, place]) - 1],
            "score": round(float(predictions.scores[image, place]), 6),
            "bbox": [round(side, 2) for side in convert(box, "xyxy", "xywh").tolist()],
        }
        if predictions.masks is not None:
            code = run_length(paste(predictions.masks[image, place], box, size_wh[1], size_wh[0]))
            thing["segmentation"] = code | {"counts": code["counts"].decode()}
        return thing
