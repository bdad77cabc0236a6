"""Each link of the chain GPU -> driver -> CUDA -> PyTorch, judged on its own facts. No torch in here.

Live facts win: NVML over the table for the driver, the wheel's own code list over the table for the build.
"""

from mlcli.machine.env.compatibility import Table, dotted, numbers, pair, runs_on, translated_on
from mlcli.machine.env.facts import CudaVersion, Facts, Gpu

VERSION_MISMATCH = 18
"""nvmlReturn_t: the driver's library is newer than its loaded kernel module."""


def has_gpu(facts: Facts) -> bool:
    """Whether there is an NVIDIA GPU to be used, working or not."""
    nvidia = any(device.vendor == "nvidia" and device.driver != "vfio-pci" for device in facts.gpu.bus)
    files = any(name.startswith("nvidia") for name in facts.gpu.device_files)
    # Every GPU shows as /dev/dxg in WSL; only NVIDIA's driver for Windows lends a libcuda.
    return bool(nvidia or files or facts.gpu.gpus or facts.gpu.kernel_driver or facts.host.wsl_libcuda)


def uses_rocm(facts: Facts) -> bool:
    """Whether PyTorch computes on an AMD GPU, which it calls cuda too."""
    return bool(facts.torch and facts.torch.hip and facts.torch.cuda_available)


def driver(facts: Facts) -> str:
    return facts.gpu.driver or facts.gpu.kernel_driver


def driver_cuda(facts: Facts, table: Table) -> CudaVersion | None:
    """Newest CUDA the driver runs: by NVML, else by the table. A module left from before an update tells nothing."""
    if facts.gpu.driver_cuda:
        return facts.gpu.driver_cuda
    stale = facts.gpu.nvml_code == VERSION_MISMATCH
    return table.cuda_of_driver(driver(facts), facts.host.system) if driver(facts) and not stale else None


def build_cuda(facts: Facts) -> CudaVersion | None:
    """CUDA that PyTorch is built for; None if it is built without or not known."""
    cuda = torch_cuda(facts)
    return pair(cuda) if cuda else None


def torch_cuda(facts: Facts) -> str | None:
    """As PyTorch says, else as its files say: "13.2", "" for a build without CUDA, None if not known."""
    if facts.torch and facts.torch.cuda is not None:
        return facts.torch.cuda
    package = facts.python.package("torch")
    return package.cuda if package else None


def torch_version(facts: Facts) -> str:
    """With the flavour where that is known: "2.15.0+cu132"; empty if PyTorch is not installed."""
    package = facts.python.package("torch")
    if facts.torch and facts.torch.version:
        return facts.torch.version
    return (package.build or package.version) if package else ""


def codes(facts: Facts, table: Table) -> tuple[str, ...]:
    """GPU code inside the installed PyTorch: by itself, else by the table; empty if not known."""
    if facts.torch and facts.torch.codes:
        return facts.torch.codes
    cuda, version = build_cuda(facts), torch_version(facts)
    fitting = [
        build.codes
        for build in table.builds.get(facts.host.machine, table.builds["x86_64"])
        if build.cuda == cuda and build.release == pair(version)
    ]
    return fitting[0] if fitting else ()


def driver_too_old(facts: Facts, table: Table) -> bool:
    """A driver runs builds up to its own CUDA major version (NVIDIA, "CUDA Compatibility")."""
    runs, needs = driver_cuda(facts, table), build_cuda(facts)
    return bool(runs and needs and runs[0] < needs[0])


def has_kernels(gpu: Gpu, facts: Facts, table: Table) -> bool | None:
    """Whether the installed PyTorch has code this GPU can run; None if that is not known.

    A text for the driver counts only if the driver is as new as the build's CUDA, else it cannot read it (error 222).
    """
    inside, needs = codes(facts, table), build_cuda(facts)
    if gpu.capability is None or not inside or needs is None:
        return None
    if runs_on(inside, gpu.capability, needs):
        return True
    runs = driver_cuda(facts, table)
    return translated_on(inside, gpu.capability) and (runs is None or runs >= needs)


def visible_gpus(facts: Facts) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves: all if it is not set, those before the first bad entry if it is.

    CUDA C++ programming guide, "CUDA Environment Variables". Entries are numbers, or the beginning of a UUID. Numbers
    are taken in the order of NVML; CUDA's own puts the fastest GPU first unless CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    setting = facts.host.environment.get("CUDA_VISIBLE_DEVICES")
    gpus = facts.gpu.gpus
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


def gpu_text(gpu: Gpu, table: Table) -> str:
    """ "6.1 (Pascal)" """
    if gpu.capability is None:
        return "unknown"
    known = table.architecture(gpu.capability)
    return dotted(gpu.capability) + (f" ({known.name})" if known else "")


def oldest_own_torch(facts: Facts) -> CudaVersion:
    """The oldest PyTorch mlcli itself runs with, from its own metadata; (0, 0) if not known."""
    for requirement in facts.python.requires.get("mlcli", ()):
        if requirement.startswith("torch>="):
            return pair(requirement.removeprefix("torch>="))
    return 0, 0


def python_version(facts: Facts) -> tuple[int, ...]:
    return numbers(facts.python.version)[:2]


def sources(facts: Facts, table: Table) -> str:
    """ "driver facts: NVML; build facts: torch; advice: table of 2026-11-23" """
    dated = f"table of {table.checked}"
    if facts.gpu.driver_cuda:
        of_driver = "NVML"
    elif driver_cuda(facts, table):
        of_driver = f"kernel module and {dated}"
    else:
        of_driver = "none"
    if facts.torch and facts.torch.codes:
        of_build = "torch"
    elif facts.torch and facts.torch.version:
        of_build = "torch" if not facts.torch.cuda else f"torch and {dated}"
    else:
        of_build = f"files of the package and {dated}" if facts.python.package("torch") else "none"
    return f"driver facts: {of_driver}; build facts: {of_build}; advice: {dated}"
