"""All that bench-io measures of one experiment: the stages, the loader, the model, and both together."""

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from mlcli.data.augment.build import cut_of
from mlcli.data.batches import FileReader, FileSamples, Part, TrainOrder
from mlcli.data.feed import BatchFeed
from mlcli.data.randomness import sample_keys
from mlcli.data.source import ImageFilesSamples
from mlcli.engine.contract import Batch, Feed, Named, Task
from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.engine.processes import place
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import TaskSettings
from mlcli.engine.step import parts_of_step
from mlcli.machine.bench.disk import file_system, shared_memory_bytes, warm_up
from mlcli.machine.bench.learner import Learner
from mlcli.machine.bench.measurements import (
    READ_WARM,
    Cache,
    CachedThroughput,
    Data,
    FullRead,
    JointThroughput,
    LoaderThroughput,
    Machine,
    Measurements,
    ModelThroughput,
    Stage,
    repeat,
)
from mlcli.machine.bench.stages import MOST_FILES, assembly_stage, augment_stages, copy_stages, reading_stages

Memory = tuple[Tensor, Tensor] | None
"""Samples held in memory, as `Task.feed` takes them."""
LONGEST_STEP = 0.025  # of the whole time: with a model that is slower, fewer than forty steps could be taken in all
HELD_BYTES = 2**28  # a stand-in for a cache: larger than any processor's own, quick to fill
_ENDLESS = 10**9  # steps; no measurement takes so many
_SHARES = {"files": 0.12, "model": 0.18, "assembly": 0.03, "augment": 0.06, "warm up": 0.05, "loader": 0.22,
           "held": 0.04, "together": 0.30}  # fmt: skip
"""Of the whole time, in the order in which it is spent."""
LEAST = 0.5  # of its share that every part has, however late it is: fewer laps would be worthless


class Bench:
    """One experiment to be measured.

    Args:
        task: as its config builds it; its `source` is what is read.
        settings: the task's config.
        runtime: where it computes.
        budget_s: about how long all of it may take.
        cpus: as many workers are tried at most; None for those this process may use.
        say: gets the name of what is being measured.

    Raises UserError, as training would, for data and settings that do not fit together.
    """

    def __init__(
        self,
        task: Task,
        settings: TaskSettings,
        runtime: Runtime,
        *,
        budget_s: float,
        cpus: int | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.task, self.settings, self.runtime, self.budget_s, self.say = task, settings, runtime, budget_s, say
        self.source = task.source
        self.began = time.perf_counter()
        self.cpus = cpus or usable_cpus()
        self.data = describe_data(task, settings.name_in("data"), runtime)
        self.is_slow = False
        """A step takes so long that only what is configured can be measured, with few of them."""
        self._taken, self._warm_steps = 0, _ENDLESS
        """Micro-batches that the loader was measured with, and steps whose files are in the page cache."""

    def measure(self, *, full: bool = False) -> Measurements:
        """Measure everything; with `full`, also read all splits once. Raises UserError."""
        self.began = time.perf_counter()
        self.say("files" if not self.data.in_memory else "data in memory")
        stages, images = self._reading()
        file_bytes = next((stage.bytes_per_sample for stage in stages if stage.name == READ_WARM), 0)
        self.data = replace(self.data, bytes_on_disk=file_bytes * self.data.samples)
        self.say("the model")
        memory = self._memory(images)
        learner = Learner(self.task, self.settings, self.runtime, self._feed(memory, "ram", 0))
        two_steps = itertools.islice(self._feed(memory, "ram", 0).train_batches(0), 2 * self.settings.train.accumulate)
        model = self._model(learner, list(two_steps))
        self.say("making batches")
        stages += self._making_batches(images, memory)
        loader = self._loader_alone()
        held = self._held(memory)
        together = self._together(learner, memory)
        return Measurements(
            data=self.data,
            machine=describe_machine(self.runtime, self.cpus),
            batch_size=self._micro_batch(),
            is_slow=self.is_slow,
            prefetch=self.settings.loader.prefetch,
            stages=tuple(stages),
            loader=loader,
            held=held,
            model=model,
            together=together,
            scan=self._scan() if full else None,
            seconds=time.perf_counter() - self.began,
        )

    # --- what it is fed from ---

    def _feed(self, memory: Memory, cache: str, workers: int, augment: tuple[Named, ...] | None = None) -> Feed:
        loader = self.settings.loader.model_copy(update={"cache": cache, "workers": workers})
        train = self.settings.train
        return self.task.feed(self.runtime, train=train, loader=loader, augment=augment, memory=memory)

    def _memory(self, images: Tensor) -> Memory:
        """For files a stand-in in memory, made of those that were read, repeated; None for data that lie there."""
        if self.data.in_memory:
            return None
        num = len(self.source.splits["train"])
        rows = min(num, max(self.settings.train.samples_per_step, HELD_BYTES // images[0].nbytes))
        chosen = torch.linspace(0, num - 1, rows).long()  # of all classes, also where files are sorted by them
        return images[torch.arange(rows) % len(images)], chosen

    def _micro_batch(self) -> int:
        return math.ceil(self.settings.train.samples_per_step / self.settings.train.accumulate)

    def _model(self, learner: Learner, batches: list[Batch]) -> ModelThroughput:
        """The model's throughput once it is warm; by few steps where one takes too much of the time."""
        budget_s = self._share("model")
        step_s = learner.warm_up(batches, budget_s / 2) * self.settings.train.samples_per_step
        # `Learner.together` takes w + 1 steps to begin with, then twice as many as there are workers.
        steps = sum(3 * max(1, workers) + 1 for workers in self._counts_together())
        self.is_slow = step_s > min(LONGEST_STEP * self.budget_s, self._share("together") / steps)
        return learner.warm_up_throughput() if self.is_slow else learner.throughput(batches, budget_s)

    def _order(self) -> TrainOrder:
        return TrainOrder(self.source.splits["train"].targets, self.settings.train, self.settings.loader.sampler)

    # --- what is measured ---

    def _share(self, part: str) -> float:
        """Seconds for a part: less than planned where others, opening loaders say, took longer than planned."""
        planned_s, parts = _SHARES[part] * self.budget_s, list(_SHARES)
        ahead_s = self.budget_s * sum(_SHARES[later] for later in parts[parts.index(part) :])
        left_s = self.budget_s - (time.perf_counter() - self.began)
        return planned_s * min(1.0, max(LEAST, left_s / ahead_s))

    def _reading(self) -> tuple[list[Stage], Tensor]:
        """The stages of reading, and some samples as read."""
        order = self._order()
        steps = min(order.steps_per_epoch, max(1, MOST_FILES // self.settings.train.samples_per_step))
        parts = list(itertools.islice(order.parts(0), steps * self.settings.train.accumulate))
        samples = self.source.splits["train"]
        if self.data.in_memory:
            return [], samples.read(torch.cat([part.indices for part in parts])[:MOST_FILES].numpy())
        reader = FileReader(samples)
        if self.data.cache == "none":
            with contextlib.closing(self._feed(None, "none", 0)) as feed:
                reader = cast(BatchFeed, feed).training_reader
        return reading_stages(reader, parts, self._share("files"))

    def _making_batches(self, images: Tensor, memory: Memory) -> list[Stage]:
        held, num = self.data.cache != "none", self._micro_batch()
        targets = self.source.splits["train"].targets
        raw = images[torch.arange(num) % len(images)]
        part = Part(torch.arange(num), sample_keys(self.settings.train.seed, 0, torch.arange(num)))
        by_worker = None if held else cut_of(self.task.augment)  # a worker has cut it from the file
        changes = [config for config in self.task.augment if by_worker is None or config is not by_worker[0]]
        with_changes = partial(self._feed, memory, "ram", 0)
        return [
            assembly_stage(held, images, num, targets, self.runtime, self._share("assembly")),
            *augment_stages(changes, with_changes, raw.to(self.runtime.device), part, self.runtime,
                            self._share("augment")),
            *copy_stages(raw, self.runtime, self._share("assembly") / 2),
        ]  # fmt: skip

    def _loader_alone(self) -> tuple[LoaderThroughput, ...]:
        """Reading files with 0, 1, 2, 4, ... workers; nothing where there are no files."""
        if self.data.in_memory:
            return ()
        train_split = self.source.splits["train"]
        in_memory = self.data.bytes_on_disk < available_memory_bytes() / 2
        if isinstance(train_split, ImageFilesSamples) and isinstance(train_split.root, str) and in_memory:
            # They come from the disk in the first epoch only; the rate of the others is wanted.
            order, train = self._order(), self.settings.train
            parts = itertools.islice(order.parts(0), order.steps_per_epoch * train.accumulate)
            paths = (train_split.path(index) for part in parts for index in part.indices.tolist())
            steps = warm_up(paths, self._share("warm up")) // train.samples_per_step
            self._warm_steps = _ENDLESS if steps >= order.steps_per_epoch else max(1, steps)
        counts = self._counts()
        budget_s = self._share("loader") / len(counts)
        return tuple(self._alone(None, "none", count, budget_s) for count in counts)

    def _unread(self, feed: Feed) -> Iterator[Batch]:
        """Endless batches, going on behind those that were taken before: a file that was read a moment ago comes
        from the processor's own caches, which in training it never does."""
        accumulate = self.settings.train.accumulate
        while True:
            step = math.ceil(self._taken / accumulate) % self._warm_steps
            for batch in itertools.islice(feed.train_batches(step), (self._warm_steps - step) * accumulate):
                self._taken += 1
                yield batch

    def _held(self, memory: Memory) -> tuple[CachedThroughput, ...]:
        """Batches from memory, for each place that could hold the samples."""
        caches: list[Cache] = ["ram"]
        if self.data.cache == "disk":  # once its pages have been read, as fast as RAM: they are RAM
            caches.append("disk")
        if self.runtime.device.type != "cpu" or self.data.cache == "device":
            caches.append("device")
        budget_s = self._share("held") / len(caches)
        return tuple(CachedThroughput(cache, self._alone(memory, cache, 0, budget_s).timing) for cache in caches)

    def _alone(self, memory: Memory, cache: str, workers: int, budget_s: float) -> LoaderThroughput:
        """The loader alone: its batches are taken and dropped."""
        self.say(f"the loader with {workers} workers" if cache == "none" else "memory")
        with contextlib.closing(self._feed(memory, cache, workers)) as feed:
            began = time.perf_counter()
            batches = self._unread(feed)
            next(batches)
            self.runtime.synchronize()
            first_batch_s = time.perf_counter() - began

            def work() -> int:
                samples = sum(len(next(batches)) for _ in range(max(1, workers)))  # every worker has its turn
                self.runtime.synchronize()
                return samples

            left_s = max(LEAST * budget_s, budget_s - first_batch_s)
            return LoaderThroughput(workers, repeat(work, left_s, least=2), first_batch_s)

    def _counts_together(self) -> list[int]:
        return self._counts() if self.data.cache == "none" else [0]

    def _counts(self) -> list[int]:
        """The numbers of workers that are tried."""
        return [self.data.workers] if self.is_slow else worker_counts(self.cpus, self.data.workers)

    def _together(self, learner: Learner, memory: Memory) -> tuple[JointThroughput, ...]:
        """The loader and the model at once: for every number of workers, or from memory if that is configured."""
        cache = self.data.cache
        source = None if cache == "none" else memory
        counts, found = self._counts_together(), []
        budget_s = self._share("together") / len(counts)
        for count in counts:
            self.say(f"loader and model together, {count} workers")
            with contextlib.closing(self._feed(source, cache, count)) as feed:
                found.append(learner.together(count, self._unread(feed), budget_s))
        return tuple(found)

    def _scan(self) -> FullRead:
        """Read every sample of every split once. Raises DataError, naming the file that cannot be read."""
        self.say("all data once")
        began, samples = time.perf_counter(), 0
        with contextlib.closing(self._feed(None, "none", self.data.workers)) as feed:
            for split in self.source.splits:
                samples += sum(len(batch) for batch in feed.eval_batches(split))
        self.runtime.synchronize()
        return FullRead(samples, time.perf_counter() - began)


def worker_counts(usable: int, configured: int) -> list[int]:
    """0, 1, 2, 4, ... up to the usable CPUs, these and the configured number included."""
    doubled = itertools.takewhile(lambda count: count <= usable, (2**power for power in itertools.count()))
    return sorted({0, *doubled, usable, configured})


# --- what is measured, and on what -----------------------------------------------------------------------------------


def describe_data(task: Task, data_name: str, runtime: Runtime) -> Data:
    """Describe the data and how the YAML has them read. Raises ConfigError where they do not fit."""
    source = task.source
    chosen = {choice.what: choice.value for choice in task.feed(runtime).choices}
    splits, train = source.splits.values(), source.splits["train"]
    samples, is_image = sum(map(len, splits)), source.info.kind == "image"
    return Data(
        name=data_name,
        samples=samples,
        train=len(source.splits["train"]),
        unit="img" if is_image else "rows",
        cache=cast(Cache, chosen["cache"]),
        workers=int(chosen["workers"]),
        in_memory=not any(isinstance(split, FileSamples) for split in splits),
        crops=cut_of(task.augment) is not None,
        bytes_as_tensors=samples * math.prod(source.info.input_shape) * (1 if is_image else 4),
        file_system=file_system(str(train.root)) if isinstance(train, ImageFilesSamples) else "",
    )


def share_of_one(settings: TaskSettings, processes: int) -> TaskSettings:
    """The settings with steps cut as for several processes, each of which takes some of the parts. Raises ConfigError
    for a batch with fewer samples."""
    if processes == 1:
        return settings
    train = settings.train.model_copy(update={"accumulate": parts_of_step(settings.train, processes)})
    return settings.model_copy(update={"train": train})


def describe_machine(runtime: Runtime, usable: int) -> Machine:
    """usable: CPUs that workers may take."""
    return Machine(
        usable_cpus=usable,
        processes=place().local_size,
        cpus=os.cpu_count() or 1,
        available_bytes=available_memory_bytes(),
        shm_bytes=shared_memory_bytes(),
        device=runtime.device.type,
        device_name=next(choice.value for choice in runtime.choices if choice.what == "device"),
        precision=runtime.precision,
        threads=runtime.threads,
    )
