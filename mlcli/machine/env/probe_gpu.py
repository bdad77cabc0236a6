"""What the kernel and NVML say of GPUs and their driver. NVML works without PyTorch and without any CUDA toolkit."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlcli.machine.env.facts import BusDevice, Gpu

VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
MODULES = ("nvidia", "nvidia_uvm", "nouveau")
PCI_NAMES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
COMPUTE_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}
"""nvmlComputeMode_t"""
SLOWED_BY = {0x08: "hardware slowdown", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}
"""nvmlClocksEventReasons; idle clocks and the power cap are everyday and left out."""


def gpu_questions(root: Path) -> dict[str, Callable[[], Any]]:
    """Field of GpuFacts -> how to find it out; "nvml" stands for all that NVML says."""
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


def device_files(root: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in (root / "dev").glob("*") if re.match(r"nvidia|dxg$", path.name)))


def loaded_modules(root: Path) -> tuple[str, ...]:
    loaded = {line.split()[0] for line in _text(root / "proc/modules").splitlines() if line.strip()}
    return tuple(module for module in MODULES if module in loaded)


def kernel_driver(root: Path) -> str:
    """ "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.144.03  Mon ..." -> "550.144.03" """
    match = re.search(r"NVRM version:.*?\s(\d+\.\d+(\.\d+)?)\s", _text(root / "proc/driver/nvidia/version") + " ")
    return match[1] if match else ""


def nvml() -> dict[str, Any]:
    """Fields of GpuFacts that NVML knows; its error if it does not start."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"nvml_code": error.value, "nvml_error": str(error)}
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 13020 is 13.2
        return {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "driver_cuda": (cuda // 1000, cuda % 1000 // 10),
            "gpus": tuple(_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())),
        }
    except pynvml.NVMLError as error:
        return {"nvml_code": error.value, "nvml_error": str(error)}
    finally:
        pynvml.nvmlShutdown()


def _gpu(pynvml: Any, index: int) -> Gpu:
    """Old cards and virtual ones refuse single questions; a GPU fallen off the bus refuses all."""
    known: dict[str, Any] = {"index": index, "name": "NVIDIA GPU"}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return Gpu(index, f"NVIDIA GPU that does not answer ({error})")
    memory = lambda: pynvml.nvmlDeviceGetMemoryInfo(handle)  # noqa: E731
    for key, ask in {
        "name": lambda: str(pynvml.nvmlDeviceGetName(handle)),
        "capability": lambda: tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        "uuid": lambda: str(pynvml.nvmlDeviceGetUUID(handle)),
        "memory_bytes": lambda: int(memory().total),
        "used_bytes": lambda: int(memory().used),
        "processes": lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
        "compute_mode": lambda: COMPUTE_MODES[pynvml.nvmlDeviceGetComputeMode(handle)],
        "mig": lambda: pynvml.nvmlDeviceGetMigMode(handle)[0] == 1,
        "slowed_by": lambda: _slowed_by(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
        "temperature_c": lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "pcie_lanes": lambda: int(pynvml.nvmlDeviceGetCurrPcieLinkWidth(handle)),
        "pcie_lanes_max": lambda: int(pynvml.nvmlDeviceGetMaxPcieLinkWidth(handle)),
    }.items():
        with contextlib.suppress(pynvml.NVMLError, KeyError):
            known[key] = ask()
    return Gpu(**known)


def _slowed_by(reasons: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for bit, text in SLOWED_BY.items() if reasons & bit))


def _pci_name(root: Path, vendor: str, device: str) -> str:
    """From the list that lspci uses: a vendor's line, then one tab and the device's."""
    for path in PCI_NAMES:
        if not (root / path).is_file():
            continue
        ours = False
        for line in (root / path).read_text(errors="replace").splitlines():
            if line[:1] not in ("\t", "#", ""):
                ours = line.lower().startswith(vendor)
            elif ours and line.lower().startswith(f"\t{device} "):
                return line.split(maxsplit=1)[1]
    return ""


def _text(path: Path) -> str:
    """A short file; empty if there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""
