"""Detections of a model beside those of its exported form: equal ones are equal in any order, others are not."""

import numpy as np
import pytest

from mlcli.tasks.detection.answers import NOTEWORTHY, Found, matched


def found(*objects: tuple[list[float], float, int]) -> Found:
    boxes, scores, labels = zip(*objects, strict=True)
    return Found(*(np.array([part], dtype=kind) for part, kind in zip((boxes, scores, labels), "ffl", strict=True)))


def in_order(one: Found, order: list[int]) -> Found:
    return Found(*(part[:, order] for part in one[:3]))


def told(ours: Found, theirs: Found) -> tuple[str, bool]:
    checks = matched(ours, theirs)
    return checks[0].value, all(check.passed for check in checks)


FLAT, POINT, BOX = [3.0, 5.0, 9.0, 5.0], [7.0, 7.0, 7.0, 7.0], [10.0, 10.0, 30.0, 20.0]


def test_boxes_without_area_and_in_one_place_are_paired_in_any_order():
    ours = found(
        (FLAT, 0.9, 1), (POINT, 0.8, 2), (BOX, 0.7, 1), (BOX, 0.7, 2), (BOX, 0.4, 1), ([11, 10, 30, 20], 0.7, 1)
    )
    generator = np.random.default_rng(0)
    for _ in range(20):
        order = generator.permutation(6).tolist()
        theirs = in_order(ours, order)._replace(boxes_xyxy=in_order(ours, order).boxes_xyxy + np.float32(4e-6))
        assert told(ours, theirs) == ("6 of 6", True)
        assert matched(ours, theirs)[2].value == "0"


def test_a_pair_is_not_lost_to_an_earlier_box_that_overlaps_less():
    ours = found(([0, 0, 10, 12], 0.9, 1), ([0, 0, 10, 10], 0.8, 1))
    theirs = found(([0, 0, 10, 10], 0.8, 1), ([40, 40, 50, 50], 0.9, 1))
    assert matched(ours, theirs)[0].value == "1 of 3"
    assert matched(ours, theirs)[1].value == f"{1 / 3:.6f}"


@pytest.mark.parametrize(
    "theirs",
    [
        (FLAT, 0.9, 2),
        ([3.0, 5.0, 9.0, 5.5], 0.9, 1),
        (FLAT, 0.8, 1),
        (POINT, 0.9, 1),
        (FLAT, 0.0, 0),
    ],
    ids=["label", "box", "score", "place", "missing"],
)
def test_what_differs_fails(theirs):
    ours = found((FLAT, 0.9, 1))
    assert told(ours, ours)[1]
    assert not told(ours, found(theirs))[1]
    assert not told(found(theirs), ours)[1]


def test_a_score_on_either_side_of_the_least_one_is_the_same():
    ours = found((BOX, 0.9, 1), (POINT, NOTEWORTHY + 1e-6, 1), (FLAT, NOTEWORTHY / 4, 1))
    theirs = found((BOX, 0.9, 1), (POINT, NOTEWORTHY - 1e-6, 1), (POINT, NOTEWORTHY / 4, 1))
    assert told(ours, theirs) == told(theirs, ours) == ("2 of 2", True)


def test_models_of_low_scores_are_compared_and_nothing_found_is_no_proof():
    low = found((BOX, 0.01, 1), (FLAT, 0.002, 1))
    assert told(low, low) == ("2 of 2", True)
    assert not told(low, found((BOX, 0.01, 1), (BOX, 0.01, 2)))[1]
    none = found((POINT, 0.0, 0))
    assert told(none, none) == ("none found by either, so nothing was compared", False)


MANY = Found(np.tile(np.array([BOX]), (64, 1, 1)), np.full((64, 1), 0.9), np.ones((64, 1), dtype=np.int64))


def without(*pictures: int) -> Found:
    labels = MANY.labels.copy()
    labels[list(pictures)] = 0
    return MANY._replace(labels=labels)


@pytest.mark.parametrize(
    ("theirs", "again", "said", "passed"),
    [
        ([], [], "64 of 64", True),
        ([3], None, "63 of 64", False),
        ([3], [[], [], []], "63 of 64", False),
        ([3], [[], [3, 5], []], "64 of 64, 1 by a tie", True),
        ([3, 5], [[], [3], [7]], "63 of 64, 1 by a tie", False),
        ([3, 5], [[3], [5]], "64 of 64, 2 by ties", True),
        ([*range(33)], [[*range(33)]], "64 of 64, 33 by ties", False),
    ],
)
def test_pictures_of_which_the_model_itself_is_not_sure_are_ties(theirs, again, said, passed):
    """Each asks as often as it has to: a further question would have no answer in its list."""
    asked = None if again is None else lambda seed: without(*again[seed])[:3]
    alike = matched(MANY, without(*theirs), again=asked)[-1]
    assert (alike.value, alike.passed) == (said, passed)
