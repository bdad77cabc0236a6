"""What the operating system says: CPUs, memory, limits, the disk underfoot, and whether this is a container or WSL."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.machine.bench.disk import read_cold
from mlcli.machine.env.facts import Folder

VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CONDA_PREFIX",
    "VIRTUAL_ENV",
)
"""Environment variables that decide what is found and used."""
WSL_DRIVER = "usr/lib/wsl/lib/libcuda.so"
SYSTEM_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64")
FILES_LOOKED_AT = 2000
LEAST_READ_BYTES = 4 << 20
"""A smaller file measures the latency of a disk, not its speed."""
MOST_READ_BYTES = 64 << 20
"""A slow disk reads as much within the few seconds there are."""


def host_questions(root: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """Field of HostFacts -> how to find it out."""
    return {
        "system": platform.system,
        "machine": platform.machine,
        "distribution": lambda: distribution(root),
        "container": lambda: in_container(root),
        "wsl": lambda: in_wsl(root),
        "wsl_libcuda": lambda: (root / WSL_DRIVER).exists(),
        "foreign_libcuda": lambda: foreign_libcuda(root),
        "rosetta": rosetta,
        "cpus": os.cpu_count,
        "cpus_usable": lambda: usable_cpus(root / "sys/fs/cgroup", root / "proc/self/cgroup"),
        "memory_bytes": lambda: psutil.virtual_memory().total,
        "memory_available_bytes": lambda: available_memory_bytes(root / "sys/fs/cgroup", root / "proc/self/cgroup"),
        "shm_bytes": lambda: shm_bytes(root),
        "open_files": open_files,
        "folder": lambda: folder_facts(folder, root),
        "cudnn_on_path": lambda: cudnn_on_path(os.environ.get("LD_LIBRARY_PATH", "")),
        "environment": lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def distribution(root: Path) -> str:
    match = re.search(r'^ID="?(\w+)', _text(root / "etc/os-release"), re.MULTILINE)
    return match[1] if match else ""


def in_container(root: Path) -> bool:
    """Docker, Podman or a Kubernetes pod."""
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    groups = _text(root / "proc/self/cgroup") + _text(root / "proc/1/cgroup")
    return marked or bool(re.search(r"docker|kubepods|containerd|libpod", groups))


def in_wsl(root: Path) -> bool:
    return "microsoft" in _text(root / "proc/version").lower()


def foreign_libcuda(root: Path) -> str:
    """A Linux driver installed inside WSL hides the one that Windows lends (CUDA on WSL user guide, section 3)."""
    if not in_wsl(root):
        return ""
    for folder in SYSTEM_LIBRARIES:
        for library in sorted((root / folder).glob("libcuda.so*")):
            if (root / "usr/lib/wsl").resolve() not in library.resolve().parents:
                return str(library)
    return ""


def rosetta() -> bool:
    if platform.system() != "Darwin":
        return False
    command = ["sysctl", "-n", "sysctl.proc_translated"]
    return subprocess.run(command, capture_output=True, text=True, timeout=3).stdout.strip() == "1"


def shm_bytes(root: Path) -> int | None:
    """Size of the shared memory through which workers hand over batches; None where there is no such file system."""
    folder = root / "dev/shm"
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def open_files() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def folder_facts(folder: Path, root: Path) -> Folder:
    kind, device = mount_of(folder.resolve(), _text(root / "proc/self/mounts"))
    return Folder(str(folder), kind, rotational(device, root), shutil.disk_usage(folder).free)


def mount_of(folder: Path, mounts: str) -> tuple[str, str]:
    """Type and device of the file system a folder is on, from the lines of /proc/self/mounts; the last one wins."""
    best, depth = ("", ""), -1
    for line in mounts.splitlines():
        device, mounted_on, kind, *_ = line.split()
        place = Path(mounted_on.replace("\\040", " "))  # spaces are written in octal
        if (folder == place or place in folder.parents) and len(place.parts) >= depth:
            best, depth = (kind, device), len(place.parts)
    return best


def rotational(device: str, root: Path) -> bool | None:
    """Whether a disk turns; None for what is no local disk. A partition's answer stands with its disk."""
    name = Path(device).name
    for candidate in (name, re.sub(r"p?\d+$", "", name)):
        answer = _text(root / "sys/block" / candidate / "queue/rotational") if candidate else ""
        if answer:
            return answer == "1"
    return None


def cold_read_mb_s(folder: Path, budget_s: float = 1.0) -> float | None:
    """Reads a large file found here after dropping it from the page cache; None without such a file or a way."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sized = [(path.stat().st_size, str(path)) for path in islice(files, FILES_LOOKED_AT)]
    size, path = max((pair for pair in sized if LEAST_READ_BYTES <= pair[0] <= MOST_READ_BYTES), default=(0, ""))
    timing, _ = read_cold([path], budget_s) if path else (None, "")
    return size * timing.per_s / 1e6 if timing else None


def cudnn_on_path(search_path: str) -> tuple[str, ...]:
    folders = [Path(entry) for entry in search_path.split(":") if entry]
    return tuple(str(library) for folder in folders for library in sorted(folder.glob("libcudnn.so*")))


def _text(path: Path) -> str:
    """A short file; empty if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
