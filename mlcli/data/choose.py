"""Decisions of the feed where the YAML says auto: place of the samples and number of workers, with the reasons.

The number of workers is measured before training, because it depends on cores, disk and files: more than cores pays
where files come over a network, fewer where others use the cores. What is read does not depend on who reads it, so a
measurement that turns out otherwise next time changes no result.
"""

import contextlib
import itertools
import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import cast

import torch

from mlcli.data.batches import InputStream, Part
from mlcli.data.disk_cache import DiskCache
from mlcli.data.source import Arrays, Source
from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.engine.settings import Loader
from mlcli.errors import ConfigError, DataError, OutputError
from mlcli.text import plural, size

MOST_WORKERS = 8  # more rarely help one trainer, and each costs memory
WORKERS_A_CPU, LEAST_CAP = 8, 32
"""Workers taken when more are asked for; they may wait for a network, not compute."""
_CACHE_SHARE = 0.25  # of the available memory that decoded samples may take unasked; the rest is for the model
_CHANGED_COPIES = 4  # of a batch as float32, at once, while it is augmented
BUDGET_S = 1.5  # for all of it
_SHARE_S = 0.25  # for one number of workers, once all are at work
_PART_S = 0.03  # of reading, at most, in a batch that is measured: several must fit
_ENOUGH = 0.9  # of the best rate, which is worth no further worker
_GAIN = 1.15  # by less than this, twice the workers did not help, and twice that will not either

OpenReader = Callable[[int, int], InputStream]
"""Makes a reader with so many workers (0: this process) for batches of so many samples."""


def choose_cache(
    source: Source, loader: Loader, device: torch.device, disk: Collection[DiskCache], *, crops: str, batch_size: int
) -> tuple[str, str]:
    """Choose none, ram, disk or device, and say why. Raises ConfigError if there is too little memory for it.

    crops: the name of the augmentation that cuts parts from original pixels; empty for none.
    """
    num = sum(len(samples) for samples in source.splits.values())
    sample = math.prod(source.info.input_shape)
    needed, changed = num * sample, _CHANGED_COPIES * 4 * batch_size * sample
    if in_memory(source):
        if loader.cache == "device":
            return "device", "as asked"
        held = sum(cast(Arrays, samples).inputs.nbytes for samples in source.splits.values())
        return "ram", f"the data are in memory as they are{_would_fit(held, changed, device)}"
    if loader.cache == "disk":
        return "disk", f"as asked; {_on_disk(disk)}{_cut_from_held(crops)}"
    available = available_memory_bytes()
    if loader.cache == "auto":
        if crops:
            return "none", f"{crops} cuts from the original pixels"
        share = f"{size(needed)} decoded, {100 * needed / max(available, 1):.1f} % of the available memory"
        return ("ram" if needed <= _CACHE_SHARE * available else "none"), share + _would_fit(needed, changed, device)
    if loader.cache == "device" and device.type == "cuda":
        available = min(available, torch.cuda.mem_get_info(device)[0])
    if loader.cache != "none" and needed > available:
        what = f"the decoded images take {size(needed)}, but {size(available)} of memory are available"
        raise ConfigError(what, where=f"loader.cache={loader.cache}", fix="loader.cache=none")
    return loader.cache, f"as asked{_cut_from_held(crops) if loader.cache != 'none' else ''}"


def _would_fit(needed: int, changed: int, device: torch.device) -> str:
    """Say whether samples fit on a GPU beside the model, and how they get there.

    They are not put there unasked: whether that is faster was never measured.

    needed, changed: bytes of the samples, and of a batch of them while it is augmented.
    """
    if device.type != "cuda":
        return ""
    free = torch.cuda.mem_get_info(device)[0]
    taken = f"{size(needed)}, and {size(changed)} to augment a batch, are {100 * (needed + changed) / free:.1f} %"
    if needed + changed <= _CACHE_SHARE * free:
        return f"; they would fit on the GPU ({taken} of its free memory): loader.cache=device"
    return f"; on the GPU they would leave the model too little room ({taken} of its free memory)"


def choose_workers(
    source: Source,
    loader: Loader,
    cache: str,
    disk: Collection[DiskCache],
    measure: Callable[[], tuple[int, str] | None],
) -> tuple[int, str]:
    """Choose the number of worker processes, and say why. `measure` is slow: called only if training reads files."""
    if in_memory(source):
        return 0, "the data are in memory"
    until = "" if cache == "none" else ", until all files are read"
    if disk and all(held.state == "found" for held in disk):
        until = ", should the cache on disk turn out to be damaged"
    if loader.workers != "auto":
        most = max(LEAST_CAP, WORKERS_A_CPU * usable_cpus())
        if loader.workers > most:
            return most, f"{loader.workers:,} asked for, {most} taken: {plural(usable_cpus(), 'usable CPU')}{until}"
        return loader.workers, f"as asked{until}"
    measured = measure() if cache == "none" else None
    return measured or (min(usable_cpus(), MOST_WORKERS), f"usable CPUs, at most {MOST_WORKERS}{until}")


def in_memory(source: Source) -> bool:
    """Whether no split has files of its own to read."""
    return all(isinstance(samples, Arrays) for samples in source.splits.values())


def _on_disk(disk: Collection[DiskCache]) -> str:
    """Describe the caches on disk. Raises ConfigError if those to be written do not fit."""
    folder = next(iter(disk)).path.parent
    missing = sum(cache.size_bytes for cache in disk if cache.state != "found")
    text = f"{size(sum(cache.size_bytes for cache in disk))} in {folder}"
    if not missing:
        return f"{text}, written by an earlier run"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        what = f"the decoded images take {size(missing)}, but {size(free)} are free in {there}"
        fix = "loader.cache_folder=FOLDER on a larger disk, or loader.cache=none"
        raise ConfigError(what, where="loader.cache=disk", fix=fix)
    stale = any(cache.state == "stale" for cache in disk)
    return f"{text}, {'what an earlier run wrote there is stale: ' if stale else ''}to be written"


def _cut_from_held(crops: str) -> str:
    return f"; {crops} cuts from the held images" if crops else ""


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
        workers = 1
        while workers <= most:
            with contextlib.closing(open_reader(workers, size)) as reader:
                try:
                    rates[workers] = _rate(reader, _cut(parts, size), ahead=2 * workers)
                except OutputError:  # so many cannot be started
                    break
            late = time.perf_counter() - began > BUDGET_S - 2 * _SHARE_S
            if late or (workers > 1 and rates[workers] < _GAIN * rates[workers // 2]):
                break
            workers *= 2
    except DataError:
        return None
    enough = _ENOUGH * max(rates.values())
    # This process comes last though it needs no worker: while it reads, it does not train.
    chosen = next((workers for workers in [*list(rates)[1:], 0] if rates[workers] >= enough), 0)
    text = ", ".join(f"{workers}: {rate:,.0f}" for workers, rate in rates.items())
    return chosen, f"measured images/s by workers: {text}"


def _rate_here(open_reader: OpenReader, parts: Iterator[Part]) -> tuple[float, int]:
    """Samples a second in this process, and how many of them make a batch that is quick to measure."""
    first = next(parts)
    with contextlib.closing(open_reader(0, 1)) as reader:
        fetched, taken = reader.fetch(_cut(itertools.repeat(first), 1)), list[float]()
        while len(taken) < 4 or (sum(taken) < _PART_S and len(taken) < 32):
            began = time.perf_counter()
            next(fetched)
            taken.append(time.perf_counter() - began)
        one_s = max(min(taken), 1e-6)  # the fastest: on a busy machine others are waited for, not read
        size = min(len(first), max(1, int(_PART_S / one_s)))
        return _rate(reader, _cut(parts, size), ahead=0), size


def _rate(reader: InputStream, parts: Iterator[Part], *, ahead: int) -> float:
    """Samples a second, once the first `ahead` parts are there."""
    fetched = reader.fetch(parts)
    for _ in itertools.islice(fetched, ahead):
        pass
    began, samples = time.perf_counter(), 0
    while not samples or time.perf_counter() - began < _SHARE_S:
        part, _ = next(fetched)
        samples += len(part)
    return samples / (time.perf_counter() - began)


def _cut(parts: Iterable[Part], size: int) -> Iterator[Part]:
    """The same samples in parts of `size` at most."""
    for part in parts:
        for start in range(0, len(part), size):
            rows = slice(start, start + size)
            yield Part(part.indices[rows], part.keys[rows])
