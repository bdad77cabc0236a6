"""Text formatting: numbers, sizes, durations, counts, lists of names, tables and paragraphs."""

import math
import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

ABSENT = "-"
"""Shown where there is no value."""
NARROW, WIDEST = 80, 120
"""Columns of a screen where nobody says how many there are, and the most that text is set in."""


_UNSEEN = re.compile(  # controls but for tab and new line; marks of direction and invisible ones; halves of surrogates
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_FORMULA = re.compile(r"[=+\-@\uff0b\uff0d\uff1d\uff20]")  # begins one, also in East Asian width
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)


# --- names of others -------------------------------------------------------------------------------------------------


def visible(text: str, *, one_line: bool = False) -> str:
    """The text with characters that act on a terminal or on a reader's eye written out: ESC becomes \\u001b.

    Names of classes, columns, files and runs may come from anybody. What it returns within JSON is the same JSON.
    """
    text = _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.replace("\n", "\\u000a").replace("\t", "\\u0009") if one_line else text


def csv_cell(value: object) -> object:
    """A value as a cell that a spreadsheet shows and does not compute: an apostrophe before what begins like a formula.

    Numbers stay numbers, -3.5 too. `from_csv_cell` takes the apostrophe off.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    seen = visible(value, one_line=True)  # a tab or a carriage return in front is gone with that
    return f"'{seen}" if _FORMULA.match(seen.lstrip(" ")) else seen


def from_csv_cell(cell: str) -> str:
    """A cell without the apostrophe of `csv_cell`; no spreadsheet writes one."""
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:].lstrip(" ")) else cell


# --- numbers ---------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Four decimals below 10, four digits above: 0.9722, 53.81, 1.234e+05; `-` for None and NaN."""
    if value is None or math.isnan(value):
        return ABSENT
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def numbers(values: Sequence[float | None]) -> list[str]:
    """The numbers of one column, all with as many decimals as leave the largest four digits or five; `-` for None."""
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    if largest >= 1e5:
        return [ABSENT if value is None else f"{value:.3e}" for value in values]
    decimals = 4 - min(4, max(0, math.floor(math.log10(largest)))) if largest else 4
    return [ABSENT if value is None else f"{value:.{decimals}f}" for value in values]


def whole(value: int | None) -> str:
    """1,797; `-` for None."""
    return ABSENT if value is None else f"{value:,}"


def count(value: float) -> str:
    """640, 75.6k, 75.6M, 4.09G: three digits and a factor of thousands."""
    for unit in ("", "k", "M"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}G" if value < 999.5 else f"{value / 1000:,.3g}T"


def size(size_bytes: float) -> str:
    """512 B, 58.9 MB, 1.38 GB; a kB is 1000 bytes."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.3g} GB"


def duration(seconds: float | None) -> str:
    """4.2s, 1m 05s or 2h 03m; `-` for None."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def share(part: int, of: int) -> str:
    """A part of a whole: 12 %, 0.3 %, less than 0.1 %."""
    percent = 100 * part / max(1, of)
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def sides(shape: Iterable[int]) -> str:
    """A shape: 3x32x32; `scalar` without any side."""
    return "x".join(map(str, shape)) or "scalar"


# --- words -----------------------------------------------------------------------------------------------------------


def same_sides(value: Sequence[int] | str | None) -> str:
    """`2` for the same on both sides, `2x1` for height and width; words as they are, nothing for None."""
    if value is None or isinstance(value, str):
        return value or ""
    return str(value[0]) if len(set(value)) == 1 else sides(value)


def plural(number: int, one: str, many: str = "") -> str:
    """1 image, 2,000 images; `many` is `one` and an s unless given."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Iterable[str], word: str = "and") -> str:
    """a, b and c"""
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def first_few(names: Iterable[str], most: int = 5) -> str:
    """a, b, c and 61 more"""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def truncated(text: str, longest: int) -> str:
    """The text, or its beginning and an ellipsis: `longest` characters at most."""
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def as_text(path: str | os.PathLike[str]) -> str:
    """A path with bytes that are no UTF-8 escaped, so that it can be written anywhere."""
    return os.fsencode(path).decode(errors="backslashreplace")


def without_secrets(address: str) -> str:
    """An address on a network without user, password and query, which may hold keys; anything else as it is."""
    return re.sub(r"^([\w+.-]+://)(?:[^/@]*@)?([^?#]*).*", r"\1\2", address, flags=re.DOTALL)


def shown(path: Path) -> str:
    """A path as one would type it here: relative to the current folder if it lies in there."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # it lies elsewhere, or the current folder was deleted
        return str(path)


# --- lines -----------------------------------------------------------------------------------------------------------


def screen_width() -> int:
    """Return the columns that text may take: those of the terminal, or of the variable COLUMNS, up to `WIDEST`."""
    return min(WIDEST, shutil.get_terminal_size((NARROW, 24)).columns or NARROW)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, drop: Iterable[int] = ()) -> str:
    """Columns two spaces apart; the first `left` of them flush left, the others, being numbers, flush right.

    drop: columns to leave out, one after another, until the others fit the screen.
    """
    lines = [[visible(cell, one_line=True) for cell in line] for line in (header, *rows)]
    widths = {place: max(map(len, column)) for place, column in enumerate(zip(*lines, strict=True))}
    for place in drop:
        if sum(widths.values()) + 2 * (len(widths) - 1) > screen_width():
            del widths[place]

    def in_line(cells: list[str]) -> str:
        shown = (cells[at].ljust(width) if at < left else cells[at].rjust(width) for at, width in widths.items())
        return "  ".join(shown).rstrip()

    return "\n".join(map(in_line, lines))


def wrapped(text: str, first: str = "", rest: str = "") -> str:
    """Lines no wider than the screen, the first after `first`, the others after `rest`; words stay whole."""
    return textwrap.fill(
        text, screen_width(), initial_indent=first, subsequent_indent=rest, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def paragraphs(lines: Iterable[tuple[str, str]], indent: int = 10) -> str:
    """Subject and text, wrapped; a subject that repeats is shown once, an empty one belongs to the one above."""
    out, last = [], ""
    for subject, text in lines:
        out.append(wrapped(text, (subject if subject != last else "").ljust(indent), " " * indent))
        last = subject or last
    return "\n".join(out)


def command_line(command: str, *words: object) -> str:
    """Return `mlcli <command> <words>` as a shell takes it: quoted where needed, of a key set twice only the last."""
    texts = [str(word) for word in words]
    last = {text.partition("=")[0]: place for place, text in enumerate(texts) if "=" in text}
    kept = [text for place, text in enumerate(texts) if last.get(text.partition("=")[0], place) == place]
    return " ".join(["mlcli", command, *map(shlex.quote, kept)])


def commands(*typed: str) -> str:
    """Format the next commands, each on one line however long: wrapped, it could not be copied."""
    return "\n".join(f"{'' if place else 'next':<10}{command}" for place, command in enumerate(typed))
