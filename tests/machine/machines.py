"""Machines written by hand: facts as the probes would find them, each healthy but for what a test changes."""

from dataclasses import replace
from typing import Any

from mlcli.machine.env.compatibility import load_table
from mlcli.machine.env.facts import (
    BusDevice,
    CudaVersion,
    Facts,
    Folder,
    Gpu,
    GpuFacts,
    HostFacts,
    Kernel,
    Package,
    PythonFacts,
    TorchFacts,
)

TABLE = load_table()
CU132 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
CU126 = ("sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90")
SITE = "/home/ada/venv/lib/python3.12/site-packages"
GB = 1 << 30


def kernels(device: str, **outcomes: str) -> tuple[Kernel, ...]:
    names = ("matmul fp32", "matmul fp16", "matmul bf16", "convolution", "NMS", "optimizer step")
    return tuple(Kernel(device, name, outcomes.get(name.replace(" ", "_"), "ok")) for name in names)


def python(torch: str = "2.15.0+cu132", vision: str = "0.29.2+cu132", *more: Package, **changes: Any) -> PythonFacts:
    """An environment with these two by pip, and all else as mlcli wants it."""
    packages = [wheel(name, build) for name, build in (("torch", torch), ("torchvision", vision)) if build]
    others = [("tensorboard", "2.21.0"), ("setuptools", "84.2.1"), ("numpy", "2.4.6"), ("pip", "26.1")]
    packages += [Package(name, version, installer="pip", location=SITE) for name, version in others]
    known: dict[str, Any] = {
        "version": "3.12.4",
        "executable": "/home/ada/venv/bin/python",
        "environment": "venv",
        "prefix": "/home/ada/venv",
        "requires": {
            "mlcli": ("torch>=2.11", "torchvision>=0.26", "tensorboard>=2.21"),
            "torchvision": ("torch>=2.14.0",),
        },
        "torch_requires_python": ">=3.11",
    }
    named = {package.name for package in more}
    kept = tuple(package for package in packages if package.name not in named)
    return PythonFacts(packages=kept + more, **(known | changes))


def wheel(name: str, build: str, installer: str = "pip") -> Package:
    version, _, suffix = build.partition("+")
    cuda = f"{suffix[2:-1]}.{suffix[-1]}" if suffix.startswith("cu") else ""
    return Package(name, version, build, cuda, installer, SITE)


def host(**changes: Any) -> HostFacts:
    known: dict[str, Any] = {
        "system": "Linux",
        "machine": "x86_64",
        "distribution": "ubuntu",
        "cpus": 16,
        "cpus_usable": 16,
        "memory_bytes": 64 * GB,
        "memory_available_bytes": 50 * GB,
        "shm_bytes": 32 * GB,
        "open_files": 1024,
        "folder": Folder("/home/ada/digits", "ext4", False, 500 * GB, 2000.0),
    }
    return HostFacts(**(known | changes))


def torch(
    version: str = "2.15.0+cu132", codes: tuple[str, ...] = CU132, device: str = "cuda:0", **changes: Any
) -> TorchFacts:
    suffix = version.partition("+")[2]
    cuda = f"{suffix[2:-1]}.{suffix[-1]}" if suffix.startswith("cu") else ""
    known: dict[str, Any] = {
        "version": version,
        "cuda": cuda,
        "codes": codes if cuda else (),
        "cuda_available": device.startswith("cuda"),
        "nccl": True,
        "vision_version": "0.29.2",
        "kernels": kernels(device),
    }
    return TorchFacts(**(known | changes))


def gpu(name: str, capability: CudaVersion | None, memory_gb: int = 16, **changes: Any) -> Gpu:
    return Gpu(0, name, capability, memory_bytes=memory_gb * GB, used_bytes=0, **changes)


def nvidia(driver: str, cuda: CudaVersion, *gpus: Gpu) -> GpuFacts:
    """A driver in order and the GPUs it serves."""
    numbered = tuple(replace(one, index=index, uuid=f"GPU-{index}abc") for index, one in enumerate(gpus))
    bus = tuple(BusDevice(f"0000:0{one.index + 1}:00.0", "nvidia", one.name, "nvidia") for one in numbered)
    files = (*(f"nvidia{one.index}" for one in numbered), "nvidia-uvm", "nvidiactl")
    return GpuFacts(bus, files, ("nvidia", "nvidia_uvm"), driver, driver=driver, driver_cuda=cuda, gpus=numbered)


H200 = gpu("NVIDIA H200", (9, 0), 141)
RTX_5090 = gpu("NVIDIA GeForce RTX 5090", (12, 0), 32)
GTX_1080_TI = gpu("NVIDIA GeForce GTX 1080 Ti", (6, 1), 11)
K80 = gpu("Tesla K80", (3, 7), 12)

WITH_H200 = Facts(host(), nvidia("580.95.05", (13, 0), H200), python(), torch())
"""A healthy machine with a GPU."""
WITHOUT_GPU = Facts(
    host(), GpuFacts(nvml_code=12, nvml_error="NVML Shared Library Not Found"), python(), torch(device="cpu")
)
"""A healthy machine without."""


def on(facts: Facts, **changes: Any) -> Facts:
    """The same machine with some parts changed: `on(WITH_H200, host={"shm_bytes": 1})`."""
    parts = {
        key: replace(getattr(facts, key), **change) if isinstance(change, dict) else change
        for key, change in changes.items()
    }
    return replace(facts, **parts)
