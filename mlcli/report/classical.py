"""The classical models a neural network is compared with, fitted by scikit-learn in bounded time.

What a model may choose (its penalty, how far a tree is pruned) is chosen by cross-validation on training rows, so that
the rows it is scored on stay unseen. Costs are bounded by rows, from a model of the cost that was measured, not by a
clock: the same data give the same baselines on any machine. One that is far slower is left without those it has no time
for (`OutOfTimeError`), never with others.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcli.text import plural

if TYPE_CHECKING:
    from mlcli.engine.contract import Info, Samples

FOLDS = 5
MANY_ROWS = 2000
"""Rows from which one fold of the five is enough to choose by; below, all five are averaged."""
TREES = 100
"""Of a random forest; scikit-learn's default, after which more change little."""
ROUNDS, BOOSTING_RATE = 40, 0.2
"""Trees one after the other of gradient boosting, for each class, and the share of each that is added: scikit-learn's
default, 100 of 0.1, answers no better on the digits and takes twice the time."""
PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Inverse strengths C of the logistic regression."""
RIDGES = (0.1, 1.0, 10.0, 100.0, 1000.0)
HINGE_PENALTIES = (1e-5, 1e-4, 1e-3)
HINGE_PASSES, HINGE_STEPS = 30, 1e5
"""Passes over the rows of the linear SVM; more over few rows, until it has seen so many samples."""
LARGEST_SIDE, SMALLEST_SIDE, PIXELS_TIMES_CLASSES = 16, 8, 20_000
"""Pixels of an image's sides as the classical models see it; smaller where many classes make them slow."""
CHUNK = 256
FEWEST_READ = 200
"""However slow the files are."""


class OutOfTimeError(Exception):
    """A model is not done at the end of the time for all of them."""


@dataclass(frozen=True)
class Problem:
    """Training rows and the rows to answer: inputs float32 standardised [N, F] and [M, F], targets [N].

    seed: of every random choice; threads: CPU threads a model may use, which changes no result; until: when, by
    `time.monotonic`, a model that is not done is given up.
    """

    inputs: np.ndarray
    targets: np.ndarray
    asked: np.ndarray
    is_classes: bool
    seed: int = 0
    threads: int = 1
    until: float = math.inf

    def go_on(self) -> None:
        """Raise OutOfTimeError if the time is over; asked before each part of a fit."""
        if time.monotonic() > self.until:
            raise OutOfTimeError

    def folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs (rows to fit, rows to judge); none if the rarest class is too rare to be on both sides."""
        from sklearn.model_selection import KFold, StratifiedKFold

        rarest = np.unique(self.targets, return_counts=True)[1].min() if self.is_classes else len(self.targets)
        count = min(FOLDS, int(rarest))
        if count < 2:
            return []
        kind = StratifiedKFold if self.is_classes else KFold
        pairs = list(kind(count, shuffle=True, random_state=self.seed).split(self.inputs, self.targets))
        return pairs if len(self.targets) < MANY_ROWS else pairs[:1]

    def goodness(self, answers: np.ndarray, truth: np.ndarray) -> float:
        """Share of right answers, or minus the mean squared error: more is better."""
        return float((answers == truth).mean()) if self.is_classes else -float(((answers - truth) ** 2).mean())


# --- rows -------------------------------------------------------------------------------------------------------------


def input_shape(info: "Info") -> tuple[int, ...]:
    """(channels, height, width) of images as the classical models get them, or (features,)."""
    if info.kind != "image":
        return tuple(info.input_shape)
    channels, height, width = info.input_shape
    fits = (PIXELS_TIMES_CLASSES / (channels * max(1, info.num_classes))) ** 0.5
    side = int(min(LARGEST_SIDE, max(SMALLEST_SIDE, fits)))
    return channels, min(height, side), min(width, side)


def readable(samples: "Samples", wanted: int, seconds: float) -> int:
    """Return how many samples can be read in that time: as wanted, or fewer if the files are slow to decode."""
    probe = np.arange(min(32, len(samples)))
    samples.read(probe[:1])  # the first read opens files and loads decoders
    began = time.perf_counter()
    samples.read(probe)
    each_s = (time.perf_counter() - began) / len(probe)
    rows = int(seconds / max(each_s, 1e-9))
    return wanted if rows >= wanted else max(min(wanted, FEWEST_READ), rows // 100 * 100)


def spread(targets: np.ndarray, count: int, is_classes: bool) -> np.ndarray:
    """`count` positions, int64, in random order but the same each time; any first part has the classes' shares."""
    order = np.random.default_rng(len(targets)).permutation(len(targets))
    if not is_classes:
        return order[:count]
    labels = targets[order]
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort((rank + 0.5) / counts[inverse], kind="stable")][:count]


def inputs_of(info: "Info", samples: "Samples", rows: np.ndarray) -> np.ndarray:
    """Standardised inputs float32 [N, F] as the network sees them, images averaged down to `input_shape`."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    from mlcli.models.layers import Normalized

    normalize = Normalized(torch.nn.Identity(), mean=info.mean, std=info.std, image=info.kind == "image")
    shape, parts = input_shape(info), []
    with torch.inference_mode():
        for first in range(0, len(rows), CHUNK):
            part = normalize(samples.read(rows[first : first + CHUNK]))
            parts.append((adaptive_avg_pool2d(part, (shape[1], shape[2])) if len(shape) == 3 else part).flatten(1))
    return torch.cat(parts).numpy()


# --- models -----------------------------------------------------------------------------------------------------------

Fitted = tuple[np.ndarray, str]
"""Answers to the rows asked, and what was chosen, in words."""


def constant(p: Problem) -> Fitted:
    """The most frequent class, or the mean."""
    if p.is_classes:
        values, counts = np.unique(p.targets, return_counts=True)
        return np.full(len(p.asked), values[counts.argmax()]), ""
    return np.full(len(p.asked), p.targets.mean()), ""


def logistic(p: Problem) -> Fitted:
    from sklearn.linear_model import LogisticRegression

    return _chosen(p, lambda c: LogisticRegression(C=c, max_iter=100), PENALTIES, "C = {:g}", default=1.0)


def linear_svm(p: Problem) -> Fitted:
    """One hinge per class against the rest, by averaged stochastic gradient descent (Pegasos, Shalev-Shwartz 2011)."""
    from sklearn.linear_model import SGDClassifier

    passes = max(HINGE_PASSES, int(HINGE_STEPS / len(p.targets)))

    def build(penalty: float) -> Any:
        return SGDClassifier(loss="hinge", alpha=penalty, average=True, max_iter=passes, random_state=p.seed,
                             n_jobs=p.threads)  # fmt: skip

    return _chosen(p, build, HINGE_PENALTIES, "penalty {:g}", default=1e-4)


def ridge(p: Problem) -> Fitted:
    from sklearn.linear_model import Ridge

    return _chosen(p, lambda alpha: Ridge(alpha=alpha), RIDGES, "penalty {:g}", default=1.0)


def tree(p: Problem) -> Fitted:
    """CART, pruned by cost complexity as much as cross-validation likes best; of equals, the smaller tree.

    Breiman, Friedman, Olshen & Stone 1984, "Classification and Regression Trees", sections 3.3, 10.2 and 11.4.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if p.is_classes else DecisionTreeRegressor

    def grow(rows: np.ndarray | slice) -> Any:
        p.go_on()
        return kind(random_state=p.seed).fit(p.inputs[rows], p.targets[rows])

    whole, folds = grow(slice(None)), p.folds()
    alphas = pruning_alphas(whole)
    goodness = np.zeros(len(alphas))
    for fit, judge in folds:
        forms = pruned_forms(grow(fit), alphas)
        goodness += [p.goodness(form.predict(p.inputs[judge]), p.targets[judge]) for form in forms]
    chosen = int(np.flatnonzero(goodness == goodness.max())[-1]) if folds else 0
    *_, best = pruned_forms(whole, alphas[: chosen + 1])
    return best.predict(p.asked), plural(best.get_n_leaves(), "leaf", "leaves")


def pruning_alphas(fitted: Any, most: int = 30) -> np.ndarray:
    """At most `most` values of `ccp_alpha`, ascending from 0, between which the tree changes.

    Each is the geometric mean of two ends of an interval in which the tree stays the same.
    """
    from sklearn.tree._tree import ccp_pruning_path  # of a tree that is grown; `cost_complexity_pruning_path` grows one

    steps = np.unique(ccp_pruning_path(fitted.tree_)["ccp_alphas"])
    steps = steps[steps > 0]
    if not len(steps):
        return np.zeros(1)
    between = np.sqrt(steps * np.append(steps[1:], 2 * steps[-1]))  # the last beyond all: a leaf
    chosen = np.unique(np.linspace(0, len(between) - 1, min(most - 1, len(between))).round().astype(int))
    return np.concatenate([[0.0], between[chosen]])


def pruned_forms(fitted: Any, alphas: np.ndarray) -> Iterator[Any]:
    """The tree as `fit` with each `ccp_alpha` would give it, one after the other; `alphas` ascend.

    scikit-learn grows a tree anew for each, which would leave time for a fraction of the rows. Its own pruning, applied
    to what the last alpha has left, gives the same: pruned trees are nested. The same object is yielded each time.
    """
    form = copy.deepcopy(fitted)
    for alpha in alphas:
        form.ccp_alpha = float(alpha)
        form._prune_tree()
        yield form


def forest(p: Problem) -> Fitted:
    """Breiman 2001: bootstrap samples, and at each split a choice of sqrt(F) features, or F / 3 for numbers."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    if p.is_classes:
        model = RandomForestClassifier(random_state=p.seed, n_jobs=p.threads, warm_start=True)
    else:
        model = RandomForestRegressor(max_features=1 / 3, random_state=p.seed, n_jobs=p.threads, warm_start=True)
    for trees in range(TREES // 10, TREES + 1, TREES // 10):  # the same trees as those of one fit
        p.go_on()
        model.set_params(n_estimators=trees).fit(p.inputs, p.targets)
    return model.predict(p.asked), f"{TREES} trees"


def boosting(p: Problem) -> Fitted:
    """Friedman 2001, "Greedy function approximation", on histograms of the features (Ke et al. 2017)."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    kind = HistGradientBoostingClassifier if p.is_classes else HistGradientBoostingRegressor
    model = kind(max_iter=ROUNDS, learning_rate=BOOSTING_RATE, early_stopping=False, random_state=p.seed)
    with threadpool_limits(1):  # threads wait for each other thousands of times: tenfold the time on a busy machine
        return model.fit(p.inputs, p.targets).predict(p.asked), f"{ROUNDS} rounds"


@dataclass(frozen=True)
class Classical:
    """One classical model: its name, how it is fitted, and about what that costs.

    share: part of the time budget it may use; ns_per_cell: time to choose and fit, per row, feature and (from
        `free_classes` on) share of the classes by that many; measured on one core on CIFAR-10 and on noise, the slowest
        data tried.
    """

    name: str
    fit: Callable[[Problem], Fitted]
    share: float
    ns_per_cell: float
    free_classes: int = 10

    def rows(self, budget_s: float, features: int, classes: int) -> int:
        """Training rows that fit the budget."""
        cells = self.share * budget_s * 1e9 / self.ns_per_cell
        return int(cells / (features * max(1, classes / self.free_classes)))


FOR_CLASSES = (
    Classical("most frequent class", constant, 1.0, 1.0),
    Classical("logistic regression", logistic, 0.2, 1000.0),
    Classical("random forest", forest, 0.3, 2000.0),
    Classical("gradient boosting", boosting, 0.15, 5000.0, free_classes=2),
    Classical("pruned decision tree", tree, 0.3, 2000.0),
    Classical("linear SVM", linear_svm, 0.05, 1500.0),
)
FOR_NUMBERS = (
    Classical("mean of the target", constant, 1.0, 1.0),
    Classical("ridge regression", ridge, 0.1, 100.0),
    Classical("gradient boosting", boosting, 0.2, 6000.0),
    Classical("random forest", forest, 0.4, 18000.0),
    Classical("pruned decision tree", tree, 0.3, 4000.0),
)
"""The trivial one, then the strongest for their cost first: what a busy machine leaves out is the weaker."""


def _chosen(p: Problem, build: Callable[[float], Any], values: tuple[float, ...], words: str, default: float) -> Fitted:
    """The model whose parameter did best over the folds, fitted on all rows; of equals, the first."""

    def fitted(value: float, rows: np.ndarray | slice = slice(None)) -> Any:
        p.go_on()
        return build(value).fit(p.inputs[rows], p.targets[rows])

    folds = p.folds()
    goodness = [
        sum(p.goodness(fitted(value, fit).predict(p.inputs[judge]), p.targets[judge]) for fit, judge in folds)
        for value in values
    ]
    best = values[int(np.argmax(goodness))] if folds else default
    return fitted(best).predict(p.asked), words.format(best)
