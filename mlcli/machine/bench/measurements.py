"""Timings, and all results of bench-io as plain data: verdict, page, plot and JSON are made from them."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

SHORTEST_LAP_S = 0.01  # work that is quicker is repeated within a lap: a millisecond is too exposed to the scheduler
MOST_LAPS = 20  # longer laps even out bursts: workers deliver together, and then not for a while
FAR_TOO_LONG = 4.0  # times its budget that work may take before it is done no second time
LARGE_SPREAD = 0.15
"""Above it the machine was busy with something else, and a figure should be measured again."""


@dataclass(frozen=True)
class Timing:
    """seconds: median per sample; spread: interquartile range as a share of the median, None for a single lap."""

    seconds: float
    spread: float | None
    laps: int

    @property
    def per_s(self) -> float:
        """Samples a second."""
        return 1 / self.seconds

    @classmethod
    def of(cls, laps: Sequence[float]) -> "Timing":
        """laps: seconds per sample, one for each repeat. A stage that costs nothing measurable takes a nanosecond."""
        median = max(statistics.median(laps), 1e-9)
        if len(laps) < 2:
            return cls(median, None, len(laps))
        low, _, high = statistics.quantiles(laps, n=4, method="inclusive")
        return cls(median, (high - low) / median, len(laps))


def is_above(timing: Timing, bound: float) -> bool:
    """Return whether the spread exceeds a bound, in whole percent, as both are shown: no 15% is above 15%."""
    return timing.spread is not None and round(100 * timing.spread) > round(100 * bound)


def repeat(work: Callable[[], int], budget_s: float, *, least: int = 3) -> Timing:
    """Do `work`, which returns how many samples it was, until the budget is spent, but `least` times.

    One round before goes untimed: the first is always slow. Work that takes longer than the budget is timed once, and
    if it takes far longer, that first round is the one: what makes it slow is little against the work.
    """
    began = time.perf_counter()
    samples = work()
    first_s = time.perf_counter() - began
    if first_s > FAR_TOO_LONG * budget_s:
        return Timing.of([first_s / samples])
    if first_s > budget_s:
        least = 1
    return timed_laps(work, budget_s, least, began)


def timed_laps(work: Callable[[], int], budget_s: float, least: int, began: float) -> Timing:
    """Laps of `work`, each of one or more rounds, until the budget that counts from `began` is spent."""
    laps: list[float] = []
    while len(laps) < least or time.perf_counter() - began < budget_s:
        lap_began, samples, lap_s = time.perf_counter(), 0, 0.0
        while lap_s < max(SHORTEST_LAP_S, budget_s / MOST_LAPS):
            samples += work()
            lap_s = time.perf_counter() - lap_began
        laps.append(lap_s / samples)
    return Timing.of(laps)


# --- results ---------------------------------------------------------------------------------------------------------

Cache = Literal["none", "ram", "disk", "device"]
READ_COLD, READ_WARM = "read file, cold", "read file, warm"  # names of stages


@dataclass(frozen=True)
class Data:
    """The data set and how it is read.

    samples: of all splits; train: of the training split.
    cache, workers: as configured, with `auto` decided.
    in_memory: the data have no files of their own to read while training (tables, arrays).
    crops: parts of images are cut from their original pixels.
    bytes_as_tensors: of all splits, decoded; bytes_on_disk: estimated from some files, 0 for data without files.
    """

    name: str
    samples: int
    train: int
    unit: Literal["img", "rows"]
    cache: Cache
    workers: int
    in_memory: bool
    crops: bool
    bytes_as_tensors: int
    bytes_on_disk: int = 0
    file_system: str = ""


@dataclass(frozen=True)
class Machine:
    """usable_cpus: by affinity and control group, of `cpus`, for each of so many `processes`; shm_bytes: size of
    /dev/shm, None where there is none."""

    usable_cpus: int
    cpus: int
    available_bytes: int
    shm_bytes: int | None
    device: str
    device_name: str
    precision: str
    threads: int
    processes: int = 1


@dataclass(frozen=True)
class Stage:
    """One thing that happens to every sample.

    by: who does it: a worker process, the trainer's own process, or it is only for comparison.
    timing: None if it was not measured; `note` says why, or what to know.
    part: one of several that together are a stage above it.
    """

    name: str
    timing: Timing | None
    by: Literal["worker", "trainer", "comparison"] = "trainer"
    bytes_per_sample: int = 0
    note: str = ""
    part: bool = False


@dataclass(frozen=True)
class LoaderThroughput:
    """The loader alone, with so many workers; first_batch_s: from nothing to the first batch."""

    workers: int
    timing: Timing
    first_batch_s: float


@dataclass(frozen=True)
class ModelThroughput:
    """Training steps on batches that are there already: seconds per sample, whole and by phase."""

    step: Timing
    forward: Timing
    backward: Timing
    optimizer: Timing


@dataclass(frozen=True)
class JointThroughput:
    """The loader and the model at once, as in training.

    timing: of the whole; wait_share: part of the time, 0 to 1, in which the trainer had no batch.
    """

    workers: int
    timing: Timing
    wait_share: float


@dataclass(frozen=True)
class CachedThroughput:
    """Batches taken from memory instead of files: as they would be with this cache."""

    cache: Cache
    timing: Timing


@dataclass(frozen=True)
class FullRead:
    """Every sample of every split read once."""

    samples: int
    seconds: float


@dataclass(frozen=True)
class Measurements:
    """loader: by number of workers, ascending; a single one where data are in memory. together: likewise.

    batch_size: samples at once, as configured. is_slow: a step takes so long that few could be measured.
    """

    data: Data
    machine: Machine
    batch_size: int
    is_slow: bool
    prefetch: int
    stages: tuple[Stage, ...]
    loader: tuple[LoaderThroughput, ...]
    held: tuple[CachedThroughput, ...]
    model: ModelThroughput
    together: tuple[JointThroughput, ...]
    scan: FullRead | None
    seconds: float

    @property
    def configured_loader(self) -> Timing:
        """The loader as configured, once its cache is filled."""
        if self.data.cache == "none":
            return self.loading(self.data.workers).timing
        return next(held.timing for held in self.held if held.cache == self.data.cache)

    @property
    def own_s(self) -> float:
        """Seconds per sample that the trainer's process itself works on a batch before the model can have it."""
        return sum(s.timing.seconds for s in self.stages if s.by == "trainer" and s.timing and not s.part)

    @property
    def disk_s(self) -> float:
        """Seconds by which reading a file takes longer from the disk than from the page cache; 0 if not measured."""
        timings = {stage.name: stage.timing for stage in self.stages}
        cold, warm = timings.get(READ_COLD), timings.get(READ_WARM)
        return max(0.0, cold.seconds - warm.seconds) if cold and warm else 0.0

    def loading(self, workers: int) -> LoaderThroughput:
        return next(loading for loading in self.loader if loading.workers == workers)

    def joint(self, workers: int) -> JointThroughput:
        return next(together for together in self.together if together.workers == workers)
