"""CPUs and memory that this process may use, within the limits of its control group, and how threads wait.

No torch in here: `spin_briefly` is called before it is imported.

A container sees all CPUs and all memory of its host; what it may use stands in the files of its control group (Linux
kernel documentation, admin-guide/cgroup-v2 and cgroup-v1). A limit of any enclosing group holds too.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mlcli.engine.processes import place

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")
SPINS = 10_000  # of a few nanoseconds each; GNU OpenMP does 300,000


def spin_briefly() -> None:
    """Have OpenMP's threads, which torch computes with on a CPU, soon go to sleep when they wait for work.

    To be called before torch is imported: OpenMP looks at its variables once. What the user has set stays.

    By GNU's default they spin for some milliseconds after every operation, on cores that processes reading data could
    use: with 2 workers on 2 cores, 640x480 JPEGs came 1.3 times and 32x32 ones 1.5 times as fast with a thirtieth of
    it, and models trained no slower, whose operations follow each other within microseconds. A tenth of that again
    slowed small ones.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def usable_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """CPUs this process may keep busy: its affinity, or its group's share of time in whole CPUs; at least 1.

    Of several processes that train together on this machine (`mlcli.engine.processes`) each gets as many.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _folders(cgroups, membership, "cpu"):
        quota_and_period = _numbers(folder / "cpu.max") or _numbers(
            folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
        )
        if quota_and_period:
            allowed = min(allowed, quota_and_period[0] // quota_and_period[1])
    return max(allowed // place().local_size, 1)


def usable_threads(usable: int | None = None, cpus: int | None = None) -> tuple[int, str]:
    """Return how many threads to compute with, and what limits them; "" for as many as the machine has CPUs.

    The least of what `usable_cpus` finds and the variable OMP_NUM_THREADS asks for; usable, cpus: of this machine
    unless given.
    """
    cpus, usable = cpus or os.cpu_count() or 1, usable or usable_cpus()
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has a number for each level
    if asked == "1" and "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun sets it where the user has not
        asked = ""
    if asked.isascii() and asked.isdecimal() and 0 < int(asked) < usable:
        return int(asked), f"OMP_NUM_THREADS is {asked}"
    return usable, f"affinity or control group allow {usable} of {cpus} CPUs" if usable < cpus else ""


def has_bf16_units(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the CPU computes with bf16 numbers itself (AVX-512 BF16, AMX, Arm); without, they are far slower."""
    flags = _words(cpuinfo)
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", "bf16"))


def available_memory_bytes(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Memory that can still be taken without swapping; cached files count as free, since they give way."""
    import psutil  # nothing that `mlcli --help` waits for

    available = psutil.virtual_memory().available
    for folder in _folders(cgroups, membership, "memory"):
        for limit_file, used_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit_and_use = _numbers(folder / limit_file, folder / used_file)
            if limit_and_use:
                stat = _words(folder / "memory.stat")
                reclaimable = int(stat[stat.index(cached) + 1]) if cached in stat else 0
                available = min(available, limit_and_use[0] - limit_and_use[1] + reclaimable)
    return max(available, 0)


def _folders(cgroups: Path, membership: Path, controller: str) -> Iterator[Path]:
    """The group this process is in and all that enclose it. Inside a container only the outermost may be visible."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = cgroups / controller if controllers else cgroups  # version 1 keeps a tree for each controller
            group = Path(path.lstrip("/"))
            yield from (root / part for part in (group, *group.parents))


def _numbers(*files: Path) -> list[int]:
    """The two numbers in these files; nothing where one is missing, or is "max" or -1 for no limit."""
    words = [word for file in files for word in _words(file)]
    return [int(word) for word in words] if len(words) == 2 and all(word.isdecimal() for word in words) else []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
