"""One thing found out about a machine, good or bad."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "info", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """severity: an error means that the GPU, or PyTorch, cannot be used.

    subject: what it is about, a word or two; text: a sentence without a full stop; fix: what to type or do, or nothing.
    """

    severity: Severity
    subject: str
    text: str
    fix: str = ""
