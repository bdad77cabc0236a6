"""Checks of the first links: is there a GPU, does a driver run it, and may this process use it."""

from mlcli.machine.env import links
from mlcli.machine.env.advice import driver_install
from mlcli.machine.env.checks.finding import Finding, Severity
from mlcli.machine.env.compatibility import Table
from mlcli.machine.env.facts import Facts
from mlcli.machine.env.links import VERSION_MISMATCH

LIBRARY_NOT_FOUND, GPU_LOST = 12, 15
"""nvmlReturn_t"""


def nvml_mismatch(facts: Facts, table: Table) -> list[Finding]:
    """The library was updated, the loaded kernel module is still the old one."""
    if facts.gpu.nvml_code != VERSION_MISMATCH:
        return []
    loaded = f" (the loaded module is {facts.gpu.kernel_driver})" if facts.gpu.kernel_driver else ""
    text = f"the driver was updated while it was loaded{loaded}: library and kernel module no longer match, so reboot"
    return [Finding("error", "driver", text, "sudo reboot")]


def wsl(facts: Facts, table: Table) -> list[Finding]:
    """In WSL2 the driver is Windows', lent through /usr/lib/wsl/lib; none must be installed inside."""
    if not facts.host.wsl:
        return []
    if facts.host.foreign_libcuda:
        text = f"a Linux driver in WSL ({facts.host.foreign_libcuda}) hides the one that Windows lends"
        return [Finding("warning", "WSL2", text, "sudo apt remove --purge '^libnvidia-compute-.*' '^nvidia-.*'")]
    if not facts.host.wsl_libcuda:
        text = "Windows lends no NVIDIA driver to this WSL2 (/usr/lib/wsl/lib/libcuda.so is missing)"
        return [Finding("info", "WSL2", f"{text}; with an NVIDIA GPU, {driver_install(facts, table)}")]
    if not facts.gpu.gpus and not (facts.torch and facts.torch.cuda_available):
        reason = facts.gpu.nvml_error or "NVML finds none"
        text = f"Windows lends its driver to this WSL2, but no GPU is reached ({reason})"
        return [Finding("error", "WSL2", text, "wsl.exe --update && wsl.exe --shutdown")]
    return [Finding("ok", "WSL2", "the driver that Windows lends is in its place")]


def presence(facts: Facts, table: Table) -> list[Finding]:
    """A GPU that is there but not reachable, and why."""
    gpu, host = facts.gpu, facts.host
    if gpu.gpus or host.wsl or gpu.nvml_code == VERSION_MISMATCH:
        return _partly(facts)
    cards = [device for device in gpu.bus if device.vendor == "nvidia"]
    names = ", ".join(device.name or f"NVIDIA card {device.address}" for device in cards)
    if any(device.driver == "nouveau" for device in cards) or (cards and "nouveau" in gpu.modules):
        text = f"{names} is on the PCI bus, but the nouveau driver holds it, which cannot compute"
        return [Finding("error", "driver", f"{text}; install NVIDIA's and reboot", driver_install(facts, table))]
    if cards and all(device.driver == "vfio-pci" for device in cards):
        return [Finding("info", "GPU", f"{names} is lent to a virtual machine (vfio-pci)")]
    if host.container and gpu.kernel_driver and not any(name.startswith("nvidia") for name in gpu.device_files):
        text = f"the host has an NVIDIA driver ({gpu.kernel_driver}), but this container was started without its GPUs"
        return [Finding("error", "container", text, "docker run --gpus all ...")]
    if cards and not gpu.kernel_driver:
        text = f"{names} is on the PCI bus, but no NVIDIA driver is loaded"
        return [Finding("error", "driver", text, driver_install(facts, table))]
    if gpu.kernel_driver or cards:
        reason = gpu.nvml_error or "NVML finds no GPU"
        fix = "sudo reboot" if gpu.nvml_code == GPU_LOST else driver_install(facts, table)
        text = f"driver {gpu.kernel_driver} is loaded but reaches no GPU ({reason}); cards before Turing need R580"
        if gpu.nvml_code == LIBRARY_NOT_FOUND:
            text = f"driver {gpu.kernel_driver} is loaded, but its library libnvidia-ml is missing here"
            fix = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..." if host.container else fix
        # PyTorch needs only libcuda: a container may have that and no libnvidia-ml.
        severity: Severity = "warning" if facts.torch and facts.torch.cuda_available else "error"
        return [Finding(severity, "driver", text, fix)]
    return _without_nvidia(facts)


def _partly(facts: Facts) -> list[Finding]:
    cards = [device for device in facts.gpu.bus if device.vendor == "nvidia" and device.driver != "vfio-pci"]
    if facts.gpu.gpus and len(cards) > len(facts.gpu.gpus):
        text = f"{len(cards)} NVIDIA cards are on the PCI bus, the driver reaches {len(facts.gpu.gpus)}"
        return [Finding("warning", "GPU", text, "sudo dmesg | grep -i nvrm")]
    return []


def _without_nvidia(facts: Facts) -> list[Finding]:
    if facts.host.system == "Darwin":
        return []
    if links.uses_rocm(facts):
        return [Finding("ok", "GPU", "an AMD GPU is used through ROCm")]
    if any(device.vendor == "amd" for device in facts.gpu.bus):
        return [Finding("info", "GPU", "an AMD GPU is there; PyTorch could use it only in a build for ROCm")]
    return [Finding("info", "GPU", "no NVIDIA GPU here: training runs on the CPU")]


def hidden(facts: Facts, table: Table) -> list[Finding]:
    """GPUs that exist but that this process may not use."""
    gpus, visible = facts.gpu.gpus, links.visible_gpus(facts)
    setting = facts.host.environment.get("CUDA_VISIBLE_DEVICES")
    findings = []
    if gpus and not visible:
        text = f'CUDA_VISIBLE_DEVICES="{setting}" hides {"the GPU" if len(gpus) == 1 else f"all {len(gpus)} GPUs"}'
        findings.append(Finding("error", "hidden GPU", text, "unset CUDA_VISIBLE_DEVICES"))
    elif setting is not None and len(visible) < len([entry for entry in setting.split(",") if entry.strip()]):
        text = f'CUDA_VISIBLE_DEVICES="{setting}" names a GPU that is not there; it and those after it are hidden'
        findings.append(Finding("warning", "hidden GPU", text, "unset CUDA_VISIBLE_DEVICES"))
    for gpu in visible:
        if gpu.compute_mode == "prohibited":
            text = f"GPU {gpu.index} is in compute mode 'prohibited'"
            severity: Severity = "error" if len(visible) == 1 else "warning"
            findings.append(Finding(severity, "hidden GPU", text, f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"))
        elif gpu.compute_mode == "exclusive" and gpu.processes:
            text = f"GPU {gpu.index} is in exclusive compute mode and another process has it"
            findings.append(Finding("warning", "hidden GPU", text, f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"))
        if gpu.mig:
            text = f"GPU {gpu.index} is split (MIG); a process uses one instance: CUDA_VISIBLE_DEVICES=MIG-..."
            findings.append(Finding("info", "hidden GPU", text))
    return findings
