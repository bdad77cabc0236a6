"""A data set that is ready to be read: splits of samples that can be read by index, and the facts about them.

Samples lie in memory, or stay in image files until they are read, each decoded straight into its place in the batch.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from mlcli.data import places
from mlcli.data.config import ClassificationData, RegressionData
from mlcli.data.decode import PAD_VALUE, ImageSource, Preparation, read_size
from mlcli.data.fingerprints import of_array, of_files, of_samples
from mlcli.data.info import DataInfo
from mlcli.data.splits import SPLITS, class_balance
from mlcli.engine.contract import Samples
from mlcli.engine.membership import Fingerprints, KnownData, Membership
from mlcli.errors import DataError
from mlcli.text import plural, without_secrets

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Arrays:
    """A split that lies in memory: inputs uint8 [N, C, H, W] or float32 [N, F].

    A sample is named `origin:number`: its line in a CSV file, its place in the data set. Without `numbers`, its index.
    prints: what the samples are known by, where that is not their inputs.
    """

    inputs: Tensor
    targets: Tensor
    origin: str
    numbers: np.ndarray | None = None
    prints: Fingerprints | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, indices: np.ndarray) -> Tensor:
        return self.inputs.index_select(0, torch.from_numpy(np.asarray(indices, dtype=np.int64)))

    def name(self, index: int) -> str:
        return f"{self.origin}:{index if self.numbers is None else self.numbers[index]}"

    def only(self, rows: np.ndarray) -> "Arrays":
        """The samples at some positions, int64 [n], in that order."""
        chosen = torch.from_numpy(rows)
        numbers = rows if self.numbers is None else self.numbers[rows]
        prints = self.prints and self.prints.only(rows)
        return Arrays(self.inputs[chosen], self.targets[chosen], self.origin, numbers, prints)


@dataclass(frozen=True, eq=False)
class ImageFilesSamples:
    """One split of image files, or of pictures in shards.

    root: folder the paths are relative to, or the shards.
    paths: bytes [N], as numpy's fixed-width strings: a list of Python strings would be copied page by page into every
        worker process, because counting references writes to them. Of shards: int64 [N], rows of their index.
    targets: int64 [N] labels.
    preparation: how an image becomes [C, H, W].
    same_size: refuse images that are not of that size already, instead of resizing them.
    """

    root: places.Root
    paths: np.ndarray
    targets: Tensor
    preparation: Preparation
    same_size: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """Of a file in a folder."""
        assert isinstance(self.root, str), "what lies in shards has no path"
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[index])))

    def source(self, index: int) -> ImageSource:
        """Something to decode."""
        return places.source(self.root, self.paths[index])

    def name(self, index: int) -> str:
        """The path, with bytes that are no text escaped, so that it can always be printed."""
        return places.full(self.root, self.paths[index])

    def relative(self, index: int) -> str:
        """The path below the root, written as `name` writes it."""
        return places.relative(self.root, self.paths[index])

    def read(self, indices: np.ndarray) -> Tensor:
        """uint8 [B, C, H, W]. Raises DataError, naming the file."""
        batch = self._empty(len(indices))
        self._each(indices, lambda found, row: self.preparation.decode(found, batch[row], exact=self.same_size))
        return torch.from_numpy(batch)

    def read_crops(self, indices: np.ndarray, crops: np.ndarray) -> Tensor:
        """Parts of the original images, resized: uint8 [B, C, H, W].

        crops: float [B, 4], (top, left, height, width) in shares 0..1 of each upright original.
        """
        batch = self._empty(len(indices))
        self._each(indices, lambda found, row: self.preparation.decode_crop(found, crops[row], batch[row]))
        return torch.from_numpy(batch)

    def read_parts(self, indices: np.ndarray, boxes: np.ndarray, places: np.ndarray) -> Tensor:
        """Parts of the original images, each resized to a place in its input, which is grey elsewhere: uint8
        [B, C, H, W].

        boxes: int [B, 4], left, top, right, bottom in pixels of each upright original; places: the same of its input.
        """
        batch = self._empty(len(indices))
        batch[...] = PAD_VALUE

        def cut(found: ImageSource, row: int) -> None:
            left, top, right, bottom = places[row].tolist()
            self.preparation.decode_part(found, boxes[row].tolist(), batch[row, :, top:bottom, left:right])

        self._each(indices, cut)
        return torch.from_numpy(batch)

    def sizes(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Width and height of each upright original: int32 [B, 2], from the headers alone."""
        sizes = self._each(indices, lambda found, row: read_size(found))
        return np.array(sizes, dtype=np.int32).reshape(-1, 2)

    def aspect_ratios(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Width / height of each upright original: float32 [B], from the headers alone."""
        width, height = self.sizes(indices).T
        return (width / height).astype(np.float32)

    def _each(self, indices: np.ndarray | Sequence[int], work: Callable[[ImageSource, int], Result]) -> list[Result]:
        """What `work` makes of each picture and its row among these. Its errors name the picture."""
        done = []
        for row, found in enumerate(places.sources(self.root, self.paths[np.asarray(indices, dtype=np.int64)])):
            try:
                done.append(work(found, row))
            except DataError as error:
                if isinstance(found, bytes):  # a path says so itself
                    error.where = self.name(int(indices[row]))
                raise
        return done

    def _empty(self, count: int) -> np.ndarray:
        return np.empty((count, self.preparation.channels, *self.preparation.image_size), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as found: its splits ("train" always, "val" and "test" where they exist) and what is known of it."""

    info: DataInfo
    splits: dict[str, Samples]
    notes: tuple[str, ...] = field(default=())
    """Notes for the user: images skipped, classes merged, where the split came from."""

    def in_memory(self, inputs: Tensor, chosen: Tensor) -> "Source":
        """The chosen training samples (int64 [N]) alone, with these inputs in memory."""
        targets = self.splits["train"].targets[chosen]
        return Source(self.info, {"train": Arrays(inputs, targets, "memory")})

    def membership(self) -> Membership:
        """Which samples are in which split; of files, up to `fingerprints.MOST_BYTES` are read for it."""
        class_names, splits = self.info.class_names, dict[str, Fingerprints]()
        files = {split: part for split, part in self.splits.items() if isinstance(part, ImageFilesSamples)}
        if files:
            root, ends = files["train"].root, np.cumsum([len(part) for part in files.values()])
            keys, sees = of_files(root, np.concatenate([part.paths for part in files.values()]))
            for (split, part), of_split in zip(files.items(), np.split(keys, ends[:-1]), strict=True):
                prints = of_samples(of_split, part.targets.numpy(), class_names)
                splits[split] = replace(prints, sees=sees, name=part.relative)
            return Membership(splits)
        for split, array in self.splits.items():
            assert isinstance(array, Arrays)
            prints = array.prints or of_samples(of_array(array.inputs), array.targets.numpy(), class_names)
            splits[split] = replace(prints, name=array.name)
        return Membership(splits)

    def divided_as(self, known: KnownData) -> "Source":
        """The same arrays, divided as a run divided them. Raises DataError as `KnownData.divide`."""
        splits = {split: part for split, part in self.splits.items() if isinstance(part, Arrays)}
        prints = [*self.membership().splits.values()]
        everything = Fingerprints(
            np.concatenate([part.keys for part in prints]), np.concatenate([part.targets for part in prints])
        )
        ends = np.cumsum([len(part) for part in prints])
        now = dict(zip(splits, np.split(np.arange(len(everything)), ends[:-1]), strict=True))
        chosen = known.divide(everything, now, SPLITS, splits["train"].origin)
        if chosen.keys() == now.keys() and all(np.array_equal(chosen[split], now[split]) for split in now):
            return self
        parts = [part.only(np.arange(len(part))) for part in splits.values()]
        whole = Arrays(
            torch.cat([part.inputs for part in parts]),
            torch.cat([part.targets for part in parts]),
            splits["train"].origin,
            np.concatenate([part.numbers for part in parts if part.numbers is not None]),
            everything,
        )
        of_run: dict[str, Samples] = {
            split: replace(whole.only(rows), origin=splits[split].origin if split in splits else whole.origin)
            for split, rows in chosen.items()
        }
        return replace(self, splits=of_run)

    def as_in(self, info: DataInfo) -> "Source":
        """The same samples with the offsets of another `DataInfo` of the same features, such as a checkpoint's."""
        mine, theirs = ({"offsets": 0.0, "target_offset": 0.0, **each.preparation} for each in (self.info, info))
        moved = np.asarray(mine["offsets"]) - np.asarray(theirs["offsets"])
        target_moved = mine["target_offset"] - theirs["target_offset"]
        if not moved.any() and not target_moved:
            return replace(self, info=info)
        splits: dict[str, Samples] = {}
        for split, part in self.splits.items():
            assert isinstance(part, Arrays), "only rows of features have offsets"
            inputs = (part.inputs.double() + torch.from_numpy(moved)).float()
            targets = (part.targets.double() + target_moved).to(part.targets.dtype)
            splits[split] = replace(part, inputs=inputs, targets=targets)
        return Source(info, splits, self.notes)


def describe_data(config: ClassificationData | RegressionData, source: Source) -> str:
    """`digits (included)  1,149 train · 288 val · 360 test · 10 classes, balanced (9.6-10.3 %) · 8x8 grey`"""
    info, targets = source.info, source.splits["train"].targets
    origin = getattr(config, "file", None) or without_secrets(str(getattr(config, "root", None) or "included"))
    counts = " · ".join(f"{len(samples):,} {split}" for split, samples in source.splits.items())
    if info.class_names:
        answers = class_balance(targets.numpy(), info.class_names)
    else:
        mean = targets.double().mean() + info.preparation.get("target_offset", 0.0)
        answers = f"{info.target} {mean:.4g} ± {targets.double().std(correction=0):.4g}"
    if info.kind == "features":
        shape = plural(info.input_shape[0], "feature")
    else:
        channels, height, width = info.input_shape
        shape = f"{height}x{width} {'grey' if channels == 1 else 'colour'}"
    return f"{config.name} ({origin})  {counts} · {answers} · {shape}"
