"""Checks of the machine around the chain: what is busy, small, slow or shared."""

from mlcli.machine.env import links
from mlcli.machine.env.advice import advise
from mlcli.machine.env.checks.finding import Finding
from mlcli.machine.env.compatibility import Table
from mlcli.machine.env.facts import Facts
from mlcli.text import plural

LARGE_BATCH_BYTES = 64 * 3 * 640 * 640
"""64 pictures of 640 x 640 as bytes: what one batch of a demanding training puts into shared memory."""
BATCHES_PER_WORKER = 2
"""prefetch_factor of torch.utils.data.DataLoader."""
MOST_WORKERS = 8
LEAST_MEMORY_BYTES = 2 << 30
"""PyTorch itself with a small model takes about 1 GB."""
LEAST_DISK_BYTES = 2 << 30
"""A few checkpoints and their logs."""
LEAST_OPEN_FILES = 1024
"""Linux's default; macOS' 256 is spent by a few workers (pytorch.org/docs, "file_descriptor" sharing strategy)."""
MUCH_USED = 0.5
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "ceph", "fuse.s3fs", "fuse.gcsfuse"}
WINDOWS_DISK = {"9p", "drvfs", "v9fs"}
FASTEST_TURNING_MB_S = 300
"""Hard disks read 250 to 290 MB/s at the outer edge."""
MEASURE = "mlcli bench-io X.yaml"


def gpu_busy(facts: Facts, table: Table) -> list[Finding]:
    """Memory that others hold, and clocks held down by heat or power."""
    findings = []
    for gpu in links.visible_gpus(facts):
        if gpu.memory_bytes and gpu.used_bytes is not None and gpu.used_bytes > MUCH_USED * gpu.memory_bytes:
            users = f" by {plural(gpu.processes, 'process', 'processes')}" if gpu.processes else ""
            text = f"GPU {gpu.index}: {_gb(gpu.used_bytes)} of {_gb(gpu.memory_bytes)} GB are in use{users}"
            findings.append(Finding("warning", "GPU busy", text, "nvidia-smi"))
        if gpu.slowed_by:
            at = f" at {gpu.temperature_c} °C" if gpu.temperature_c is not None else ""
            text = f"GPU {gpu.index} runs slower than it could{at}: {', '.join(gpu.slowed_by)}"
            findings.append(Finding("warning", "GPU slow", text, "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER"))
    return findings


def pcie_width(facts: Facts, table: Table) -> list[Finding]:
    """Lanes only: the generation drops on its own while the GPU is idle. x8 of x16 is how many boards are made."""
    findings = []
    for gpu in facts.gpu.gpus:
        if gpu.pcie_lanes and gpu.pcie_lanes_max and gpu.pcie_lanes < gpu.pcie_lanes_max:
            text = f"GPU {gpu.index} is connected by x{gpu.pcie_lanes} of x{gpu.pcie_lanes_max} PCIe lanes"
            few = gpu.pcie_lanes * 2 < gpu.pcie_lanes_max
            fix = "put the card into a slot with more lanes, and look whether it sits firmly" if few else ""
            findings.append(Finding("warning" if few else "info", "PCIe", text, fix))
    return findings


def cpus(facts: Facts, table: Table) -> list[Finding]:
    """CPUs within affinity and control group; other tools count the machine's, or look at affinity only."""
    total, usable = facts.host.cpus, facts.host.cpus_usable
    if not total or not usable or usable >= total:
        return []
    text = f"{usable} of {total} CPUs usable (affinity or control group); mlcli keeps its threads and workers to that"
    return [Finding("info", "CPUs", text)]


def shared_memory(facts: Facts, table: Table) -> list[Finding]:
    """Workers hand over batches in /dev/shm; when it is full they die with SIGBUS (pytorch#5040)."""
    size = facts.host.shm_bytes
    if size is None:
        return []
    workers = min(facts.host.cpus_usable or 1, MOST_WORKERS)
    need = LARGE_BATCH_BYTES * BATCHES_PER_WORKER * workers
    if size >= need:
        return []
    ask = max(-(-need // (1 << 30)), 1)
    text = f"/dev/shm is {size >> 20} MB, large batches of {workers} workers take {need >> 20} MB"
    fix = f"docker run --shm-size={ask}g ..." if facts.host.container else f"sudo mount -o remount,size={ask}g /dev/shm"
    return [Finding("warning", "/dev/shm", text, fix)]


def memory_and_limits(facts: Facts, table: Table) -> list[Finding]:
    """Memory within the control group, open files, space for checkpoints."""
    host, findings = facts.host, []
    if host.memory_available_bytes is not None and host.memory_available_bytes < LEAST_MEMORY_BYTES:
        of = f" of {_gb(host.memory_bytes)}" if host.memory_bytes else ""
        text = f"{_gb(host.memory_available_bytes)}{of} GB of memory available"
        fix = "docker run --memory=8g ..." if host.container else "end what holds it; see: ps aux --sort=-rss | head"
        findings.append(Finding("warning", "memory", text, fix))
    if host.open_files is not None and host.open_files < LEAST_OPEN_FILES:
        text = f"only {host.open_files} files may be open at once; workers need more"
        findings.append(Finding("warning", "open files", text, "ulimit -n 4096"))
    if host.folder and host.folder.free_bytes is not None and host.folder.free_bytes < LEAST_DISK_BYTES:
        text = f"{_gb(host.folder.free_bytes)} GB free in {host.folder.path}"
        findings.append(Finding("warning", "disk", text, "mlcli train X.yaml --out /a/larger/disk"))
    return findings


def filesystem(facts: Facts, table: Table) -> list[Finding]:
    """Where the data usually lie."""
    folder = facts.host.folder
    if not folder:
        return []
    speed = f", reads {folder.cold_read_mb_s:.0f} MB/s uncached" if folder.cold_read_mb_s else ""
    if folder.filesystem in WINDOWS_DISK and facts.host.wsl:
        text = f"{folder.path} is a disk of Windows ({folder.filesystem}): slow for many small files{speed}"
        return [Finding("warning", "disk", text, "keep the data inside WSL: cp -r data ~/")]
    if folder.filesystem in NETWORK:
        return [Finding("info", "disk", f"{folder.path} is on the network ({folder.filesystem}){speed}", MEASURE)]
    # Virtual disks call themselves turning too; what one reads tells.
    if folder.rotational and folder.cold_read_mb_s and folder.cold_read_mb_s < FASTEST_TURNING_MB_S:
        return [Finding("info", "disk", f"{folder.path} is on a disk that turns{speed}", MEASURE)]
    return []


def several_gpus(facts: Facts, table: Table) -> list[Finding]:
    """What GPUs need to work together."""
    torch, visible = facts.torch, links.visible_gpus(facts)
    if torch is None or len(visible) < 2:
        return []
    findings = []
    if torch.nccl is False and facts.host.system == "Linux":
        text = f"{len(visible)} GPUs, but this PyTorch has no NCCL to join them"
        findings.append(Finding("warning", "NCCL", text, advise(facts, table).command))
    if torch.no_peer_access:
        text = (
            f"GPUs {', '.join(torch.no_peer_access)} cannot read each other's memory (P2P); they talk through the CPU's"
        )
        findings.append(Finding("info", "P2P", text))
    return findings


def _gb(size: int | None) -> str:
    return f"{(size or 0) / (1 << 30):.1f}"
