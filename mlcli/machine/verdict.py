"""From measured rates to a sentence and to advice: arithmetic alone, nothing is measured here.

Workers read while the model computes; what the trainer's own process does to a batch comes on top of the model's time.
A step therefore takes `max(reading / workers, own + model)`, and without workers the sum of all three.
"""

from dataclasses import dataclass

from mlcli.machine.findings import Findings, Held
from mlcli.machine.timing import LARGE_SPREAD

ENOUGH = 1.25
"""Times the model's appetite that the loader should deliver: what is left for a busier moment of the machine."""
TOLERATED_WAIT = 0.10
"""Share of the training time spent waiting from which on `train` names bench-io."""
GAIN = 0.05  # of the training's speed, below which a change is not worth writing down
OWN_BOUND = 1.1  # the loader takes no more than this times what the trainer's own process does to a batch
MEMORY_SHARE = 0.5  # of the available memory that a cache may take on advice


@dataclass(frozen=True)
class Rating:
    """One number of workers: ratio of the loader's rate to the model's, and the share of time spent waiting.

    step_s: seconds per sample with the model, as measured together.
    enough: whether reading does not hold the training up.
    """

    workers: int
    ratio: float
    wait_share: float
    step_s: float
    enough: bool


@dataclass(frozen=True)
class CacheOption:
    """What holding all samples would cost and bring.

    bytes: of memory; fill_s: seconds to read all files once; ratio, wait_share: afterwards.
    """

    cache: str
    bytes: int
    fill_s: float
    ratio: float
    wait_share: float
    fits: bool


@dataclass(frozen=True)
class Verdict:
    """ratio, wait_share: as configured. workers, cache: what to write into the YAML, None for leaving it as it is.

    fewest_workers: that feed `ENOUGH`; None if no measured number does, or no worker has anything to do.
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


def expected_wait_share(read_s: float, own_s: float, model_s: float, workers: int) -> float:
    """Share of the training time, 0 to 1, in which the model waits, if nothing gets in another's way.

    read_s: per sample, of all workers together, or of the trainer's process without workers. own_s, model_s: likewise.
    """
    step_s = max(read_s, own_s + model_s) if workers else read_s + own_s + model_s
    return 1 - model_s / step_s


def rate(findings: Findings, workers: int) -> Rating:
    """How well this many workers feed the model, where files are read while training."""
    alone_s, joint = findings.loading(workers).timing.seconds, findings.joint(workers)
    model_s, own_s, wait = findings.model.step.seconds, findings.own_s, joint.wait_share
    waits_for_reading = wait - min(wait, own_s / joint.timing.seconds)
    starves = waits_for_reading > TOLERATED_WAIT
    ratio = model_s / alone_s
    if starves and workers:  # whatever the two can do alone: on a CPU they take the cores from each other
        ratio = min(ratio, 1 - waits_for_reading)
    # Workers have to keep up with the trainer's process, which makes batches besides; where making them is all that
    # the loader spends its time on, more workers bring nothing. Without workers, even a quick loader is waited for.
    keeps_up = workers == 0 or own_s + model_s >= ENOUGH * alone_s or alone_s <= OWN_BOUND * own_s
    return Rating(workers, ratio, wait, joint.timing.seconds, keeps_up and not starves)


def judge(findings: Findings) -> Verdict:
    """The verdict of a whole measurement."""
    caches = tuple(_cache_option(findings, held) for held in findings.held)
    if findings.data.cache != "none":
        return _judge_memory(findings, caches)
    ratings = tuple(rate(findings, loading.workers) for loading in findings.loader)
    now = next(rating for rating in ratings if rating.workers == findings.data.workers)
    fewest = next((rating for rating in ratings if rating.enough), None)
    if now.enough:
        sentence = f"{_feeds(now, findings)}. {_reading_is_no_matter(now.wait_share, findings)}"
        return Verdict(now.ratio, now.wait_share, True, sentence, None, None, _count(fewest), ratings, caches)
    best = fewest or _fastest(ratings)
    cache = None if fewest else _better_cache(findings, caches, best)
    changes = best.workers != now.workers and (fewest is not None or best.step_s < (1 - GAIN) * now.step_s)
    workers = best.workers if changes and cache is None else None
    sentence = f"{_feeds(now, findings)}. {_what_helps(now, best, workers, cache, findings)}"
    return Verdict(now.ratio, now.wait_share, workers is None and cache is None, sentence, workers,
                   cache.cache if cache else None, _count(fewest), ratings, caches)  # fmt: skip


def spreads(findings: Findings) -> list[tuple[str, float]]:
    """What was measured with a spread above LARGE_SPREAD."""
    timings = [(stage.name, stage.timing) for stage in findings.stages if stage.timing and stage.by != "comparison"]
    timings += [(f"loader with {_workers(loading.workers)}", loading.timing) for loading in findings.loader]
    timings += [("model", findings.model.step)]
    timings += [(f"together, {_workers(joint.workers)}", joint.timing) for joint in findings.together]
    return [(name, timing.spread) for name, timing in timings if timing.spread and timing.spread > LARGE_SPREAD]


def times(ratio: float) -> str:
    """0.83x, 1.6x, 250x"""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def slots_bytes(findings: Findings, workers: int) -> int:
    """Memory in which workers hand over their batches."""
    data = findings.data
    return workers * findings.prefetch * findings.asked_batch_size * (data.bytes_as_tensors // max(1, data.samples))


def _judge_memory(findings: Findings, caches: tuple[CacheOption, ...]) -> Verdict:
    """Data that are in memory: nothing is read, so there is nothing that the loader section could make faster."""
    ratio, wait = findings.model.step.seconds / findings.fed.seconds, findings.together[0].wait_share
    where = "in memory" if findings.data.in_memory else f"cached ({findings.data.cache})"
    sentence = (
        f"The data are {where}: the loader feeds {times(ratio)} what the model eats, which waits {wait:.0%} of the "
    )
    sentence += f"time. {_reading_is_no_matter(wait, findings)}"
    return Verdict(ratio, wait, True, sentence, None, None, None, (), caches)


def _reading_is_no_matter(wait: float, findings: Findings) -> str:
    """Nothing to do about reading; where the model waits all the same, what for."""
    reading = "Nothing is read while training" if findings.data.cache != "none" else "Reading is faster than training"
    if wait <= TOLERATED_WAIT:
        return f"{reading}: nothing to do."
    own = [stage for stage in findings.stages if stage.timing and stage.by == "trainer"]
    costly = max(own, key=lambda stage: stage.timing.seconds if stage.timing and not stage.part else 0.0)
    parts = ", ".join(stage.name for stage in own if stage.part) if costly.name == "augment" else ""
    return (f"{reading}: nothing to do about it. The wait is for making batches in the trainer's own process, which no "
            f"worker or cache takes over, most of it: {costly.name}{f' ({parts})' if parts else ''}.")  # fmt: skip


def _feeds(now: Rating, findings: Findings) -> str:
    workers = "without workers" if now.workers == 0 else f"with {_workers(now.workers)}"
    device = "GPU" if findings.machine.device != "cpu" else "model"
    return (
        f"As configured ({workers}) the loader feeds {times(now.ratio)} what the model eats; "
        f"the {device} would wait {now.wait_share:.0%} of the time"
    )


def _what_helps(now: Rating, best: Rating, workers: int | None, cache: CacheOption | None, findings: Findings) -> str:
    if cache is not None:
        return (f"No number of workers up to {findings.loader[-1].workers} feeds {ENOUGH}x; held in {cache.cache}, the "
                f"data would: it feeds {times(cache.ratio)} and the wait falls to {cache.wait_share:.0%}.")  # fmt: skip
    if workers is not None:
        after = "Reading is then faster than training" if best.enough else "That is the best this machine can do"
        return f"With {_workers(workers)} it feeds {times(best.ratio)}, waiting {best.wait_share:.0%}. {after}."
    return "That is the best this machine can do: smaller files, fewer pixels or a cache (see below) would help."


def _fastest(ratings: tuple[Rating, ...]) -> Rating:
    """The fewest workers with which training is within GAIN of its fastest."""
    least_s = min(rating.step_s for rating in ratings)
    return next(rating for rating in ratings if rating.step_s <= (1 + GAIN) * least_s)


def _cache_option(findings: Findings, held: Held) -> CacheOption:
    data, model_s, feed_s = findings.data, findings.model.step.seconds, held.timing.seconds
    fill_s = data.samples * min((loading.timing.seconds for loading in findings.loader), default=0.0)
    needed = 0 if data.in_memory and held.cache == "ram" else data.bytes_as_tensors
    fits = needed <= MEMORY_SHARE * findings.machine.available_bytes
    return CacheOption(held.cache, needed, fill_s, model_s / feed_s, expected_wait_share(feed_s, 0, model_s, 0), fits)


def _better_cache(findings: Findings, caches: tuple[CacheOption, ...], best: Rating) -> CacheOption | None:
    """The cache to advise where workers are not enough. Not where it would change what is learned: crops from
    smaller images are other crops."""
    ram = next(option for option in caches if option.cache == "ram")
    held_s = next(held.timing.seconds for held in findings.held if held.cache == "ram")
    useful = ram.fits and held_s + findings.model.step.seconds < (1 - GAIN) * best.step_s
    return ram if useful and not findings.data.crops else None


def _count(rating: Rating | None) -> int | None:
    return None if rating is None else rating.workers


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"
