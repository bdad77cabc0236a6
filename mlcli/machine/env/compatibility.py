"""The dated table of what fits together (compatibility.yaml), and the rules for reading it. No torch in here."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlcli.machine.env.facts import CudaVersion

TABLE = Path(__file__).with_name("compatibility.yaml")
CODE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)$")
"""sm_90a is for 9.0 only, sm_120f for its family (CUDA C++ programming guide, "Feature Availability")."""
JETSON = {(5, 3), (6, 2), (7, 2), (8, 7)}
"""Boards that run only code made for them (torch.cuda.DEVICE_REQUIREMENT); the last two run all since CUDA 13.2."""
RENAMED = {(10, 1): (11, 0)}
"""The same chip under two numbers (torch.cuda.DEVICE_REQUIREMENT)."""


@dataclass(frozen=True)
class Architecture:
    name: str
    capabilities: tuple[CudaVersion, ...]
    first_toolkit: CudaVersion
    last_toolkit: int | None
    """CUDA major version after which toolkits no longer know it; None while they do."""
    last_driver: str
    """Last driver branch that knows it; empty while drivers do."""

    @property
    def toolkits(self) -> str:
        """ "CUDA 8.0 to 12", "CUDA 12.8 or newer" """
        return f"CUDA {dotted(self.first_toolkit)} " + (f"to {self.last_toolkit}" if self.last_toolkit else "or newer")


@dataclass(frozen=True)
class Build:
    """One wheel of PyTorch."""

    release: CudaVersion
    tag: str
    """"cu126" """
    codes: tuple[str, ...]
    on_pypi: bool
    """`pip install torch` takes it on Linux, as long as this release is the newest."""
    oldest_python: tuple[int, ...]
    newest_python: tuple[int, ...] | None
    """None for no known limit."""

    @property
    def cuda(self) -> CudaVersion:
        return int(self.tag[2:-1]), int(self.tag[-1])


@dataclass(frozen=True)
class CompatibilityTable:
    checked: str
    families: dict[int, dict[str, str]]
    """CUDA major -> {"linux": oldest driver, "windows": ...}"""
    toolkits: dict[CudaVersion, dict[str, str]]
    architectures: tuple[Architecture, ...]
    builds: dict[str, tuple[Build, ...]]
    """Machine ("x86_64") -> builds, newest release first."""
    wheels: str
    driver_install: dict[str, str]
    driver_page: str

    def architecture(self, capability: CudaVersion | None) -> Architecture | None:
        return next((known for known in self.architectures if capability in known.capabilities), None)

    def oldest_driver(self, cuda_major: int, system: str) -> str:
        """For builds of this CUDA major version; empty if the table does not know it."""
        return self.families.get(cuda_major, {}).get(_column(system), "")

    def cuda_of_driver(self, driver: str, system: str) -> CudaVersion | None:
        """Newest CUDA whose own driver is not newer than this one."""
        needed = {cuda: drivers.get(_column(system)) for cuda, drivers in self.toolkits.items()}
        fitting = (cuda for cuda, oldest in needed.items() if oldest and numbers(oldest) <= numbers(driver))
        return max(fitting, default=None)


def load_table() -> CompatibilityTable:
    plain = yaml.safe_load(TABLE.read_text())
    return CompatibilityTable(
        checked=str(plain["checked"]),
        families={int(major): drivers for major, drivers in plain["families"].items()},
        toolkits={pair(cuda): drivers for cuda, drivers in plain["toolkits"].items()},
        architectures=tuple(
            Architecture(
                name,
                tuple(map(pair, known["capabilities"])),
                pair(known["first_toolkit"]),
                int(known["last_toolkit"]) if "last_toolkit" in known else None,
                known.get("last_driver", ""),
            )
            for name, known in plain["architectures"].items()
        ),
        builds={machine: tuple(_builds(plain, machine)) for machine in ("x86_64", "aarch64")},
        **{key: plain[key] for key in ("wheels", "driver_install", "driver_page")},
    )


def _builds(plain: dict[str, Any], machine: str) -> Iterable[Build]:
    for line in plain["torch"]:
        oldest, newest = numbers(line["python"][0]), numbers(line["python"][1]) if line["python"][1:] else None
        for release in line["releases"]:
            for name in line["builds"]:
                if codes := plain["builds"][name].get(machine):
                    tag = name.split("-")[0]
                    yield Build(pair(release), tag, tuple(codes), tag == line["pypi"], oldest, newest)


def runs_on(codes: Iterable[str], gpu: CudaVersion, cuda: CudaVersion | None = None) -> bool:
    """Whether machine code for one of `codes` runs on a GPU of this capability: same major, minor not above the GPU's.

    `cuda` is what the code was built with; it decides for Jetson boards. Texts for the driver ("compute_120") are not
    machine code and do not count.
    """
    apart = JETSON - {(7, 2), (8, 7)} if cuda is not None and cuda >= (13, 2) else JETSON
    gpu = RENAMED.get(gpu, gpu)
    for code in codes:
        parts = CODE.match(code)
        if not parts or parts[1] != "sm":
            continue
        made_for = (int(parts[2]), int(parts[3]))
        made_for = RENAMED.get(made_for, made_for)
        exact_only = parts[4] == "a" or made_for in apart or gpu in apart
        if made_for == gpu or (not exact_only and made_for[0] == gpu[0] and made_for[1] <= gpu[1]):
            return True
    return False


def translated_on(codes: Iterable[str], gpu: CudaVersion) -> bool:
    """Whether `codes` hold a text (PTX) that a driver of the build's CUDA or newer can translate for this GPU."""
    texts = (CODE.match(code) for code in codes)
    return any(m and m[1] == "compute" and not m[4] and (int(m[2]), int(m[3])) <= gpu for m in texts)


def capability_range(codes: Iterable[str]) -> str:
    """ "7.5 … 12.0" """
    made_for = sorted({(int(m[2]), int(m[3])) for m in map(CODE.match, codes) if m and m[1] == "sm"})
    return " … ".join(dict.fromkeys(dotted(end) for end in (made_for[0], made_for[-1]))) if made_for else "none"


def numbers(version: str) -> tuple[int, ...]:
    """ "580.65.06" -> (580, 65, 6); what follows the leading numbers, such as +cu132 or rc1, is left out."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading[0].split(".")) if leading else ()


def pair(version: str) -> CudaVersion:
    """ "13.2" -> (13, 2)"""
    major, minor = (*numbers(version), 0, 0)[:2]
    return major, minor


def dotted(version: Iterable[int]) -> str:
    """(13, 2) -> "13.2" """
    return ".".join(map(str, version))


def _column(system: str) -> str:
    return "windows" if system == "Windows" else "linux"
