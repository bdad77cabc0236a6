"""From a data set to batches on the device: where samples are held, who reads them, how they are changed.

Two paths, one interface. Samples held in memory are taken by index; files that are not held are read ahead by worker
processes. Either way augmentation happens here, on whole batches and on the device, and means the same.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from mlcli.data.augment import Augment, resized_crop_of
from mlcli.data.augmentations import Augmentation, RandomResizedCrop
from mlcli.data.held import READ_BATCH, DecodedInputs, HeldInputs
from mlcli.data.order import Part, TrainOrder, in_order
from mlcli.data.reading import FileReader, FileSamples, Inputs, ReadHere
from mlcli.data.source import Arrays, Source
from mlcli.data.workers import WorkerPool
from mlcli.engine.contract import Batch, Choice
from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.engine.settings import Loader, Train
from mlcli.errors import ConfigError

_MOST_WORKERS = 8  # more rarely help one trainer, and each costs memory
_CACHE_SHARE = 0.25  # of the available memory that decoded samples may take unasked
_EVAL_FACTOR = 4  # without gradients to keep, this many training batches fit at once ...
_EVAL_LIMIT = {"image": 256, "features": 1024}  # ... but beyond these nothing is gained


class BatchFeed(ABC):
    """The trainer's `Feed` (engine/contract.py) but for what its samples' targets are, which each kind of data says.

    Args:
        source: the data set.
        crop: the random resized crop to be cut from original pixels and its stream; None where there is none.
        train: batch size, accumulation and seed.
        loader: cache, workers, sampler, prefetch and timeout.
        device: where batches are wanted.

    Attributes:
        steps_per_epoch: optimizer steps in an epoch.
        choices: what was chosen where the YAML said auto, and why: (key, value, reason).

    Raises ConfigError when the batch is larger than the training split or the cache larger than the memory.
    """

    def __init__(
        self,
        source: Source,
        crop: tuple[RandomResizedCrop, int] | None,
        *,
        train: Train,
        loader: Loader,
        device: torch.device,
    ) -> None:
        self._source, self._loader, self._device = source, loader, device
        self._order = TrainOrder(source.splits["train"].targets, train, loader.sampler)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._crop = crop
        self._cache, why_cache = _choose_cache(source, loader, device, crops=crop is not None)
        self._num_workers, why_workers = _choose_workers(source, loader, self._cache)
        self.choices = [
            Choice("cache", self._cache, why_cache),
            Choice("workers", str(self._num_workers), why_workers),
        ]
        part, limit = self._order.largest_part, _EVAL_LIMIT[source.info.kind]
        self._eval_batch_size = max(part, min(_EVAL_FACTOR * part, limit))
        self._inputs: dict[tuple[str, bool], Inputs] = {}

    @abstractmethod
    def changed(self, inputs: Tensor, part: Part) -> tuple[Any, Any]:
        """Inputs and targets of a training micro-batch, changed at random as its keys say."""

    @abstractmethod
    def targets(self, split: str, part: Part) -> Any:
        """Targets of consecutive samples of a split, as they are."""

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Endless micro-batches, `accumulate` per optimizer step, beginning with those of step `start_step`."""
        for part, inputs in self._inputs_of("train", training=True).fetch(self._order.parts(start_step)):
            inputs, targets = self.changed(inputs, part)
            yield Batch(inputs, targets, part.indices, part.share)

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Every sample of a split once, in order, without augmentation.

        Batches are four times a training micro-batch, as no gradients are kept, within 256 images or 1024 rows. Workers
        of the stream path stay for the next evaluation.
        """
        parts = in_order(len(self._source.splits[split]), self._eval_batch_size)
        for part, inputs in self._inputs_of(split, training=False).fetch(parts):
            yield Batch(inputs, self.targets(split, part), part.indices)

    def names(self, split: str, indices: Tensor) -> list[str]:
        """The files or rows behind some samples."""
        return [self._source.splits[split].name(index) for index in indices.tolist()]

    def close(self) -> None:
        """Stop the worker processes."""
        for inputs in self._inputs.values():
            inputs.close()

    def _inputs_of(self, split: str, *, training: bool) -> Inputs:
        """Held samples are the same for training and evaluation; a stream of files is not, having other crops."""
        key = (split, training and self._cache == "none")
        if key not in self._inputs:
            self._inputs[key] = self._open(split, training=training)
        return self._inputs[key]

    def _open(self, split: str, *, training: bool) -> Inputs:
        samples = self._source.splits[split]
        held_on = self._device if self._cache == "device" else torch.device("cpu")
        if isinstance(samples, Arrays):
            return HeldInputs(samples.inputs.to(held_on), self._device)
        files = cast(FileSamples, samples)
        if self._cache == "none":
            crop, batch_size = (self._crop, self._order.largest_part) if training else (None, self._eval_batch_size)
            return self._reader(FileReader(files, crop), batch_size)
        shape = (len(files), *self._source.info.input_shape)
        return DecodedInputs(self._reader(FileReader(files), READ_BATCH), shape, held_on, self._device, split)

    def _reader(self, read: FileReader, batch_size: int) -> Inputs:
        if self._num_workers == 0:
            return ReadHere(read, self._copy)
        return WorkerPool(
            read,
            self._copy,
            num_workers=self._num_workers,
            prefetch=self._loader.prefetch,
            batch_shape=(batch_size, *self._source.info.input_shape),
            timeout_s=self._loader.timeout,
        )

    def _copy(self, images: Tensor) -> Tensor:
        """To the device, and never the same memory."""
        if self._device.type == "cuda":
            return images.pin_memory().to(self._device, non_blocking=True)
        return images.to(self._device, copy=True)


class SampleFeed(BatchFeed):
    """Batches of samples whose target is one number: a label, or what is to be predicted.

    Args:
        source: the data set.
        augment: random changes to training images, as in the YAML.
        train, loader, device: as above.

    Raises ConfigError as above.
    """

    def __init__(
        self,
        source: Source,
        augment: tuple[Augmentation, ...],
        *,
        train: Train,
        loader: Loader,
        device: torch.device,
    ) -> None:
        super().__init__(source, resized_crop_of(augment), train=train, loader=loader, device=device)
        self._augment = Augment(augment, source.info, already_cropped=self._cache == "none")
        self._targets: dict[str, Tensor] = {}

    def changed(self, inputs: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        targets = self._targets_of("train").index_select(0, part.indices.to(self._device, non_blocking=True))
        return self._augment(inputs, targets, part.keys)

    def targets(self, split: str, part: Part) -> Tensor:
        first = int(part.indices[0])
        return self._targets_of(split)[first : first + len(part)]

    def _targets_of(self, split: str) -> Tensor:
        if split not in self._targets:
            self._targets[split] = self._source.splits[split].targets.to(self._device)
        return self._targets[split]


def _choose_cache(source: Source, loader: Loader, device: torch.device, *, crops: bool) -> tuple[str, str]:
    """none, ram or device, and why."""
    num = sum(len(samples) for samples in source.splits.values())
    needed = num * math.prod(source.info.input_shape)
    size = f"{needed / 1e6:.0f} MB"
    if all(isinstance(samples, Arrays) for samples in source.splits.values()):
        if loader.cache == "device":
            return "device", "as asked"
        return "ram", "the data are in memory as they are"
    available = available_memory_bytes()
    if loader.cache == "auto":
        if crops:
            return "none", "random_resized_crop cuts from the original pixels"
        share = f"{size} decoded, {100 * needed / max(available, 1):.1f} % of the available memory"
        return ("ram" if needed <= _CACHE_SHARE * available else "none"), share
    if loader.cache == "device" and device.type == "cuda":
        available = min(available, torch.cuda.mem_get_info(device)[0])
    if loader.cache != "none" and needed > available:
        raise ConfigError(
            f"the decoded images take {size}, but {available / 1e6:.0f} MB of memory are available",
            where=f"loader.cache={loader.cache}",
            fix="loader.cache=none",
        )
    cut_from_held = crops and loader.cache != "none"
    return loader.cache, "as asked; random_resized_crop cuts from the held images" if cut_from_held else "as asked"


def _choose_workers(source: Source, loader: Loader, cache: str) -> tuple[int, str]:
    """How many processes read files, and why."""
    if all(isinstance(samples, Arrays) for samples in source.splits.values()):
        return 0, "the data are in memory"
    until = "" if cache == "none" else ", until all files are read"
    if loader.workers != "auto":
        return loader.workers, f"as asked{until}"
    return min(usable_cpus(), _MOST_WORKERS), f"usable CPUs, at most {_MOST_WORKERS}{until}"
