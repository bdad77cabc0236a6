"""What `mlcli data check` prints: a line or three for each finding, the worst first, and a verdict."""

from mlcli.data.check.finding import SEVERITIES, Examination, Finding
from mlcli.text import listed, paragraphs, plural, wrapped

WIDTH = 110
INDENT = 4
SHOWN = 3
"""Places a finding shows; report.json has all."""


def page(examination: Examination, name: str, saved: list[tuple[str, str]]) -> str:
    """name: of the data set; saved: subject and text of the last lines, such as where pictures are."""
    parts = [_block([("data", name), *examination.facts])]
    for severity in SEVERITIES:
        findings = [finding for finding in examination.ordered() if finding.severity == severity]
        if findings:
            parts.append("\n".join([f"{severity}s", *map(_finding, findings)]))
    parts.append(wrapped(verdict(examination), WIDTH))
    if saved:
        parts.append(_block(saved))
    return "\n\n".join(parts)


def verdict(examination: Examination) -> str:
    """One sentence: how many of what, and what that means."""
    counts = {severity: examination.count(severity) for severity in SEVERITIES}
    if not counts["error"] and not counts["warning"]:
        notes = f" ({plural(counts['note'], 'note')})" if counts["note"] else ""
        return f"Nothing to do: no errors, no warnings{notes}."
    said = listed([plural(count, severity) for severity, count in counts.items() if count])
    if any(finding.kind == "refused" for finding in examination.findings):
        return f"{said}: training refuses this data set as it is."
    if counts["error"]:
        return f"{said}: what a model learns from this, or its score, cannot be trusted."
    return f"{said}: it can be trained on; look at the warnings first."


def _finding(finding: Finding) -> str:
    lines = [wrapped(finding.text, WIDTH, "  ", " " * INDENT), *_places(finding.places)]
    if finding.fix:
        lines.append(wrapped(f"-> {finding.fix}", WIDTH, " " * INDENT, " " * (INDENT + 3)))
    return "\n".join(lines)


def _places(places: tuple[str, ...]) -> list[str]:
    """The first ones on one line if they fit there, otherwise on a line each."""
    shown, more = list(places[:SHOWN]), f"and {len(places) - SHOWN:,} more" if len(places) > SHOWN else ""
    together = ", ".join(shown) + (f" {more}" if more else "")
    if len(together) <= WIDTH - INDENT:
        return [" " * INDENT + together] if together else []
    return [wrapped(place, WIDTH, " " * INDENT, " " * (INDENT + 2)) for place in [*shown, *([more] if more else [])]]


def _block(lines: list[tuple[str, str]]) -> str:
    """A subject that repeats is shown once."""
    return paragraphs(lines, WIDTH, max(len(subject) for subject, _ in lines) + 2)
