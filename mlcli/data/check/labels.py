"""Names of classes that were probably meant to be one, or none: blanks, spelling, what programs leave behind."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from mlcli.data.check.finding import Finding
from mlcli.data.check.listing import LITTER

NO_CLASS = {"nan", "none", "null", "na", "n/a", "undefined", "?"}
"""What an empty cell becomes on its way through other programs."""
TYPO_LENGTH = 5
"""Letters from which one wrong letter is a typo rather than another word: bat and cat."""
TYPO_SHARE = 0.2
"""A misspelt class is rare beside the one that was meant; castle and cattle are both frequent."""
COMPARED = 1000
"""Classes up to which all pairs are compared."""


def label_findings(class_names: Sequence[str], counts: np.ndarray) -> list[Finding]:
    """counts: int [C], samples of each class in all splits."""
    found = []
    plain: dict[str, list[str]] = {}
    for name in class_names:
        plain.setdefault(_plain(name), []).append(name)
    collisions = [names for names in plain.values() if len(names) > 1]
    if collisions:
        what = "class names that differ only by case, blanks or punctuation, and are taken for different classes"
        places = tuple(" / ".join(map(repr, names)) for names in collisions)
        found.append(Finding("error", "labels-alike", what, places, "spell each class one way"))
    known = {name for names in collisions for name in names}
    similar = [
        f"'{a}' ({counts[i]:,}) / '{b}' ({counts[j]:,})"
        for (i, a), (j, b) in combinations(enumerate(class_names[:COMPARED]), 2)
        if not (a in known and b in known) and _one_meant(a, b, int(counts[i]), int(counts[j]))
    ]
    if similar:
        what = "class names that are spelt nearly alike"
        found.append(Finding("warning", "labels-similar", what, tuple(similar), "one class? then spell it one way"))
    blanks = [repr(name) for name in class_names if name != name.strip() or "  " in name]
    if blanks:
        found.append(Finding("warning", "labels-blanks", "class names with blanks around or doubled in them",
                             tuple(blanks), "rename them"))  # fmt: skip
    nothing = [repr(name) for name in class_names if name.casefold().strip() in NO_CLASS]
    if nothing:
        found.append(Finding("warning", "labels-missing", "class names that stand for a missing label", tuple(nothing),
                             "label these samples, or remove them"))  # fmt: skip
    litter = [repr(name) for name in class_names if name.casefold() in LITTER]
    if litter:
        found.append(Finding("warning", "labels-litter", "folders that hardly name a class are taken for one",
                             tuple(litter), "move them elsewhere"))  # fmt: skip
    return found


def _plain(name: str) -> str:
    """Case, accents' encoding, blanks and dashes aside. A single letter keeps its case: A and a are two classes of
    handwriting. Between digits a sign has a meaning (1-0 and 10), and other signs have one too (C and C++)."""
    text = unicodedata.normalize("NFKC", name).strip()
    letters = re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", text)
    return letters.casefold() if len(letters) > 1 else letters or text


def _one_meant(a: str, b: str, count_a: int, count_b: int) -> bool:
    a, b = _plain(a), _plain(b)
    if _without_accents(a) == _without_accents(b):
        return True
    short, long = sorted((a, b), key=len)
    if len(short) >= 3 and long in (f"{short}s", f"{short}es"):
        return True
    rare = min(count_a, count_b) <= TYPO_SHARE * max(count_a, count_b)
    return rare and len(short) >= TYPO_LENGTH and _one_letter_off(short, long)


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))


def _one_letter_off(short: str, long: str) -> bool:
    """One letter changed, left out, or swapped with its neighbour. Digits are no typos: grade1 and grade2."""
    if len(long) - len(short) > 1:
        return False
    start = next((k for k, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    rest_short, rest_long = short[start:], long[start:]
    if any(letter.isdigit() for letter in rest_short[:1] + rest_long[:1]):
        return False
    if len(short) < len(long):
        return rest_short == rest_long[1:]
    swapped = rest_short[:2] == rest_long[:2][::-1] and rest_short[2:] == rest_long[2:]
    return rest_short[1:] == rest_long[1:] or swapped
