"""How well the loader feeds the model, from measured rates: by number of workers, and from each cache.

Workers read while the model computes; what the trainer's own process does to a batch comes on top of the model's time.
A step therefore takes `max(reading / workers, own + model)`, and without workers the sum of all three.
"""

from dataclasses import dataclass

from mlcli.machine.bench.findings import Findings, Held

ENOUGH = 1.25
"""Times the model's appetite that the loader should deliver: what is left for a busier moment of the machine."""
TOLERATED_WAIT = 0.10
"""Share of the training time spent waiting from which on `train` names bench-io."""
OWN_BOUND = 1.1  # the loader takes no more than this times what the trainer's own process does to a batch
MEMORY_SHARE = 0.5  # of the available memory that a cache may take on advice
POINTS = 0.10  # by which ratio and share of waiting may disagree before a sentence has to say why


@dataclass(frozen=True)
class Rating:
    """One number of workers: ratio of the loader's rate to the model's, and the share of time spent waiting.

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
    """What holding all samples would cost and bring.

    bytes: of memory; fill_s: seconds to read all files once; ratio, wait_share: afterwards.
    """

    cache: str
    bytes: int
    fill_s: float
    ratio: float
    wait_share: float
    fits: bool


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
    explained = why(alone, ratio, wait, expected)
    cold = _cold_wait_share(findings, workers, starves)
    return Rating(workers, ratio, wait, joint.timing.seconds, keeps_up and not starves, cold, explained)


def _cold_wait_share(findings: Findings, workers: int, starves: bool) -> float:
    """Every file takes longer by what the disk needs for it, which workers do side by side."""
    joint, extra_s = findings.joint(workers), findings.disk_s / max(1, workers)
    learning_s = (1 - joint.wait_share) * joint.timing.seconds
    # Where the loader sets the pace, a step takes as long as reading does, with all that the two take from each other.
    pace_s = joint.timing.seconds if starves or not workers else findings.loading(workers).timing.seconds
    return 1 - learning_s / max(joint.timing.seconds, pace_s + extra_s)


def cache_option(findings: Findings, held: Held) -> CacheOption:
    data, model_s, feed_s = findings.data, findings.model.step.seconds, held.timing.seconds
    fill_s = data.samples * min((loading.timing.seconds for loading in findings.loader), default=0.0)
    needed = 0 if data.in_memory and held.cache == "ram" else data.bytes_as_tensors
    fits = needed <= MEMORY_SHARE * findings.machine.available_bytes
    return CacheOption(held.cache, needed, fill_s, model_s / feed_s, expected_wait_share(feed_s, 0, model_s, 0), fits)


def slots_bytes(findings: Findings, workers: int) -> int:
    """Memory in which workers hand over their batches."""
    data = findings.data
    return workers * findings.prefetch * findings.asked_batch_size * (data.bytes_as_tensors // max(1, data.samples))


def told(ratio: float) -> float:
    """A ratio as it is shown, in two digits: what is compared with a bound is what a person reads."""
    return float(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}")


def times(ratio: float) -> str:
    """0.83x, 1.6x, 250x"""
    return f"{told(ratio):g}x" if ratio < 1e6 else f"{ratio:.0f}x"


def _shared(alone: float, wait: float, expected: float) -> bool:
    """Whether the wait is neither what the ratio of the two alone lets expect nor what taking turns explains."""
    return abs(wait - max(0.0, 1 - alone)) > POINTS and abs(wait - expected) > POINTS


def why(alone: float, ratio: float, wait: float, expected: float) -> str:
    """Why a share of waiting is not what the ratio beside it lets expect; empty where it is.

    alone: ratio of the loader alone to the model alone; ratio: the one that is told; expected: wait without sharing.
    """
    if _shared(alone, wait, expected):
        told = "alone" if ratio == alone else f"alone it would be {times(alone)}"
        return f" ({told}; together both slow down, as they share the CPU)"
    if abs(wait - max(0.0, 1 - ratio)) > POINTS:
        return " (making batches and training take turns)"
    return ""
