"""From measured rates to a sentence and to advice: arithmetic alone, nothing is measured here.

Workers read while the model computes; what the trainer's own process does to a batch comes on top of the model's time.
A step therefore takes `max(reading / workers, own + model)`, and without workers the sum of all three.
"""

from dataclasses import dataclass, replace

from mlcli.machine.findings import Findings, Held
from mlcli.machine.timing import LARGE_SPREAD, Timing, is_above

ENOUGH = 1.25
"""Times the model's appetite that the loader should deliver: what is left for a busier moment of the machine."""
TOLERATED_WAIT = 0.10
"""Share of the training time spent waiting from which on `train` names bench-io."""
GAIN = 0.05  # of the training's speed, below which a change is not worth writing down
OWN_BOUND = 1.1  # the loader takes no more than this times what the trainer's own process does to a batch
MEMORY_SHARE = 0.5  # of the available memory that a cache may take on advice
POINTS = 0.10  # by which ratio and share of waiting may disagree before a sentence has to say why
USELESS_SPREAD = 0.50  # half of the laps differ by more than half: no verdict can be built on that
TOO_BUSY = "The machine was too busy for a verdict to be relied on; measure again."


@dataclass(frozen=True)
class Rating:
    """One number of workers: ratio of the loader's rate to the model's, and the share of time spent waiting.

    step_s: seconds per sample with the model, as measured together.
    enough: whether reading does not hold the training up.
    why: why the share is not what the ratio lets expect, in brackets; empty where it is.
    """

    workers: int
    ratio: float
    wait_share: float
    step_s: float
    enough: bool
    why: str = ""


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
    alone = ratio = model_s / alone_s
    expected = expected_wait_share(alone_s, own_s if workers else 0, model_s, workers)
    if workers and (starves or _shared(alone, wait, expected)):  # the two take the cores from each other
        ratio = 1 - waits_for_reading if _shared(alone, wait, expected) else min(ratio, 1 - waits_for_reading)
    # Workers have to keep up with the trainer's process, which makes batches besides; where making them is all that
    # the loader spends its time on, more workers bring nothing. Without workers there is no rush to be ready for.
    keeps_up = own_s + model_s >= (ENOUGH if workers else 1) * alone_s or alone_s <= OWN_BOUND * own_s
    why = _why(alone, ratio, wait, expected)
    return Rating(workers, ratio, wait, joint.timing.seconds, keeps_up and not starves, why)


def judge(findings: Findings) -> Verdict:
    """The verdict of a whole measurement, with what speaks against relying on it."""
    verdict = _judge(findings)
    doubts, sentence = [], verdict.sentence
    if _cut(findings):
        doubts.append(f"measured with batches of {findings.batch_size} instead of {findings.asked_batch_size}, so this "
                      "is a rough guess")  # fmt: skip
        sentence = f"{sentence.removesuffix('.')} ({doubts[0]})."
    judged = {findings.together[0].workers} if findings.data.cache != "none" else {findings.data.workers}
    if verdict.workers is not None:
        judged.add(verdict.workers)
    if any(_useless(findings, workers) for workers in judged):
        doubts.append(TOO_BUSY)
        sentence += f" {TOO_BUSY}"
    return replace(verdict, sentence=sentence, doubts=tuple(doubts))


def _judge(findings: Findings) -> Verdict:
    caches = tuple(_cache_option(findings, held) for held in findings.held)
    if findings.data.cache != "none":
        return _judge_memory(findings, caches)
    ratings = tuple(rate(findings, loading.workers) for loading in findings.loader)
    now = next(rating for rating in ratings if rating.workers == findings.data.workers)
    fewest = next((rating for rating in ratings if rating.enough), None)
    if now.enough or now.wait_share <= TOLERATED_WAIT:
        sentence = f"{_feeds(now, findings)}. {_reading_is_no_matter(now.ratio, now.wait_share, findings)}"
        return Verdict(now.ratio, now.wait_share, True, sentence, None, None, _count(fewest), ratings, caches)
    best = next((rating for rating in ratings if rating.enough and _is_worth_it(rating, now)), _fastest(ratings))
    cache = None if fewest else _better_cache(findings, caches, best)
    changes = _is_worth_it(best, now) and (best.enough or best.step_s < (1 - GAIN) * now.step_s)
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
    return [(name, timing.spread) for name, timing in timings if timing.spread and is_above(timing, LARGE_SPREAD)]


def times(ratio: float) -> str:
    """0.83x, 1.6x, 250x"""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.2g}x"


def slots_bytes(findings: Findings, workers: int) -> int:
    """Memory in which workers hand over their batches."""
    data = findings.data
    return workers * findings.prefetch * findings.asked_batch_size * (data.bytes_as_tensors // max(1, data.samples))


def _judge_memory(findings: Findings, caches: tuple[CacheOption, ...]) -> Verdict:
    """Data that are in memory: nothing is read, so there is nothing that the loader section could make faster."""
    model_s, fed_s, wait = findings.model.step.seconds, findings.fed.seconds, findings.together[0].wait_share
    ratio = model_s / fed_s
    why = _why(ratio, ratio, wait, expected_wait_share(fed_s, 0, model_s, 0))
    where = "in memory" if findings.data.in_memory else f"cached ({findings.data.cache})"
    sentence = f"The data are {where}: the loader feeds {times(ratio)} what the model eats{why}, which waits {wait:.0%}"
    sentence += f" of the time. {_reading_is_no_matter(ratio, wait, findings)}"
    return Verdict(ratio, wait, True, sentence, None, None, None, (), caches)


def _cut(findings: Findings) -> bool:
    """Whether smaller batches than those asked for were measured."""
    return findings.batch_size < findings.asked_batch_size


def _useless(findings: Findings, workers: int) -> bool:
    """Whether what was measured with so many workers varies too much, or cannot be: reading and training at once
    take no less than either alone."""
    alone = findings.loading(workers).timing if findings.data.cache == "none" else findings.fed
    model, joint = findings.model.step, findings.joint(workers).timing
    if any(is_above(timing, USELESS_SPREAD) for timing in (model, alone, joint)):
        return True
    return any(joint.seconds < (1 - _allowance(single, joint)) * single.seconds for single in (model, alone))


def _allowance(*timings: Timing) -> float:
    """Share by which timings may differ by chance."""
    return max(LARGE_SPREAD, sum(timing.spread or 0.0 for timing in timings))


def _shared(alone: float, wait: float, expected: float) -> bool:
    """Whether the wait is neither what the ratio of the two alone lets expect nor what taking turns explains."""
    return abs(wait - max(0.0, 1 - alone)) > POINTS and abs(wait - expected) > POINTS


def _why(alone: float, ratio: float, wait: float, expected: float) -> str:
    """Why a share of waiting is not what the ratio beside it lets expect; empty where it is.

    alone: ratio of the loader alone to the model alone; ratio: the one that is told; expected: wait without sharing.
    """
    if _shared(alone, wait, expected):
        told = "alone" if ratio == alone else f"alone it would be {times(alone)}"
        return f" ({told}; together both slow down, as they share the CPU)"
    if abs(wait - max(0.0, 1 - ratio)) > POINTS:
        return " (making batches and training take turns)"
    return ""


def _is_worth_it(rating: Rating, now: Rating) -> bool:
    """More workers only where training gets no slower, fewer only where it gets clearly faster."""
    if rating.workers > now.workers:
        return rating.step_s <= now.step_s
    return rating.step_s < (1 - GAIN) * now.step_s


def _reading_is_no_matter(ratio: float, wait: float, findings: Findings) -> str:
    """Nothing to do about reading; where the model waits all the same, what for."""
    reading = "Reading is faster than training" if ratio >= 1 else "Reading hardly holds training up"
    if findings.data.cache != "none":
        reading = "Nothing is read while training"
    if _cut(findings):
        reading += ", it seems"
    if wait <= TOLERATED_WAIT:
        return f"{reading}: {'probably ' if _cut(findings) else ''}nothing to do."
    own = [stage for stage in findings.stages if stage.timing and stage.by == "trainer"]
    costly = max(own, key=lambda stage: stage.timing.seconds if stage.timing and not stage.part else 0.0)
    parts = ", ".join(stage.name for stage in own if stage.part) if costly.name == "augment" else ""
    nothing = "probably nothing to do about it" if _cut(findings) else "nothing to do about it"
    return (f"{reading}: {nothing}. The wait is for making batches in the trainer's own process, which no "
            f"worker or cache takes over, most of it: {costly.name}{f' ({parts})' if parts else ''}.")  # fmt: skip


def _feeds(now: Rating, findings: Findings) -> str:
    workers = "without workers" if now.workers == 0 else f"with {_workers(now.workers)}"
    device = "GPU" if findings.machine.device != "cpu" else "model"
    return (
        f"As configured ({workers}) the loader feeds {times(now.ratio)} what the model eats{now.why}; "
        f"the {device} would wait {now.wait_share:.0%} of the time"
    )


def _what_helps(now: Rating, best: Rating, workers: int | None, cache: CacheOption | None, findings: Findings) -> str:
    if cache is not None:
        held = f"held in {cache.cache}, the data feed {times(cache.ratio)} what the model eats"
        return (f"No number of workers up to {findings.loader[-1].workers} is enough; {held} and the wait falls to "
                f"{cache.wait_share:.0%}.")  # fmt: skip
    if workers is not None:
        after = "Reading then hardly holds training up" if best.enough else "That is the best this machine can do"
        if best.enough and best.ratio >= 1:
            after = "Reading is then faster than training"
        feeds = f"With {_workers(workers)} it feeds {times(best.ratio)}{best.why}"
        return f"{feeds}, waiting {best.wait_share:.0%}. {after}."
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
