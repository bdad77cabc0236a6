"""Batches on the device from a data set: caching, worker processes and augmentation.

Two paths, one interface. Samples held in memory are taken by index; files that are not held are read ahead by worker
processes. Either way augmentation happens here, on whole batches and on the device, and means the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mlcli.data.ahead import SideStream, one_ahead
from mlcli.data.augment.build import Augment, cut_of
from mlcli.data.augmentations import Augmentation, RandomResizedCrop
from mlcli.data.batches import (
    Crop,
    DecodedInputs,
    FileReader,
    FileSamples,
    HeldInputs,
    InputStream,
    Joined,
    Part,
    ReadHere,
    ResizedCrop,
    TrainOrder,
    in_order,
)
from mlcli.data.changing import Changer, Rows
from mlcli.data.choose import MOST_WORKERS, choose_cache, choose_workers, fastest_workers
from mlcli.data.disk_cache import READ_BATCH, CachedFiles, DiskCache, default_folder
from mlcli.data.source import Arrays, Source
from mlcli.data.workers import WorkerPool
from mlcli.engine.contract import Batch
from mlcli.engine.limits import usable_cpus
from mlcli.engine.runtime import Choice, to_device
from mlcli.engine.settings import Loader, Train

_EVAL_FACTOR = 4  # without gradients to keep, this many training batches fit at once ...
_EVAL_LIMIT = {"image": 256, "features": 1024}  # ... but beyond these nothing is gained


class BatchFeed(ABC):
    """The trainer's `Feed` (engine/contract.py) but for what its samples' targets are, which each kind of data says.

    Args:
        source: the data set.
        crop: reads parts of training samples from their original pixels; None where they are read whole.
        cropped_by: the name of the augmentation that does so.
        train: batch size, accumulation and seed.
        loader: cache, workers, sampler, prefetch and timeout.
        device: where batches are wanted.
        times: how often each sample comes in an epoch.
        holds: which training sample holds which class, int64 [T] each, where a target does not say it.
        filled: height and width that each training sample fills of its input, int64 [N, 2], where the samples of a step
            are to be alike in that.

    Attributes:
        steps_per_epoch: optimizer steps in an epoch.

    Raises ConfigError when the batch is larger than the training split or the cache larger than memory or disk.
    """

    def __init__(
        self,
        source: Source,
        crop: Crop | None,
        *,
        train: Train,
        loader: Loader,
        device: torch.device,
        cropped_by: str = "",
        times: int = 1,
        holds: tuple[np.ndarray, np.ndarray] | None = None,
        filled: np.ndarray | None = None,
    ) -> None:
        self._source, self._loader, self._device = source, loader, device
        targets = source.splits["train"].targets
        self._order = TrainOrder(targets, train, loader.sampler, loader.repeat_below, holds, times, filled)
        self.steps_per_epoch = self._order.steps_per_epoch
        self._crop = crop
        self._disk = self._disk_caches()
        self._cache, self._why_cache = choose_cache(
            source,
            loader,
            device,
            self._disk.values(),
            crops=cropped_by,
            batch_size=self._order.largest_part,
        )
        self._changing = 0
        """Worker processes that change held training samples; none but where the data say so."""
        self._eval_batch_size = self._evaluated_at_once()
        self._inputs: dict[str, InputStream] = {}

    @cached_property
    def choices(self) -> list[Choice]:
        """Decisions where the YAML says auto, and what an epoch leaves out; the first access may take
        `choose.BUDGET_S`."""
        workers, why = self._workers
        if self._changing:
            workers, why = max(workers, self._changing), "as asked; they change what is held, ahead of training"
        found = [Choice("cache", self._cache, self._why_cache), Choice("workers", str(workers), why)]
        samples, size = len(self._source.splits["train"]), self._order.batch_size
        left_out = self._order.samples - self.steps_per_epoch * size
        if left_out and self._loader.sampler == "shuffle":
            why = f"of {size:,}; the other {left_out:,} of the {self._order.samples:,} samples wait, each epoch others"
            found.append(Choice("batches", f"{self.steps_per_epoch:,} an epoch", why))
        if self._loader.sampler == "repeat_factor":
            rare, most, least = self._order.repeats > 1, self._order.repeats.max(), self._loader.repeat_below
            why = f"{rare.sum():,} of {samples:,} samples hold a class that is in less than {100 * least:g} % of them"
            why += f", up to {most:.1f} times" if rare.any() else ": nothing is repeated; raise loader.repeat_below"
            found.append(Choice("sampler", f"{self._order.samples:,} draws an epoch", why))
        return found

    @property
    @abstractmethod
    def mixes(self) -> bool:
        """Whether training samples are mixed with others of their step."""

    @abstractmethod
    def changed(self, inputs: Tensor, part: Part) -> tuple[Any, Any]:
        """Inputs and targets of training samples, changed at random as their keys say."""

    @abstractmethod
    def targets(self, split: str, part: Part) -> Any:
        """Targets of samples of a split, as they are."""

    def alike(self, split: str) -> np.ndarray | None:
        """Numbers, int64 [N], of which each batch that is evaluated has samples of one only; None for any samples."""
        return None

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Endless micro-batches, `accumulate` per optimizer step, beginning with those of step `start_step`.

        Where samples are mixed, with others from all of their step, the step is cut only afterwards.
        """
        batches = self._made(start_step)
        is_ahead = self._loader.ahead and self._device.type == "cuda"
        return one_ahead(batches, SideStream(self._device)) if is_ahead else batches

    def _made(self, start_step: int) -> Iterator[Batch]:
        parts, held = self._order.parts(start_step, whole=self.mixes), self._inputs_of("train", training=True)[0]
        made_here = (self._batch(inputs, part) for part, inputs in held.fetch(parts))
        for batch in self._changed_by_workers(held, parts) if self._changing else made_here:
            yield from (batch[cut] for cut in self._order.cuts) if self.mixes else [batch]

    def _changed_by_workers(self, held: InputStream, parts: Iterator[Part]) -> Iterator[Batch]:
        """The same batches, made by other processes, which share what is held."""
        first = next(parts)
        ((_, inputs),) = held.fetch([first])  # reads the files, where there are any, before there are others
        example = self._batch(inputs, first)
        yield example
        rows = Rows(example.tensors())
        if (key := f"changed in rows of {rows.width}") not in self._inputs:
            at_once = self._order.batch_size if self.mixes else self._order.largest_part
            self._inputs[key] = WorkerPool(
                Changer(self._source.splits["train"], held, self._batch, rows),
                Tensor.clone,
                num_workers=self._changing,
                prefetch=self._loader.prefetch,
                batch_shape=(at_once, rows.width),
                timeout_s=self._loader.timeout,
            )
        for part, packed in self._inputs[key].fetch(parts):
            tensors = iter(rows.unpacked(packed))
            yield replace(example.each(lambda _: next(tensors)), indices=part.indices)  # noqa: B023 - called at once

    def _batch(self, inputs: Tensor, part: Part) -> Batch:
        return Batch(*self.changed(inputs, part), part.indices)

    def cut(self, parts: int, taken: slice = slice(None)) -> None:
        """Have every step's batch cut into that many micro-batches from the next `train_batches` on.

        taken: those of a step that `train_batches` gives.
        """
        self._order.cut(parts, taken)
        self._eval_batch_size = self._evaluated_at_once()

    def eval_batches(self, split: str, rank: int = 0, ranks: int = 1, samples: int | None = None) -> Iterator[Batch]:
        """Every sample of a split once, in order, or kind after kind where some are `alike`, without augmentation; of
        several ranks, those of one.

        samples: only so many, at even distances.

        Batches are four times a training micro-batch, as no gradients are kept, within 256 images or 1024 rows. Workers
        of the stream path stay for the next evaluation.
        """
        inputs_of, begin = self._inputs_of(split, training=False)
        num, alike = len(self._source.splits[split]), self.alike(split)
        parts = in_order(num, self._eval_batch_size, rank, ranks, samples, alike)
        for asked, inputs in inputs_of.fetch(replace(part, indices=part.indices + begin) for part in parts):
            part = replace(asked, indices=asked.indices - begin)
            yield Batch(inputs, self.targets(split, part), part.indices)

    def names(self, split: str, indices: Tensor) -> list[str]:
        """The files or rows behind some samples."""
        return [self._source.splits[split].name(index) for index in indices.tolist()]

    def close(self) -> None:
        """Stop the worker processes."""
        for inputs in self._inputs.values():
            inputs.close()

    def _evaluated_at_once(self) -> int:
        part, limit = self._order.largest_part, _EVAL_LIMIT[self._source.info.kind]
        return max(part, min(_EVAL_FACTOR * part, limit))

    def _inputs_of(self, split: str, *, training: bool) -> tuple[InputStream, int]:
        """What the inputs of a split come from, and where the split begins in that.

        Held samples are the same for training and evaluation; a stream of files is not, having other crops. All splits
        are evaluated from one, so that no workers wait for each of them.
        """
        samples, key, begin = self._source.splits[split], split, 0
        if isinstance(samples, Arrays):
            key = "to cut from" if training and self._crop else split
        elif self._cache == "none":
            key, begin = ("to train on", 0) if training else ("to evaluate", self._joined.begins[split])
        if key not in self._inputs:
            self._inputs[key] = self._open(split, training=training)
        return self._inputs[key], begin

    @property
    def training_reader(self) -> FileReader:
        """What reads training samples where they are not held."""
        return FileReader(self._source.splits["train"], self._crop)

    @cached_property
    def _joined(self) -> Joined:
        files = {name: part for name, part in self._source.splits.items() if not isinstance(part, Arrays)}
        return Joined(cast(dict[str, FileSamples], files))

    def _open(self, split: str, *, training: bool) -> InputStream:
        samples, workers = self._source.splits[split], self._workers[0]
        held_on = self._device if self._cache == "device" else torch.device("cpu")
        if isinstance(samples, Arrays):
            if training and self._crop:
                return ReadHere(FileReader(samples, self._crop), self._copy)
            return HeldInputs(samples.inputs.to(held_on), self._device)
        files = cast(FileSamples, samples)
        if self._cache == "none":
            if not training:
                return self._reader(FileReader(self._joined), self._copy, workers, self._eval_batch_size)
            read_at_once = self._order.batch_size if self.mixes else self._order.largest_part
            return self._reader(self.training_reader, self._copy, workers, read_at_once)
        shape = (len(files), *self._source.info.input_shape)
        reader = self._reader(FileReader(files), Tensor.clone, workers, READ_BATCH)
        return DecodedInputs(reader, shape, held_on, self._device, split, self._disk.get(split))

    def _reader(
        self, read: FileReader, copy: Callable[[Tensor], Tensor], num_workers: int, batch_size: int
    ) -> InputStream:
        if num_workers == 0:
            return ReadHere(read, copy)
        return WorkerPool(
            read,
            copy,
            num_workers=num_workers,
            prefetch=self._loader.prefetch,
            batch_shape=(batch_size, *self._source.info.input_shape),
            timeout_s=self._loader.timeout,
        )

    @cached_property
    def _workers(self) -> tuple[int, str]:
        return choose_workers(self._source, self._loader, self._cache, self._disk.values(), self._measure_workers)

    def _measure_workers(self) -> tuple[int, str] | None:
        train = self._source.splits["train"]
        if isinstance(train, Arrays):
            return None
        most = min(2 * usable_cpus(), MOST_WORKERS)  # beyond the cores only as far as it helps
        return fastest_workers(
            lambda workers, size: self._reader(self.training_reader, Tensor.clone, workers, size),
            self._order.parts(0),
            most,
        )

    def _disk_caches(self) -> dict[str, DiskCache]:
        """One for each split of files, where they were asked for."""
        if self._loader.cache != "disk":
            return {}
        folder, shape = self._loader.cache_folder or default_folder(), self._source.info.input_shape
        return {
            split: DiskCache(folder, cast(CachedFiles, samples), (len(samples), *shape))
            for split, samples in self._source.splits.items()
            if not isinstance(samples, Arrays)
        }

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
        samples, found = source.splits["train"], cut_of(augment)
        crop, cropped_by = None, ""
        if found:
            config, stream = found
            assert isinstance(config, RandomResizedCrop)
            cropped_by = config.name
            if not isinstance(samples, Arrays):
                crop = ResizedCrop(cast(FileSamples, samples), config, stream)
        super().__init__(source, crop, train=train, loader=loader, device=device, cropped_by=cropped_by)
        self._augment = Augment(augment, source.info, already_cropped=self._cache == "none")
        self._targets: dict[str, Tensor] = {}

    @property
    def mixes(self) -> bool:
        return self._augment.mixes

    def changed(self, inputs: Tensor, part: Part) -> tuple[Tensor, Tensor]:
        targets = self._targets_of("train").index_select(0, to_device(part.indices, self._device))
        first_keys = part.first_keys() if self._augment.alternates else None
        return self._augment(inputs, targets, part.keys, first_keys, part.epoch)

    def targets(self, split: str, part: Part) -> Tensor:
        return self._targets_of(split)[to_device(part.indices, self._device)]

    def _targets_of(self, split: str) -> Tensor:
        if split not in self._targets:
            self._targets[split] = self._source.splits[split].targets.to(self._device)
        return self._targets[split]
