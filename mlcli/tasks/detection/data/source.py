"""A data set for detection as found: its splits of annotated pictures and the facts about them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mlcli.data.decode import Preparation
from mlcli.data.files import ImageFilesSamples
from mlcli.data.info import DataInfo
from mlcli.data.inspection import MAX_COUNTED, count_pixels
from mlcli.data.source import Arrays, Source
from mlcli.data.statistics import Statistics, imagenet_statistics, pixel_counts, pixel_statistics
from mlcli.tasks.detection.data.records import Records

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import AnnotatedImages


@dataclass(frozen=True, eq=False)
class DetectionSource:
    """Splits ("train" always, "val" and "test" where they exist) and what is known of them.

    notes: what a person should hear: annotations dropped or fixed, where the split came from.
    """

    info: DataInfo
    splits: dict[str, Records]
    notes: tuple[str, ...] = ()

    @property
    def pictures(self) -> Source:
        """The same without objects, as what reads and caches pictures knows it."""
        return Source(self.info, {split: records.images for split, records in self.splits.items()}, self.notes)

    def in_memory(self, inputs: Tensor, chosen: Tensor) -> "DetectionSource":
        """The chosen training pictures (int64 [N]) alone, with their objects and these inputs in memory."""
        records = self.splits["train"].only(chosen.numpy())
        return DetectionSource(self.info, {"train": replace(records, images=Arrays(inputs, records.targets, "memory"))})


def preparation_of(config: "AnnotatedImages") -> Preparation:
    """How pictures of any size become inputs, as the YAML asks for."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Preparation((height, width), config.fit, 3)


def detection_source(
    config: "AnnotatedImages",
    splits: dict[str, Records],
    class_names: tuple[str, ...],
    notes: tuple[str, ...] = (),
    *,
    category_ids: tuple[int, ...] = (),
) -> DetectionSource:
    """Measure the training pictures and put everything together.

    category_ids: what the data set itself calls the classes by, in label order; 1..K unless given.
    """
    preparation = splits["train"].preparation
    mean, std = imagenet_statistics(3) if config.normalize == "imagenet" else _statistics(splits["train"])
    plain = preparation.to_plain() | {"category_ids": list(category_ids or range(1, len(class_names) + 1))}
    info = DataInfo(
        kind="image",
        input_shape=(3, *preparation.image_size),
        class_names=class_names,
        target="boxes",
        mean=mean,
        std=std,
        preparation=plain,
    )
    return DetectionSource(info, splits, notes)


def _statistics(records: Records) -> Statistics:
    if isinstance(records.images, ImageFilesSamples):
        return pixel_statistics(count_pixels(records.images, seed=0)[0])
    step = -(-len(records) // MAX_COUNTED)
    return pixel_statistics(pixel_counts(np.asarray(records.images.inputs[::step])))
