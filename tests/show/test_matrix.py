"""Pairs that are confused, and matrices that are none."""

import pytest

from mlcli.show.charts import Confusion
from mlcli.show.evaluation import confusion

DETAIL = {"classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "confusion": [[5, 3, 0], [1, 7, 0], [0, 3, 9]]}


def test_the_worst_pairs_come_first():
    found = confusion(DETAIL)[0]
    assert found.pairs(5) == [Confusion("a", "b", 3, 8), Confusion("c", "b", 3, 12), Confusion("b", "a", 1, 8)]
    assert found.pairs(1) == [Confusion("a", "b", 3, 8)]


def test_some_of_many_keep_their_support():
    part = confusion(DETAIL)[0].only(2)
    assert part.names == ("a", "b")
    assert part.counts.tolist() == [[5, 3], [1, 7]]
    assert part.support.tolist() == [8, 8]


def test_names_of_rows_may_be_more_than_the_classes():
    detail = {"classes": [{"name": "a"}], "confusion_names": ["a", "background"], "confusion": [[5, 1], [2, 0]]}
    assert confusion(detail)[0].pairs(9) == [Confusion("background", "a", 2, 2), Confusion("a", "background", 1, 6)]


@pytest.mark.parametrize(
    "detail",
    [{}, {"confusion": []}, {**DETAIL, "confusion": [[1, 2], [3]]}, {**DETAIL, "confusion": [[1]]}, {"confusion": "x"}],
    ids=["empty", "no rows", "ragged", "too small", "text"],
)
def test_what_is_no_matrix(detail):
    assert confusion(detail) == ()
