"""One thing found out about a data set, and what an examination of one consists of."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from PIL import Image

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""From the worst."""


@dataclass(frozen=True)
class Finding:
    """severity: error if training refuses the data or its score would be wrong; warning if it probably does harm;
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


@dataclass(frozen=True)
class Sheet:
    """A picture for people to look at: `name`.png, and what it shows."""

    name: str
    shows: str
    image: "Image.Image"


@dataclass
class Examination:
    """What an examination found out.

    facts: subject and text of what was looked at, for the head of the page.
    findings: in the order they were made.
    figures: the same as numbers, plain data for report.json.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def ordered(self) -> list[Finding]:
        """From the worst; of one severity, in the order found."""
        return sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))
