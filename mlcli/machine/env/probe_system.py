"""Facts of a machine by its files, the operating system and NVML, each a question of its own. Nothing is imported.

NVML (the library behind nvidia-smi) works without PyTorch and without any CUDA toolkit.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from mlcli.engine.limits import available_memory_bytes, usable_cpus
from mlcli.machine.bench.disk import mount_of, read_cold, shared_memory_bytes
from mlcli.machine.env.facts import BusDevice, Folder, Gpu, Package

Questions = dict[str, Callable[[], Any]]
"""Name of a fact -> how to find it out."""

# --- the host --------------------------------------------------------------------------------------------------------

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
LEAST_READ_BYTES, MOST_READ_BYTES = 4 << 20, 64 << 20
"""A smaller file measures the latency of a disk, not its speed; a larger one takes a slow disk too long."""


def host_questions(root: Path, folder: Path) -> Questions:
    """The fields of HostFacts. `root` holds proc, sys, dev and etc."""
    cgroups = root / "sys/fs/cgroup", root / "proc/self/cgroup"
    return {
        "system": platform.system,
        "machine": platform.machine,
        "distribution": lambda: _match(r'^ID="?(\w+)', _text(root / "etc/os-release")),
        "container": lambda: in_container(root),
        "wsl": lambda: in_wsl(root),
        "wsl_libcuda": lambda: (root / WSL_DRIVER).exists(),
        "foreign_libcuda": lambda: foreign_libcuda(root),
        "rosetta": rosetta,
        "cpus": os.cpu_count,
        "cpus_usable": lambda: usable_cpus(*cgroups),
        "load": lambda: os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_bytes": lambda: psutil.virtual_memory().total,
        "memory_available_bytes": lambda: available_memory_bytes(*cgroups),
        "shm_bytes": lambda: shared_memory_bytes(root / "dev/shm"),
        "open_files": open_files,
        "folder": lambda: folder_facts(folder, root),
        "cudnn_on_path": lambda: cudnn_on_path(os.environ.get("LD_LIBRARY_PATH", "")),
        "environment": lambda: {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def in_container(root: Path) -> bool:
    """Docker, Podman or a Kubernetes pod."""
    marked = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    groups = _text(root / "proc/self/cgroup") + _text(root / "proc/1/cgroup")
    return marked or bool(re.search(r"docker|kubepods|containerd|libpod", groups))


def in_wsl(root: Path) -> bool:
    return "microsoft" in _text(root / "proc/version").lower()


def foreign_libcuda(root: Path) -> str:
    """A Linux driver installed inside WSL hides the one that Windows provides (CUDA on WSL user guide, section 3)."""
    lent = (root / "usr/lib/wsl").resolve()
    libraries = [path for folder in SYSTEM_LIBRARIES for path in sorted((root / folder).glob("libcuda.so*"))]
    foreign = (str(library) for library in libraries if lent not in library.resolve().parents)
    return next(foreign, "") if in_wsl(root) else ""


def rosetta() -> bool:
    command = ["sysctl", "-n", "sysctl.proc_translated"]
    return platform.system() == "Darwin" and subprocess.check_output(command, text=True, timeout=3).strip() == "1"


def open_files() -> int | None:
    """Soft limit of files open at once; None for none, as on Windows."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def folder_facts(folder: Path, root: Path) -> Folder:
    kind, device = mount_of(folder.resolve())
    return Folder(str(folder), kind, rotational(device, root), shutil.disk_usage(folder).free)


def rotational(device: str, root: Path) -> bool | None:
    """Whether a disk turns; None for what is no local disk. A partition's answer stands with its disk."""
    name = Path(device).name
    answers = [_text(root / "sys/block" / disk / "queue/rotational") for disk in (name, re.sub(r"p?\d+$", "", name))]
    return next((answer == "1" for answer in answers if answer), None) if name else None


def cold_read_mb_s(folder: Path) -> float | None:
    """Read a large file found here after dropping it from the page cache; None without such a file or a way."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sized = [(path.stat().st_size, str(path)) for path in islice(files, FILES_LOOKED_AT)]
    size, path = max((pair for pair in sized if LEAST_READ_BYTES <= pair[0] <= MOST_READ_BYTES), default=(0, ""))
    timing, _ = read_cold([path], budget_s=1.0) if path else (None, "")
    return size * timing.per_s / 1e6 if timing else None


def cudnn_on_path(search_path: str) -> tuple[str, ...]:
    folders = [Path(entry) for entry in search_path.split(":") if entry]
    return tuple(str(library) for folder in folders for library in sorted(folder.glob("libcudnn.so*")))


# --- GPUs and their driver -------------------------------------------------------------------------------------------

VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
MODULES = ("nvidia", "nvidia_uvm", "nouveau")
PCI_NAMES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
COMPUTE_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
"""nvmlComputeMode_t"""
SLOWED_BY = {0x08: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}
"""nvmlClocksEventReasons; idle clocks and the power cap are everyday and left out."""


def gpu_questions(root: Path) -> Questions:
    """The fields of GpuFacts; "nvml" stands for all that NVML says."""
    return {
        "bus": lambda: bus_devices(root),
        "device_files": lambda: device_files(root),
        "modules": lambda: loaded_modules(root),
        "kernel_driver": lambda: kernel_driver(root),
        "nvml": nvml,
    }


def bus_devices(root: Path) -> tuple[BusDevice, ...]:
    """Display controllers (PCI class 3) of the three vendors."""
    found = []
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind = _text(folder / "vendor"), _text(folder / "class")
        if vendor in VENDORS and kind.startswith("0x03"):
            held = folder / "driver"
            name = _pci_name(root, vendor[2:], _text(folder / "device")[2:])
            holder = held.resolve().name if held.exists() else ""
            found.append(BusDevice(folder.name, VENDORS[vendor], name, holder))
    return tuple(found)


def _pci_name(root: Path, vendor: str, device: str) -> str:
    """Look a device up in the list that lspci uses: a vendor's line, then one tab and the device's."""
    for path in PCI_NAMES:
        ours = False
        for line in _text(root / path).splitlines():
            if line[:1] not in ("\t", "#", ""):
                ours = line.lower().startswith(vendor)
            elif ours and line.lower().startswith(f"\t{device} "):
                return line.split(maxsplit=1)[1]
    return ""


def device_files(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in (root / "dev").glob("*") if re.match(r"nvidia|dxg$", path.name)))


def loaded_modules(root: Path) -> tuple[str, ...]:
    loaded = {line.split()[0] for line in _text(root / "proc/modules").splitlines() if line.strip()}
    return tuple(module for module in MODULES if module in loaded)


def kernel_driver(root: Path) -> str:
    """ "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.144.03  Mon ..." -> "550.144.03" """
    return _match(r"NVRM version:.*?\s(\d+\.\d+(\.\d+)?)\s", _text(root / "proc/driver/nvidia/version") + " ")


def nvml() -> dict[str, Any]:
    """Fields of GpuFacts that NVML knows; its error if it does not start."""
    import pynvml

    with contextlib.ExitStack() as stack:
        try:
            pynvml.nvmlInit()
            stack.callback(pynvml.nvmlShutdown)
            cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13020 is 13.2
            return {
                "driver": str(pynvml.nvmlSystemGetDriverVersion()),
                "driver_cuda": (cuda // 1000, cuda % 1000 // 10),
                "gpus": tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())),
            }
        except pynvml.NVMLError as error:
            return {"nvml_code": error.value, "nvml_error": str(error)}


def _gpu(pynvml: Any, index: int) -> Gpu:
    """Old cards and virtual ones refuse single questions; a GPU fallen off the bus refuses all."""
    known: dict[str, Any] = {"index": index, "name": "NVIDIA GPU"}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return Gpu(index, f"NVIDIA GPU that does not answer ({error})")

    def slowed_by() -> tuple[str, ...]:
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return tuple(dict.fromkeys(text for bit, text in SLOWED_BY.items() if reasons & bit))

    questions: Questions = {
        "name": lambda: str(pynvml.nvmlDeviceGetName(handle)),
        "capability": lambda: tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        "uuid": lambda: str(pynvml.nvmlDeviceGetUUID(handle)),
        "memory_bytes": lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        "used_bytes": lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        "processes": lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
        "compute_mode": lambda: COMPUTE_MODES[pynvml.nvmlDeviceGetComputeMode(handle)],
        "mig": lambda: pynvml.nvmlDeviceGetMigMode(handle)[0] == 1,
        "slowed_by": slowed_by,
        "temperature_c": lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "pcie_lanes": lambda: int(pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        "pcie_lanes_max": lambda: int(pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
    }
    for key, ask in questions.items():
        with contextlib.suppress(pynvml.NVMLError, KeyError):
            known[key] = ask()
    return Gpu(**known)


# --- Python and its packages -----------------------------------------------------------------------------------------

CUDA_LIBRARY = re.compile(r"(lib|_)?\w*(cuda|cudnn|nvshmem)\w*\.(so|dll|lib)")
SHOWN = ("torch", "torchvision", "torchaudio", "triton", "tensorboard", "setuptools", "numpy", "pip", "mlcli")
"""Looked up by name, with every nvidia-* package, since two generations of them get into each other's way."""


def python_questions() -> Questions:
    """The fields of PythonFacts but for the sizes."""
    return {
        "version": platform.python_version,
        "executable": lambda: sys.executable,
        "environment": lambda: environment(Path(sys.prefix), Path(sys.base_prefix)),
        "prefix": lambda: sys.prefix,
        "packages": packages,
        "conda_packages": lambda: conda_packages(Path(sys.prefix)),
        "requires": lambda: {name: requirements(name) for name in ("torchvision", "mlcli")},
        "torch_requires_python": lambda: next((d.metadata["Requires-Python"] or "" for d in _found("torch")), ""),
    }


def environment(prefix: Path, base_prefix: Path) -> str:
    if (prefix / "conda-meta").is_dir():
        return "conda"
    return "venv" if prefix != base_prefix else "system"


def conda_packages(prefix: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json")))


def sizes() -> dict[str, int]:
    """Return the bytes of all packages, and of what among them computes on NVIDIA GPUs: NVIDIA's libraries, Triton, and
    the libraries of PyTorch that are called after CUDA."""
    total = cuda = 0
    for distribution in metadata.distributions():
        name = (distribution.name or "").lower()
        whole = name.startswith(("nvidia-", "cuda-")) or name == "triton"
        for file in distribution.files or ():
            total += file.size or 0
            if whole or (name.startswith("torch") and CUDA_LIBRARY.match(file.name)):
                cuda += file.size or 0
    return {"installed_bytes": total, "cuda_bytes": cuda}


def packages() -> tuple[Package, ...]:
    """The first of each name on the path, which is the one that is imported."""
    names = {(distribution.name or "").lower() for distribution in metadata.distributions()}
    wanted = (*SHOWN, *sorted(name for name in names if name.startswith("nvidia-")))
    return tuple(_package(name, found) for name in wanted for found in _found(name))


def _package(name: str, found: metadata.Distribution) -> Package:
    location = Path(str(found.locate_file(""))).resolve()
    build, cuda = flavour(name, location)
    installer = (found.read_text("INSTALLER") or "").strip()
    origin = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")  # PEP 610
    return Package(name, found.version, build, cuda, installer, str(location), origin)


def flavour(name: str, location: Path) -> tuple[str, str | None]:
    """Version with its suffix, and CUDA, from the package's version.py; wheels on PyPI have no suffix in their name."""
    text = _text(location / name / "version.py") if name in ("torch", "torchvision") else ""
    build = _match(r"^__version__\s*=\s*['\"]([^'\"]+)", text)
    if stated := re.search(r"^cuda\s*(?::[^=]+)?=\s*(None|['\"]([\d.]+)['\"])", text, re.MULTILINE):
        return build, stated[2] or ""
    suffix = re.search(r"\+(cu(\d+)(\d)|cpu)", build)
    if not suffix:
        return build, None
    return build, f"{suffix[2]}.{suffix[3]}" if suffix[2] else ""


def requirements(name: str) -> tuple[str, ...]:
    """Return a package's requirements without those of its extras; empty if it is not installed."""
    return tuple(text for found in _found(name) for text in found.requires or () if "extra ==" not in text)


def _found(name: str) -> Iterable[metadata.Distribution]:
    """The installed package of this name, if there is one."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield metadata.distribution(name)


def _text(path: Path) -> str:
    """A short file; empty if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _match(pattern: str, text: str) -> str:
    """The first group of a pattern in some text; empty if it is not there."""
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else ""
