"""Cost-complexity pruning of a fitted tree: all its pruned forms for the price of growing it once.

Breiman, Friedman, Olshen & Stone 1984, "Classification and Regression Trees", sections 3.3 and 10.2. scikit-learn grows
a tree anew for each `ccp_alpha`; here one tree answers for every alpha, which leaves time for more rows.
"""

from typing import Any

import numpy as np


class PrunedTree:
    """A fitted `DecisionTreeClassifier` or `DecisionTreeRegressor`, pruned at any alpha when it is asked.

    `PrunedTree(fit(ccp_alpha=0)).predict(x, a)` equals `fit(ccp_alpha=a).predict(x)`, away from ties.
    """

    def __init__(self, fitted: Any) -> None:
        self.fitted, self._tree = fitted, fitted.tree_
        self.collapse_at = _collapse_at(self._tree)
        values = self._tree.value[:, 0, :]
        classes = getattr(fitted, "classes_", None)
        self._answers = values[:, 0] if classes is None else classes[values.argmax(axis=1)]

    def alphas(self, most: int = 30) -> np.ndarray:
        """At most `most` alphas, ascending from 0, between which the tree changes.

        Each is the geometric mean of two ends of an interval in which the tree stays the same (section 11.4 there).
        """
        steps = np.unique(self.collapse_at[np.isfinite(self.collapse_at)])
        steps = steps[steps > 0]
        if not len(steps):
            return np.zeros(1)
        between = np.sqrt(steps * np.append(steps[1:], steps[-1]))
        chosen = np.unique(np.linspace(0, len(between) - 1, min(most - 1, len(between))).round().astype(int))
        return np.concatenate([[0.0], between[chosen]])

    def predict(self, inputs: np.ndarray, alpha: float) -> np.ndarray:
        """Labels or numbers [N] for inputs [N, F], by the tree pruned at `alpha`."""
        path = self.fitted.decision_path(inputs)
        ends = (self.collapse_at <= alpha) | (self._tree.children_left < 0)
        # Nodes are numbered from the root down, so the first end on a sample's path has the lowest number.
        passed = np.where(ends[path.indices], path.indices, self._tree.node_count)
        return self._answers[np.minimum.reduceat(passed, path.indptr[:-1])]

    def leaves(self, alpha: float) -> int:
        """Leaves of the tree pruned at `alpha`."""
        left, right, ends = self._tree.children_left, self._tree.children_right, self.collapse_at <= alpha
        alive = np.zeros(self._tree.node_count, dtype=bool)
        alive[0] = True
        for node in np.flatnonzero((left >= 0) & ~ends):  # ascending: parents before their children
            alive[[left[node], right[node]]] = alive[node]
        return int((alive & (ends | (left < 0))).sum())


def _collapse_at(tree: Any) -> np.ndarray:
    """The alpha from which each inner node is a leaf, float64 [nodes]; infinite for leaves and what is cut off earlier.

    Again and again the weakest link: the node whose branch lowers the risk least per leaf.
    """
    left, right, count = tree.children_left, tree.children_right, tree.node_count
    risk = tree.impurity * tree.weighted_n_node_samples / tree.weighted_n_node_samples[0]
    branch_risk, leaves, size, parent = risk.copy(), np.ones(count, int), np.ones(count, int), np.full(count, -1)
    inner = left >= 0
    for node in np.flatnonzero(inner)[::-1]:  # descending: children before their parents
        children = [left[node], right[node]]
        parent[children] = node
        branch_risk[node], leaves[node] = branch_risk[children].sum(), leaves[children].sum()
        size[node] += size[children].sum()
    gain = np.full(count, np.inf)
    gain[inner] = (risk - branch_risk)[inner] / (leaves[inner] - 1)
    collapse_at, alpha = np.full(count, np.inf), 0.0
    while np.isfinite(gain).any():
        weakest = int(gain.argmin())
        alpha = max(alpha, float(gain[weakest]))
        collapse_at[weakest] = alpha
        fewer, more_risk = leaves[weakest] - 1, risk[weakest] - branch_risk[weakest]
        gain[weakest : weakest + size[weakest]] = np.inf  # a branch's nodes follow its root
        above = parent[weakest]
        while above >= 0:
            leaves[above] -= fewer
            branch_risk[above] += more_risk
            gain[above] = (risk[above] - branch_risk[above]) / (leaves[above] - 1)
            above = parent[above]
    return collapse_at
