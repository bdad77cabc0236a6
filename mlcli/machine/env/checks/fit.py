"""Checks of what is left once a GPU is reached: does this PyTorch fit it and its driver, and does it compute right."""

from mlcli.machine.env import links
from mlcli.machine.env.advice import Advice, advise, keep_driver, newer_driver_helps
from mlcli.machine.env.checks.finding import Finding
from mlcli.machine.env.compatibility import Table, capability_range, dotted
from mlcli.machine.env.facts import Facts


def torch_works(facts: Facts, table: Table) -> list[Finding]:
    """PyTorch is installed and can be imported."""
    torch = facts.torch
    if torch is None or torch.state == "ok":
        return []
    if torch.state == "missing":
        return [Finding("error", "PyTorch", "PyTorch is not installed", advise(facts, table).command)]
    if torch.state == "import failed":
        text = f"import torch fails: {torch.error}"
    elif torch.state == "timed out":
        text = f"PyTorch hangs at '{torch.stage}': {torch.error}"
    else:
        text = f"PyTorch crashes at '{torch.stage}': {torch.error}"
    return [Finding("error", "PyTorch", text, advise(facts, table).command)]


def cpu_only(facts: Facts, table: Table) -> list[Finding]:
    """A GPU that works, and a PyTorch that was built without CUDA."""
    if not facts.gpu.gpus or links.torch_cuda(facts) != "" or (facts.torch and facts.torch.hip):
        return []
    text = f"this PyTorch ({links.torch_version(facts)}) is a CPU build"
    if facts.host.system == "Windows":
        text += ", as pip installs by itself on Windows"
    return [Finding("error", "PyTorch", text, advise(facts, table).command)]


def driver_too_old(facts: Facts, table: Table) -> list[Finding]:
    """The driver's newest CUDA is of an older major version than PyTorch's."""
    needs, runs = links.build_cuda(facts), links.driver_cuda(facts, table)
    if not links.driver_too_old(facts, table) or needs is None or runs is None:
        return []
    found = f"{links.driver(facts)} runs CUDA up to {dotted(runs)}"
    gpus, advice = links.visible_gpus(facts) or facts.gpu.gpus, advise(facts, table)
    if gpus and not newer_driver_helps(facts, table, gpus[0]):
        known = table.architecture(gpus[0].capability)
        if known and known.last_toolkit and needs[0] > known.last_toolkit:
            reason = f"CUDA {needs[0]} no longer makes code for {known.name}"
        else:
            reason = f"builds for CUDA {needs[0]} left {known.name if known else 'this GPU'} out"
        text = f"this PyTorch is built for CUDA {dotted(needs)}, driver {found}"
        text = f"{text}, and no driver update helps, because {reason}. {_last(advice)}"
        return [Finding("error", "CUDA", text, advice.command)]
    oldest = table.oldest_driver(needs[0], facts.host.system)
    text = f"this PyTorch is built for CUDA {dotted(needs)} and needs driver {oldest} or newer, but {found}"
    if advice.is_driver:
        return [Finding("error", "CUDA", f"{text}; {advice.why}", advice.command)]
    return [Finding("error", "CUDA", f"{text}. Update the driver, or take {advice.why}", advice.command)]


def _last(advice: Advice) -> str:
    """ "The last build for this GPU is PyTorch 2.14 for CUDA 12.6" """
    if advice.build:
        return f"The last build for this GPU is {advice.why}"
    return advice.why[0].upper() + advice.why[1:]


def older_minor(facts: Facts, table: Table) -> list[Finding]:
    """Same CUDA major version, older minor: machine code runs, texts for the driver do not."""
    needs, runs = links.build_cuda(facts), links.driver_cuda(facts, table)
    if not (needs and runs and needs[0] == runs[0] and runs < needs):
        return []
    text = (
        f"the driver runs CUDA up to {dotted(runs)}, PyTorch is built for {dotted(needs)}: works (minor-version "
        "compatibility); own kernels that the driver must translate may fail with error 222"
    )
    return [Finding("info", "CUDA", text)]


def no_kernels(facts: Facts, table: Table) -> list[Finding]:
    """GPUs for which this PyTorch holds no code. An error if that leaves none."""
    visible = links.visible_gpus(facts)
    without = [gpu for gpu in visible if links.has_kernels(gpu, facts, table) is False]
    advice, findings = advise(facts, table), []
    for gpu in without:
        kept, known = keep_driver(gpu, table), table.architecture(gpu.capability)
        text = (
            f"this PyTorch has no kernels for compute capability {links.gpu_text(gpu, table)}, "
            f"{f'for which it takes {known.toolkits}; ' if known else ''}it has "
            f"{capability_range(links.codes(facts, table))}"
        )
        if len(without) < len(visible):
            usable = ",".join(str(other.index) for other in visible if other not in without)
            text = f"GPU {gpu.index} ({gpu.name}): {text}"
            findings.append(Finding("warning", "kernels", text, f"export CUDA_VISIBLE_DEVICES={usable}"))
        else:
            text = f"{text}. {_last(advice)}" + (f" ({kept})" if kept and advice.build else "")
            findings.append(Finding("error", "kernels", text, advice.command))
    return findings


def gpu_starts(facts: Facts, table: Table) -> list[Finding]:
    """Everything fits on paper, and still PyTorch sees no GPU."""
    torch = facts.torch
    if not (torch and torch.cuda and torch.cuda_available is False and links.visible_gpus(facts)):
        return []
    if links.driver_too_old(facts, table):
        return []
    text = f"the driver sees the GPU, PyTorch does not: {torch.cuda_error or 'CUDA does not start'}"
    if facts.gpu.modules and "nvidia_uvm" not in facts.gpu.modules:
        return [
            Finding("error", "CUDA", f"{text}; the kernel module nvidia_uvm is not loaded", "sudo modprobe nvidia_uvm")
        ]
    return [Finding("error", "CUDA", text, "sudo reboot")]


def kernels_compute(facts: Facts, table: Table) -> list[Finding]:
    """Real computations, compared with the CPU's answer."""
    findings = []
    for kernel in facts.torch.kernels if facts.torch else ():
        if kernel.outcome in ("failed", "wrong"):
            half = kernel.name in ("matmul fp16", "matmul bf16")
            how = "is wrong" if kernel.outcome == "wrong" else "fails"
            text = f"{kernel.name} on {kernel.device} {how}: {kernel.detail}"
            fix = "mlcli train X.yaml train.precision=fp32" if half else advise(facts, table).command
            findings.append(Finding("warning" if half else "error", "kernels", text, fix))
    return findings


def chain_is_fine(facts: Facts, table: Table) -> list[Finding]:
    """What was proven by computing it."""
    kernels = facts.torch.kernels if facts.torch else ()
    devices = dict.fromkeys(kernel.device for kernel in kernels)
    right = sum(kernel.outcome == "ok" for kernel in kernels)
    if not kernels or any(kernel.outcome in ("failed", "wrong") for kernel in kernels):
        return []
    return [Finding("ok", "kernels", f"{right} computations on {', '.join(devices)} agree with float64 on the CPU")]
