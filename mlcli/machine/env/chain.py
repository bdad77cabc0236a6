"""The chain GPU -> driver -> CUDA -> PyTorch: state of each link, and its rows of a table. No torch in here.

Live facts win: NVML over the table for the driver, the wheel's own code list over the table for the build.
"""

from dataclasses import dataclass
from functools import cached_property

from mlcli.machine.env.compatibility import CompatibilityTable, capability_range, dotted, pair, runs_on, translated_on
from mlcli.machine.env.facts import BusDevice, CudaVersion, Facts, Gpu

VERSION_MISMATCH = 18
"""nvmlReturn_t: the driver's library is newer than its loaded kernel module."""


@dataclass(frozen=True)
class Chain:
    """A machine's facts and the table of what fits together, and what follows for each link."""

    facts: Facts
    table: CompatibilityTable

    @property
    def nvidia_cards(self) -> list[BusDevice]:
        """The NVIDIA cards on the PCI bus, with a driver or without."""
        return [device for device in self.facts.gpu.bus if device.vendor == "nvidia"]

    @cached_property
    def has_gpu(self) -> bool:
        """Whether there is an NVIDIA GPU to be used, working or not."""
        gpu = self.facts.gpu
        own_cards = any(card.driver != "vfio-pci" for card in self.nvidia_cards)
        files = any(name.startswith("nvidia") for name in gpu.device_files)
        # Every GPU shows as /dev/dxg in WSL; only NVIDIA's driver for Windows provides a libcuda.
        return bool(own_cards or files or gpu.gpus or gpu.kernel_driver or self.facts.host.wsl_libcuda)

    @cached_property
    def visible_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that CUDA_VISIBLE_DEVICES leaves: all if it is not set, those before the first bad entry if it is.

        CUDA C++ programming guide, "CUDA Environment Variables". Entries are numbers, or the beginning of a UUID.
        Numbers are taken in the order of NVML; CUDA's own puts the fastest GPU first unless
        CUDA_DEVICE_ORDER=PCI_BUS_ID.
        """
        setting = self.facts.host.environment.get("CUDA_VISIBLE_DEVICES")
        gpus = self.facts.gpu.gpus
        if setting is None:
            return gpus
        left: list[Gpu] = []
        for entry in (text.strip() for text in setting.split(",")):
            if entry.startswith("MIG-"):
                found = next((gpu for gpu in gpus if gpu.mig and gpu not in left), None)  # NVML lists parents only
            elif entry.isdecimal():
                found = gpus[int(entry)] if int(entry) < len(gpus) else None
            else:
                found = next((gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)), None)
            if found is None:
                break
            left.append(found)
        return tuple(left)

    @property
    def uses_rocm(self) -> bool:
        """Whether PyTorch computes on an AMD GPU, which it calls cuda too."""
        torch = self.facts.torch
        return bool(torch and torch.hip and torch.cuda_available)

    @property
    def driver(self) -> str:
        """Version of the driver; empty if there is none."""
        return self.facts.gpu.driver or self.facts.gpu.kernel_driver

    @cached_property
    def driver_cuda(self) -> CudaVersion | None:
        """Newest CUDA the driver runs, by NVML, else by the table; None if not known."""
        gpu = self.facts.gpu
        if gpu.driver_cuda or not self.driver or gpu.nvml_code == VERSION_MISMATCH:  # the module is from before
            return gpu.driver_cuda
        return self.table.cuda_of_driver(self.driver, self.facts.host.system)

    @cached_property
    def torch_cuda(self) -> str | None:
        """CUDA that PyTorch is built for, by itself, else by its files: "13.2", "" for none, None if not known."""
        if self.facts.torch and self.facts.torch.cuda is not None:
            return self.facts.torch.cuda
        package = self.facts.python.package("torch")
        return package.cuda if package else None

    @property
    def build_cuda(self) -> CudaVersion | None:
        """`torch_cuda` as numbers; None if PyTorch is built without CUDA or that is not known."""
        return pair(self.torch_cuda) if self.torch_cuda else None

    @cached_property
    def torch_version(self) -> str:
        """With the flavour where that is known: "2.15.0+cu132"; empty if PyTorch is not installed."""
        if self.facts.torch and self.facts.torch.version:
            return self.facts.torch.version
        package = self.facts.python.package("torch")
        return (package.build or package.version) if package else ""

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """GPU code inside the installed PyTorch: by itself, else by the table; empty if not known."""
        if self.facts.torch and self.facts.torch.codes:
            return self.facts.torch.codes
        installed = self.build_cuda, pair(self.torch_version)
        builds = self.table.builds.get(self.facts.host.machine, self.table.builds["x86_64"])
        return next((build.codes for build in builds if (build.cuda, build.release) == installed), ())

    @property
    def driver_too_old(self) -> bool:
        """A driver runs builds up to its own CUDA major version (NVIDIA, "CUDA Compatibility")."""
        runs, needs = self.driver_cuda, self.build_cuda
        return bool(runs and needs and runs[0] < needs[0])

    def has_kernels(self, gpu: Gpu) -> bool | None:
        """Whether the installed PyTorch has code this GPU can run; None if that is not known.

        A text for the driver counts only if the driver is as new as the build's CUDA, else it cannot read it
        (error 222).
        """
        runs, needs = self.driver_cuda, self.build_cuda
        if gpu.capability is None or not self.codes or needs is None:
            return None
        if runs_on(self.codes, gpu.capability, needs):
            return True
        return translated_on(self.codes, gpu.capability) and (runs is None or runs >= needs)

    def capability(self, gpu: Gpu) -> str:
        """ "6.1 (Pascal)" """
        if gpu.capability is None:
            return "unknown"
        known = self.table.architecture(gpu.capability)
        return dotted(gpu.capability) + (f" ({known.name})" if known else "")

    @property
    def sources(self) -> str:
        """ "driver facts: NVML; build facts: torch; advice: table of 2026-11-23" """
        dated, torch = f"table of {self.table.checked}", self.facts.torch
        of_driver = "none"
        if self.driver_cuda:
            of_driver = "NVML" if self.facts.gpu.driver_cuda else f"kernel module and {dated}"
        if torch and (torch.codes or torch.version):
            of_build = "torch" if torch.codes or not torch.cuda else f"torch and {dated}"
        else:
            of_build = f"files of the package and {dated}" if self.facts.python.package("torch") else "none"
        return f"driver facts: {of_driver}; build facts: {of_build}; advice: {dated}"


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChainRow:
    link: str
    what: str
    detail: str
    state: str
    """"ok", "-" where it does not matter, or the trouble in capitals."""


def machine_rows(chain: Chain) -> list[ChainRow]:
    """Rows known without asking PyTorch: GPUs, driver, Python, and the CUDA that PyTorch's files name."""
    python = chain.facts.python
    python_row = ChainRow("Python", python.version, f"{python.environment} {python.prefix}", "ok")
    return [*_gpu_rows(chain), _driver_row(chain), python_row, _cuda_row(chain)]


def torch_rows(chain: Chain) -> list[ChainRow]:
    """Rows of what PyTorch reported of itself, and computed, alone and in several processes."""
    return [_torch_row(chain), _vision_row(chain.facts), *_kernel_rows(chain.facts), *_process_rows(chain)]


def _gpu_rows(chain: Chain) -> list[ChainRow]:
    gpus, host = chain.facts.gpu.gpus, chain.facts.host
    if gpus:
        rows = []
        for gpu in gpus:
            memory = f"   {gpu.memory_bytes / (1 << 30):.0f} GB" if gpu.memory_bytes else ""
            link = f"GPU {gpu.index}" if len(gpus) > 1 else "GPU"
            state = "ok" if gpu in chain.visible_gpus else "HIDDEN"
            detail = f"compute capability {chain.capability(gpu)}"
            rows.append(ChainRow(link, f"{gpu.name}{memory}", detail, state))
        return rows
    if chain.nvidia_cards:
        card = chain.nvidia_cards[0]
        held = f"on the PCI bus, held by {card.driver or 'no driver'}"
        return [ChainRow("GPU", card.name or "an NVIDIA card", held, "NOT USABLE")]
    if host.system == "Darwin" and host.machine == "arm64":
        return [ChainRow("GPU", "Apple silicon", "used through MPS", "ok")]
    detail, state = ("not reachable", "NO") if chain.has_gpu else ("training runs on the CPU", "-")
    return [ChainRow("GPU", "no NVIDIA GPU", detail, state)]


def _driver_row(chain: Chain) -> ChainRow:
    error, runs = chain.facts.gpu.nvml_error, chain.driver_cuda
    if error and chain.has_gpu:
        return ChainRow("driver", chain.driver or "unknown", error, "NO")
    if not chain.driver:
        return ChainRow("driver", "none", "", "NO" if chain.has_gpu else "-")
    return ChainRow("driver", chain.driver, f"runs CUDA up to {dotted(runs)}" if runs else "", "ok")


def _cuda_row(chain: Chain) -> ChainRow:
    needs = chain.build_cuda
    if chain.torch_cuda is None:
        return ChainRow("CUDA", "unknown", "PyTorch does not say what it is built for", "-")
    if needs is None:
        detail, state = ("and cannot use the GPU", "NO") if chain.facts.gpu.gpus else ("", "-")
        return ChainRow("CUDA", "torch is built for the CPU", detail, state)
    oldest = chain.table.oldest_driver(needs[0], chain.facts.host.system)
    detail = f"needs driver {oldest} or newer" if oldest else ""
    state = "TOO NEW" if chain.driver_too_old else "ok" if chain.driver else "-"
    return ChainRow("CUDA", f"torch is built for {chain.torch_cuda}", detail, state)


def _torch_row(chain: Chain) -> ChainRow:
    torch, version = chain.facts.torch, chain.torch_version
    if torch is None or torch.state != "ok":
        return ChainRow("PyTorch", version or "none", torch.state if torch else "not asked", "NO")
    has = capability_range(chain.codes)
    without = [gpu.capability for gpu in chain.visible_gpus if chain.has_kernels(gpu) is False and gpu.capability]
    if without:
        missing = ", ".join(dict.fromkeys(map(dotted, without)))
        return ChainRow("PyTorch", version, f"has no kernels for {missing} (has {has})", "NO")
    return ChainRow("PyTorch", version, f"has kernels for {has}" if chain.codes else "", "ok")


def _vision_row(facts: Facts) -> ChainRow:
    package, torch = facts.python.package("torchvision"), facts.torch
    installed = (package.build or package.version) if package else "none"
    if torch and torch.vision_version:
        return ChainRow("vision", torch.vision_version, "loads with torch", "ok")
    failed = torch and torch.vision_error
    return ChainRow("vision", installed, "does not load" if failed else "not tried", "NO" if failed else "-")


def _kernel_rows(facts: Facts) -> list[ChainRow]:
    """One row a device: how many computations gave the CPU's answer."""
    kernels = facts.torch.kernels if facts.torch else ()
    rows = []
    for device in dict.fromkeys(kernel.device for kernel in kernels):
        outcomes = [kernel.outcome for kernel in kernels if kernel.device == device and kernel.outcome != "skipped"]
        right, tried = outcomes.count("ok"), len(outcomes)
        detail = f"{right} of {tried} computations agree with float64"
        rows.append(ChainRow("kernels", f"on {device}", detail, "ok" if right == tried else "NO"))
    return rows


def _process_rows(chain: Chain) -> list[ChainRow]:
    """Rows of what several processes need to train together: who reads whose memory, and sums over them."""
    torch, rows = chain.facts.torch, list[ChainRow]()
    if torch is None:
        return []
    count = torch.device_count or 0
    if count > 1:
        pairs = count * (count - 1) // 2
        what = f"{pairs - len(torch.no_peer_access)} of {pairs} pairs of GPUs"
        rows.append(ChainRow("P2P", what, "read each other's memory", "-" if torch.no_peer_access else "ok"))
    for one in torch.sums:
        link, what, detail = one.backend, f"sum of {one.processes} processes", one.detail
        if one.backend == "nccl":
            link, what = "NCCL", f"{torch.nccl_version}, sum of {one.processes} GPUs".lstrip(", ")
        if one.seconds and one.mb_s:
            told = f"{one.size_bytes / 1e6:.0f} MB in {one.seconds * 1e3:.3g} ms, {one.mb_s / 1e3:.3g} GB/s"
            detail = f"{detail}; {told}".lstrip("; ")
        rows.append(ChainRow(link, what, detail, {"ok": "ok", "skipped": "-"}.get(one.outcome, "NO")))
    return rows
