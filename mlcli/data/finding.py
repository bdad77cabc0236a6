"""Findings of a reader or an examination about a data set, and the error that training makes of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlcli.errors import DataError
from mlcli.text import first_few

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Severities, the worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing found out about a data set.

    severity: error if training refuses the data or its score would be wrong; warning if it probably does harm;
    note if it is only good to know.

    kind: which finding this is, as one word with dashes, for scripts.
    text: a sentence without a full stop.
    places: every file, row, class or column it is about; pages show the first few.
    fix: what to do, or nothing.
    """

    severity: Severity
    kind: str
    text: str
    places: tuple[str, ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        """The sentence with the first five places."""
        return self.text + (f": {first_few(self.places)}" if self.places else "")


def refuse(findings: Iterable[Finding], where: str) -> None:
    """Raise DataError for the first error among the findings, if there is one.

    where: the file or folder they are about.
    """
    for finding in findings:
        if finding.severity == "error":
            raise DataError(str(finding), where=where, fix=finding.fix)
