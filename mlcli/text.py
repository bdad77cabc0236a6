"""Text for a terminal: paragraphs under a subject, sizes and large counts in a person's units."""

import textwrap
from collections.abc import Iterable
from pathlib import Path


def paragraphs(lines: Iterable[tuple[str, str]], width: int = 118) -> str:
    """Subject and text, wrapped; a subject that repeats is shown once."""
    out, last = [], ""
    for subject, text in lines:
        head = f"{subject if subject != last else '':<10}"
        out.append(textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * 10, break_on_hyphens=False))
        last = subject or last
    return "\n".join(out)


def commands(*typed: str) -> str:
    """What to type next, each on a line of its own however long: wrapped, it could not be copied."""
    return "\n".join(f"{'next' if not number else '':<10}{command}" for number, command in enumerate(typed))


def size(size_bytes: float) -> str:
    """512 B, 58.9 MB, 1.38 GB; a kB is 1000 bytes."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} GB"


def count(number: float) -> str:
    """640, 75.6k, 75.6M, 4.09G: three digits and a factor of thousands."""
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}G" if number < 999.5 else f"{number / 1000:,.3g}T"


def shown(path: Path) -> str:
    """A path as a person here would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
