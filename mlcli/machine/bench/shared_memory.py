"""Does the memory suffice in which workers hand over their batches? /dev/shm and RAM, each with its numbers.

A worker reads into anonymous memory that it shares with the trainer by fork (mlcli/data/workers.py), so the size of
/dev/shm, 64 MB in a container, is of no matter; that is checked and said, since it is where other loaders die.
"""

from dataclasses import dataclass
from typing import Literal

from mlcli.machine.bench.findings import Findings
from mlcli.machine.bench.verdict import Verdict
from mlcli.text import plural, size

MOST = 0.5
"""Share of the available memory that batches read ahead may take: the model and the page cache need the rest."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked. needed_bytes of available_bytes; None where there is no such place."""

    name: str
    status: Literal["ok", "warning"]
    needed_bytes: int
    available_bytes: int | None
    text: str


def checks(findings: Findings, verdict: Verdict) -> list[Check]:
    """What a run as advised needs of both kinds of memory, against what there is."""
    return [_dev_shm(findings), _batches_ahead(findings, verdict)]


def slots_bytes(findings: Findings, workers: int) -> int:
    """Memory in which workers hand over their batches."""
    data = findings.data
    return workers * findings.prefetch * findings.asked_batch_size * (data.bytes_as_tensors // max(1, data.samples))


def _dev_shm(findings: Findings) -> Check:
    available = findings.machine.shm_bytes
    if available is None:
        return Check("/dev/shm", "ok", 0, None, "not there, and not needed")
    text = f"{size(available)}, not needed: workers hand over batches in memory shared by fork"
    return Check("/dev/shm", "ok", 0, available, text)


def _batches_ahead(findings: Findings, verdict: Verdict) -> Check:
    """The slots of all workers, two for each by default, in RAM."""
    reads = not findings.data.in_memory and findings.data.cache == "none"
    workers = (findings.data.workers if verdict.workers is None else verdict.workers) if reads else 0
    needed, available = slots_bytes(findings, workers), findings.machine.available_bytes
    if not needed:
        why = "no worker reads ahead" if reads else "nothing is read ahead"
        return Check("batches read ahead", "ok", 0, available, f"{why}; {size(available)} of RAM available")
    text = (f"{plural(workers, 'worker')} x {findings.prefetch} batches take {size(needed)} of the "
            f"{size(available)} of RAM available")  # fmt: skip
    enough = needed <= MOST * available
    return Check("batches read ahead", "ok" if enough else "warning", needed, available,
                 text if enough else f"{text}: lower loader.prefetch")  # fmt: skip
