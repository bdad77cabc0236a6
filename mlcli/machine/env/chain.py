"""The chain GPU -> driver -> CUDA -> PyTorch as rows of a table. No torch in here."""

from dataclasses import dataclass

from mlcli.machine.env import links
from mlcli.machine.env.compatibility import Table, capability_range, dotted
from mlcli.machine.env.facts import Facts, Gpu


@dataclass(frozen=True)
class Row:
    link: str
    what: str
    detail: str
    state: str
    """"ok", "-" where it does not matter, or the trouble in capitals."""


def machine_rows(facts: Facts, table: Table) -> list[Row]:
    """What is known without asking PyTorch: GPUs, driver, Python, and the CUDA that PyTorch's files name."""
    return [*_gpu_rows(facts, table), _driver_row(facts, table), _python_row(facts), _cuda_row(facts, table)]


def torch_rows(facts: Facts, table: Table) -> list[Row]:
    """What PyTorch said of itself and computed."""
    return [_torch_row(facts, table), _vision_row(facts), *_kernel_rows(facts)]


def _gpu_rows(facts: Facts, table: Table) -> list[Row]:
    gpus, visible = facts.gpu.gpus, links.visible_gpus(facts)
    rows = []
    for gpu in gpus:
        memory = f"   {gpu.memory_bytes / (1 << 30):.0f} GB" if gpu.memory_bytes else ""
        link = f"GPU {gpu.index}" if len(gpus) > 1 else "GPU"
        state = "ok" if gpu in visible else "HIDDEN"
        rows.append(Row(link, f"{gpu.name}{memory}", f"compute capability {links.gpu_text(gpu, table)}", state))
    if rows:
        return rows
    on_bus = [device for device in facts.gpu.bus if device.vendor == "nvidia"]
    if on_bus:
        held = f"held by {on_bus[0].driver}" if on_bus[0].driver else "held by no driver"
        return [Row("GPU", on_bus[0].name or "an NVIDIA card", f"on the PCI bus, {held}", "NOT USABLE")]
    if facts.host.system == "Darwin" and facts.host.machine == "arm64":
        return [Row("GPU", "Apple silicon", "used through MPS", "ok")]
    reachable = "NO" if links.has_gpu(facts) else "-"
    return [Row("GPU", "no NVIDIA GPU", "training runs on the CPU" if reachable == "-" else "not reachable", reachable)]


def _driver_row(facts: Facts, table: Table) -> Row:
    version, runs = links.driver(facts), links.driver_cuda(facts, table)
    if facts.gpu.nvml_error and links.has_gpu(facts):
        return Row("driver", version or "unknown", facts.gpu.nvml_error, "NO")
    if not version:
        return Row("driver", "none", "", "NO" if links.has_gpu(facts) else "-")
    return Row("driver", version, f"runs CUDA up to {dotted(runs)}" if runs else "", "ok")


def _python_row(facts: Facts) -> Row:
    python = facts.python
    return Row("Python", python.version, f"{python.environment} {python.prefix}", "ok")


def _cuda_row(facts: Facts, table: Table) -> Row:
    cuda = links.torch_cuda(facts)
    if cuda is None:
        return Row("CUDA", "unknown", "PyTorch does not say what it is built for", "-")
    if not cuda:
        state = "NO" if facts.gpu.gpus else "-"
        return Row("CUDA", "torch is built for the CPU", "" if state == "-" else "and cannot use the GPU", state)
    oldest = table.oldest_driver(int(cuda.split(".")[0]), facts.host.system)
    detail = f"needs driver {oldest} or newer" if oldest else ""
    state = "TOO NEW" if links.driver_too_old(facts, table) else "ok" if links.driver(facts) else "-"
    return Row("CUDA", f"torch is built for {cuda}", detail, state)


def _torch_row(facts: Facts, table: Table) -> Row:
    torch, version = facts.torch, links.torch_version(facts)
    if torch is None or torch.state != "ok":
        return Row("PyTorch", version or "none", torch.state if torch else "not asked", "NO")
    inside = links.codes(facts, table)
    without = [gpu for gpu in links.visible_gpus(facts) if links.has_kernels(gpu, facts, table) is False]
    if without:
        detail = f"has no kernels for {_capabilities(without)} (has {capability_range(inside)})"
        return Row("PyTorch", version, detail, "NO")
    return Row("PyTorch", version, f"has kernels for {capability_range(inside)}" if inside else "", "ok")


def _capabilities(gpus: list[Gpu]) -> str:
    return ", ".join(dict.fromkeys(dotted(gpu.capability) for gpu in gpus if gpu.capability))


def _vision_row(facts: Facts) -> Row:
    package, torch = facts.python.package("torchvision"), facts.torch
    version = (torch.vision_version if torch else "") or ((package.build or package.version) if package else "none")
    if torch and torch.vision_version:
        return Row("vision", version, "loads with torch", "ok")
    if torch and torch.vision_error:
        return Row("vision", version, "does not load", "NO")
    return Row("vision", version, "not tried", "-")


def _kernel_rows(facts: Facts) -> list[Row]:
    """One row a device: how many computations gave the CPU's answer."""
    kernels = facts.torch.kernels if facts.torch else ()
    rows = []
    for device in dict.fromkeys(kernel.device for kernel in kernels):
        tried = [kernel for kernel in kernels if kernel.device == device and kernel.outcome != "skipped"]
        bad = [kernel.name for kernel in tried if kernel.outcome != "ok"]
        detail = f"{len(tried) - len(bad)} of {len(tried)} computations agree with float64"
        rows.append(Row("kernels", f"on {device}", detail, "NO" if bad else "ok"))
    return rows
