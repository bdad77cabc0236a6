"""What the feed decides where the YAML says auto: where samples are held, how many workers read them, and why."""

import math
import shutil
from collections.abc import Callable, Collection

import torch

from mlcli.data.disk_cache import DiskCache
from mlcli.data.source import Arrays, Source
from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.engine.settings import Loader
from mlcli.errors import ConfigError
from mlcli.text import size

MOST_WORKERS = 8  # more rarely help one trainer, and each costs memory
_CACHE_SHARE = 0.25  # of the available memory that decoded samples may take unasked


def choose_cache(
    source: Source, loader: Loader, device: torch.device, disk: Collection[DiskCache], *, crops: bool
) -> tuple[str, str]:
    """none, ram, disk or device, and why. Raises ConfigError where there is too little room for what was asked."""
    num = sum(len(samples) for samples in source.splits.values())
    needed = num * math.prod(source.info.input_shape)
    if in_memory(source):
        if loader.cache == "device":
            return "device", "as asked"
        return "ram", "the data are in memory as they are"
    if loader.cache == "disk":
        return "disk", f"as asked; {_on_disk(disk)}{_cut_from_held(crops)}"
    available = available_memory_bytes()
    if loader.cache == "auto":
        if crops:
            return "none", "random_resized_crop cuts from the original pixels"
        share = f"{size(needed)} decoded, {100 * needed / max(available, 1):.1f} % of the available memory"
        return ("ram" if needed <= _CACHE_SHARE * available else "none"), share
    if loader.cache == "device" and device.type == "cuda":
        available = min(available, torch.cuda.mem_get_info(device)[0])
    if loader.cache != "none" and needed > available:
        raise ConfigError(
            f"the decoded images take {size(needed)}, but {size(available)} of memory are available",
            where=f"loader.cache={loader.cache}",
            fix="loader.cache=none",
        )
    return loader.cache, f"as asked{_cut_from_held(crops) if loader.cache != 'none' else ''}"


def choose_workers(
    source: Source,
    loader: Loader,
    cache: str,
    disk: Collection[DiskCache],
    measure: Callable[[], tuple[int, str] | None],
) -> tuple[int, str]:
    """How many processes read files, and why. `measure` takes its time: only where files are read while training."""
    if in_memory(source):
        return 0, "the data are in memory"
    until = "" if cache == "none" else ", until all files are read"
    if disk and all(held.state == "found" for held in disk):
        until = ", should the cache on disk turn out to be damaged"
    if loader.workers != "auto":
        return loader.workers, f"as asked{until}"
    measured = measure() if cache == "none" else None
    return measured or (min(usable_cpus(), MOST_WORKERS), f"usable CPUs, at most {MOST_WORKERS}{until}")


def in_memory(source: Source) -> bool:
    """Whether no split has files of its own to read."""
    return all(isinstance(samples, Arrays) for samples in source.splits.values())


def _on_disk(disk: Collection[DiskCache]) -> str:
    """What is there, and room for what is not."""
    folder = next(iter(disk)).path.parent
    missing = sum(cache.size_bytes for cache in disk if cache.state != "found")
    told = f"{size(sum(cache.size_bytes for cache in disk))} in {folder}"
    if not missing:
        return f"{told}, written by an earlier run"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if missing > free:
        raise ConfigError(
            f"the decoded images take {size(missing)}, but {size(free)} are free in {there}",
            where="loader.cache=disk",
            fix="loader.cache_folder=FOLDER on a larger disk, or loader.cache=none",
        )
    stale = any(cache.state == "stale" for cache in disk)
    return f"{told}, {'what an earlier run wrote there is stale: ' if stale else ''}to be written"


def _cut_from_held(crops: bool) -> str:
    return "; random_resized_crop cuts from the held images" if crops else ""
