"""Columns of tables: which cells hold no value, and how numbers are written.

Numbers may have a decimal comma, thousands separators, and a percent or currency sign (`Form`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

MISSING = frozenset(("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "null", "none", "?"))
"""Cells that hold no value, in any case: what R, pandas, Excel and databases write for one."""
GAPS = frozenset(("-", "--", ".", "..", "...", "n.a.", "unknown", "missing", "nil", "#value!", "#div/0!", "#null!"))
"""Cells that hold no value among numbers; among categories they are categories."""
Decimal = Literal["auto", "auto_comma", "point", "comma"]
FEW = 20
"""Different values up to which a column may well hold categories."""
ROW_NAME = re.compile(
    r"(?i:index|key|row|(row|serial)[ _]?(no\.?|number)|unnamed: \d+|(.*[ _-])?(id|uuid|guid))|.*[a-z](Id|ID)"
)
"""What columns are called that number the rows or name them."""
AFFIXES = "%$€£¥₹"
GROUPED = r"[-+]?(?:[1-9]\d{0,2}([%s'\u2019\u00a0\u202f])(?:\d{2,3}\1)*\d{3}|\d*)(?:%s\d+)?(?:[eE][-+]?\d+)?"
GROUPED_NUMBER = {
    "point": re.compile(GROUPED % (",", r"\."), re.ASCII),
    "comma": re.compile(GROUPED % (r"\.", ","), re.ASCII),
}
"""Numbers with a decimal point or a decimal comma, in thousands, in lakhs (1,23,456) or not separated."""
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Form:
    """How the numbers of a column are written.

    decimal: point (12.5), comma (12,5), or plain: as Python reads them.
    affix: a percent or currency sign that stands before or after each; it changes nothing about the number.
    """

    decimal: Literal["plain", "point", "comma"] = "plain"
    affix: str = ""

    def read(self, cell: str) -> float:
        """NaN for what is not written so."""
        if self.affix:
            if not (cell.endswith(self.affix) or cell.lstrip("-+").startswith(self.affix)):
                return np.nan
            cell = cell.replace(self.affix, "", 1).strip()
        if self.decimal == "plain":
            return read_number(cell)
        found = GROUPED_NUMBER[self.decimal].fullmatch(cell)
        if found is None:
            return read_number(cell) if self.decimal == "point" else np.nan
        digits = cell.replace(found[1], "") if found[1] else cell
        return read_number(digits.replace(",", "."))


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    cells: as written, without blanks around them. missing: bool [N], where they hold no value.
    numbers: float64 [N], NaN for gaps and for what is no number that float32 can hold; None for categories.
    free_text: nearly every row has a text of its own, from which nothing can be learned.
    form: how the numbers are written. unclear: whether their commas can be decimal commas or separate thousands.
    """

    name: str
    cells: list[str]
    missing: np.ndarray
    numbers: np.ndarray | None
    free_text: bool = False
    form: Form = Form()
    unclear: bool = False

    @property
    def wrong(self) -> np.ndarray:
        """Rows whose cell should be a finite number and is not: int64 [W]."""
        if self.numbers is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.isnan(self.numbers) & ~self.missing)

    @property
    def gap_words(self) -> tuple[str, ...]:
        """What is written where there is no value, in quotes, sorted; without nothing."""
        return tuple(sorted({repr(cell) for cell, gap in zip(self.cells, self.missing, strict=True) if gap and cell}))

    @cached_property
    def texts(self) -> np.ndarray:
        """The cells as an array of texts, empty where there is no value."""
        return np.where(self.missing, "", np.array(self.cells))

    @cached_property
    def names_rows(self) -> bool:
        """Whether it names the rows rather than describing them: each has a value of its own, and these are texts, or
        whole numbers that are called an id or count from 0 or 1."""
        known = ~self.missing
        if known.sum() <= FEW or len(np.unique(self.texts[known])) < known.sum():
            return False
        if self.numbers is None or len(self.wrong) > known.sum() / 2:
            return True
        numbers = self.numbers[known]
        counts = bool((numbers == numbers[0] + np.arange(len(numbers))).all()) and numbers[0] in (0, 1)
        return counts or bool((numbers == np.round(numbers)).all() and ROW_NAME.fullmatch(self.name))

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [N]: equal values have equal codes; a gap is a value of its own. 1 and 1.0 are equal."""
        values: np.ndarray = self.texts if self.numbers is None else self.numbers
        return np.unique(values, return_inverse=True)[1].astype(np.int64).ravel()


def read_column(
    name: str, cells: list[str], *, numeric: bool = True, form: Form | None = None, decimal: Decimal = "auto"
) -> Column:
    """Read the cells of a column.

    Args:
        numeric: whether to read them as numbers.
        form: how they are written; None to find that out.
        decimal: point or comma; with auto the cells have to say it, and with auto_comma commas decide what they leave
            open.
    """
    missing = np.array([cell.lower() in MISSING for cell in cells], dtype=bool)
    if not numeric:
        return Column(name, cells, missing, None)
    unclear = False
    if form is None:
        values = {cell for cell in dict.fromkeys(cells) if cell.lower() not in MISSING and cell.lower() not in GAPS}
        form, unclear = _form_of(list(values), decimal)
    read = {cell: form.read(cell) for cell in dict.fromkeys(cells)}
    numbers = np.array([read[cell] for cell in cells], dtype=np.float64)
    numbers[~(np.abs(numbers) <= FLOAT32_MAX)] = np.nan
    gaps = np.array([cell.lower() in GAPS for cell in cells], dtype=bool)
    known = ~missing & ~gaps
    if np.isfinite(numbers).sum() >= known.sum() / 2:  # a column of numbers; otherwise these are categories
        missing |= gaps
    return Column(name, cells, missing, numbers, form=form, unclear=unclear)


def _form_of(values: list[str], decimal: Decimal) -> tuple[Form, bool]:
    """Return how these different cells are written as numbers, and whether that is unclear.

    It is the plain form unless another reads more of them.
    """

    def unread(form: Form) -> int:
        return sum(np.isnan(form.read(value)) for value in values)

    plainly = unread(Form())
    if not values or (not plainly and decimal != "comma"):
        return Form(), False
    marked = [value for value in values if np.isnan(read_number(value))]
    signs = [sign for sign in AFFIXES if 2 * sum(sign in value for value in marked) > len(values)]
    point, comma = (Form(mark, signs[0] if signs else "") for mark in ("point", "comma"))
    missed, missed_by_comma = unread(point), unread(comma)
    if decimal == "comma":
        return (comma if missed_by_comma <= plainly else Form()), False
    if decimal == "point" or missed < missed_by_comma:
        return (point if missed < plainly else Form()), False
    pointed = any("." in value and not np.isnan(read_number(value)) for value in values)  # 1.234 among 2,5
    if missed_by_comma >= plainly or (pointed and 2 * plainly <= len(values)):
        return Form(), False
    if missed == missed_by_comma and all(point.read(value) == comma.read(value) for value in values):
        return point, False
    return comma, pointed or (missed == missed_by_comma and decimal == "auto")


def without(cells: list[str], values: Sequence[str | float]) -> list[str]:
    """Return cells with nothing in those that are one of these values, as a text or, -999.0, as a number."""
    if not values:
        return cells
    texts = {str(value) for value in values}
    numbers = {number for text in texts if not np.isnan(number := read_number(text))}
    gone = {cell for cell in set(cells) if cell in texts or read_number(cell) in numbers}
    return ["" if cell in gone else cell for cell in cells]


def read_number(text: str) -> float:
    """Return a number written in ASCII digits; NaN for anything else, as `1_2` and other scripts' digits are.

    The minus of typesetters is one.
    """
    text = text.replace("\u2212", "-")
    if not text.isascii() or "_" in text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan
