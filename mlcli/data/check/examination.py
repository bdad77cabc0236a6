"""Result of an examination of a data set, and the page that `mlcli data check` prints of it.

A line or three for each finding, the worst first, and a verdict.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlcli.data.finding import SEVERITIES, Finding, Severity
from mlcli.errors import DataError
from mlcli.text import listed, paragraphs, plural, screen_width, wrapped

if TYPE_CHECKING:
    from PIL import Image

INDENT = 4
SHOWN = 3
"""Places a finding shows; report.json has all."""


@dataclass(frozen=True)
class Sheet:
    """A picture, written as `name`.png, and a description of it."""

    name: str
    shows: str
    image: "Image.Image"


@dataclass
class Examination:
    """Result of an examination.

    facts: subject and text of what was looked at, for the head of the page.
    findings: in the order they were made.
    figures: the same as numbers, plain data for report.json.
    refuses: whether training refuses the data; a finding of the kind "refused" says so as well.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    sheets: list[Sheet] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    refuses: bool = False

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)

    def ordered(self) -> list[Finding]:
        """Return the findings, the worst first; of one severity, in the order found."""
        return sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))


def refused(error: DataError) -> Finding:
    """Return the finding for an error that training would stop with."""
    places = (error.where,) if error.where else ()
    return Finding("error", "refused", f"training refuses this: {error.what}", places, error.fix)


# --- the page --------------------------------------------------------------------------------------------------------


def page(examination: Examination, name: str, saved: list[tuple[str, str]]) -> str:
    """name: of the data set; saved: subject and text of the last lines, such as where pictures are."""
    parts = [_block([("data", name), *examination.facts])]
    for severity in SEVERITIES:
        findings = [finding for finding in examination.findings if finding.severity == severity]
        if findings:
            parts.append("\n".join([f"{severity}s", *map(_paragraph, findings)]))
    parts.append(wrapped(verdict(examination)))
    if saved:
        parts.append(_block(saved))
    return "\n\n".join(parts)


def verdict(examination: Examination) -> str:
    """One sentence: how many of what, and what that means."""
    counts = {severity: examination.count(severity) for severity in SEVERITIES}
    if not counts["error"] and not counts["warning"]:
        notes = f" ({plural(counts['note'], 'note')})" if counts["note"] else ""
        return f"Nothing to do: no errors, no warnings{notes}."
    counted = listed([plural(count, severity) for severity, count in counts.items() if count])
    if examination.refuses or any(finding.kind == "refused" for finding in examination.findings):
        return f"{counted}: training refuses this data set as it is."
    if counts["error"]:
        return f"{counted}: what a model learns from this, or its score, cannot be trusted."
    return f"{counted}: it can be trained on; look at the warnings first."


def _paragraph(finding: Finding) -> str:
    """The sentence, the first places (on one line if they fit there, otherwise on a line each) and what to do."""
    lines = [wrapped(finding.text, "  ", " " * INDENT)]
    shown, more = list(finding.places[:SHOWN]), len(finding.places) - SHOWN
    together = ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
    if len(together) > screen_width() - INDENT:
        shown += [f"and {more:,} more"] if more > 0 else []
        lines += [wrapped(place, " " * INDENT, " " * (INDENT + 2)) for place in shown]
    elif together:
        lines.append(" " * INDENT + together)
    if finding.fix:
        lines.append(wrapped(f"-> {finding.fix}", " " * INDENT, " " * (INDENT + 3)))
    return "\n".join(lines)


def _block(lines: list[tuple[str, str]]) -> str:
    return paragraphs(lines, max(len(subject) for subject, _ in lines) + 2)
