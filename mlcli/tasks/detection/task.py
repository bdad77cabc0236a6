"""Object detection: where each object is, as a box, and what it is.

`ObjectDetector` (predictor.py) is a saved model without its data; `DetectionTask` adds what it is learned from.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from mlcli.data.source import Source
from mlcli.engine.contract import Batch
from mlcli.engine.membership import Membership
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import Loader, Train
from mlcli.engine.terms import Term, Terms
from mlcli.errors import ConfigError
from mlcli.models.build import fine_tuning
from mlcli.models.layers import count_parameters, megabytes
from mlcli.tasks.detection.arrays import Found
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.augment.random_tile import learned_sides, tile_of, tiles_of, told_of_tiles
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation
from mlcli.tasks.detection.data.build import describe_source
from mlcli.tasks.detection.data.feed import DetectionFeed
from mlcli.tasks.detection.data.records import DetectionSource
from mlcli.tasks.detection.data.strides import USUAL_STRIDES, misfits
from mlcli.tasks.detection.evaluation.coco_numbers import COCO_MOST
from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics
from mlcli.tasks.detection.models.build import class_rows, describe
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.rcnn import RegionDetector
from mlcli.tasks.detection.nms import both
from mlcli.tasks.detection.predictor import ObjectDetector
from mlcli.tasks.detection.rectangles import rectangles, without_bars
from mlcli.tasks.detection.targets import Detections
from mlcli.text import first_few, plural
from mlcli.text import sides as sides_of

if TYPE_CHECKING:
    from PIL.Image import Image


class DetectionTask(ObjectDetector):
    """A detection for the trainer; see `mlcli.engine.contract.Task`.

    Args:
        annotated: the data, with what the model needs to know of them beforehand.
        notes: lines for people about that.

    Raises ConfigError or CheckpointError for sections or weights that do not fit.
    """

    primary = "map"

    def __init__(self, config: Detection, annotated: DetectionSource, notes: Sequence[str] = ()) -> None:
        super().__init__(config, annotated.info)
        self.annotated, self._notes = annotated, notes
        if config.multi_scale or config.data.rectangular == "train":
            self.is_static = False  # from size to size
        asked = config.multi_scale.sizes(config.image_size) if config.multi_scale else []
        for size in [*asked, *self._rectangles()[:1]]:
            self._sizes.buffers(self._plain(self.model), size)  # or it is refused, before training
        classes = class_rows(config.from_scratch().model, self.info) if config.finetune else None
        self.finetuning = fine_tuning(self.model, config.finetune, classes)
        self.splits = {name: len(records) for name, records in self.annotated.splits.items()}
        self.facts: dict[str, Any] = {"task": "detection", "data": self.annotated.info.to_plain()}

    @property
    def source(self) -> Source:
        """The pictures without their objects."""
        return self.annotated.pictures

    def membership(self) -> Membership:
        """Return which pictures are in which split, with hashes of their objects as targets."""
        return self.annotated.membership()

    @property
    def augment(self) -> tuple[DetectionAugmentation, ...]:
        return self.config.augment

    def describe(self) -> list[tuple[str, str]]:
        """Return what a person should see before training: subject and line."""
        config = self.config.model
        records = self.annotated.splits["train"]
        sides = learned_sides(self.config.augment, records)
        first, *more = describe_source(self.config.data, self.annotated, sides)
        size = f"{count_parameters(self.model)[0]:,} parameters ({megabytes(self.model):.2f} MB)"
        lines = [("data", first), *(("", text) for text in (*more, *self.annotated.notes))]
        lines += [("model", f"{describe(config)}  {size}"), *(("", text) for text in self._notes)]
        if (scale := self.config.multi_scale) is not None:
            sizes = [sides_of(size) for size in scale.sizes(self.config.image_size)]
            line = f"{len(sizes)} by turns, {sizes[0]} to {sizes[-1]}, another every {plural(scale.every, 'step')}"
            lines.append(("sizes", f"{line}; measured at {sides_of(self.config.image_size)}"))
        if shapes := self._rectangles():
            line = f"{plural(len(shapes), 'shape')}, {sides_of(shapes[0])} to {sides_of(shapes[-1])}"
            what = "trained" if self.config.data.rectangular == "train" else "measured"
            lines.append((what, f"without grey bars, at {line}"))
        if self.config.train.compile is True and (scale or self.config.data.rectangular == "train"):
            lines.append(("warning", "train.compile: the model is compiled again for other sizes, which takes time"))
        tile = tile_of(self.config.augment)
        if tile:
            line, warnings = told_of_tiles(tile[0], records, self.config.min_visibility)
            lines += [("pictures", line), *(("warning", text) for text in warnings)]
        found = misfits(sides, getattr(config, "strides", USUAL_STRIDES), in_tiles=tile is not None)
        lines += [("warning", f"{misfit.what}; {misfit.fix}") for misfit in found]
        return lines + [("", line) for line in self.finetuning.describe()]

    def feed(
        self,
        runtime: Runtime,
        *,
        train: Train | None = None,
        loader: Loader | None = None,
        augment: tuple[DetectionAugmentation, ...] | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> DetectionFeed:
        """Return where batches come from; other settings than the config's where some are given."""
        config = self.config
        return DetectionFeed(
            self.annotated.in_memory(*memory) if memory else self.annotated,
            config.augment if augment is None else augment,
            config.min_visibility,
            train=train or config.train,
            loader=loader or config.loader,
            device=runtime.device,
            masks=self.has_masks,
            max_objects=config.data.max_objects,
            sizes=config.multi_scale.sizes(config.image_size) if config.multi_scale else (),
            steps_at_one=config.multi_scale.every if config.multi_scale else 1,
            rectangular=bool(config.data.rectangular),
            trained_so=config.data.rectangular == "train",
        )

    def train_mode(self, epoch: int) -> None:
        self.finetuning.train_mode(epoch)

    def lr_scale(self, parameter_name: str) -> float:
        return self.finetuning.lr_scale(parameter_name)

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        height, width = batch.inputs.shape[2:]
        self._fit(net, (height, width))
        terms, _ = net(batch.inputs, batch.targets)
        return self._weighted(terms)

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[Terms, Detections]:
        """Return the loss terms, for detectors that have them at no further cost, and what was found."""
        terms, found = self.computed(net, batch.inputs, batch.targets)
        return self._weighted(terms), found

    def measured(self, split: str) -> Callable[[nn.Module, Batch], tuple[Terms, Any]]:
        """Return how a split is measured: in tiles, without a loss, of a model that learns from tiles; without grey
        bars, where the configuration says so."""
        if not (found := tile_of(self.config.augment)):
            if not self.config.data.rectangular:
                return self.evaluate
            sizes_wh = self.annotated.splits[split].sizes
            return lambda net, batch: self.evaluate(net, without_bars(batch, sizes_wh[batch.indices.numpy()]))
        assert isinstance(self.model, Detector)
        self.tiles, device = tiles_of(found[0], self.annotated.splits[split]), self.model.mean.device
        in_tiles = self.tiles.found

        def answer(net: nn.Module, batch: Batch) -> tuple[Terms, Detections]:
            def compute(inputs: np.ndarray) -> Found:
                return self.arrays(self.predict(net, torch.from_numpy(inputs).to(device)))

            return {}, self.found_in_tiles(lambda pictures: in_tiles(compute, pictures), split, batch.indices)

        return answer

    @property
    def changes(self) -> tuple[str, ...]:
        """Those that move no object."""
        return ("blur", "noise")

    @property
    def views(self) -> tuple[str, ...]:
        """The mirrored picture, of detectors that look everywhere: masks and given regions would stay as they are."""
        return () if self.has_masks or isinstance(self.model, RegionDetector) else ("flip",)

    def evaluate_views(self, net: nn.Module, batch: Batch, views: Sequence[str]) -> Detections:
        """Return what was found in the pictures and in their mirrored selves, of doubles the surer one."""
        assert isinstance(self.model, Detector)
        plain, mirrored = self.predict(net, batch.inputs), self.predict(net, batch.inputs.flip(3))
        return both(plain, mirrored, self.model.image_size, self.model.nms_iou, self.model.nms)

    def found_in_tiles(self, compute: Callable[[Any], Found], split: str, indices: Tensor) -> Detections:
        """Return what was found in some pictures of a split at their own sizes; compute: of `in_tiles`."""
        records = self.annotated.splits[split]
        found = compute(np.array(records.original(index)) for index in indices.tolist())
        return Detections(*(None if part is None else torch.from_numpy(part) for part in found))  # type: ignore[arg-type]

    def metrics(self, split: str = "train") -> DetectionMetrics:
        """Return metrics of COCO's 100 detections a picture and class at most, or of all from tiles."""
        most = None if self.tiles else COCO_MOST
        return DetectionMetrics(self.annotated.splits[split], self.info.class_names, masks=self.has_masks, most=most)

    def batch_picture(self, batch: Batch) -> "Image":
        from mlcli.tasks.detection.pictures.sheets import batch_sheet

        return batch_sheet(batch.inputs, batch.targets, self.info.class_names)

    def inspection_pictures(self, batch: Batch) -> dict[str, "Image"]:
        from mlcli.tasks.detection.pictures.inspection import inspection_pictures

        names, nms_iou = self.info.class_names, self.config.model.nms_iou
        assert isinstance(self.model, Detector)
        height, width = batch.inputs.shape[2:]
        self._fit(self.model, (height, width))
        return inspection_pictures(self.model, batch.inputs, batch.targets, names, nms_iou)

    def pictures(self, split: str, metrics: DetectionMetrics) -> dict[str, "Image"]:
        from mlcli.tasks.detection.pictures.sheets import answer_sheets

        return answer_sheets(self.annotated.splits[split], metrics)

    def _rectangles(self) -> list[tuple[int, int]]:
        """Heights and widths that pictures are looked at in without bars, the least pixels first; none if with."""
        if not self.config.data.rectangular:
            return []
        sizes_wh = np.concatenate([records.sizes for records in self.annotated.splits.values()])
        found = {(height, width) for height, width in rectangles(sizes_wh, self.config.image_size).tolist()}
        return sorted(found, key=lambda size: (size[0] * size[1], size))

    def _weighted(self, terms: Terms) -> Terms:
        weights = self.config.loss.weights
        if terms and (unknown := sorted(weights.keys() - terms.keys())):
            what = f"the model has no term called {first_few(unknown)}"
            raise ConfigError(what, where="loss.weights", fix=f"its terms are {', '.join(terms)}")
        return {
            name: Term(term.mean * weights[name], term.count) if name in weights else term
            for name, term in terms.items()
        }
