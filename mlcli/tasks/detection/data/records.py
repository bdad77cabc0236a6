"""A detection data set in memory: for each split arrays of where each picture is and which objects it has.

Arrays, not lists of objects: worker processes share them without copying. Boxes are kept in pixels of the original
picture, which is where detections are evaluated; models see them in pixels of their input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlcli.data.decode import Preparation, read_image
from mlcli.data.fingerprints import of_classes, of_numbers
from mlcli.data.info import DataInfo
from mlcli.data.places import Root
from mlcli.data.source import Arrays, ImageFilesSamples, Source
from mlcli.engine.membership import Membership, mixed
from mlcli.engine.runtime import to_device
from mlcli.tasks.detection.boxes import placement
from mlcli.tasks.detection.masks import Segmentation


@dataclass(frozen=True, eq=False)
class Records:
    """N pictures with T objects; picture i has the objects offsets[i] .. offsets[i + 1] - 1.

    images: where the pictures are: files, or pixels in memory that have the model's input size already.
    preparation: how a picture becomes an input.
    ids: int64 [N], different for each picture of the split.
    sizes: int32 [N, 2], width and height of the upright original.
    offsets: int64 [N + 1].
    boxes_xyxy: float32 [T, 4], corners in pixels of the upright original.
    labels: int64 [T], 1..K.
    crowd: bool [T], a box around many; difficult: bool [T]. Neither is trained on; detecting them is neither right nor
        wrong.
    area: float32 [T], what counts as the object's size in pixels of the original: of its mask if it has one.
    segmentations: T masks, None for objects without; None altogether if the data set has none.
    proposals_xyxy: float32 [N, P, 4], where to look, in pixels of the original, best first; zeros where there is none.
    """

    images: Arrays | ImageFilesSamples
    preparation: Preparation
    ids: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    area: np.ndarray
    segmentations: list[Segmentation | None] | None = None
    proposals_xyxy: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # --- pictures ----------------------------------------------------------------------------------------------------

    @property
    def targets(self) -> Tensor:
        """int64 [N]: the label of each picture that is rarest in the split, 0 for pictures without objects.

        What a balanced sampler makes even.
        """
        return self.images.targets

    @property
    def root(self) -> Root:
        """Folder the pictures' paths are relative to, or their shards; empty for pictures in memory."""
        return self.images.root if isinstance(self.images, ImageFilesSamples) else ""

    @property
    def paths(self) -> np.ndarray:
        """bytes [N], relative to `root`, or rows of its shards; empty for pictures in memory."""
        return self.images.paths if isinstance(self.images, ImageFilesSamples) else np.empty(0, dtype="S1")

    def name(self, index: int) -> str:
        """The file behind a picture, for messages and predictions."""
        return self.images.name(index)

    def read(self, indices: np.ndarray) -> Tensor:
        """Inputs of the model: uint8 [B, 3, H, W]. Raises DataError, naming the file."""
        return self.images.read(indices)

    def original(self, index: int) -> Image.Image:
        """The picture upright and at its own size, in colour. Raises DataError."""
        if isinstance(self.images, ImageFilesSamples):
            return read_image(self.images.source(index), 3, name=self.name(index))
        return Image.fromarray(self.images.inputs[index].permute(1, 2, 0).numpy())

    # --- objects -----------------------------------------------------------------------------------------------------

    @property
    def counts(self) -> np.ndarray:
        """int64 [N]: objects of each picture."""
        return np.diff(self.offsets)

    @property
    def picture_of(self) -> np.ndarray:
        """int64 [T]: the position of the picture that each object is in."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def ignored(self) -> np.ndarray:
        """bool [T]: neither trained on nor counted."""
        return self.crowd | self.difficult

    @property
    def learned_counts(self) -> np.ndarray:
        """int64 [N]: objects of each picture that are learned from."""
        return np.bincount(self.picture_of[~self.ignored], minlength=len(self))

    def objects_of(self, index: int) -> slice:
        """A picture's objects in the arrays of T."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def boxes_of(self, index: int) -> np.ndarray:
        """float32 [n, 4], in pixels of the original."""
        return self.boxes_xyxy[self.objects_of(index)]

    def labels_of(self, index: int) -> np.ndarray:
        """int64 [n], 1..K."""
        return self.labels[self.objects_of(index)]

    # --- original pixels and input pixels ----------------------------------------------------------------------------

    def to_input(self, boxes_xyxy: Tensor, indices: Tensor) -> Tensor:
        """Pixels of the originals -> pixels of the model's input.

        boxes_xyxy: float [B, ..., 4]; indices: int64 [B], the picture that each row of boxes lies in. On any device.
        `to_original(to_input(boxes, i), i) == boxes`
        """
        scale, shift = self._placement(boxes_xyxy, indices)
        return boxes_xyxy * scale + shift

    def to_original(self, boxes_xyxy: Tensor, indices: Tensor) -> Tensor:
        """The inverse of `to_input`. Nothing is clipped: boxes in the bars of a letterbox come out outside."""
        scale, shift = self._placement(boxes_xyxy, indices)
        return (boxes_xyxy - shift) / scale

    def input_sides(self) -> np.ndarray:
        """float32 [n, 2]: width and height in pixels of the input of each object that is learned from."""
        objects = np.flatnonzero(~self.ignored)
        pictures = torch.from_numpy(self.picture_of[objects])
        boxes = self.to_input(torch.from_numpy(self.boxes_xyxy[objects]), pictures).numpy()
        return boxes[:, 2:] - boxes[:, :2]

    def placements(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift that take originals to the input, float64 [B, 2] each, for x and y. indices: on the CPU."""
        preparation = self.preparation
        assert preparation.fit != "crop"
        return placement(torch.from_numpy(self.sizes)[indices], preparation.image_size, preparation.fit)

    def _placement(self, boxes_xyxy: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(indices), *[1] * (boxes_xyxy.ndim - 2), 4)
        scale, shift = (
            to_device(part.repeat(1, 2).to(boxes_xyxy.dtype), boxes_xyxy.device).view(shape)
            for part in self.placements(indices.cpu())
        )
        return scale, shift

    def target_hashes(self, class_names: Sequence[str]) -> np.ndarray:
        """uint64 [N]: of each picture's objects, whatever their order: class, corners, size and marks."""
        numbers = np.column_stack([self.boxes_xyxy, self.area, self.crowd, self.difficult]).astype(np.float64)
        hashes = of_classes(self.labels - 1, class_names)
        for column in numbers.T:
            hashes = mixed(hashes ^ of_numbers(column))
        total = np.zeros(len(self), dtype=np.uint64)
        np.add.at(total, self.picture_of, hashes)
        return total

    # --- parts -------------------------------------------------------------------------------------------------------

    def only(self, indices: np.ndarray) -> "Records":
        """The chosen pictures, in the order given, with their objects."""
        counts = self.counts[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        objects = np.repeat(self.offsets[indices] - offsets[:-1], counts) + np.arange(offsets[-1])
        images, segmentations, rows = self.images, self.segmentations, torch.from_numpy(indices)
        if isinstance(images, ImageFilesSamples):
            images = replace(images, paths=images.paths[indices], targets=images.targets[rows])
        else:
            numbers = indices if images.numbers is None else images.numbers[indices]
            images = replace(images, inputs=images.inputs[rows], targets=images.targets[rows], numbers=numbers)
        return replace(
            self,
            images=images,
            ids=self.ids[indices],
            sizes=self.sizes[indices],
            offsets=offsets,
            boxes_xyxy=self.boxes_xyxy[objects],
            labels=self.labels[objects],
            crowd=self.crowd[objects],
            difficult=self.difficult[objects],
            area=self.area[objects],
            segmentations=None if segmentations is None else [segmentations[t] for t in objects.tolist()],
            proposals_xyxy=None if self.proposals_xyxy is None else self.proposals_xyxy[indices],
        )


def rarest_labels(labels: np.ndarray, offsets: np.ndarray) -> Tensor:
    """For each picture the label (int64 [N]) that the fewest objects of all bear; 0 where there is no object."""
    if not len(labels):
        return torch.zeros(len(offsets) - 1, dtype=torch.int64)
    frequency = np.bincount(labels)
    rank = np.empty(len(frequency), dtype=np.int64)  # of each label, the most frequent last
    order = np.argsort(frequency, kind="stable")
    rank[order] = np.arange(len(order))
    lowest = np.full(len(offsets) - 1, len(order))
    np.minimum.at(lowest, np.repeat(np.arange(len(lowest)), np.diff(offsets)), rank[labels])
    return torch.from_numpy(np.append(order, 0)[lowest])


@dataclass(frozen=True, eq=False)
class DetectionSource:
    """Splits ("train" always, "val" and "test" where they exist) and what is known of them.

    notes: what a person should know: annotations dropped or fixed, where the split came from.
    """

    info: DataInfo
    splits: dict[str, Records]
    notes: tuple[str, ...] = ()

    @property
    def pictures(self) -> Source:
        """The same without objects, as what reads and caches pictures knows it."""
        return Source(self.info, {split: records.images for split, records in self.splits.items()}, self.notes)

    def membership(self) -> Membership:
        """Which pictures are in which split; see `Source.membership`."""
        names = self.info.class_names
        splits = {
            split: replace(prints, targets=self.splits[split].target_hashes(names))
            for split, prints in self.pictures.membership().splits.items()
        }
        return Membership(splits)

    def in_memory(self, inputs: Tensor, chosen: Tensor) -> "DetectionSource":
        """The chosen training pictures (int64 [N]) alone, with their objects and these inputs in memory."""
        records = self.splits["train"].only(chosen.numpy())
        return DetectionSource(self.info, {"train": replace(records, images=Arrays(inputs, records.targets, "memory"))})
