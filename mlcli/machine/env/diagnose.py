"""Derive findings, one verdict and one command from the facts of a machine. Pure: same facts, same answer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlcli.machine.env import checks_chain, checks_system
from mlcli.machine.env.chain import Chain
from mlcli.machine.env.facts import MachineFinding

NOTHING_TO_DO = "nothing to do"
FINE, WARNINGS, UNUSABLE = 0, 1, 2
"""Exit codes of `mlcli env-check`; UNUSABLE: the GPU, or PyTorch itself, cannot be used."""

CHECKS: tuple[Callable[[Chain], Iterator[MachineFinding]], ...] = (
    checks_chain.nvml_mismatch,
    checks_chain.presence,
    checks_chain.hidden,
    checks_chain.apple,
    checks_chain.torch_works,
    checks_chain.cpu_only,
    checks_chain.driver_too_old,
    checks_chain.no_kernels,
    checks_chain.older_minor,
    checks_system.vision_flavour,
    checks_system.vision_version,
    checks_chain.gpu_starts,
    checks_chain.kernels_compute,
    checks_chain.wsl,
    checks_system.conda_and_pip,
    checks_system.cudnn,
    checks_system.own_packages,
    checks_system.unused_cuda,
    checks_system.shared_memory,
    checks_system.cpus,
    checks_system.memory_and_limits,
    checks_system.filesystem,
    checks_system.gpu_busy,
    checks_system.pcie_width,
    checks_system.several_gpus,
    checks_system.sums,
)
"""Causes before their effects: the verdict and the command are those of the first error, else of the first warning."""


@dataclass(frozen=True)
class Diagnosis:
    """command: to type, or "nothing to do"; exit_code: FINE, WARNINGS or UNUSABLE; sources: where facts came from."""

    findings: tuple[MachineFinding, ...]
    verdict: str
    command: str
    exit_code: int
    sources: str


def diagnose(chain: Chain) -> Diagnosis:
    """Run every check and say the one thing to do."""
    findings = [finding for check in CHECKS for finding in check(chain)]
    findings += [MachineFinding("info", "unknown", f"could not be determined: {text}") for text in chain.facts.unknown]
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    code = UNUSABLE if errors else WARNINGS if warnings else FINE
    command = next((finding.fix for finding in errors + warnings), "") or NOTHING_TO_DO
    torch = chain.facts.torch
    if errors:
        verdict = f"{'The GPU' if chain.has_gpu else 'PyTorch'} cannot be used: {errors[0].text}."
    elif chain.visible_gpus:
        verdict = f"The GPU can be used: {', '.join(gpu.name for gpu in chain.visible_gpus)}."
    elif chain.uses_rocm:
        verdict = "The GPU can be used (ROCm)."
    elif torch and torch.mps_available:
        verdict = "Apple's GPU can be used (MPS)."
    else:
        verdict = "PyTorch works; without a GPU, training runs on the CPU."
    verdict += f" But {warnings[0].text}." if warnings and not errors else ""
    return Diagnosis(tuple(findings), verdict, command, code, chain.sources)
