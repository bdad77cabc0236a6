"""Sources that lie in memory: arrays of images, rows of numbers with their selection and statistics.

Among them those that need no download: scikit-learn's own copies, and the exclusive or.
"""

import gzip
import io
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcli.data.config import Digits, EmbeddedTable, FeatureSelection, Xor
from mlcli.data.decode import Preparation
from mlcli.data.fingerprints import of_array, of_samples
from mlcli.data.info import DataInfo, features_of
from mlcli.data.inspection import feature_statistics, pixel_counts, pixel_statistics
from mlcli.data.source import Arrays, Source
from mlcli.data.splits import SPLITS, Divisible, split_indices
from mlcli.engine.membership import Fingerprints
from mlcli.errors import DataError

LARGE_OFFSET = 1000
"""Standard deviations from zero beyond which a column is centred in float64. Below, float32 rounds to 1/16,000 of one
standard deviation or less."""

# --- images ----------------------------------------------------------------------------------------------------------


def split_arrays(
    inputs: Tensor, labels: Tensor, class_names: tuple[str, ...], shares: dict[str, float], seed: int, origin: str
) -> dict[str, Arrays]:
    """Divide samples, stratified by label; each keeps its place in the whole as its number."""
    samples = Divisible(len(labels), labels.numpy(), class_names, where=origin)
    indices = split_indices(samples, shares, seed)
    splits: dict[str, Arrays] = {}
    for split, chosen in indices.items():
        rows = torch.from_numpy(chosen)
        splits[split] = Arrays(inputs.index_select(0, rows), labels.index_select(0, rows), origin, chosen)
    return splits


def array_source(splits: dict[str, Arrays], class_names: tuple[str, ...]) -> Source:
    """A source of images uint8 [N, C, H, W]; other image files can be prepared to look like them."""
    images = splits["train"].inputs
    _, channels, height, width = images.shape
    mean, std = pixel_statistics(pixel_counts(images.numpy()))
    info = DataInfo(
        kind="image",
        input_shape=(channels, height, width),
        class_names=class_names,
        target="label",
        mean=mean,
        std=std,
        preparation=Preparation((height, width), "crop", 3 if channels == 3 else 1).to_plain(),
    )
    return Source(info, dict(splits))


# --- rows of numbers -------------------------------------------------------------------------------------------------


def feature_source(
    rows: np.ndarray,
    targets: np.ndarray,
    splits: dict[str, np.ndarray],
    *,
    columns: list[dict[str, Any]],
    class_names: tuple[str, ...],
    target: str,
    origin: str,
    numbers: np.ndarray | None = None,
    select: FeatureSelection | None = None,
    notes: tuple[str, ...] = (),
    prints: Fingerprints | None = None,
    centred: bool = True,
) -> Source:
    """A source of features in memory.

    Args:
        rows: float [N, F], the encoded columns (see tables.py) of all splits together.
        targets: int64 [N] labels, or float [N] numbers when class_names is empty.
        splits: the rows of each split.
        columns: how the features are encoded, as plain data; goes into `DataInfo.preparation`.
        numbers: int [N], what names each row: its line in the file. None for its index.
        select: how many features are kept, and by which score; None for all.
        prints: what all rows are known by; None for their numbers.
        centred: whether `large_offsets` are taken from the columns and the target.
    """
    prints = prints or of_samples(of_array(rows.astype(np.float64)), targets, class_names)
    names, numeric = feature_names(columns)
    train = splits["train"]
    chosen = np.arange(len(names))
    if select is not None:
        chosen = _select(rows[train], targets[train], numeric, select, classify=bool(class_names))
        kept = ", ".join(names[feature] for feature in chosen)
        notes = (*notes, f"kept {len(chosen)} of {len(names)} features by {select.method}: {kept}")
    rows = rows[:, chosen].astype(np.float64)
    offsets = np.where(centred & numeric[chosen], large_offsets(rows[train]), 0.0)
    rows -= offsets
    mean, std = feature_statistics(rows[train], numeric[chosen])
    features = [names[feature] for feature in chosen]
    needed = [column for column in columns if set(feature_names([column])[0]) & set(features)]
    preparation: dict[str, Any] = {"columns": needed, "features": features}
    if offsets.any():
        preparation["offsets"] = offsets.tolist()
    if not class_names:
        known = targets[train]
        if not known.std() > 0:
            what = f"the target '{target}' is {known[0]:g} in every row of the training split: nothing to learn"
            raise DataError(what, where=origin, fix="predict another column: data.target")
        if offset := centred * float(large_offsets(known)):
            preparation["target_offset"] = offset
            targets = targets - offset
        known = targets[train]
        preparation |= {"target_mean": float(known.mean()), "target_std": float(known.std())}
    info = DataInfo("features", (len(chosen),), class_names, target, mean, std, preparation)
    inputs = torch.from_numpy(rows.astype(np.float32))
    answers = torch.from_numpy(targets.astype(np.int64 if class_names else np.float32))
    everything = Arrays(inputs, answers, origin, numbers, prints)
    return Source(info, {split: everything.only(rows) for split, rows in splits.items()}, notes)


def large_offsets(values: np.ndarray) -> np.ndarray:
    """Return what to take from each column of float64 [N, ...] before it becomes float32: its median where float32
    would round away what varies, as of seconds since 1970 within an hour; otherwise 0."""
    median, spread = np.median(values, axis=0), values.std(axis=0)
    return np.where((spread > 0) & (np.abs(median) > LARGE_OFFSET * spread), median, 0.0)


def feature_names(columns: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    """The features that columns become, and whether each is a number (bool [F]) or one-hot ("color=red")."""
    names, numeric = [], []
    for column in columns:
        features = features_of(column)
        names += features
        numeric += [column["kind"] == "number"] * len(features)
    return names, np.array(numeric, dtype=bool)


def _select(
    rows: np.ndarray, targets: np.ndarray, numeric: np.ndarray, select: FeatureSelection, *, classify: bool
) -> np.ndarray:
    """Positions of the features with the highest scores, in their original order."""
    from sklearn.feature_selection import f_classif, f_regression, mutual_info_classif, mutual_info_regression

    if select.keep > rows.shape[1]:
        what = f"data.select.keep: {select.keep} features cannot be kept, there are {rows.shape[1]}"
        raise DataError(what, where="data.select.keep", fix=f"data.select.keep={rows.shape[1]} or smaller")
    if select.method == "mutual_info":  # noise breaks ties among equal numbers: fixed, so that the choice is repeatable
        score = mutual_info_classif if classify else mutual_info_regression
        scores = score(rows, targets, discrete_features=~numeric, random_state=0)
    else:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # a constant feature scores 0/0
            scores = (f_classif if classify else f_regression)(rows, targets)[0]
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0, posinf=np.finfo(float).max), kind="stable")
    return np.sort(order[: select.keep])


# --- what needs no download ------------------------------------------------------------------------------------------


XOR_POINTS = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
XOR_LABELS = np.array([0, 1, 1, 0])


def digits(config: Digits) -> Source:
    """8x8 digits, white on black, uint8: the counts 0 to 16 of set pixels in each 4x4 block, times 255 / 16."""
    package = find_spec("sklearn")  # found, not imported: that costs half as much as importing torch
    assert package is not None, "scikit-learn is a dependency"
    assert package.submodule_search_locations, "scikit-learn is a package"
    packed = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    counts = np.loadtxt(io.BytesIO(gzip.decompress(packed.read_bytes())), delimiter=",", dtype=np.int64)  # and labels
    images = torch.from_numpy(np.rint(counts[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(counts[:, -1].astype(np.int64))
    class_names, shares = tuple("0123456789"), {"val": config.val, "test": config.test}
    splits = split_arrays(images, labels, class_names, shares, config.split_seed, "digits")
    return array_source(splits, class_names)


def embedded_table(config: EmbeddedTable) -> Source:
    """Iris, wine, breast cancer or diabetes; diabetes in its original units, as the model standardises by itself."""
    from sklearn import datasets

    regression = config.name == "diabetes"
    data = getattr(datasets, f"load_{config.name}")(**({"scaled": False} if regression else {}))
    class_names = () if regression else tuple(map(str, data.target_names))
    labels = None if regression else data.target
    rows = Divisible(len(data.target), labels, class_names, unit="rows", where=config.name)
    splits = split_indices(rows, {"val": config.val, "test": config.test}, config.split_seed)
    medians = np.median(data.data[splits["train"]], axis=0)
    columns = [
        {"name": str(feature), "kind": "number", "missing": float(median)}
        for feature, median in zip(data.feature_names, medians, strict=True)
    ]
    return feature_source(
        data.data,
        data.target,
        splits,
        columns=columns,
        class_names=class_names,
        target="progression" if regression else "label",
        origin=config.name,
        select=config.select,
    )


def xor(config: Xor) -> Source:
    """The four points in every split, `repeats` times, each with Gaussian noise of its own."""
    size = len(XOR_POINTS) * config.repeats
    points = np.tile(XOR_POINTS, (config.repeats * len(SPLITS), 1))
    normal = np.concatenate(
        [np.random.default_rng([config.split_seed, number]).normal(size=(size, 2)) for number in range(len(SPLITS))]
    )
    return feature_source(
        points + config.noise * normal,
        np.tile(XOR_LABELS, config.repeats * len(SPLITS)),
        {split: np.arange(size) + number * size for number, split in enumerate(SPLITS)},
        columns=[{"name": name, "kind": "number", "missing": 0.5} for name in ("x1", "x2")],
        class_names=("false", "true"),
        target="label",
        origin="xor",
    )
