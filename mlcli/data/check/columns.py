"""What is odd about columns of a table: gaps, constants, names instead of properties, the answer in another dress."""

import numpy as np

from mlcli.data.check.finding import Finding
from mlcli.data.check.rows import Column, Rows
from mlcli.text import plural, share

GAPS = 0.3
"""Share of missing values from which a column says little about most rows."""
ALMOST = 0.999
"""Rank correlation with a numeric target, or share of rows told right, from which a column is the answer itself."""
FEW = 20  # different values up to which a column is a category rather than a name; as in sources/tables.py
ID_NAMES = ("id", "index", "uuid", "guid", "key", "row")


def column_findings(rows: Rows) -> list[Finding]:
    found: list[Finding] = []
    for column in rows.columns:
        found += _cells(rows, column)
    constant = [column.name for column in rows.columns if len(np.unique(column.codes)) == 1]
    if constant:
        what = f"{plural(len(constant), 'column is', 'columns are')} the same in every row: nothing to learn from"
        found.append(Finding("warning", "constant-column", what, tuple(constant), _drop(constant)))
    names = [column.name for column in rows.columns if column.name not in constant and _is_id(column)]
    if names:
        what = f"{plural(len(names), 'column names', 'columns name')} each row rather than describing it"
        found.append(Finding("warning", "id-column", what, tuple(names), _drop(names)))
    rest = [column for column in rows.columns if column.name not in {*constant, *names}]
    return found + _gaps(rows, constant) + _twins(rest) + _leaks(rows, rest)


def _cells(rows: Rows, column: Column) -> list[Finding]:
    found = []
    if column.wrong:
        what = f"column '{column.name}' holds numbers, but not in {plural(len(column.wrong), 'row')}"
        places = tuple(f"{rows.names[row]}: {str(column.texts[row])!r}" for row in column.wrong)
        fix = f"correct or empty these cells, or data.categorical=[{column.name}] if they are categories"
        found.append(Finding("error", "no-number", what, places, fix))
    values = np.unique(column.texts[~column.missing])
    named = column.numbers is None and len(values) > max(FEW, int((~column.missing).sum()) / 2)
    if named and not _is_id(column):
        what = f"column '{column.name}' has {len(values):,} different texts in {len(rows):,} rows"
        found.append(Finding("error", "free-text", what, tuple(map(str, values[:20])), _drop([column.name])))
    if column.numbers is None:
        spellings: dict[str, list[str]] = {}
        for value in values.tolist():
            spellings.setdefault(value.casefold().replace(" ", ""), []).append(value)
        alike = tuple(" / ".join(map(repr, group)) for group in spellings.values() if len(group) > 1)
        if alike and not named:
            what = f"values of column '{column.name}' that differ only by case or blanks, and are taken for different"
            found.append(Finding("warning", "values-alike", what, alike, "spell each value one way"))
    return found


def _gaps(rows: Rows, constant: list[str]) -> list[Finding]:
    shares = {column.name: int(column.missing.sum()) for column in rows.columns if column.missing.any()}
    many = [name for name, count in shares.items() if count >= GAPS * len(rows) and name not in constant]
    few = [name for name in shares if name not in many and name not in constant]
    found = []
    if many:
        places = tuple(f"{name} ({share(shares[name], len(rows))})" for name in many)
        what = f"{plural(len(many), 'column has', 'columns have')} no value in {100 * GAPS:.0f} % of the rows or more"
        found.append(Finding("warning", "gaps", what, places, "why are they missing? " + _drop(many)))
    if few:
        places = tuple(f"{name} ({share(shares[name], len(rows))})" for name in few)
        what = f"{plural(len(few), 'column has', 'columns have')} missing values; numbers become the training median"
        found.append(Finding("note", "some-gaps", what, places, ""))
    return found


def _is_id(column: Column) -> bool:
    """All different, and texts, or whole numbers named so or counting up in steps of one."""
    known = ~column.missing
    if known.sum() <= FEW or len(np.unique(column.codes[known])) < known.sum():
        return False
    name = column.name.casefold()
    named = name in ID_NAMES or name.endswith(("_id", " id", "uuid"))
    if column.numbers is None:
        return True
    numbers = column.numbers[known]
    whole = bool((numbers == np.round(numbers)).all())
    return whole and (named or bool((np.diff(numbers) == 1).all()))


def _twins(columns: list[Column]) -> list[Finding]:
    """Columns that say the same of every row: categories under other names, numbers in other units."""
    groups: dict[tuple[str, bytes], list[str]] = {}
    for column in columns:
        values = len(np.unique(column.codes))
        if column.numbers is not None and np.nanstd(column.numbers) > 0:
            standard = (column.numbers - np.nanmean(column.numbers)) / np.nanstd(column.numbers)
            standard *= np.sign(standard[np.nanargmax(np.abs(standard))])
            key = ("number", (np.round(standard, 4) + 0.0).tobytes())
        elif column.numbers is None and values <= len(column.codes) / 2:
            _, first, codes = np.unique(column.codes, return_index=True, return_inverse=True)
            key = ("category", np.argsort(np.argsort(first))[codes.ravel()].tobytes())  # numbered as they are met
        else:
            continue
        groups.setdefault(key, []).append(column.name)
    twins = [names for names in groups.values() if len(names) > 1]
    if not twins:
        return []
    copies = sum(len(names) - 1 for names in twins)
    what = f"{plural(copies, 'column repeats', 'columns repeat')} another under a new name or in other units"
    fix = _drop([name for names in twins for name in names[1:]])
    return [Finding("note", "twin-columns", what, tuple(" = ".join(names) for names in twins), fix)]


# --- columns that tell the answer ------------------------------------------------------------------------------------


def _leaks(rows: Rows, columns: list[Column]) -> list[Finding]:
    """Columns from which the answer can be read off."""
    test = _tells_class if rows.labels is not None else _tells_number
    equal, told = [], []
    for column in columns:
        verdict = test(rows, column)
        if verdict == "equal":
            equal.append(column.name)
        elif verdict == "told":
            told.append(column.name)
    found = []
    if equal:
        what = f"{plural(len(equal), 'column is', 'columns are')} the target '{rows.target}' under another name"
        found.append(Finding("error", "target-leak", what, tuple(equal), _drop(equal)))
    if told:
        what = (
            f"{plural(len(told), 'column alone tells', 'columns each alone tell')} the target '{rows.target}' exactly"
        )
        fix = f"is it known before the answer is? if not, {_drop(told)}"
        found.append(Finding("warning", "target-told", what, tuple(told), fix))
    return found


def _tells_class(rows: Rows, column: Column) -> str:
    """equal: one value for each class; told: each value has one class, or one threshold between any two classes."""
    assert rows.labels is not None
    known = (rows.labels >= 0) & ~column.missing
    codes, labels = column.codes[known], rows.labels[known]
    if len(labels) < FEW or len(np.unique(labels)) < 2:
        return ""
    pairs = np.unique(np.stack([codes, labels], axis=1), axis=0)
    values, classes = len(np.unique(codes)), len(np.unique(labels))
    if len(pairs) == values == classes:
        return "equal"
    if len(pairs) == values and values <= len(labels) / 2:
        return "told"
    if column.numbers is not None:
        order = np.argsort(column.numbers[known], kind="stable")
        if len(pairs) == values and int((np.diff(labels[order]) != 0).sum()) == classes - 1:
            return "told"
    return ""


def _tells_number(rows: Rows, column: Column) -> str:
    """equal: the same up to scale and shift; told: by a rising or falling curve."""
    from scipy.stats import rankdata

    assert rows.numbers is not None
    if column.numbers is None:
        return ""
    known = np.isfinite(rows.numbers) & np.isfinite(column.numbers)
    x, y = column.numbers[known], rows.numbers[known]
    if len(y) < FEW or x.std() == 0 or y.std() == 0:
        return ""
    if abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-6:
        return "equal"
    return "told" if abs(np.corrcoef(rankdata(x), rankdata(y))[0, 1]) > ALMOST else ""


def _drop(names: list[str]) -> str:
    return f"data.drop=[{', '.join(names)}]"
