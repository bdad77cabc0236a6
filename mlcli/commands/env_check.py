"""`mlcli env-check`: is the chain GPU -> driver -> CUDA -> PyTorch healthy, and if not, what to type."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from mlcli.machine.env.chain import Chain, ChainRow, machine_rows, torch_rows
from mlcli.machine.env.compatibility import load_table
from mlcli.machine.env.diagnose import Diagnosis, diagnose
from mlcli.machine.env.facts import Facts, HostFacts
from mlcli.machine.env.probe import TORCH_TIMEOUT_S, probe_machine, probe_torch_too
from mlcli.text import size, wrapped

WIDTHS = (8, 24, 38)
"""Columns of the chain; fixed, since its first rows are printed before the last are known."""
PATIENCE_S = 15.0
"""A healthy PyTorch on a local disk answers in some 5 s; longer silence wants an explanation."""


def run(as_json: bool = False) -> int:
    """Print what was found and the one thing to do.

    Returns 0 if all is fine, 1 if there are warnings, 2 if the GPU, or PyTorch itself, cannot be used. The rows that
    need no PyTorch appear at once; asking PyTorch takes seconds.
    """
    table = load_table()
    facts = probe_machine()
    if not as_json:
        print("GPU -> driver -> CUDA -> PyTorch")
        _print_rows(machine_rows(Chain(facts, table)))
    with waiting_for_torch():
        facts = probe_torch_too(facts)
    chain = Chain(facts, table)
    diagnosis = diagnose(chain)
    if as_json:
        print(json.dumps({"facts": asdict(facts), **asdict(diagnosis), "table": table.checked}, indent=2))
    else:
        _print_rows(torch_rows(chain))
        _print_machine(facts.host)
        _print_installed(facts)
        _print_diagnosis(diagnosis)
    return diagnosis.exit_code


@contextmanager
def waiting_for_torch(patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Say on stderr what is waited for: on a terminal at once, erased afterwards; anywhere if it takes longer."""
    if sys.stderr is None:  # closed by the caller; print would fall back on stdout
        yield
        return
    limit = f"(up to {TORCH_TIMEOUT_S:g} s)"
    asking = f"  asking PyTorch {limit} ..." if sys.stderr.isatty() else ""
    erase = f"\r{' ' * len(asking)}\r" if asking else ""

    def say(text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)

    late = threading.Timer(patience_s, say, [f"{erase}still waiting for PyTorch {limit}\n"])
    late.daemon = True
    say(asking)
    late.start()
    try:
        yield
    finally:
        late.cancel()
        say(erase)


def _print_rows(rows: list[ChainRow]) -> None:
    for row in rows:
        cells, below = [row.link, row.what, row.detail], ""
        if len(row.what) > WIDTHS[1] or len(row.detail) > WIDTHS[2]:
            cells, below = [row.link, row.what.ljust(sum(WIDTHS[1:]) + 1)], row.detail
        shown = " ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False))
        print(f"  {shown} {row.state}".rstrip(), flush=True)
        if below:
            print(wrapped(below, " " * (WIDTHS[0] + 3), " " * (WIDTHS[0] + 3)), flush=True)


def _print_machine(host: HostFacts) -> None:
    """What training has here besides a GPU."""
    cpus = f"{host.cpus_usable or 'unknown'} of {host.cpus or 'unknown'} usable"
    if host.load is not None:
        cpus += f", {host.load:.1f} busy on average in the last minute"
    rows = [("CPUs", cpus)]
    if host.memory_available_bytes is not None and host.memory_bytes is not None:
        rows.append(("memory", f"{size(host.memory_available_bytes)} of {size(host.memory_bytes)} available"))
    if host.folder and host.folder.free_bytes is not None:
        rows.append(("disk", f"{size(host.folder.free_bytes)} free ({host.folder.filesystem or 'unknown'})"))
    print("\nmachine")
    for what, text in rows:
        print(f"  {what:<{WIDTHS[0]}} {text}")


def _print_installed(facts: Facts) -> None:
    """Packages by the place they came from; more than one place is often the trouble."""
    places: dict[tuple[str, str], list[str]] = {}
    for package in facts.python.packages:
        if not package.name.startswith("nvidia-") or package.name.startswith("nvidia-cudnn"):
            known = f"{package.name} {package.build or package.version}"
            known += f" (from {package.origin})" if package.origin else ""
            places.setdefault((package.installer, package.location), []).append(known)
    print("\ninstalled")
    for (installer, location), names in places.items():
        print(f"  by {installer or 'unknown means'} in {location}")
        print(wrapped(", ".join(names), "    ", "    "))
    from_conda = [name for name in facts.python.conda_packages if name.startswith(("pytorch", "torchvision", "cuda"))]
    if from_conda:
        print(wrapped(", ".join(from_conda), "  by conda: ", "    "))


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    print("\nfindings")
    for finding in diagnosis.findings:
        if finding.text not in diagnosis.verdict:
            start = f"  {finding.severity:<8} {finding.subject:<12} "
            print(wrapped(finding.text, start, " " * len(start)))
            if finding.fix and finding.severity != "error":
                print(f"{' ' * len(start)}{finding.fix}")
    print(f"\n{wrapped(diagnosis.verdict)}\n\n  {diagnosis.command}\n")
    print(f"({diagnosis.sources})   exit {diagnosis.exit_code}")
