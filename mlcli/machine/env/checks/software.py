"""Checks of what is installed: packages that do not fit each other, or that came from two places."""

import re

from mlcli.machine.env import links
from mlcli.machine.env.advice import advise
from mlcli.machine.env.checks.finding import Finding, Severity
from mlcli.machine.env.compatibility import Table, numbers
from mlcli.machine.env.facts import Facts

NO_PKG_RESOURCES = 82
"""setuptools 82 removed pkg_resources, which tensorboard before 2.21 imports (tensorflow/tensorboard#7107)."""


def vision_version(facts: Facts, table: Table) -> list[Finding]:
    """torchvision's own metadata says which PyTorch it wants."""
    torch, vision = facts.python.package("torch"), facts.python.package("torchvision")
    if not torch or not vision:
        return []
    for requirement in facts.python.requires.get("torchvision", ()):
        if _name(requirement) == "torch" and not _satisfied(requirement, torch.version):
            text = f"torchvision {vision.version} wants {requirement}, but torch {torch.version} is installed"
            return [Finding(_by_import(facts), "torchvision", text, advise(facts, table).command)]
    return []


def vision_flavour(facts: Facts, table: Table) -> list[Finding]:
    """torch and torchvision built for different CUDA: the numbers fit, and still it does not load."""
    torch, vision = facts.torch, facts.python.package("torchvision")
    if not vision:
        if facts.python.package("torch"):
            return [Finding("error", "torchvision", "torchvision is not installed", advise(facts, table).command)]
        return []
    of_torch, of_vision = links.torch_cuda(facts), vision.cuda
    reason = (torch.vision_library_error or torch.vision_error) if torch else ""
    if of_torch is not None and of_vision is not None and of_torch != of_vision:
        text = f"torchvision is built for {_flavour(of_vision)}, torch for {_flavour(of_torch)}"
        text += f" ({reason})" if reason else ""
        same_major = of_torch.split(".")[0] == of_vision.split(".")[0] and not reason
        if same_major:
            return [Finding("info", "torchvision", f"{text}: works, one CUDA major version")]
        return [Finding(_by_import(facts), "torchvision", text, advise(facts, table).command)]
    if reason and torch and torch.state == "ok":
        return [Finding("error", "torchvision", f"import torchvision fails: {reason}", advise(facts, table).command)]
    return []


def cudnn(facts: Facts, table: Table) -> list[Finding]:
    """More than one cuDNN: the loader takes the first it finds, which may be another than the one PyTorch wants."""
    findings = []
    packages = [p for p in facts.python.packages if re.fullmatch(r"nvidia-cudnn-cu\d+", p.name)]
    if len(packages) > 1:
        names = " and ".join(f"{package.name} {package.version}" for package in packages)
        cuda = links.build_cuda(facts)
        extra = [p.name for p in packages if cuda is None or p.name != f"nvidia-cudnn-cu{cuda[0]}"]
        findings.append(
            Finding("warning", "cuDNN", f"two generations are installed: {names}", f"pip uninstall {' '.join(extra)}")
        )
    if facts.host.cudnn_on_path:
        text = f"LD_LIBRARY_PATH has another cuDNN, which is loaded first: {facts.host.cudnn_on_path[0]}"
        findings.append(Finding("warning", "cuDNN", text, "unset LD_LIBRARY_PATH"))
    loaded = facts.torch.cudnn if facts.torch else None
    if loaded and len(packages) == 1 and _cudnn(loaded) != numbers(packages[0].version)[:2]:
        text = f"PyTorch loads cuDNN {'.'.join(map(str, _cudnn(loaded)))}, installed is {packages[0].version}"
        findings.append(Finding("warning", "cuDNN", text, advise(facts, table).command))
    return findings


def _cudnn(number: int) -> tuple[int, ...]:
    """91002 -> (9, 10); 8902 -> (8, 9): cuDNN 9 counts 10000s, 8 counted 1000s (cudnn_version.h)."""
    return (number // 10000, number // 100 % 100) if number >= 90000 else (number // 1000, number // 100 % 10)


def conda_and_pip(facts: Facts, table: Table) -> list[Finding]:
    """One PyTorch by conda and one by pip in the same environment overwrite each other's files."""
    by_conda = [n for n in facts.python.conda_packages if re.match(r"(pytorch|torchvision|pytorch-cuda)-\d", n)]
    if not by_conda:
        return []
    ours = [package for package in facts.python.packages if package.name in ("torch", "torchvision")]
    by_pip = [package for package in ours if package.installer not in ("", "conda")]
    names = " ".join(sorted({re.sub(r"-\d.*", "", name) for name in by_conda}))
    if by_pip:
        listed = ", ".join(f"{package.name} {package.version}" for package in by_pip)
        text = f"conda installed {', '.join(by_conda)} and pip installed {listed} into one environment"
        return [Finding("warning", "conda", text, f"conda remove --force {names} && {advise(facts, table).command}")]
    old = [name for name in by_conda if re.match(r"pytorch-(1|2\.[0-5])\.", name)]
    text = f"{old[0]} is of the conda channel that ended with PyTorch 2.5; later ones come from pip" if old else ""
    return [Finding("info", "conda", text)] if old else []


def own_packages(facts: Facts, table: Table) -> list[Finding]:
    """What mlcli itself needs, and two combinations that metadata do not forbid."""
    findings = []
    board, tools = facts.python.package("tensorboard"), facts.python.package("setuptools")
    if board and tools and numbers(board.version) < (2, 21) and numbers(tools.version) >= (NO_PKG_RESOURCES,):
        text = f"tensorboard {board.version} does not start with setuptools {tools.version} (pkg_resources is gone)"
        findings.append(Finding("warning", "tensorboard", text, 'pip install --upgrade "tensorboard>=2.21"'))
    wanted = facts.python.torch_requires_python
    if wanted and facts.python.version and not _satisfied(f"python{wanted}", facts.python.version):
        text = f"torch {links.torch_version(facts)} wants Python {wanted}, this is {facts.python.version}"
        findings.append(Finding("warning", "Python", text, advise(facts, table).command))
    named = {finding.subject for finding in findings}
    for requirement in facts.python.requires.get("mlcli", ()):
        package = facts.python.package(_name(requirement))
        if package and package.name not in named and not _satisfied(requirement, package.version):
            text = f"mlcli needs {requirement}, but {package.name} {package.version} is installed"
            fix = advise(facts, table).command if package.name.startswith("torch") else f'pip install "{requirement}"'
            findings.append(Finding("warning", package.name, text, fix))
    return findings


def apple(facts: Facts, table: Table) -> list[Finding]:
    """Apple silicon computes through MPS, with a Python made for it."""
    host, torch = facts.host, facts.torch
    if host.system != "Darwin":
        return []
    if host.rosetta:
        text = "this Python is made for Intel and translated by Rosetta; PyTorch has no such build any more"
        return [Finding("error", "Python", text, "brew install python")]
    if host.machine == "arm64" and torch and torch.state == "ok":
        if torch.mps_available:
            return [Finding("ok", "GPU", "Apple's GPU is used through MPS")]
        return [
            Finding("warning", "GPU", "this PyTorch does not reach Apple's GPU (MPS)", advise(facts, table).command)
        ]
    return []


def _by_import(facts: Facts) -> Severity:
    """An error if torchvision really does not load, or the GPU is to run its kernels; else a warning."""
    broken = facts.torch is None or facts.torch.vision_error or links.visible_gpus(facts)
    return "error" if broken else "warning"


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
