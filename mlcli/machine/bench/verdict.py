"""From ratings to a sentence and to advice: arithmetic alone, nothing is measured here."""

from dataclasses import dataclass, replace

from mlcli.machine.bench.findings import Findings
from mlcli.machine.bench.rating import (
    TOLERATED_WAIT,
    CacheOption,
    Rating,
    cache_option,
    expected_wait_share,
    rate,
    times,
    why,
)
from mlcli.machine.bench.timing import LARGE_SPREAD, Timing, is_above
from mlcli.text import plural

GAIN = 0.05  # of the training's speed, below which a change is not worth writing down
USELESS_SPREAD = 0.50  # half of the laps differ by more than half: no verdict can be built on that
TOO_BUSY = "The machine was too busy for a verdict to be relied on; measure again."


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
    caches = tuple(cache_option(findings, held) for held in findings.held)
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
    timings += [(f"loader with {plural(loading.workers, 'worker')}", loading.timing) for loading in findings.loader]
    timings += [("model", findings.model.step)]
    timings += [(f"together, {plural(joint.workers, 'worker')}", joint.timing) for joint in findings.together]
    return [(name, timing.spread) for name, timing in timings if timing.spread and is_above(timing, LARGE_SPREAD)]


def _judge_memory(findings: Findings, caches: tuple[CacheOption, ...]) -> Verdict:
    """Data that are in memory: nothing is read, so there is nothing that the loader section could make faster."""
    model_s, fed_s, wait = findings.model.step.seconds, findings.fed.seconds, findings.together[0].wait_share
    ratio = model_s / fed_s
    explained = why(ratio, ratio, wait, expected_wait_share(fed_s, 0, model_s, 0))
    where = "in memory" if findings.data.in_memory else f"cached ({findings.data.cache})"
    feeds = f"the loader feeds {times(ratio)} what the model eats{explained}, which waits {wait:.0%} of the time"
    sentence = f"The data are {where}: {feeds}. {_reading_is_no_matter(ratio, wait, findings)}"
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
    workers = "without workers" if now.workers == 0 else f"with {plural(now.workers, 'worker')}"
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
        feeds = f"With {plural(workers, 'worker')} it feeds {times(best.ratio)}{best.why}"
        return f"{feeds}, waiting {best.wait_share:.0%}. {after}."
    return "That is the best this machine can do: smaller files, fewer pixels or a cache (see below) would help."


def _fastest(ratings: tuple[Rating, ...]) -> Rating:
    """The fewest workers with which training is within GAIN of its fastest."""
    least_s = min(rating.step_s for rating in ratings)
    return next(rating for rating in ratings if rating.step_s <= (1 + GAIN) * least_s)


def _better_cache(findings: Findings, caches: tuple[CacheOption, ...], best: Rating) -> CacheOption | None:
    """The cache to advise where workers are not enough. Not where it would change what is learned: crops from
    smaller images are other crops."""
    ram = next(option for option in caches if option.cache == "ram")
    held_s = next(held.timing.seconds for held in findings.held if held.cache == "ram")
    useful = ram.fits and held_s + findings.model.step.seconds < (1 - GAIN) * best.step_s
    return ram if useful and not findings.data.crops else None


def _count(rating: Rating | None) -> int | None:
    return None if rating is None else rating.workers
