"""How many workers read files fastest here: measured before training, because it depends on cores, disk and files.

More than cores pays where files come over a network, fewer where others use the cores. What is read does not depend on
who reads it, so a measurement that turns out otherwise next time changes no result.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator

from mlcli.data.order import Part
from mlcli.data.reading import Inputs
from mlcli.errors import DataError

BUDGET_S = 1.5  # for all of it
_SHARE_S = 0.25  # for one number of workers, once all are at work
_PART_S = 0.03  # of reading, at most, in a batch that is measured: several must fit
_ENOUGH = 0.9  # of the best rate, which is worth no further worker
_GAIN = 1.15  # by less than this, twice the workers did not help, and twice that will not either

OpenReader = Callable[[int, int], Inputs]
"""Makes a reader with so many workers (0: this process) for batches of so many samples."""


def fastest_workers(open_reader: OpenReader, parts: Iterator[Part], most: int) -> tuple[int, str] | None:
    """The fewest workers that read about as fast as any number, and the rates measured, in words.

    Args:
        parts: endless micro-batches as training asks for them; every number of workers reads others.
        most: workers tried.

    None where a file cannot be read: training will say so when it comes to it.
    """
    began, rates = time.perf_counter(), {}
    try:
        rates[0], size = _rate_here(open_reader, parts)
        for workers in _doubling(most):
            with contextlib.closing(open_reader(workers, size)) as reader:
                rates[workers] = _rate(reader, _cut(parts, size), ahead=2 * workers)
            late = time.perf_counter() - began > BUDGET_S - 2 * _SHARE_S
            if late or (workers > 1 and rates[workers] < _GAIN * rates[workers // 2]):
                break
    except DataError:
        return None
    enough = _ENOUGH * max(rates.values())
    # This process comes last though it needs no worker: while it reads, it does not train.
    chosen = next((workers for workers in [*list(rates)[1:], 0] if rates[workers] >= enough), 0)
    told = ", ".join(f"{workers}: {rate:,.0f}" for workers, rate in rates.items())
    return chosen, f"measured images/s by workers: {told}"


def _doubling(most: int) -> Iterator[int]:
    return itertools.takewhile(lambda count: count <= most, (2**power for power in itertools.count()))


def _rate_here(open_reader: OpenReader, parts: Iterator[Part]) -> tuple[float, int]:
    """Samples a second in this process, and how many of them make a batch that is quick to measure."""
    first = next(parts)
    with contextlib.closing(open_reader(0, 1)) as reader:
        one_s = 1 / _rate(reader, _cut(itertools.repeat(first), 1), ahead=1, seconds=_PART_S)
        size = min(len(first), max(1, int(_PART_S / one_s)))
        return _rate(reader, _cut(parts, size), ahead=0), size


def _rate(reader: Inputs, parts: Iterator[Part], *, ahead: int, seconds: float = _SHARE_S) -> float:
    """Samples a second, once the first `ahead` parts are there."""
    fetched = reader.fetch(parts)
    for _ in itertools.islice(fetched, ahead):
        pass
    began, samples = time.perf_counter(), 0
    while not samples or time.perf_counter() - began < seconds:
        part, _ = next(fetched)
        samples += len(part)
    return samples / (time.perf_counter() - began)


def _cut(parts: Iterable[Part], size: int) -> Iterator[Part]:
    """The same samples in parts of `size` at most."""
    for part in parts:
        for start in range(0, len(part), size):
            rows = slice(start, start + size)
            yield Part(part.indices[rows], part.keys[rows])
