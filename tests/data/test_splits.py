"""Splits against what is asked of them: disjoint, complete, stratified, repeatable, refused when impossible."""

import numpy as np
import pytest

from mlcli.data.splits import Divisible, check_same_classes, class_balance, split_indices
from mlcli.errors import DataError

NAMES = ("ant", "bee", "cat")


def labels_of(*sizes: int, seed: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


def divided(labels, seed=0, val=0.15, test=0.15, **options):
    samples = Divisible(len(labels), labels, NAMES[: labels.max() + 1], **options)
    return split_indices(samples, {"val": val, "test": test}, seed)


@pytest.mark.parametrize("sizes", [(100, 100, 100), (300, 40, 7), (1000, 3, 3)])
def test_every_sample_is_in_exactly_one_split(sizes):
    splits = divided(labels_of(*sizes))
    assert list(splits) == ["train", "val", "test"]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(sum(sizes)))
    for indices in splits.values():
        assert (np.diff(indices) > 0).all()
    assert len(splits["val"]) == len(splits["test"]) == round(0.15 * sum(sizes))


def test_classes_occur_in_proportion():
    labels = labels_of(600, 300, 100)
    for indices in divided(labels).values():
        shares = np.bincount(labels[indices]) / len(indices)
        assert np.abs(shares - [0.6, 0.3, 0.1]).max() < 0.01


def test_same_seed_same_splits_other_seed_other_splits():
    labels = labels_of(50, 50, 50)
    first, again, other = divided(labels, seed=3), divided(labels, seed=3), divided(labels, seed=4)
    for split in first:
        assert np.array_equal(first[split], again[split])
        assert not np.array_equal(first[split], other[split])


def test_splits_do_not_touch_the_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    divided(labels_of(50, 50, 50), seed=3)
    assert np.array_equal(np.random.get_state()[1], before)


def test_share_of_zero_gives_no_split():
    assert list(divided(labels_of(20, 20), test=0)) == ["train", "val"]
    assert list(divided(labels_of(20, 20), val=0, test=0)) == ["train"]


def test_numbers_are_split_without_strata():
    splits = split_indices(Divisible(101), {"val": 0.2, "test": 0.1}, 0)
    assert [len(indices) for indices in splits.values()] == [71, 20, 10]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(101))


def test_smallest_class_that_can_be_divided():
    splits = divided(labels_of(40, 3))
    labels = labels_of(40, 3)
    assert (labels[splits["train"]] == 1).sum() >= 1


def test_last_sample_of_a_class_stays_in_training():
    """The validation split takes two of three; what is left of the class cannot be divided again."""
    labels = labels_of(30, 3)
    splits = divided(labels, val=0.6, test=0.2)
    assert [(labels[splits[split]] == 1).sum() for split in ("train", "val", "test")] == [1, 2, 0]


def test_class_that_is_held_out_entirely_is_refused():
    with pytest.raises(DataError, match="no images are left to train on of 'bee'"):
        divided(labels_of(30, 3), val=0.2, test=0.6)


def test_classes_too_small_are_all_named():
    with pytest.raises(DataError, match="'bee' has 1, 'cat' has 2; each needs at least 3 images") as caught:
        divided(labels_of(40, 1, 2), where="pictures")
    assert caught.value.where == "pictures"
    assert "ant" not in caught.value.what


def test_small_classes_do_not_matter_when_nothing_is_held_out():
    assert len(divided(labels_of(5, 1), val=0, test=0)["train"]) == 6


def test_share_smaller_than_the_number_of_classes():
    with pytest.raises(DataError, match=r"0\.15 of 12 images is 2, fewer than the 3 classes") as caught:
        divided(labels_of(4, 4, 4))
    assert "data.val=0.25" in caught.value.fix
    assert len(divided(labels_of(4, 4, 4), val=0.25, test=0.25)["val"]) == 3


def test_nothing_left_to_train_on():
    with pytest.raises(DataError, match="2 rows are too few"):
        split_indices(Divisible(2, unit="rows"), {"val": 0.3, "test": 0.3}, 0)
    with pytest.raises(DataError, match="leave 2 images to train on, fewer than the 3 classes"):
        divided(labels_of(4, 3, 3), val=0.4, test=0.4)


def test_classes_missing_from_a_split_are_named():
    labels = {"train": np.array([0, 1, 1]), "val": np.array([0, 1, 2]), "test": np.array([1])}
    with pytest.raises(DataError, match="train has no images of 'cat'; test has no images of 'ant', 'cat'"):
        check_same_classes(labels, NAMES, "images", "pictures")
    check_same_classes({"train": np.arange(3), "test": np.arange(3)}, NAMES, "images", "pictures")


@pytest.mark.parametrize(
    ("sizes", "line"),
    [
        ((50, 50, 50), "3 classes, balanced (33.3 % each)"),
        ((48, 50, 52), "3 classes, balanced (32.0-34.7 %)"),
        ((80, 15, 5), "3 classes, unbalanced: from 'cat' (5, 5.0 %) to 'ant' (80, 80.0 %)"),
    ],
)
def test_class_balance_in_one_line(sizes, line):
    assert class_balance(labels_of(*sizes), NAMES) == line


def test_val_and_test_are_drawn_independently():
    """With one seed for both, what validation passed over, the test would pass over as well."""
    seeds, num = 200, 60
    landed = np.zeros(num)
    for seed in range(seeds):
        landed[split_indices(Divisible(num), {"val": 0.15, "test": 0.15}, seed)["test"]] += 1
    share = landed / seeds
    assert share.mean() == pytest.approx(0.15)
    assert share.min() > 0.05  # 4 standard deviations of 200 draws
    assert share.max() < 0.25
