"""Name the bottleneck, loader or model, from measured throughputs: arithmetic alone, nothing is measured here.

Workers read while the model computes; what the trainer's own process does to a batch comes on top of the model's time.
A step therefore takes `max(reading / workers, own + model)`, and without workers the sum of all three.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mlcli.engine.meter import TOLERATED_WAIT
from mlcli.machine.bench.measurements import LARGE_SPREAD, CachedThroughput, Measurements, is_above
from mlcli.text import duration, plural, size

ENOUGH = 1.25
"""Times the model's throughput that the loader should deliver: what is left for a busier moment of the machine."""
OWN_BOUND = 1.1  # the loader takes no more than this times what the trainer's own process does to a batch
MEMORY_SHARE = 0.5  # of the available memory that a cache, or batches read ahead, may take on advice
POINTS = 0.10  # by which ratio and share of waiting may disagree before a sentence has to say why
GAIN = 0.05  # of the training's speed, below which a change is not worth writing down
USELESS_SPREAD = 0.50  # half of the laps differ by more than half: no verdict can be built on that
TOO_BUSY = "The machine was too busy for a reliable verdict; measure again."


@dataclass(frozen=True)
class Rating:
    """One number of workers: ratio of the loader's throughput to the model's, and the share of time spent waiting.

    step_s: seconds per sample with the model, as measured together.
    enough: whether reading does not hold the training up.
    cold_wait_share: the share in an epoch whose files all come from the disk, as the first epoch's may.
    why: why the share is not what the ratio lets expect, in brackets; empty where it is.
    """

    workers: int
    ratio: float
    wait_share: float
    step_s: float
    enough: bool
    cold_wait_share: float
    why: str = ""


@dataclass(frozen=True)
class CacheOption:
    """Cost and effect of holding all samples.

    bytes: of memory; fill_s: seconds to read all files once; ratio, wait_share: afterwards.
    """

    cache: str
    bytes: int
    fill_s: float
    ratio: float
    wait_share: float
    fits: bool


@dataclass(frozen=True)
class ThroughputVerdict:
    """ratio, wait_share: as configured. workers, cache: what to write into the YAML, None for leaving it as it is.

    ratio: the loader's throughput as a multiple of the model's.
    fewest_workers: that are enough; None if no measured number is, or no worker has anything to do.
    doubts: reasons not to rely on any of it, as they stand in the sentence.
    """

    ratio: float
    wait_share: float
    nothing_to_do: bool
    sentence: str
    workers: int | None
    cache: str | None
    fewest_workers: int | None
    ratings: tuple[Rating, ...]
    caches: tuple[CacheOption, ...]
    doubts: tuple[str, ...] = ()

    @property
    def changes(self) -> dict[str, int | str]:
        """The advised values of keys of the loader section."""
        advised = {"workers": self.workers, "cache": self.cache}
        return {key: value for key, value in advised.items() if value is not None}


# --- ratings ---------------------------------------------------------------------------------------------------------


def expected_wait_share(read_s: float, own_s: float, model_s: float, workers: int) -> float:
    """Share of the training time, 0 to 1, in which the model waits, if nothing gets in another's way.

    read_s: per sample, of all workers together, or of the trainer's process without workers. own_s, model_s: likewise.
    """
    step_s = max(read_s, own_s + model_s) if workers else read_s + own_s + model_s
    return 1 - model_s / step_s


def rate(measured: Measurements, workers: int) -> Rating:
    """Rate how well this many workers keep up with the model, if files are read while training."""
    alone_s, joint = measured.loading(workers).timing.seconds, measured.joint(workers)
    model_s, own_s, wait = measured.model.step.seconds, measured.own_s, joint.wait_share
    waits_for_reading = wait - min(wait, own_s / joint.timing.seconds)
    starves = waits_for_reading > TOLERATED_WAIT
    alone = ratio = model_s / alone_s
    expected = expected_wait_share(alone_s, own_s if workers else 0, model_s, workers)
    shared = _shared(alone, wait, expected)
    if workers and (starves or shared):  # the two take the cores from each other
        ratio = 1 - waits_for_reading if shared else min(ratio, 1 - waits_for_reading)
    # Workers have to keep up with the trainer's process, which also makes batches; where making them is all that
    # the loader spends its time on, more workers bring nothing. Without workers there is no rush to be ready for.
    keeps_up = own_s + model_s >= (ENOUGH if workers else 1) * alone_s or alone_s <= OWN_BOUND * own_s
    # From the disk every file takes longer by what the disk needs for it, which workers do side by side. Where the
    # loader sets the pace, a step takes as long as reading does, with all that the two take from each other.
    pace_s = joint.timing.seconds if starves or not workers else alone_s
    cold_step_s = max(joint.timing.seconds, pace_s + measured.disk_s / max(1, workers))
    cold = 1 - (1 - wait) * joint.timing.seconds / cold_step_s
    explained = _why(alone, ratio, wait, expected)
    return Rating(workers, ratio, wait, joint.timing.seconds, keeps_up and not starves, cold, explained)


def _shared(alone: float, wait: float, expected: float) -> bool:
    """Return whether the wait is neither what the ratio of the two alone lets expect nor what taking turns explains."""
    return abs(wait - max(0.0, 1 - alone)) > POINTS and abs(wait - expected) > POINTS


def _why(alone: float, ratio: float, wait: float, expected: float) -> str:
    """Explain, in brackets, a share of waiting that differs from what the ratio suggests; empty if it does not.

    alone: ratio of the loader alone to the model alone; ratio: the one that is shown; expected: wait without sharing.
    """
    if _shared(alone, wait, expected):
        measured = "alone" if ratio == alone else f"alone it would be {times(alone)}"
        return f" ({measured}; together both slow down, as they share the CPU)"
    return " (making batches and training take turns)" if abs(wait - max(0.0, 1 - ratio)) > POINTS else ""


def cache_option(measured: Measurements, held: CachedThroughput) -> CacheOption:
    data, model_s, held_s = measured.data, measured.model.step.seconds, held.timing.seconds
    fill_s = data.samples * min((loading.timing.seconds for loading in measured.loader), default=0.0)
    needed = 0 if data.in_memory and held.cache == "ram" else data.bytes_as_tensors
    fits = needed <= MEMORY_SHARE * measured.machine.available_bytes
    return CacheOption(held.cache, needed, fill_s, model_s / held_s, expected_wait_share(held_s, 0, model_s, 0), fits)


def as_shown(ratio: float) -> float:
    """A ratio in the two digits in which it is shown: what is compared with a bound is what a person reads."""
    return float(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}")


def times(ratio: float) -> str:
    """0.83x, 1.6x, 250x"""
    return f"{as_shown(ratio):g}x" if ratio < 1e6 else f"{ratio:.0f}x"


def compared(ratio: float) -> str:
    """The ratio in words: "loader throughput is 0.54x the model's"."""
    return f"loader throughput is {times(ratio)} the model's"


# --- the verdict -----------------------------------------------------------------------------------------------------


def find_bottleneck(measured: Measurements) -> ThroughputVerdict:
    """Return the verdict of a whole measurement, with the reasons to doubt it."""
    verdict = _judge_reading(measured) if measured.data.cache == "none" else _judge_memory(measured)
    doubts, sentence = [], verdict.sentence
    if measured.is_slow:
        doubts.append(f"{slow_batch(measured)}, too slow to measure in the time, so this is a rough guess")
        sentence = f"{sentence.removesuffix('.')} ({doubts[0]})."
    judged = {measured.together[0].workers} if measured.data.cache != "none" else {measured.data.workers}
    judged |= {verdict.workers} if verdict.workers is not None else set()
    if any(_useless(measured, workers) for workers in judged):
        doubts.append(TOO_BUSY)
        sentence += f" {TOO_BUSY}"
    return replace(verdict, sentence=sentence, doubts=tuple(doubts))


def _judge_reading(measured: Measurements) -> ThroughputVerdict:
    """Data whose files are read while training."""
    caches = tuple(cache_option(measured, held) for held in measured.held)
    ratings = tuple(rate(measured, loading.workers) for loading in measured.loader)
    now = next(rating for rating in ratings if rating.workers == measured.data.workers)
    fewest = next((rating.workers for rating in ratings if rating.enough), None)
    workers, cache = None, None
    if now.enough or now.wait_share <= TOLERATED_WAIT:
        outlook = _nothing_to_do(now.ratio, now.wait_share, measured)
    else:
        least_s = min(rating.step_s for rating in ratings)
        fastest = next(rating for rating in ratings if rating.step_s <= (1 + GAIN) * least_s)  # with fewest workers
        best = next((rating for rating in ratings if rating.enough and _is_worth_it(rating, now)), fastest)
        if fewest is None and not measured.data.crops:  # crops from the smaller images held are other crops
            ram = next(option for option in caches if option.cache == "ram")
            held_s = next(held.timing.seconds for held in measured.held if held.cache == "ram")
            useful = ram.fits and held_s + measured.model.step.seconds < (1 - GAIN) * best.step_s
            cache = ram if useful else None
        changes = _is_worth_it(best, now) and (best.enough or best.step_s < (1 - GAIN) * now.step_s)
        workers = best.workers if changes and cache is None else None
        outlook = _what_helps(best, workers, cache, measured)
    configured = "without workers" if now.workers == 0 else f"with {plural(now.workers, 'worker')}"
    sentence = f"As configured ({configured}) {_state(now.ratio, now.why, now.wait_share, measured)}. {outlook}"
    return ThroughputVerdict(now.ratio, now.wait_share, workers is None and cache is None, sentence, workers,
                             cache.cache if cache else None, fewest, ratings, caches)  # fmt: skip


def _judge_memory(measured: Measurements) -> ThroughputVerdict:
    """Data that are in memory: nothing is read, so there is nothing that the loader section could make faster."""
    caches = tuple(cache_option(measured, held) for held in measured.held)
    model_s, loader_s = measured.model.step.seconds, measured.configured_loader.seconds
    ratio, wait = model_s / loader_s, measured.together[0].wait_share
    why = _why(ratio, ratio, wait, expected_wait_share(loader_s, 0, model_s, 0))
    where = "in memory" if measured.data.in_memory else f"cached ({measured.data.cache})"
    outlook = _nothing_to_do(ratio, wait, measured)
    sentence = f"The data are {where}: {_state(ratio, why, wait, measured)}. {outlook}"
    return ThroughputVerdict(ratio, wait, True, sentence, None, None, None, (), caches)


def _state(ratio: float, why: str, wait: float, measured: Measurements) -> str:
    device = "GPU" if measured.machine.device != "cpu" else "model"
    return f"{compared(ratio)}{why}; the {device} would wait {wait:.0%} of the time"


def _nothing_to_do(ratio: float, wait: float, measured: Measurements) -> str:
    """Say that reading needs no change; if the model waits all the same, say for what."""
    reading = "Reading is faster than training" if ratio >= 1 else "Reading hardly slows training down"
    if measured.data.cache != "none":
        reading = "Nothing is read while training"
    doubt = "probably " if measured.is_slow else ""
    if wait <= TOLERATED_WAIT:
        return f"{reading}: {doubt}nothing to do."
    own = [stage for stage in measured.stages if stage.timing and stage.by == "trainer"]
    costly = max(own, key=lambda stage: stage.timing.seconds if stage.timing and not stage.part else 0.0)
    parts = ", ".join(stage.name for stage in own if stage.part) if costly.name == "augment" else ""
    most = f"{costly.name}{f' ({parts})' if parts else ''}"
    return (f"{reading}: {doubt}nothing to do about it. The wait is for making batches in the trainer's own process, "
            f"which no worker or cache takes over, most of it: {most}.")  # fmt: skip


def _what_helps(best: Rating, workers: int | None, cache: CacheOption | None, measured: Measurements) -> str:
    """The effect of the advised change, in words."""
    if cache is not None:
        most = measured.loader[-1].workers
        return (f"No number of workers up to {most} is enough; with loader.cache: {cache.cache} it would be "
                f"{times(cache.ratio)}, with {cache.wait_share:.0%} of the time spent waiting.")  # fmt: skip
    if workers is None:
        return "That is the best this machine can do: smaller files, fewer pixels or a cache (see below) would help."
    after = "Reading then hardly slows training down" if best.enough else "That is the best this machine can do"
    after = "Reading is then faster than training" if best.enough and best.ratio >= 1 else after
    with_workers = f"With {plural(workers, 'worker')} it is {times(best.ratio)}{best.why}"
    return f"{with_workers}, with {best.wait_share:.0%} of the time spent waiting. {after}."


def _is_worth_it(rating: Rating, now: Rating) -> bool:
    """More workers only where training gets no slower, fewer only where it gets clearly faster."""
    if rating.workers > now.workers:
        return rating.step_s <= now.step_s
    return rating.step_s < (1 - GAIN) * now.step_s


# --- doubts ----------------------------------------------------------------------------------------------------------


def spreads(measured: Measurements) -> list[tuple[str, float]]:
    """Names and spreads of the timings with a spread above LARGE_SPREAD."""
    timings = [(stage.name, stage.timing) for stage in measured.stages if stage.timing and stage.by != "comparison"]
    timings += [(f"loader with {plural(loading.workers, 'worker')}", loading.timing) for loading in measured.loader]
    timings += [("model", measured.model.step)]
    timings += [(f"together, {plural(joint.workers, 'worker')}", joint.timing) for joint in measured.together]
    return [(name, timing.spread) for name, timing in timings if timing.spread and is_above(timing, LARGE_SPREAD)]


def slow_batch(measured: Measurements) -> str:
    """Return how long the model takes for a batch, in words."""
    return f"a batch of {measured.batch_size} takes {duration(measured.model.step.seconds * measured.batch_size)}"


def _useless(measured: Measurements, workers: int) -> bool:
    """Return whether what was measured with so many workers varies too much, or cannot be: reading and training at once
    take no less than either alone."""
    alone = measured.loading(workers).timing if measured.data.cache == "none" else measured.configured_loader
    model, joint = measured.model.step, measured.joint(workers).timing
    if any(is_above(timing, USELESS_SPREAD) for timing in (model, alone, joint)):
        return True
    for single in (model, alone):
        by_chance = max(LARGE_SPREAD, (single.spread or 0.0) + (joint.spread or 0.0))
        if joint.seconds < (1 - by_chance) * single.seconds:
            return True
    return False


# --- memory of the workers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemoryCheck:
    """One thing that was checked. needed_bytes of available_bytes; None where there is no such place."""

    name: str
    status: Literal["ok", "warning"]
    needed_bytes: int
    available_bytes: int | None
    text: str


def memory_checks(measured: Measurements, verdict: ThroughputVerdict) -> list[MemoryCheck]:
    """Compare the need of a run as advised of /dev/shm and RAM, for handing over batches, with what there is.

    A worker reads into anonymous memory that it shares with the trainer by fork (mlcli/data/workers.py), so the size of
    /dev/shm, 64 MB in a container, does not matter; that is checked and said, since it is where other loaders die.
    """
    shm, available = measured.machine.shm_bytes, measured.machine.available_bytes
    text = "not there, and not needed"
    if shm is not None:
        text = f"{size(shm)}, not needed: workers hand over batches in memory shared by fork"
    dev_shm = MemoryCheck("/dev/shm", "ok", 0, shm, text)
    reads = measured.data.cache == "none" and not measured.data.in_memory
    workers = (measured.data.workers if verdict.workers is None else verdict.workers) if reads else 0
    needed = slots_bytes(measured, workers)
    fits = needed <= MEMORY_SHARE * available  # the model and the page cache need the rest
    if not needed:
        why = "no worker reads ahead" if reads else "nothing is read ahead"
        text = f"{why}; {size(available)} of RAM available"
    else:
        text = (f"{plural(workers, 'worker')} x {measured.prefetch} batches take {size(needed)} of the "
                f"{size(available)} of RAM available")  # fmt: skip
    text = text if fits else f"{text}: lower loader.prefetch"
    return [dev_shm, MemoryCheck("batches read ahead", "ok" if fits else "warning", needed, available, text)]


def slots_bytes(measured: Measurements, workers: int) -> int:
    """Memory in which workers hand over their batches."""
    data = measured.data
    return workers * measured.prefetch * measured.batch_size * (data.bytes_as_tensors // max(1, data.samples))
