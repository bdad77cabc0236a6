"""Checks of the chain: is there a GPU, may this process use it, does PyTorch fit it, and does it compute correctly."""

from collections.abc import Iterator

from mlcli.machine.env.advice import InstallAdvice, advise, driver_install
from mlcli.machine.env.chain import VERSION_MISMATCH, Chain
from mlcli.machine.env.compatibility import capability_range, dotted, runs_on, translated_on
from mlcli.machine.env.facts import MachineFinding, Severity

LIBRARY_NOT_FOUND, GPU_LOST = 12, 15
"""nvmlReturn_t"""

# --- GPU and driver --------------------------------------------------------------------------------------------------


def nvml_mismatch(chain: Chain) -> Iterator[MachineFinding]:
    """The library was updated, the loaded kernel module is still the old one."""
    gpu = chain.facts.gpu
    if gpu.nvml_code == VERSION_MISMATCH:
        loaded = f" (the loaded module is {gpu.kernel_driver})" if gpu.kernel_driver else ""
        text = f"the driver was updated while it was loaded{loaded}: library and kernel module no longer match"
        yield MachineFinding("error", "driver", f"{text}, so reboot", "sudo reboot")


def presence(chain: Chain) -> Iterator[MachineFinding]:
    """A GPU that is there but not reachable, and why."""
    gpu, host, cards = chain.facts.gpu, chain.facts.host, chain.nvidia_cards
    install = driver_install(chain)
    if gpu.gpus or host.wsl or gpu.nvml_code == VERSION_MISMATCH:
        own = [card for card in cards if card.driver != "vfio-pci"]
        if gpu.gpus and len(own) > len(gpu.gpus):
            text = f"{len(own)} NVIDIA cards are on the PCI bus, the driver reaches {len(gpu.gpus)}"
            yield MachineFinding("warning", "GPU", text, "sudo dmesg | grep -i nvrm")
        return
    names = ", ".join(card.name or f"NVIDIA card {card.address}" for card in cards)
    if any(card.driver == "nouveau" for card in cards) or (cards and "nouveau" in gpu.modules):
        text = f"{names} is on the PCI bus, but the nouveau driver holds it, which cannot compute"
        yield MachineFinding("error", "driver", f"{text}; install NVIDIA's and reboot", install)
    elif cards and all(card.driver == "vfio-pci" for card in cards):
        yield MachineFinding("info", "GPU", f"{names} is assigned to a virtual machine (vfio-pci)")
    elif host.container and gpu.kernel_driver and not any(name.startswith("nvidia") for name in gpu.device_files):
        text = f"the host has an NVIDIA driver ({gpu.kernel_driver}), but this container was started without its GPUs"
        yield MachineFinding("error", "container", text, "docker run --gpus all ...")
    elif cards and not gpu.kernel_driver:
        yield MachineFinding("error", "driver", f"{names} is on the PCI bus, but no NVIDIA driver is loaded", install)
    elif gpu.kernel_driver:
        reason = gpu.nvml_error or "NVML finds no GPU"
        text = f"driver {gpu.kernel_driver} is loaded but reaches no GPU ({reason}); cards before Turing need R580"
        fix = "sudo reboot" if gpu.nvml_code == GPU_LOST else install
        if gpu.nvml_code == LIBRARY_NOT_FOUND:
            text = f"driver {gpu.kernel_driver} is loaded, but its library libnvidia-ml is missing here"
            fix = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ..." if host.container else fix
        # PyTorch needs only libcuda: a container may have that and no libnvidia-ml.
        works = chain.facts.torch and chain.facts.torch.cuda_available
        yield MachineFinding("warning" if works else "error", "driver", text, fix)
    elif chain.uses_rocm:
        yield MachineFinding("ok", "GPU", "an AMD GPU is used through ROCm")
    elif any(device.vendor == "amd" for device in gpu.bus):
        yield MachineFinding("info", "GPU", "an AMD GPU is there; PyTorch could use it only in a build for ROCm")
    elif host.system != "Darwin":
        yield MachineFinding("info", "GPU", "no NVIDIA GPU here: training runs on the CPU")


def hidden(chain: Chain) -> Iterator[MachineFinding]:
    """GPUs that exist but that this process may not use."""
    gpus, visible = chain.facts.gpu.gpus, chain.visible_gpus
    setting = chain.facts.host.environment.get("CUDA_VISIBLE_DEVICES")
    if gpus and not visible:
        text = f'CUDA_VISIBLE_DEVICES="{setting}" hides {"the GPU" if len(gpus) == 1 else f"all {len(gpus)} GPUs"}'
        yield MachineFinding("error", "hidden GPU", text, "unset CUDA_VISIBLE_DEVICES")
    elif setting is not None and len(visible) < len([entry for entry in setting.split(",") if entry.strip()]):
        text = f'CUDA_VISIBLE_DEVICES="{setting}" names a GPU that is not there; it and those after it are hidden'
        yield MachineFinding("warning", "hidden GPU", text, "unset CUDA_VISIBLE_DEVICES")
    for gpu in visible:
        fix = f"sudo nvidia-smi -i {gpu.index} -c DEFAULT"
        if gpu.compute_mode == "prohibited":
            severity: Severity = "error" if len(visible) == 1 else "warning"
            yield MachineFinding(severity, "hidden GPU", f"GPU {gpu.index} is in compute mode 'prohibited'", fix)
        elif gpu.compute_mode == "exclusive" and gpu.processes:
            text = f"GPU {gpu.index} is in exclusive compute mode and another process has it"
            yield MachineFinding("warning", "hidden GPU", text, fix)
        if gpu.mig:
            text = f"GPU {gpu.index} is split (MIG); a process uses one instance: CUDA_VISIBLE_DEVICES=MIG-..."
            yield MachineFinding("info", "hidden GPU", text)


def wsl(chain: Chain) -> Iterator[MachineFinding]:
    """In WSL2 the driver is Windows', lent through /usr/lib/wsl/lib; none must be installed inside."""
    host, gpu, torch = chain.facts.host, chain.facts.gpu, chain.facts.torch
    if not host.wsl:
        return
    if host.foreign_libcuda:
        text = f"a Linux driver in WSL ({host.foreign_libcuda}) hides the one that Windows provides"
        yield MachineFinding("warning", "WSL2", text, "sudo apt remove --purge '^libnvidia-compute-.*' '^nvidia-.*'")
    elif not host.wsl_libcuda:
        text = "Windows provides no NVIDIA driver to this WSL2 (/usr/lib/wsl/lib/libcuda.so is missing)"
        yield MachineFinding("info", "WSL2", f"{text}; with an NVIDIA GPU, {driver_install(chain)}")
    elif not gpu.gpus and not (torch and torch.cuda_available):
        reason = gpu.nvml_error or "NVML finds none"
        text = f"Windows provides its driver to this WSL2, but no GPU is reached ({reason})"
        yield MachineFinding("error", "WSL2", text, "wsl.exe --update && wsl.exe --shutdown")
    else:
        yield MachineFinding("ok", "WSL2", "the driver that Windows provides is in place")


def apple(chain: Chain) -> Iterator[MachineFinding]:
    """Apple silicon computes through MPS, with a Python made for it."""
    host, torch = chain.facts.host, chain.facts.torch
    if host.rosetta:
        text = "this Python is built for Intel and translated by Rosetta; PyTorch no longer has such a build"
        yield MachineFinding("error", "Python", text, "brew install python")
    elif host.system == "Darwin" and host.machine == "arm64" and torch and torch.state == "ok":
        if torch.mps_available:
            yield MachineFinding("ok", "GPU", "Apple's GPU is used through MPS")
        else:
            text = "this PyTorch does not reach Apple's GPU (MPS)"
            yield MachineFinding("warning", "GPU", text, advise(chain).command)


# --- CUDA and PyTorch ------------------------------------------------------------------------------------------------


def torch_works(chain: Chain) -> Iterator[MachineFinding]:
    """PyTorch is installed and can be imported."""
    torch = chain.facts.torch
    if torch is None or torch.state == "ok":
        return
    text = {
        "missing": "PyTorch is not installed",
        "import failed": f"import torch fails: {torch.error}",
        "timed out": f"PyTorch hangs at '{torch.stage}': {torch.error}",
        "crashed": f"PyTorch crashes at '{torch.stage}': {torch.error}",
    }[torch.state]
    yield MachineFinding("error", "PyTorch", text, advise(chain).command)


def cpu_only(chain: Chain) -> Iterator[MachineFinding]:
    """A GPU that works, and a PyTorch that was built without CUDA."""
    facts = chain.facts
    if facts.gpu.gpus and chain.torch_cuda == "" and not (facts.torch and facts.torch.hip):
        text = f"this PyTorch ({chain.torch_version}) is a CPU build"
        text += ", as pip installs by itself on Windows" if facts.host.system == "Windows" else ""
        yield MachineFinding("error", "PyTorch", text, advise(chain).command)


def driver_too_old(chain: Chain) -> Iterator[MachineFinding]:
    """The driver's newest CUDA is of an older major version than PyTorch's."""
    needs, runs, table = chain.build_cuda, chain.driver_cuda, chain.table
    if not chain.driver_too_old or needs is None or runs is None:
        return
    found = f"{chain.driver} runs CUDA up to {dotted(runs)}"
    built = f"this PyTorch is built for CUDA {dotted(needs)}"
    gpus, advice = chain.visible_gpus or chain.facts.gpu.gpus, advise(chain)
    capability = gpus[0].capability if gpus else None
    if (
        capability
        and chain.codes
        and not (runs_on(chain.codes, capability, chain.build_cuda) or translated_on(chain.codes, capability))
    ):
        known = table.architecture(capability)
        if known and known.last_toolkit and needs[0] > known.last_toolkit:
            reason = f"CUDA {needs[0]} no longer supports {known.name}"
        else:
            reason = f"builds for CUDA {needs[0]} left {known.name if known else 'this GPU'} out"
        text = f"{built}, driver {found}, and no driver update helps, because {reason}. {_last(advice)}"
    else:
        text = (
            f"{built} and needs driver {table.oldest_driver(needs[0], chain.facts.host.system)} or newer, but {found}"
        )
        text += f"; {advice.why}" if advice.is_driver else f". Update the driver, or take {advice.why}"
    yield MachineFinding("error", "CUDA", text, advice.command)


def _last(advice: InstallAdvice) -> str:
    """ "The last build for this GPU is PyTorch 2.14 for CUDA 12.6" """
    if advice.build:
        return f"The last build for this GPU is {advice.why}"
    return advice.why[0].upper() + advice.why[1:]


def older_minor(chain: Chain) -> Iterator[MachineFinding]:
    """Same CUDA major version, older minor: machine code runs, texts for the driver do not."""
    needs, runs = chain.build_cuda, chain.driver_cuda
    if needs and runs and needs[0] == runs[0] and runs < needs:
        text = (
            f"the driver runs CUDA up to {dotted(runs)}, PyTorch is built for {dotted(needs)}: works (minor-version "
            "compatibility); own kernels that the driver must translate may fail with error 222"
        )
        yield MachineFinding("info", "CUDA", text)


def no_kernels(chain: Chain) -> Iterator[MachineFinding]:
    """GPUs for which this PyTorch holds no code. An error if that leaves none."""
    visible, advice = chain.visible_gpus, advise(chain)
    usable = [gpu for gpu in visible if chain.has_kernels(gpu) is not False]
    for gpu in (gpu for gpu in visible if gpu not in usable):
        known = chain.table.architecture(gpu.capability)
        text = (
            f"this PyTorch has no kernels for compute capability {chain.capability(gpu)}, "
            f"{f'for which it takes {known.toolkits}; ' if known else ''}it has {capability_range(chain.codes)}"
        )
        if usable:
            fix = f"export CUDA_VISIBLE_DEVICES={','.join(str(other.index) for other in usable)}"
            yield MachineFinding("warning", "kernels", f"GPU {gpu.index} ({gpu.name}): {text}", fix)
        else:
            text = f"{text}. {_last(advice)}"
            if advice.build and known and known.last_driver:
                text += f" (keep driver R{known.last_driver}, the last for {known.name})"
            yield MachineFinding("error", "kernels", text, advice.command)


def gpu_starts(chain: Chain) -> Iterator[MachineFinding]:
    """Everything fits on paper, and still PyTorch sees no GPU."""
    torch, modules = chain.facts.torch, chain.facts.gpu.modules
    if chain.driver_too_old or not (torch and torch.cuda and torch.cuda_available is False and chain.visible_gpus):
        return
    text = f"the driver sees the GPU, PyTorch does not: {torch.cuda_error or 'CUDA does not start'}"
    if modules and "nvidia_uvm" not in modules:
        text += "; the kernel module nvidia_uvm is not loaded"
        yield MachineFinding("error", "CUDA", text, "sudo modprobe nvidia_uvm")
    else:
        yield MachineFinding("error", "CUDA", text, "sudo reboot")


def kernels_compute(chain: Chain) -> Iterator[MachineFinding]:
    """Computations on the device, compared with the CPU's answer."""
    kernels = chain.facts.torch.kernels if chain.facts.torch else ()
    bad = [kernel for kernel in kernels if kernel.outcome in ("failed", "wrong")]
    for kernel in bad:
        half = kernel.name in ("matmul fp16", "matmul bf16")
        how = "is wrong" if kernel.outcome == "wrong" else "fails"
        text = f"{kernel.name} on {kernel.device} {how}: {kernel.detail}"
        fix = "mlcli train X.yaml train.precision=fp32" if half else advise(chain).command
        yield MachineFinding("warning" if half else "error", "kernels", text, fix)
    if kernels and not bad:
        right = sum(kernel.outcome == "ok" for kernel in kernels)
        devices = ", ".join(dict.fromkeys(kernel.device for kernel in kernels))
        yield MachineFinding("ok", "kernels", f"{right} computations on {devices} agree with float64 on the CPU")
