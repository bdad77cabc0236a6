"""Facts about a machine, and what follows from them, as plain data. No torch in here.

Every fact has a default that says "unknown" or "none": one that could not be found out stays at it, and the checks
that would need it are silent. `dataclasses.asdict` turns the tree into JSON.
"""

from dataclasses import dataclass, field
from typing import Literal

CudaVersion = tuple[int, int]
"""Major and minor: (13, 2)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML (the library behind nvidia-smi) sees it."""

    index: int
    name: str
    capability: CudaVersion | None = None
    """Compute capability: (6, 1) for a GTX 1080 Ti."""
    uuid: str = ""
    memory_bytes: int | None = None
    used_bytes: int | None = None
    processes: int | None = None
    compute_mode: str = "default"
    """"default", "exclusive" (one process at a time) or "prohibited"."""
    mig: bool = False
    """Split into instances (Multi-Instance GPU)."""
    slowed_by: tuple[str, ...] = ()
    """Reasons for throttling at present: "heat", "power brake", "hardware slowdown"."""
    temperature_c: int | None = None
    pcie_lanes: int | None = None
    pcie_lanes_max: int | None = None


@dataclass(frozen=True)
class BusDevice:
    """A display controller on the PCI bus, seen by the kernel with or without a driver."""

    address: str
    vendor: str
    """"nvidia", "amd" or "intel"."""
    name: str = ""
    """Name in the machine's pci.ids; empty if it has no such file."""
    driver: str = ""
    """The kernel driver that holds it: "nvidia", "nouveau", "vfio-pci"; empty if none does."""


@dataclass(frozen=True)
class GpuFacts:
    bus: tuple[BusDevice, ...] = ()
    device_files: tuple[str, ...] = ()
    """Names in /dev that start with nvidia, and dxg (the GPU of WSL2)."""
    modules: tuple[str, ...] = ()
    """Those of the kernel modules nvidia, nvidia_uvm and nouveau that are loaded."""
    kernel_driver: str = ""
    """Version of the loaded kernel module; a container shows its host's."""
    nvml_code: int | None = None
    """Error number of NVML; None if it answered or was not asked."""
    nvml_error: str = ""
    driver: str = ""
    """Driver version by NVML."""
    driver_cuda: CudaVersion | None = None
    """Newest CUDA the driver runs, by NVML."""
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Package:
    """An installed package, read from its files without importing it."""

    name: str
    version: str
    build: str = ""
    """Version with its flavour: "2.15.0+cu132"; empty if the files do not say."""
    cuda: str | None = None
    """CUDA it was built for: "13.2"; "" for a CPU build; None if the files do not say."""
    installer: str = ""
    """"pip", "conda", "uv"; empty if not recorded."""
    location: str = ""
    origin: str = ""
    """URL it was installed from where that was no package index: a folder, a repository."""


@dataclass(frozen=True)
class PythonFacts:
    version: str = ""
    executable: str = ""
    environment: str = ""
    """"venv", "conda" or "system"."""
    prefix: str = ""
    packages: tuple[Package, ...] = ()
    conda_packages: tuple[str, ...] = ()
    """Packages conda put into this environment: "pytorch-2.5.1-py3.11_cuda12.4_0"."""
    requires: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Package -> what it requires, as its metadata says."""
    torch_requires_python: str = ""
    installed_bytes: int | None = None
    """Of all packages of the environment, as they list their files."""
    cuda_bytes: int | None = None
    """Of these, what computes on NVIDIA GPUs."""

    def package(self, name: str) -> Package | None:
        return next((package for package in self.packages if package.name == name), None)


@dataclass(frozen=True)
class Kernel:
    """One computation on one device, compared with the same in float64 on the CPU."""

    device: str
    name: str
    outcome: str
    """"ok", "wrong" (another answer than the CPU's), "failed" (an error) or "skipped"."""
    detail: str = ""


@dataclass(frozen=True)
class SumOverProcesses:
    """What processes that each have an array come to when they add them up, as those that train together do."""

    backend: str
    """"gloo" between CPUs, "nccl" between GPUs."""
    processes: int
    size_bytes: int
    outcome: str
    """As of `Kernel`."""
    detail: str = ""
    seconds: float | None = None
    """The fastest of some sums."""
    mb_s: float | None = None
    """Megabytes that each sends and receives a second: 2 (n - 1) / n of the array (the "bus bandwidth" of
    nccl-tests)."""


@dataclass(frozen=True)
class TorchFacts:
    """PyTorch's report, from a process of its own."""

    state: str = "ok"
    """"ok", "missing", "import failed", "crashed" or "timed out"."""
    stage: str = ""
    """The stage in which it crashed or timed out."""
    error: str = ""
    version: str = ""
    cuda: str | None = None
    """CUDA it was built for: "13.2"; "" for a build without; None if it could not be asked."""
    hip: str = ""
    """ROCm it was built for; empty for other builds."""
    codes: tuple[str, ...] = ()
    """GPU code inside: "sm_75" is machine code for capability 7.5, "compute_120" a text the driver can translate."""
    cudnn: int | None = None
    """91002 is 9.10.2."""
    cuda_available: bool | None = None
    cuda_error: str = ""
    """Reason why CUDA did not start."""
    device_count: int | None = None
    nccl: bool | None = None
    nccl_version: str = ""
    no_peer_access: tuple[str, ...] = ()
    """Pairs of GPUs that cannot read each other's memory: "0-1"."""
    mps_available: bool | None = None
    vision_version: str = ""
    vision_error: str = ""
    vision_library_error: str = ""
    """The loader's error for torchvision's compiled part, which its own error hides."""
    kernels: tuple[Kernel, ...] = ()
    sums: tuple[SumOverProcesses, ...] = ()


@dataclass(frozen=True)
class Folder:
    """Working directory, where the data and the runs usually lie."""

    path: str
    filesystem: str = ""
    """Type of the mount: "ext4", "nfs4", "9p", "overlay"."""
    rotational: bool | None = None
    free_bytes: int | None = None
    cold_read_mb_s: float | None = None
    """Megabytes a second read from a large file that was dropped from the page cache before."""


@dataclass(frozen=True)
class HostFacts:
    system: str = ""
    """"Linux", "Windows" or "Darwin"."""
    machine: str = ""
    """"x86_64", "aarch64", "arm64"."""
    distribution: str = ""
    """ID of /etc/os-release: "ubuntu"."""
    container: bool = False
    wsl: bool = False
    wsl_libcuda: bool = False
    """Windows provides its driver: /usr/lib/wsl/lib/libcuda.so exists."""
    foreign_libcuda: str = ""
    """A libcuda.so in WSL that is not the one Windows provides."""
    rosetta: bool = False
    """An Intel Python translated on Apple silicon."""
    cpus: int | None = None
    cpus_usable: int | None = None
    """Within affinity and control group."""
    load: float | None = None
    """Processes that ran or waited for a CPU or the disk, on average over the last minute."""
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    """Within the control group."""
    shm_bytes: int | None = None
    open_files: int | None = None
    """Soft limit of this process (`ulimit -n`); None for no limit."""
    folder: Folder | None = None
    cudnn_on_path: tuple[str, ...] = ()
    """libcudnn files in folders of LD_LIBRARY_PATH."""
    environment: dict[str, str] = field(default_factory=dict)
    """The environment variables that matter here and are set."""


@dataclass(frozen=True)
class Facts:
    host: HostFacts = HostFacts()
    gpu: GpuFacts = GpuFacts()
    python: PythonFacts = PythonFacts()
    torch: TorchFacts | None = None
    """None until PyTorch was asked."""
    unknown: tuple[str, ...] = ()
    """Facts that could not be found out, and why."""


Severity = Literal["ok", "info", "warning", "error"]


@dataclass(frozen=True)
class MachineFinding:
    """One thing found out about a machine, good or bad.

    severity: an error means that the GPU, or PyTorch, cannot be used.
    subject: what it is about, a word or two; text: a sentence without a full stop; fix: what to type or do, or nothing.
    """

    severity: Severity
    subject: str
    text: str
    fix: str = ""
