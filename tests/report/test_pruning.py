"""Pruning one tree at every alpha, against scikit-learn growing a tree for each."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlcli.report.pruning import PrunedTree

DATA = {
    "classes": (DecisionTreeClassifier, *load_digits(return_X_y=True)),
    "numbers": (DecisionTreeRegressor, *load_diabetes(return_X_y=True)),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_it_answers_as_scikit_learn_does(data):
    kind, inputs, targets = data
    part = np.random.default_rng(0).permutation(len(targets))
    fit, asked = part[: len(part) // 2], part[len(part) // 2 :]
    pruned = PrunedTree(kind(random_state=0).fit(inputs[fit], targets[fit]))
    alphas = pruned.alphas(12)
    assert len(alphas) == 12
    assert alphas[0] == 0
    for alpha in alphas:
        one = kind(random_state=0, ccp_alpha=alpha).fit(inputs[fit], targets[fit])
        assert pruned.leaves(alpha) == one.get_n_leaves()
        np.testing.assert_allclose(pruned.predict(inputs[asked], alpha), one.predict(inputs[asked]))
    assert pruned.leaves(np.inf) == 1


def test_the_alphas_are_those_of_scikit_learn():
    inputs, targets = load_diabetes(return_X_y=True)
    fitted = DecisionTreeRegressor(random_state=0, max_depth=6).fit(inputs, targets)
    path = DecisionTreeRegressor(random_state=0, max_depth=6).cost_complexity_pruning_path(inputs, targets)
    ours = PrunedTree(fitted).collapse_at
    np.testing.assert_allclose(np.unique(ours[np.isfinite(ours)]).max(), path.ccp_alphas.max())
    assert len(np.unique(ours[np.isfinite(ours)].round(6))) >= len(np.unique(path.ccp_alphas.round(6))) - 1


def test_a_tree_that_is_a_leaf():
    pruned = PrunedTree(DecisionTreeClassifier().fit(np.zeros((4, 1)), ["a", "a", "a", "b"]))
    assert pruned.alphas().tolist() == [0.0]
    assert pruned.leaves(0.0) == 1
    assert pruned.predict(np.zeros((2, 1)), 0.0).tolist() == ["a", "a"]
