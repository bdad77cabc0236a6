"""Labels that are probably wrong: where two simple classifiers, asked about what they did not see, agree on another.

After confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068). The two are linear discriminants and
nearest neighbours, both by five-fold cross-validation, on standardised features: of images, histograms of oriented
gradients (Dalal and Triggs 2005) and mean colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlcli.data.check.collection import Collection
from mlcli.data.check.finding import Finding
from mlcli.data.check.images import blank_images
from mlcli.data.check.scan import Scan
from mlcli.text import plural

MAX_ROWS = 12_000
"""What 20 s on one core are enough for."""
FOLDS = 5
NEIGHBOURS = 10
COMPONENTS = 100  # principal components that neighbours are sought in
SURE, SURE_TOGETHER = 0.7, 0.8
"""Probability of another class than the label's, by each classifier and in the mean of both."""
DOUBTED = 0.1
"""Probability that each leaves at most to the label. Of 179 labels of the digits changed on purpose, 159 are found so
and no others; of 53, 50; with none changed, one is doubted."""
USEFUL = 0.8
"""Share of labels the two together must get right, or their doubts mean little."""
WORRYING = 0.01
"""Share of labels doubted from which it is a warning; a few are doubted wherever classes overlap."""
NEAREST = 4  # samples shown beside a suspicious one


@dataclass(frozen=True, eq=False)
class Suspicions:
    """Samples whose label is doubted, the most confident first.

    suspects: int64 [S], positions in the data set. likely: int64 [S], the label they look like.
    confidence: float [S]. neighbours: int64 [S, 4], the nearest samples that bear the likely label.
    accuracy: share of labels that the classifiers got right. judged: samples they were asked about.
    """

    suspects: np.ndarray
    likely: np.ndarray
    confidence: np.ndarray
    neighbours: np.ndarray
    accuracy: float
    judged: int


def suspect_images(collection: Collection, scan: Scan) -> Suspicions | None:
    """None if there is too little of each class to judge by."""
    rows = np.flatnonzero(scan.ok & ~blank_images(scan))
    rows = rows[collection.labels[scan.read[rows]] >= 0]
    rows = _drawn(rows)
    return suspect(gradients(scan.pixels[rows]), collection.labels[scan.read[rows]], scan.read[rows])


def suspect_rows(features: np.ndarray, labels: np.ndarray) -> Suspicions | None:
    """features: float [N, F]. None as above."""
    rows = _drawn(np.arange(len(labels)))
    return suspect(features[rows], labels[rows], rows)


def suspect(features: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> Suspicions | None:
    """features: float [N, F]; labels: int64 [N]; positions: what to call each. Classes below ten are left out."""
    sizes = np.bincount(labels) if len(labels) else np.zeros(1, dtype=int)
    enough = np.flatnonzero(sizes >= 2 * FOLDS)
    kept = np.isin(labels, enough)
    if len(enough) < 2:
        return None
    features, labels, positions = features[kept], labels[kept], positions[kept]
    probabilities, projected = _cross_validated(features, np.searchsorted(enough, labels))
    return _judged(probabilities, projected, enough, labels, positions)


def _cross_validated(features: np.ndarray, classes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Both classifiers' probabilities, [N, C] each, and the features in which neighbours are sought."""
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    spread = features.std(axis=0)
    standard = (features - features.mean(axis=0))[:, spread > 1e-9] / spread[spread > 1e-9]
    if standard.shape[1] == 0:
        return [np.full((len(classes), classes.max() + 1), 1 / (classes.max() + 1))] * 2, np.zeros((len(classes), 1))
    count = min(COMPONENTS, *standard.shape)
    projected = PCA(count, svd_solver="covariance_eigh" if len(standard) > count else "full").fit_transform(standard)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    linear = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    near = KNeighborsClassifier(min(NEIGHBOURS, len(classes) // 4), weights="distance", algorithm="brute")
    return [
        cross_val_predict(linear, standard, classes, cv=folds, method="predict_proba"),
        cross_val_predict(near, projected, classes, cv=folds, method="predict_proba"),
    ], projected


def _judged(
    probabilities: list[np.ndarray],
    projected: np.ndarray,
    known: np.ndarray,
    labels: np.ndarray,
    positions: np.ndarray,
) -> Suspicions:
    together = (probabilities[0] + probabilities[1]) / 2
    classes, rows = np.searchsorted(known, labels), np.arange(len(labels))
    best = together.argmax(axis=1)
    sure = np.min([each[rows, best] for each in probabilities], axis=0) >= SURE
    sure &= together[rows, best] >= SURE_TOGETHER
    doubted = np.max([each[rows, classes] for each in probabilities], axis=0) <= DOUBTED
    chosen = np.flatnonzero(sure & doubted & (best != classes))
    chosen = chosen[np.argsort(-together[chosen, best[chosen]], kind="stable")]
    return Suspicions(
        positions[chosen],
        known[best[chosen]],
        together[chosen, best[chosen]],
        positions[_nearest(projected, classes, chosen, best[chosen])],
        float((best == classes).mean()),
        len(labels),
    )


def _nearest(projected: np.ndarray, classes: np.ndarray, chosen: np.ndarray, likely: np.ndarray) -> np.ndarray:
    """The samples of the likely class that are nearest to each chosen one: int64 [S, 4]."""
    found = np.zeros((len(chosen), NEAREST), dtype=np.int64)
    for number, (row, label) in enumerate(zip(chosen.tolist(), likely.tolist(), strict=True)):
        members = np.flatnonzero(classes == label)
        distance = ((projected[members] - projected[row]) ** 2).sum(axis=1)
        found[number] = members[np.argsort(distance, kind="stable")[:NEAREST]]
    return found


def _drawn(rows: np.ndarray) -> np.ndarray:
    if len(rows) <= MAX_ROWS:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, MAX_ROWS, replace=False))


def suspicion_findings(
    found: Suspicions | None, names: Sequence[str], labels: Sequence[str], class_names: Sequence[str], sheet: str
) -> list[Finding]:
    """names, labels: of each suspect. sheet: where they can be looked at, or nothing."""
    if found is None or not len(found.suspects):
        return []
    places = tuple(
        f"{name}: labelled '{label}', looks like '{class_names[likely]}' ({confidence:.2f})"
        for name, label, likely, confidence in zip(names, labels, found.likely, found.confidence, strict=True)
    )
    serious = found.accuracy >= USEFUL and len(places) >= WORRYING * found.judged
    what = f"{plural(len(places), 'label')} that two simple classifiers confidently disagree with"
    what += f" (they agree with {100 * found.accuracy:.0f} % of the {found.judged:,} labels they were asked about)"
    fix = f"look at {sheet} and correct what is wrong" if sheet else "look at these rows"
    return [Finding("warning" if serious else "note", "suspicious-labels", what, places, fix)]


# --- features of images ----------------------------------------------------------------------------------------------

BINS, CELL = 9, 4  # orientations without sign, as in the paper; pixels of a cell: half the paper's, at half its scale


def gradients(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, 3, 32, 32] to float32 [N, 624]: oriented gradients in 8x8 cells, and mean colours in 4x4."""
    parts = [_gradients(pixels[start : start + 1024]) for start in range(0, len(pixels), 1024)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def _gradients(pixels: np.ndarray) -> np.ndarray:
    values = np.sqrt(pixels.astype(np.float32) / 255)  # square-root gamma, as in the paper
    grey = values.mean(axis=1)
    down, across = np.gradient(grey, axis=(1, 2))
    strength = np.hypot(down, across)
    turn = (np.arctan2(down, across) % np.pi) * (BINS / np.pi)
    low = np.floor(turn).astype(np.int64) % BINS
    part = turn - np.floor(turn)
    cells = np.stack(
        [
            _pooled(strength * ((1 - part) * (low == bin_) + part * ((low + 1) % BINS == bin_)), CELL)
            for bin_ in range(BINS)
        ],
        axis=-1,
    )  # [n, 8, 8, 9]
    around = np.sqrt(_blurred((cells**2).sum(axis=-1)) + 1e-3)
    oriented = np.minimum(cells / around[..., None], 0.4)
    colours = np.stack([_pooled(values[:, channel], 2 * CELL) for channel in range(3)], axis=-1)
    return np.concatenate([oriented.reshape(len(pixels), -1), colours.reshape(len(pixels), -1)], axis=1)


def _pooled(values: np.ndarray, cell: int) -> np.ndarray:
    """Means of cells: [n, 32, 32] to [n, 32 / cell, 32 / cell]."""
    count, side = len(values), values.shape[1] // cell
    return values.reshape(count, side, cell, side, cell).mean(axis=(2, 4))


def _blurred(values: np.ndarray) -> np.ndarray:
    """Sums over 3x3 cells, of [n, 8, 8]."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    side = values.shape[1]
    return np.sum([padded[:, y : y + side, x : x + side] for y in range(3) for x in range(3)], axis=0)
