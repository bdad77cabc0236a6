"""How many CPUs and how much memory this process may really use: affinity and control groups, not what is built in.

A container given 2 of 64 CPUs still counts 64 with os.cpu_count(); threads or workers started for all of them only get
in each other's way.
"""

import os
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs this process may use at once: the smaller of its affinity and its control group's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return max(1, min(affinity, int(quota)) if quota else affinity)


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs granted by the control group (v2 cpu.max, v1 cfs_quota_us), or None without a limit."""
    if text := _read(cgroup / "cpu.max"):
        quota, period = text.split()
        return None if quota == "max" else max(1.0, float(quota) / float(period))
    quota, period = _read(cgroup / "cpu/cpu.cfs_quota_us"), _read(cgroup / "cpu/cpu.cfs_period_us")
    if quota and period and float(quota) > 0:
        return max(1.0, float(quota) / float(period))
    return None


def available_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Memory that can be taken without swapping: what the system has left, or what the control group still grants."""
    free = psutil.virtual_memory().available
    for limit_file, used_file in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        limit, used = _read(cgroup / limit_file), _read(cgroup / used_file)
        if limit and used and limit != "max":
            free = min(free, max(0, int(limit) - int(used)))
    return free


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
