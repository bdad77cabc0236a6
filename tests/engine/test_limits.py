"""Limits of control groups, read from files as the kernel writes them."""

import os

import psutil
import pytest

from mlcli.engine.limits import available_memory_bytes, has_bf16_units, usable_cpus, usable_threads

MIB = 2**20
ALL_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def tree(folder, membership: str, files: dict[str, str]) -> dict:
    """A cgroup file system and a /proc/self/cgroup."""
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "membership").write_text(membership)
    return {"cgroups": folder / "cgroup", "membership": folder / "membership"}


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, ALL_CPUS),
        ("0::/\n", {"cpu.max": "99900000 100000\n"}, ALL_CPUS),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        ("0::/not/visible/here\n", {"cpu.max": "100000 100000\n"}, 1),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "150000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, ALL_CPUS),
        ("4:memory:/d\n", {"cpu.max": "100000 100000\n"}, ALL_CPUS),
        ("", {}, ALL_CPUS),
    ],
    ids=["one", "half", "max", "above", "enclosing", "container", "v1", "v1 none", "other controller", "no groups"],
)
def test_usable_cpus(tmp_path, membership, files, expected):
    assert usable_cpus(**tree(tmp_path, membership, files)) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected_mib"),
    [
        ("0::/\n", {"memory.max": f"{50 * MIB}\n", "memory.current": f"{20 * MIB}\n"}, 30),
        (
            "0::/x\n",
            {
                "x/memory.max": f"{50 * MIB}\n",
                "x/memory.current": f"{40 * MIB}\n",
                "x/memory.stat": f"anon 7\ninactive_file {25 * MIB}\nactive_file 3\n",
            },
            35,
        ),
        ("0::/\n", {"memory.max": f"{MIB}\n", "memory.current": f"{2 * MIB}\n"}, 0),
        (
            "9:memory:/d\n",
            {
                "memory/d/memory.limit_in_bytes": f"{50 * MIB}\n",
                "memory/d/memory.usage_in_bytes": f"{40 * MIB}\n",
                "memory/d/memory.stat": f"cache 1\ntotal_inactive_file {5 * MIB}\n",
            },
            15,
        ),
    ],
    ids=["v2", "cached files give way", "overdrawn", "v1"],
)
def test_available_memory_of_a_group(tmp_path, membership, files, expected_mib):
    assert available_memory_bytes(**tree(tmp_path, membership, files)) == expected_mib * MIB


def test_available_memory_without_limits_is_the_machines(tmp_path):
    none = tree(tmp_path, "0::/\n", {"memory.max": "max\n", "memory.current": "5\n"})
    assert available_memory_bytes(**none) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    assert usable_cpus() >= 1
    assert available_memory_bytes() > 0


def test_bf16_units_are_read_off_the_flags(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : x\nflags : fpu avx512f avx512_bf16 fma\n")
    assert has_bf16_units(cpuinfo)
    cpuinfo.write_text("model name : bf16er\nflags : fpu avx2 fma\n")
    assert not has_bf16_units(cpuinfo)
    assert not has_bf16_units(tmp_path / "none")


@pytest.mark.parametrize(
    ("variable", "usable", "threads", "why"),
    [
        (None, 8, 8, ""),
        (None, 2, 2, "affinity or control group allow 2 of 8 CPUs"),
        ("1", 8, 1, "OMP_NUM_THREADS is 1"),
        ("3,2", 8, 3, "OMP_NUM_THREADS is 3"),
        ("16", 4, 4, "affinity or control group allow 4 of 8 CPUs"),
        ("0", 8, 8, ""),
        ("many", 8, 8, ""),
        ("\u0663", 8, 8, ""),
    ],
)
def test_threads_are_what_variable_affinity_and_group_allow(monkeypatch, variable, usable, threads, why):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert usable_threads(usable, cpus=8) == (threads, why)
