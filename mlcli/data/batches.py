"""Micro-batches: which samples they hold, in which order, and where their inputs come from.

The order is a pure function of (seed, step): there is nothing to replay after a resume. Inputs are rows of what lies in
memory, or image files read in this process; `workers` reads the same files ahead of time in other processes.
"""

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from mlcli.data.augment.geometry import sample_crop_boxes
from mlcli.data.augmentations import RandomResizedCrop
from mlcli.data.disk_cache import READ_BATCH, DiskCache
from mlcli.data.randomness import (
    KeyedRandom,
    balanced_draw,
    permutation,
    repeat_factors,
    repeated_draw,
    sample_keys,
)
from mlcli.data.source import Samples
from mlcli.engine.runtime import to_device
from mlcli.engine.settings import Train
from mlcli.errors import ConfigError, UserError
from mlcli.show.terminal import bar
from mlcli.text import first_few


@dataclass(frozen=True)
class Part:
    """The samples of one micro-batch.

    indices, keys: int64 [B] on the CPU: positions in the split, and what each sample's random changes follow from.
    epoch, step: passes over the split, and steps of all, before this one; 0 where nothing is random.
    seed: of the training.
    size: height and width that the whole step's samples fill of their inputs; None for all of them.
    """

    indices: Tensor
    keys: Tensor
    epoch: int = 0
    seed: int = 0
    step: int = 0
    size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def first_keys(self) -> Tensor:
        """Return the keys that its samples had in the first epoch, int64 [B]."""
        return sample_keys(self.seed, 0, self.indices)


class TrainOrder:
    """The micro-batches of a training.

    Step s is step s % steps_per_epoch of epoch s // steps_per_epoch; what fills no batch at an epoch's end is left out.
    A step's samples are cut into `accumulate` parts that differ in size by one at most.

    Attributes:
        samples: drawn in an epoch; N, or N times as often as each comes, but for repeat_factor.
        repeats: float64 [N], how often each sample comes in an epoch on average, of repeat_factor.
        cuts: where each part of a step that is taken here begins and ends in it.

    Args:
        targets: int64 [N] labels or float32 [N] numbers of the training split.
        sampler, repeat_below: as in the loader section.
        holds: int64 [T] and int64 [T], which sample holds which class, for repeat_factor; each its target's if None.
        times: how often each sample comes in an epoch, each time changed in another way.
        filled: int64 [N, 2], height and width that each sample fills of its input, for steps of samples of like shape;
            None for samples as they come.
    """

    def __init__(
        self,
        targets: Tensor,
        train: Train,
        sampler: str,
        repeat_below: float = 0.001,
        holds: tuple[np.ndarray, np.ndarray] | None = None,
        times: int = 1,
        filled: np.ndarray | None = None,
    ) -> None:
        num = len(targets)
        if train.samples_per_step > num * times:
            what = f"batch_size {train.samples_per_step} is more than the {num * times} samples of the training split"
            raise ConfigError(what, where="train.batch_size", fix=f"train.batch_size={num * times}")
        if sampler != "shuffle" and targets.is_floating_point():
            what = f"a {sampler} sampler needs classes, but the target is a number"
            raise ConfigError(what, where="loader.sampler", fix="loader.sampler=shuffle")
        self._targets, self._seed, self._sampler = targets, train.seed, sampler
        self._times, self._filled = times, filled
        self.repeats = np.ones(num)
        if sampler == "repeat_factor":
            samples, classes = holds or (np.arange(num), targets.numpy())
            self.repeats = repeat_factors(samples, classes, num, repeat_below)
        self.batch_size = train.samples_per_step
        self.samples = int((self.repeats * times).sum() + 1e-6)
        self.steps_per_epoch = self.samples // train.samples_per_step
        self.cut(train.accumulate)

    def cut(self, parts: int, taken: slice = slice(None)) -> None:
        """Cut every step into that many micro-batches, from the next call of `parts` on. taken: those given here."""
        bounds = [self.batch_size * part // parts for part in range(parts + 1)]
        self.cuts = [slice(*cut) for cut in itertools.pairwise(bounds)][taken]
        self.largest_part = -(-self.batch_size // parts)  # of all, as ranks that take others are to measure alike

    def parts(self, start_step: int, *, whole: bool = False) -> Iterator[Part]:
        """Endless, beginning with the first micro-batch of step `start_step`. whole: steps that are not cut."""
        cuts = [slice(0, self.batch_size)] if whole else self.cuts
        first_epoch, first_step = divmod(start_step, self.steps_per_epoch)
        for epoch in itertools.count(first_epoch):
            indices, keys = self._epoch(epoch)
            if self._filled is not None:
                order = self._alike(self._filled[indices.numpy()], epoch)
                indices, keys = indices[order], keys[order]
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                begin = step * self.batch_size
                size = self._size(indices[begin : begin + self.batch_size])
                for cut in cuts:
                    rows = slice(begin + cut.start, begin + cut.stop)
                    place = epoch * self.steps_per_epoch + step
                    yield Part(indices[rows], keys[rows], epoch, self._seed, place, size)

    def _alike(self, filled: np.ndarray, epoch: int) -> np.ndarray:
        """Return the order of an epoch's samples, without those that wait, in which those of a step are of like shape.

        filled: int64 [M, 2], of the samples as they were drawn. Steps come in an order of their own.
        """
        height, width = filled[: self.steps_per_epoch * self.batch_size].T
        steps = np.argsort(width / height, kind="stable").reshape(self.steps_per_epoch, self.batch_size)
        return steps[permutation(self.steps_per_epoch, self._seed, epoch)].ravel()

    def _size(self, step: Tensor) -> tuple[int, int] | None:
        """Return the size that holds what all samples of a step fill of their inputs."""
        if self._filled is None:
            return None
        height, width = self._filled[step.numpy()].max(axis=0).tolist()
        return height, width

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Indices and keys of a whole epoch, int64 [N] each."""
        if self._sampler != "shuffle":
            drawn = (
                balanced_draw(self._targets.repeat(self._times), self._seed, epoch)
                if self._sampler == "balanced"
                else repeated_draw(self.repeats * self._times, self._seed, epoch)
            )
            indices = torch.from_numpy(drawn % len(self._targets))
            # A sample drawn twice must not be changed in the same way twice: the draw's place in the epoch is its key.
            return indices, sample_keys(self._seed, epoch, torch.arange(len(indices)))
        indices = torch.from_numpy(permutation(len(self._targets) * self._times, self._seed, epoch))
        return indices % len(self._targets), sample_keys(self._seed, epoch, indices)


def in_order(
    num: int,
    batch_size: int,
    rank: int = 0,
    ranks: int = 1,
    samples: int | None = None,
    alike: np.ndarray | None = None,
) -> Iterator[Part]:
    """Every sample of a split once, front to back; the last part may be smaller. Nothing is random, so keys are 0.

    rank, ranks: which share of the parts is given, of so many. samples: only so many, at even distances.
    alike: int64 [N], numbers that the samples of a part have in common: the parts with the least one come first.
    """
    taken = num if samples is None else min(num, samples)
    chosen = torch.arange(taken) * num // max(1, taken)
    kinds = torch.zeros_like(chosen) if alike is None else torch.from_numpy(alike)[chosen]
    parts = [part for kind in kinds.unique() for part in chosen[kinds == kind].split(batch_size)]
    for indices in parts[len(parts) * rank // ranks : len(parts) * (rank + 1) // ranks]:
        yield Part(indices, torch.zeros_like(indices))


# --- inputs ----------------------------------------------------------------------------------------------------------


class InputStream(Protocol):
    """Source of the inputs of micro-batches."""

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Each part with its inputs, in order. `parts` may be asked ahead of what is taken. One round at a time."""

    def close(self) -> None:
        """Stop what runs in the background."""


@runtime_checkable
class FileSamples(Samples, Protocol):
    """A split of image files, whose original pixels can be read in parts."""

    def aspect_ratios(self, indices: np.ndarray) -> np.ndarray:
        """Width / height of each original: float32 [B]."""

    def read_crops(self, indices: np.ndarray, crops: np.ndarray) -> Tensor:
        """Parts of the originals, resized: uint8 [B, C, H, W]. crops: (top, left, height, width) in shares, [B, 4]."""


class Joined:
    """Splits of image files one behind the other, each batch of one of them: the same workers read all of them.

    begins: position of the first sample of each split.
    """

    def __init__(self, splits: Mapping[str, FileSamples]) -> None:
        self._splits = list(splits.values())
        self._first = [0, *itertools.accumulate(len(samples) for samples in self._splits)][:-1]
        self.begins = dict(zip(splits, self._first, strict=True))

    def read(self, indices: np.ndarray) -> Tensor:
        """Read whole images of one split: uint8 [B, C, H, W]."""
        samples, begin = self._of(int(indices[0]))
        return samples.read(indices - begin)

    def name(self, index: int) -> str:
        samples, begin = self._of(index)
        return samples.name(index - begin)

    def _of(self, index: int) -> tuple[FileSamples, int]:
        place = bisect.bisect_right(self._first, index) - 1
        return self._splits[place], self._first[place]


Crop = Callable[[Part], Tensor]
"""Reads random parts of training samples from their original pixels: uint8 [B, C, H, W] on the CPU."""


@dataclass(frozen=True)
class ResizedCrop:
    """A random resized crop of original pixels; `stream` is that its boxes are drawn from."""

    samples: FileSamples
    config: RandomResizedCrop
    stream: int

    def __call__(self, part: Part) -> Tensor:
        indices = part.indices.numpy()
        random, aspects = KeyedRandom(part.keys, self.stream), torch.from_numpy(self.samples.aspect_ratios(indices))
        boxes = sample_crop_boxes(random, aspects, area=self.config.area, ratio=self.config.ratio)
        return self.samples.read_crops(indices, boxes.numpy())


class Reader(Protocol):
    """Makes the inputs of a micro-batch, uint8 [B, ...] on the CPU, of samples that have names."""

    @property
    def samples(self) -> "HasNames": ...

    def __call__(self, part: Part) -> Tensor: ...


class HasNames(Protocol):
    """What knows the names of its samples."""

    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class FileReader:
    """Reads the inputs of a micro-batch, whole or cropped: uint8 [B, C, H, W] on the CPU. Raises DataError, naming the
    file."""

    samples: Samples | Joined
    crop: Crop | None = None

    def __call__(self, part: Part) -> Tensor:
        return self.samples.read(part.indices.numpy()) if self.crop is None else self.crop(part)


class ReadHere:
    """No workers: read when asked.

    copy: moves a batch to where it is wanted.
    """

    def __init__(self, read: FileReader, copy: Callable[[Tensor], Tensor]) -> None:
        self._read, self._copy = read, copy

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        for part in parts:
            try:
                images = self._read(part)
            except UserError:
                raise
            except Exception as error:  # a bug; which file brought it to light is half of finding it
                error.add_note(f"while reading {some_of(part, self._read.samples.name)}")
                raise
            yield part, self._copy(images)

    def close(self) -> None:
        pass


def some_of(part: Part, name: Callable[[int], str]) -> str:
    """`a.png, b.png, c.png and 61 more`"""
    return first_few([name(index) for index in part.indices.tolist()], 3)


class HeldInputs:
    """Batches from a tensor [N, ...] that lies in RAM, in a file mapped into it, or already on the device."""

    def __init__(self, inputs: Tensor, device: torch.device) -> None:
        self._inputs, self._device = inputs, device

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        inputs, device, pinned = self._inputs, self._device, self._device.type == "cuda"
        for part in parts:
            if inputs.device.type == device.type:
                yield part, inputs.index_select(0, to_device(part.indices, device))
                continue
            # Gathered straight into page-locked memory, from which a GPU copies while this process goes on.
            rows = torch.empty((len(part), *inputs.shape[1:]), dtype=inputs.dtype, pin_memory=pinned)
            yield part, torch.index_select(inputs, 0, part.indices, out=rows).to(device, non_blocking=pinned)

    def close(self) -> None:
        pass


class DecodedInputs:
    """All files of a split, read when the first batch is asked for and held from then on.

    Args:
        reader: reads the files, READ_BATCH at once, into RAM; closed when it is through.
        shape: [N, C, H, W] of the whole split.
        held_on: where the pixels lie, RAM or the device.
        device: where batches are wanted.
        label: the split's name, for the progress bar.
        disk: where they lie instead, and perhaps did before: then no file is read.
    """

    def __init__(
        self,
        reader: InputStream,
        shape: tuple[int, ...],
        held_on: torch.device,
        device: torch.device,
        label: str,
        disk: DiskCache | None = None,
    ) -> None:
        self._reader, self._shape, self._held_on, self._device, self._label = reader, shape, held_on, device, label
        self._disk = disk

    def fetch(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Tensor]]:
        return self._held.fetch(parts)

    def close(self) -> None:
        self._reader.close()

    @cached_property
    def _held(self) -> HeldInputs:
        if self._disk is not None:
            pixels = self._disk.open()
            if pixels is None:
                pixels = self._disk.fill(images for _, images in self._read())
        else:
            pixels = torch.empty(self._shape, dtype=torch.uint8)
            for part, images in self._read():
                pixels[part.indices[0] : part.indices[0] + len(part)] = images
        return HeldInputs(pixels.to(self._held_on), self._device)

    def _read(self) -> Iterator[tuple[Part, Tensor]]:
        """Every sample once, in order."""
        num = self._shape[0]
        with bar(f"reading {self._label}", num, "image") as shown:
            for part, images in self._reader.fetch(in_order(num, READ_BATCH)):
                yield part, images
                shown.update(len(part))
        self._reader.close()
