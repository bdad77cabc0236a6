"""From the facts of a machine to findings, one verdict and one command. Pure: the same facts, the same answer."""

from collections.abc import Callable
from dataclasses import dataclass

from mlcli.machine.env import links
from mlcli.machine.env.checks import fit, host, reach, software
from mlcli.machine.env.checks.finding import Finding
from mlcli.machine.env.compatibility import Table
from mlcli.machine.env.facts import Facts

NOTHING_TO_DO = "nothing to do"
FINE, WARNINGS, UNUSABLE = 0, 1, 2
"""Exit codes of `mlcli env-check`; UNUSABLE: the GPU, or PyTorch itself, cannot be used."""

Check = Callable[[Facts, Table], list[Finding]]
CHECKS: tuple[Check, ...] = (
    reach.nvml_mismatch,
    reach.presence,
    reach.hidden,
    software.apple,
    fit.torch_works,
    fit.cpu_only,
    fit.driver_too_old,
    fit.no_kernels,
    fit.older_minor,
    software.vision_flavour,
    software.vision_version,
    fit.gpu_starts,
    fit.kernels_compute,
    fit.chain_is_fine,
    reach.wsl,
    software.conda_and_pip,
    software.cudnn,
    software.own_packages,
    host.shared_memory,
    host.cpus,
    host.memory_and_limits,
    host.filesystem,
    host.gpu_busy,
    host.pcie_width,
    host.several_gpus,
)
"""Causes before their effects: the verdict and the command are those of the first error, else of the first warning."""


@dataclass(frozen=True)
class Diagnosis:
    """command: to type, or "nothing to do"; exit_code: FINE, WARNINGS or UNUSABLE; sources: where facts came from."""

    findings: tuple[Finding, ...]
    verdict: str
    command: str
    exit_code: int
    sources: str


def diagnose(facts: Facts, table: Table) -> Diagnosis:
    """Run every check and say the one thing to do."""
    findings = tuple(finding for check in CHECKS for finding in check(facts, table))
    findings += tuple(Finding("info", "unknown", f"could not be found out: {text}") for text in facts.unknown)
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity == "warning"]
    code = UNUSABLE if errors else WARNINGS if warnings else FINE
    first = next(iter(errors + warnings), None)
    command = (first.fix if first else "") or NOTHING_TO_DO
    return Diagnosis(findings, _verdict(facts, errors, warnings), command, code, links.sources(facts, table))


def _verdict(facts: Facts, errors: list[Finding], warnings: list[Finding]) -> str:
    if errors:
        what = "The GPU" if links.has_gpu(facts) else "PyTorch"
        return f"{what} cannot be used: {errors[0].text}."
    gpus = links.visible_gpus(facts)
    if gpus:
        state = f"The GPU can be used: {', '.join(gpu.name for gpu in gpus)}."
    elif links.uses_rocm(facts):
        state = "The GPU can be used (ROCm)."
    elif facts.torch and facts.torch.mps_available:
        state = "Apple's GPU can be used (MPS)."
    else:
        state = "PyTorch works; without a GPU, training runs on the CPU."
    return f"{state} But {warnings[0].text}." if warnings else state
