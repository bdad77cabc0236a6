"""Which Python runs, in which environment, and what is installed in it: read from files, nothing is imported."""

import json
import platform
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from mlcli.machine.env.facts import Package

SHOWN = ("torch", "torchvision", "torchaudio", "triton", "tensorboard", "setuptools", "numpy", "pip", "mlcli")
"""Looked up by name; beside them every nvidia-* package, since two generations of them get into each other's way."""
REQUIREMENTS_OF = ("torchvision", "mlcli")


def python_questions() -> dict[str, Callable[[], Any]]:
    """Field of PythonFacts -> how to find it out."""
    return {
        "version": platform.python_version,
        "executable": lambda: sys.executable,
        "environment": lambda: environment(Path(sys.prefix), Path(sys.base_prefix)),
        "prefix": lambda: sys.prefix,
        "packages": packages,
        "conda_packages": lambda: conda_packages(Path(sys.prefix)),
        "requires": lambda: {name: requirements(name) for name in REQUIREMENTS_OF},
        "torch_requires_python": lambda: _metadata("torch", "Requires-Python"),
    }


def environment(prefix: Path, base_prefix: Path) -> str:
    if (prefix / "conda-meta").is_dir():
        return "conda"
    return "venv" if prefix != base_prefix else "system"


def packages() -> tuple[Package, ...]:
    """The first of each name on the path, which is the one that is imported."""
    nvidia = {
        name
        for distribution in metadata.distributions()
        if (name := (distribution.name or "").lower()).startswith("nvidia-")
    }
    return tuple(package for name in (*SHOWN, *sorted(nvidia)) if (package := installed(name)))


def installed(name: str) -> Package | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    location = Path(str(found.locate_file(""))).resolve()
    build, cuda = flavour(name, location)
    installer = (found.read_text("INSTALLER") or "").strip()
    origin = json.loads(found.read_text("direct_url.json") or "{}").get("url", "")  # PEP 610
    return Package(name, found.version, build, cuda, installer, str(location), origin)


def flavour(name: str, location: Path) -> tuple[str, str | None]:
    """Version with its suffix, and CUDA, from the package's version.py; wheels on PyPI have no suffix in their name."""
    path = location / name / "version.py"
    if name not in ("torch", "torchvision") or not path.is_file():
        return "", None
    text = path.read_text(errors="replace")
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    build = version[1] if version else ""
    told = re.search(r"^cuda\s*(?::[^=]+)?=\s*(None|['\"]([\d.]+)['\"])", text, re.MULTILINE)
    if told:
        return build, told[2] or ""
    suffix = re.search(r"\+(cu(\d+)(\d)|cpu)", build)
    if not suffix:
        return build, None
    return build, f"{suffix[2]}.{suffix[3]}" if suffix[2] else ""


def conda_packages(prefix: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (prefix / "conda-meta").glob("*.json")))


def requirements(name: str) -> tuple[str, ...]:
    """What a package requires, without what its extras add; nothing if it is not installed."""
    try:
        return tuple(text for text in metadata.requires(name) or () if "extra ==" not in text)
    except metadata.PackageNotFoundError:
        return ()


def _metadata(name: str, key: str) -> str:
    try:
        return metadata.metadata(name)[key] or ""
    except metadata.PackageNotFoundError:
        return ""
