"""Checks around the chain: incompatible packages, and parts of the machine that are busy, small or slow."""

import re
from collections.abc import Iterator

from mlcli.machine.env.advice import advise, cpu_install
from mlcli.machine.env.chain import Chain
from mlcli.machine.env.compatibility import numbers
from mlcli.machine.env.facts import MachineFinding, Severity
from mlcli.text import plural, size

NO_PKG_RESOURCES = 82
"""setuptools 82 removed pkg_resources, which tensorboard before 2.21 imports (tensorflow/tensorboard#7107)."""
LARGE_BATCH_BYTES = 64 * 3 * 640 * 640
"""64 pictures of 640 x 640 as bytes: what one batch of a demanding training puts into shared memory."""
BATCHES_PER_WORKER = 2
"""prefetch_factor of torch.utils.data.DataLoader."""
MOST_WORKERS = 8
LEAST_MEMORY_BYTES = 2 << 30
"""PyTorch itself with a small model takes about 1 GB."""
LEAST_DISK_BYTES = 2 << 30
"""A few checkpoints and their logs."""
LEAST_CUDA_BYTES = 1 << 30
"""Less is not worth a new installation."""
LEAST_OPEN_FILES = 1024
"""Linux's default; macOS' 256 is spent by a few workers (pytorch.org/docs, "file_descriptor" sharing strategy)."""
MUCH_USED = 0.5
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "ceph", "fuse.s3fs", "fuse.gcsfuse"}
WINDOWS_DISK = {"9p", "drvfs", "v9fs"}
FASTEST_TURNING_MB_S = 300
"""Hard disks read 250 to 290 MB/s at the outer edge."""

# --- packages --------------------------------------------------------------------------------------------------------


def vision_flavour(chain: Chain) -> Iterator[MachineFinding]:
    """torch and torchvision built for different CUDA: the numbers fit, and still it does not load."""
    torch, python = chain.facts.torch, chain.facts.python
    vision = python.package("torchvision")
    if not vision:
        if python.package("torch"):
            yield MachineFinding("error", "torchvision", "torchvision is not installed", advise(chain).command)
        return
    of_torch, of_vision = chain.torch_cuda, vision.cuda
    reason = (torch.vision_library_error or torch.vision_error) if torch else ""
    if of_torch is not None and of_vision is not None and of_torch != of_vision:
        text = f"torchvision is built for {_flavour(of_vision)}, torch for {_flavour(of_torch)}"
        if of_torch.split(".")[0] == of_vision.split(".")[0] and not reason:
            yield MachineFinding("info", "torchvision", f"{text}: works, one CUDA major version")
        else:
            text += f" ({reason})" if reason else ""
            yield MachineFinding(_by_import(chain), "torchvision", text, advise(chain).command)
    elif reason and torch and torch.state == "ok":
        yield MachineFinding("error", "torchvision", f"import torchvision fails: {reason}", advise(chain).command)


def vision_version(chain: Chain) -> Iterator[MachineFinding]:
    """torchvision's own metadata says which PyTorch it wants."""
    python = chain.facts.python
    torch, vision = python.package("torch"), python.package("torchvision")
    for requirement in python.requires.get("torchvision", ()) if torch and vision else ():
        if torch and vision and _name(requirement) == "torch" and not _satisfied(requirement, torch.version):
            text = f"torchvision {vision.version} requires {requirement}, but torch {torch.version} is installed"
            yield MachineFinding(_by_import(chain), "torchvision", text, advise(chain).command)
            return


def cudnn(chain: Chain) -> Iterator[MachineFinding]:
    """More than one cuDNN: the loader takes the first it finds, which may be another than the one PyTorch wants."""
    facts = chain.facts
    packages = [p for p in facts.python.packages if re.fullmatch(r"nvidia-cudnn-cu\d+", p.name)]
    if len(packages) > 1:
        names = " and ".join(f"{package.name} {package.version}" for package in packages)
        cuda = chain.build_cuda
        extra = " ".join(p.name for p in packages if cuda is None or p.name != f"nvidia-cudnn-cu{cuda[0]}")
        yield MachineFinding("warning", "cuDNN", f"two generations are installed: {names}", f"pip uninstall {extra}")
    if facts.host.cudnn_on_path:
        text = f"LD_LIBRARY_PATH has another cuDNN, which is loaded first: {facts.host.cudnn_on_path[0]}"
        yield MachineFinding("warning", "cuDNN", text, "unset LD_LIBRARY_PATH")
    number = facts.torch.cudnn if facts.torch else None
    if number and len(packages) == 1:
        # 91002 is 9.10; 8902 is 8.9: cuDNN 9 counts 10000s, 8 counted 1000s (cudnn_version.h).
        loaded = (number // 10000, number // 100 % 100) if number >= 90000 else (number // 1000, number // 100 % 10)
        if loaded != numbers(packages[0].version)[:2]:
            text = f"PyTorch loads cuDNN {loaded[0]}.{loaded[1]}, installed is {packages[0].version}"
            yield MachineFinding("warning", "cuDNN", text, advise(chain).command)


def conda_and_pip(chain: Chain) -> Iterator[MachineFinding]:
    """One PyTorch by conda and one by pip in the same environment overwrite each other's files."""
    python = chain.facts.python
    by_conda = [n for n in python.conda_packages if re.match(r"(pytorch|torchvision|pytorch-cuda)-\d", n)]
    by_pip = [p for p in python.packages if p.name in ("torch", "torchvision") and p.installer not in ("", "conda")]
    old = [name for name in by_conda if re.match(r"pytorch-(1|2\.[0-5])\.", name)]
    if by_conda and by_pip:
        names = " ".join(sorted({re.sub(r"-\d.*", "", name) for name in by_conda}))
        listed = ", ".join(f"{package.name} {package.version}" for package in by_pip)
        text = f"conda installed {', '.join(by_conda)} and pip installed {listed} into one environment"
        fix = f"conda remove --force {names} && {advise(chain).command}"
        yield MachineFinding("warning", "conda", text, fix)
    elif old:
        text = f"{old[0]} comes from the conda channel that ended with PyTorch 2.5; later ones come from pip"
        yield MachineFinding("info", "conda", text)


def own_packages(chain: Chain) -> Iterator[MachineFinding]:
    """Check mlcli's own requirements, and two incompatible combinations that package metadata allow."""
    python = chain.facts.python
    board, tools, wanted = python.package("tensorboard"), python.package("setuptools"), python.torch_requires_python
    clash = board and tools and numbers(board.version) < (2, 21) and numbers(tools.version) >= (NO_PKG_RESOURCES,)
    if board and tools and clash:
        text = f"tensorboard {board.version} does not start with setuptools {tools.version} (pkg_resources is gone)"
        yield MachineFinding("warning", "tensorboard", text, 'pip install --upgrade "tensorboard>=2.21"')
    if wanted and python.version and not _satisfied(f"python{wanted}", python.version):
        text = f"torch {chain.torch_version} requires Python {wanted}, this is {python.version}"
        yield MachineFinding("warning", "Python", text, advise(chain).command)
    for requirement in python.requires.get("mlcli", ()):
        package = python.package(_name(requirement))
        if not package or (clash and package is board) or _satisfied(requirement, package.version):
            continue
        text = f"mlcli needs {requirement}, but {package.name} {package.version} is installed"
        fix = advise(chain).command if package.name.startswith("torch") else f'pip install "{requirement}"'
        yield MachineFinding("warning", package.name, text, fix)


def _by_import(chain: Chain) -> Severity:
    """An error if torchvision really does not load, or the GPU is to run its kernels; else a warning."""
    torch = chain.facts.torch
    return "error" if torch is None or torch.vision_error or chain.visible_gpus else "warning"


def _flavour(cuda: str) -> str:
    return f"CUDA {cuda}" if cuda else "the CPU"


def _name(requirement: str) -> str:
    """ "torch (>=2.14.0)" -> "torch" """
    match = re.match(r"[\w.-]+", requirement)
    return match[0].lower() if match else ""


def _satisfied(requirement: str, version: str) -> bool:
    """Whether a version is within what a package requires; true for what cannot be read or is for other systems."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        parsed = Requirement(requirement)
        return not (parsed.marker is None or parsed.marker.evaluate()) or parsed.specifier.contains(version, True)
    except (InvalidRequirement, InvalidVersion):
        return True


def unused_cuda(chain: Chain) -> Iterator[MachineFinding]:
    """Libraries for NVIDIA GPUs on a machine without one."""
    python = chain.facts.python
    cuda, total = python.cuda_bytes, python.installed_bytes
    if cuda and total and cuda > LEAST_CUDA_BYTES and not chain.has_gpu:
        text = f"{size(cuda)} of the environment's {size(total)} are CUDA, which nothing here can use"
        yield MachineFinding("info", "CUDA", f"{text}; without it:", cpu_install(chain))


# --- the machine -----------------------------------------------------------------------------------------------------


def gpu_busy(chain: Chain) -> Iterator[MachineFinding]:
    """Memory that others hold, and clocks held down by heat or power."""
    for gpu in chain.visible_gpus:
        if gpu.memory_bytes and gpu.used_bytes is not None and gpu.used_bytes > MUCH_USED * gpu.memory_bytes:
            users = f" by {plural(gpu.processes, 'process', 'processes')}" if gpu.processes else ""
            text = f"GPU {gpu.index}: {_gb(gpu.used_bytes)} of {_gb(gpu.memory_bytes)} GB are in use{users}"
            yield MachineFinding("warning", "GPU busy", text, "nvidia-smi")
        if gpu.slowed_by:
            at = f" at {gpu.temperature_c} °C" if gpu.temperature_c is not None else ""
            text = f"GPU {gpu.index} runs slower than it could{at}: {', '.join(gpu.slowed_by)}"
            yield MachineFinding("warning", "GPU slow", text, "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER")


def pcie_width(chain: Chain) -> Iterator[MachineFinding]:
    """Lanes only: the generation drops on its own while the GPU is idle. x8 of x16 is how many boards are made."""
    for gpu in chain.facts.gpu.gpus:
        if gpu.pcie_lanes and gpu.pcie_lanes_max and gpu.pcie_lanes < gpu.pcie_lanes_max:
            text = f"GPU {gpu.index} is connected by x{gpu.pcie_lanes} of x{gpu.pcie_lanes_max} PCIe lanes"
            few = gpu.pcie_lanes * 2 < gpu.pcie_lanes_max
            fix = "put the card into a slot with more lanes, and check that it is seated firmly" if few else ""
            yield MachineFinding("warning" if few else "info", "PCIe", text, fix)


def several_gpus(chain: Chain) -> Iterator[MachineFinding]:
    """Check the requirements of training on several GPUs."""
    torch, count = chain.facts.torch, len(chain.visible_gpus)
    if torch is None or count < 2:
        return
    if torch.nccl is False and chain.facts.host.system == "Linux":
        text = f"{count} GPUs, but this PyTorch has no NCCL to connect them"
        yield MachineFinding("warning", "NCCL", text, advise(chain).command)
    if torch.no_peer_access:
        pairs = ", ".join(torch.no_peer_access)
        text = f"GPUs {pairs} cannot read each other's memory (P2P); they communicate through the CPU's"
        yield MachineFinding("info", "P2P", text)


def sums(chain: Chain) -> Iterator[MachineFinding]:
    """What training in several processes does after every step."""
    for one in chain.facts.torch.sums if chain.facts.torch else ():
        if one.outcome in ("failed", "wrong"):
            between = f"{one.processes} GPUs" if one.backend == "nccl" else f"{one.processes} processes on this machine"
            text = f"{between} do not come to the sum of their arrays by {one.backend}: {one.detail}"
            fix = "NCCL_DEBUG=WARN mlcli env-check" if one.backend == "nccl" else ""
            yield MachineFinding("warning", one.backend, f"{text}; training in one process works", fix)


def cpus(chain: Chain) -> Iterator[MachineFinding]:
    """CPUs within affinity and control group; other tools count the machine's, or look at affinity only."""
    total, usable = chain.facts.host.cpus, chain.facts.host.cpus_usable
    if total and usable and usable < total:
        text = f"{usable} of {total} CPUs usable (affinity or control group)"
        yield MachineFinding("info", "CPUs", f"{text}; mlcli keeps its threads and workers to that")


def shared_memory(chain: Chain) -> Iterator[MachineFinding]:
    """Workers hand over batches in /dev/shm; when it is full they die with SIGBUS (pytorch#5040)."""
    host = chain.facts.host
    workers = min(host.cpus_usable or 1, MOST_WORKERS)
    need = LARGE_BATCH_BYTES * BATCHES_PER_WORKER * workers
    if host.shm_bytes is not None and host.shm_bytes < need:
        gib = max(-(-need // (1 << 30)), 1)
        text = f"/dev/shm is {host.shm_bytes >> 20} MB, large batches of {workers} workers take {need >> 20} MB"
        remount = f"sudo mount -o remount,size={gib}g /dev/shm"
        fix = f"docker run --shm-size={gib}g ..." if host.container else remount
        yield MachineFinding("warning", "/dev/shm", text, fix)


def memory_and_limits(chain: Chain) -> Iterator[MachineFinding]:
    """Memory within the control group, open files, space for checkpoints."""
    host, folder = chain.facts.host, chain.facts.host.folder
    if host.memory_available_bytes is not None and host.memory_available_bytes < LEAST_MEMORY_BYTES:
        of = f" of {_gb(host.memory_bytes)}" if host.memory_bytes else ""
        text = f"{_gb(host.memory_available_bytes)}{of} GB of memory available"
        fix = "docker run --memory=8g ..." if host.container else "stop processes; see: ps aux --sort=-rss | head"
        yield MachineFinding("warning", "memory", text, fix)
    if host.open_files is not None and host.open_files < LEAST_OPEN_FILES:
        text = f"only {host.open_files} files may be open at once; workers need more"
        yield MachineFinding("warning", "open files", text, "ulimit -n 4096")
    if folder and folder.free_bytes is not None and folder.free_bytes < LEAST_DISK_BYTES:
        text = f"{_gb(folder.free_bytes)} GB free in {folder.path}"
        yield MachineFinding("warning", "disk", text, "mlcli train X.yaml --out /a/larger/disk")


def filesystem(chain: Chain) -> Iterator[MachineFinding]:
    """Check the disk on which data and runs usually lie."""
    folder, measure = chain.facts.host.folder, "mlcli bench-io X.yaml"
    if not folder:
        return
    mb_s = folder.cold_read_mb_s
    speed = f", reads {mb_s:.0f} MB/s uncached" if mb_s else ""
    if folder.filesystem in WINDOWS_DISK and chain.facts.host.wsl:
        text = f"{folder.path} is a Windows disk ({folder.filesystem}): slow for many small files{speed}"
        yield MachineFinding("warning", "disk", text, "keep the data inside WSL: cp -r data ~/")
    elif folder.filesystem in NETWORK:
        text = f"{folder.path} is on the network ({folder.filesystem}){speed}"
        yield MachineFinding("info", "disk", text, measure)
    elif folder.rotational and mb_s and mb_s < FASTEST_TURNING_MB_S:  # virtual disks call themselves turning too
        yield MachineFinding("info", "disk", f"{folder.path} is on a rotating disk (HDD){speed}", measure)


def _gb(size_bytes: int | None) -> str:
    return f"{(size_bytes or 0) / (1 << 30):.1f}"
