"""What bench-io has measured, as plain data: the verdict, the page, the plot and the JSON are all made from it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlcli.machine.bench.timing import Timing

Cache = Literal["none", "ram", "disk", "device"]
READ_COLD, READ_WARM = "read file, cold", "read file, warm"  # names of stages


@dataclass(frozen=True)
class Data:
    """The data set and how it is read.

    samples: of all splits; train: of the training split; origin: the kind of thing in memory or on disk.
    cache, workers: as configured, with `auto` decided.
    in_memory: the data have no files of their own to read while training (tables, arrays).
    crops: a random resized crop is cut from the original pixels.
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
    """usable_cpus: by affinity and control group, of `cpus`; shm_bytes: size of /dev/shm, None where there is none."""

    usable_cpus: int
    cpus: int
    available_bytes: int
    shm_bytes: int | None
    device: str
    device_name: str
    precision: str
    threads: int


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
class Loading:
    """The loader alone, with so many workers; first_batch_s: from nothing to the first batch."""

    workers: int
    timing: Timing
    first_batch_s: float


@dataclass(frozen=True)
class Appetite:
    """What the model does with batches that are there already, per sample."""

    step: Timing
    forward: Timing
    backward: Timing
    optimizer: Timing


@dataclass(frozen=True)
class Together:
    """The loader and the model at once, as in training.

    timing: of the whole; wait_share: part of the time, 0 to 1, in which the trainer had no batch.
    """

    workers: int
    timing: Timing
    wait_share: float


@dataclass(frozen=True)
class Held:
    """Batches taken from memory instead of files: as they would be with this cache."""

    cache: Cache
    timing: Timing


@dataclass(frozen=True)
class Scan:
    """Every sample of every split read once."""

    samples: int
    seconds: float


@dataclass(frozen=True)
class Findings:
    """loader: by number of workers, ascending; a single one where data are in memory. together: likewise.

    batch_size: samples at once, configured or, so that a slow model fits into the time, fewer (`asked_batch_size`).
    """

    data: Data
    machine: Machine
    batch_size: int
    asked_batch_size: int
    prefetch: int
    stages: tuple[Stage, ...]
    loader: tuple[Loading, ...]
    held: tuple[Held, ...]
    model: Appetite
    together: tuple[Together, ...]
    scan: Scan | None
    seconds: float

    @property
    def fed(self) -> Timing:
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

    def loading(self, workers: int) -> Loading:
        return next(loading for loading in self.loader if loading.workers == workers)

    def joint(self, workers: int) -> Together:
        return next(together for together in self.together if together.workers == workers)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
