"""Labels that are probably wrong: names of classes that were meant to be one, or none, and samples labelled as another.

The latter after confident learning (Northcutt, Jiang and Chuang 2021, arXiv:1911.00068): where two simple classifiers,
applied to samples that they were not trained on, agree on another label. The two are linear discriminants and nearest
neighbours, both by five-fold cross-validation, on standardised features: of images, histograms of oriented gradients
(Dalal and Triggs 2005) and mean colours.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mlcli.data.finding import Finding
from mlcli.data.inspection import drawn
from mlcli.data.scan import Collection, Scan, blank_images
from mlcli.data.splits import ALIKE, alike, plain_name
from mlcli.text import plural

LITTER = {"__macosx", "@eadir", "thumbs", "$recycle.bin", "lost+found", "labels", "annotations", "images", "masks"}
"""Names of folders that programs leave behind, or that hold no class."""
NO_CLASS = {"nan", "none", "null", "na", "n/a", "undefined", "?"}
"""Texts that other programs write for an empty cell."""
TYPO_LENGTH = 5
"""Letters from which one wrong letter is a typo rather than another word: bat and cat."""
TYPO_SHARE = 0.2
"""A misspelt class is rare compared with the one that was meant; castle and cattle are both frequent."""
COMPARED = 1000
"""Classes up to which all pairs are compared."""
MAX_ROWS = 12_000
"""Rows that take about 20 s on one core."""
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
NEAREST = 4  # similar samples shown for a suspicious one


# --- names ----------------------------------------------------------------------------------------------------------


def label_findings(class_names: Sequence[str], counts: np.ndarray) -> list[Finding]:
    """counts: int [C], samples of each class in all splits."""
    found = []
    collisions = alike(class_names)
    if collisions:
        what = f"class names that {ALIKE}, and are taken for different classes"
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
    oddities = [
        ("labels-blanks", "class names with leading, trailing or doubled spaces", "rename them",
         lambda name: name != name.strip() or "  " in name),
        ("labels-missing", "class names that stand for a missing label", "label these samples, or remove them",
         lambda name: name.casefold().strip() in NO_CLASS or re.fullmatch(r"-?9{3,}|-9{1,2}", name)),
        ("labels-litter", "folders with unlikely names are taken for classes", "move them elsewhere",
         lambda name: name.casefold() in LITTER),
    ]  # fmt: skip
    for kind, what, fix, is_odd in oddities:
        if places := tuple(repr(name) for name in class_names if is_odd(name)):
            found.append(Finding("warning", kind, what, places, fix))
    return found


def _one_meant(a: str, b: str, count_a: int, count_b: int) -> bool:
    """Whether two names differ by accents, a plural, or a typo in the one that is rare."""
    a, b = plain_name(a), plain_name(b)
    bare = ["".join(letter for letter in unicodedata.normalize("NFD", name) if not unicodedata.combining(letter))
            for name in (a, b)]  # fmt: skip
    if bare[0] == bare[1]:
        return True
    short, long = sorted((a, b), key=len)
    if len(short) >= 3 and long in (f"{short}s", f"{short}es"):
        return True
    rare = min(count_a, count_b) <= TYPO_SHARE * max(count_a, count_b)
    return rare and len(short) >= TYPO_LENGTH and _one_letter_off(short, long)


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


# --- doubted labels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Suspicions:
    """Samples whose label is doubted, the most confident first.

    suspects: int64 [S], positions in the data set. likely: int64 [S], the label they look like.
    confidence: float [S]. neighbours: int64 [S, 4], the nearest samples of the likely label.
    accuracy: share of labels that the classifiers got right. judged: how many samples they classified.
    """

    suspects: np.ndarray
    likely: np.ndarray
    confidence: np.ndarray
    neighbours: np.ndarray
    accuracy: float
    judged: int


def suspect_images(collection: Collection, scan: Scan) -> Suspicions | None:
    """Doubted labels of the images that were read; None if there is too little of each class to judge by."""
    rows = np.flatnonzero(scan.ok & ~blank_images(scan))
    rows = drawn(rows[collection.labels[scan.read[rows]] >= 0], MAX_ROWS, 0)
    return suspect(gradients(scan.pixels[rows]), collection.labels[scan.read[rows]], scan.read[rows])


def suspect(features: np.ndarray, labels: np.ndarray, positions: np.ndarray) -> Suspicions | None:
    """features: float [N, F]; labels: int64 [N]; positions: int64 [N], what to call each. None as above.

    Classes of fewer than ten samples are left out.
    """
    sizes = np.bincount(labels) if len(labels) else np.zeros(1, dtype=int)
    enough = np.flatnonzero(sizes >= 2 * FOLDS)
    kept = np.isin(labels, enough)
    if len(enough) < 2:
        return None
    features, labels, positions = features[kept], labels[kept], positions[kept]
    classes, rows = np.searchsorted(enough, labels), np.arange(len(labels))
    probabilities, projected = _cross_validated(features, classes)
    together = (probabilities[0] + probabilities[1]) / 2
    best = together.argmax(axis=1)
    sure = np.min([each[rows, best] for each in probabilities], axis=0) >= SURE
    sure &= together[rows, best] >= SURE_TOGETHER
    doubted = np.max([each[rows, classes] for each in probabilities], axis=0) <= DOUBTED
    chosen = np.flatnonzero(sure & doubted & (best != classes))
    chosen = chosen[np.argsort(-together[chosen, best[chosen]], kind="stable")]
    neighbours = np.zeros((len(chosen), NEAREST), dtype=np.int64)
    for number, row in enumerate(chosen.tolist()):
        members = np.flatnonzero(classes == best[row])
        distance = ((projected[members] - projected[row]) ** 2).sum(axis=1)
        neighbours[number] = members[np.argsort(distance, kind="stable")[:NEAREST]]
    return Suspicions(
        positions[chosen],
        enough[best[chosen]],
        together[chosen, best[chosen]],
        positions[neighbours],
        float((best == classes).mean()),
        len(labels),
    )


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
    what += f" (they agree with {100 * found.accuracy:.0f} % of the {found.judged:,} labels that were checked)"
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
    down, across = np.gradient(values.mean(axis=1), axis=(1, 2))
    strength = np.hypot(down, across)
    turn = (np.arctan2(down, across) % np.pi) * (BINS / np.pi)
    low = np.floor(turn).astype(np.int64) % BINS
    part = turn - np.floor(turn)
    votes = [strength * ((1 - part) * (low == b) + part * ((low + 1) % BINS == b)) for b in range(BINS)]
    cells = np.stack([_pooled(vote, CELL) for vote in votes], axis=-1)  # [n, 8, 8, 9]
    energy = np.pad((cells**2).sum(axis=-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    side = cells.shape[1]
    around = np.sum([energy[:, y : y + side, x : x + side] for y in range(3) for x in range(3)], axis=0)
    oriented = np.minimum(cells / np.sqrt(around + 1e-3)[..., None], 0.4)
    colours = np.stack([_pooled(values[:, channel], 2 * CELL) for channel in range(3)], axis=-1)
    return np.concatenate([oriented.reshape(len(pixels), -1), colours.reshape(len(pixels), -1)], axis=1)


def _pooled(values: np.ndarray, cell: int) -> np.ndarray:
    """Means of cells: [n, 32, 32] to [n, 32 / cell, 32 / cell]."""
    count, side = len(values), values.shape[1] // cell
    return values.reshape(count, side, cell, side, cell).mean(axis=(2, 4))
