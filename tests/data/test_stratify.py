"""Samples drawn class by class, against scikit-learn: the same ones, whatever the classes."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from mlcli.data.splits import draw


def cases(classes: int, evenness: float) -> list[tuple[np.ndarray, int, int]]:
    """Labels, count and seed that scikit-learn accepts."""
    random, found = np.random.default_rng([classes, int(10 * evenness)]), []
    while len(found) < 50:
        num = int(random.integers(2 * classes, 300))
        labels = random.choice(classes, size=num, p=random.dirichlet(np.full(classes, evenness)))
        sizes = np.bincount(labels)
        kinds = (sizes > 0).sum()
        if (sizes[sizes > 0] > 1).all() and num - kinds > kinds:
            found.append((labels, int(random.integers(kinds, num - kinds)), int(random.integers(1000))))
    return found


@pytest.mark.parametrize("evenness", [0.5, 5.0], ids=["lopsided", "even"])
@pytest.mark.parametrize("classes", [1, 2, 3, 11], ids="{} classes".format)
def test_the_same_as_scikit_learn(classes, evenness):
    for labels, count, seed in cases(classes, evenness):
        _, expected = train_test_split(np.arange(len(labels)), test_size=count, random_state=seed, stratify=labels)
        drawn = draw(len(labels), count, seed, labels)
        assert drawn.tolist() == sorted(expected.tolist())


@pytest.mark.parametrize(("num", "count", "seed"), [(2, 1, 0), (10, 3, 7), (1000, 999, 1)])
def test_without_labels_too(num, count, seed):
    _, expected = train_test_split(np.arange(num), test_size=count, random_state=seed)
    assert draw(num, count, seed).tolist() == sorted(expected.tolist())


def test_another_seed_draws_others():
    labels = np.arange(100) % 4
    assert draw(100, 20, 0, labels).tolist() != draw(100, 20, 1, labels).tolist()
