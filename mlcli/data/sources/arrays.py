"""Sources that lie in memory: arrays of images, and rows of numbers with their selection and statistics."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcli.data.config import FeatureSelection
from mlcli.data.decode import Preparation
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, Source
from mlcli.data.splits import split_indices
from mlcli.data.statistics import feature_statistics, pixel_counts, pixel_statistics
from mlcli.errors import DataError

# --- images ----------------------------------------------------------------------------------------------------------


def split_arrays(
    inputs: Tensor, labels: Tensor, class_names: tuple[str, ...], shares: dict[str, float], seed: int, origin: str
) -> dict[str, Arrays]:
    """Divide samples, stratified by label; each keeps its place in the whole as its number."""
    indices = split_indices(len(labels), shares, seed, labels=labels.numpy(), class_names=class_names, where=origin)
    splits: dict[str, Arrays] = {}
    for split, chosen in indices.items():
        rows = torch.from_numpy(chosen)
        splits[split] = Arrays(inputs.index_select(0, rows), labels.index_select(0, rows), origin, chosen)
    return splits


def array_source(splits: dict[str, Arrays], class_names: tuple[str, ...], notes: tuple[str, ...] = ()) -> Source:
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
    return Source(info, dict(splits), notes)


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
) -> Source:
    """A source of features in memory.

    Args:
        rows: float [N, F], the encoded columns (see tables.py) of all splits together.
        targets: int64 [N] labels, or float [N] numbers when class_names is empty.
        splits: the rows of each split.
        columns: how the features are encoded, as plain data; goes into `DataInfo.preparation`.
        numbers: int [N], what names each row: its line in the file. None for its index.
    """
    names, numeric = feature_names(columns)
    train = splits["train"]
    chosen = np.arange(len(names))
    if select is not None:
        chosen = _select(rows[train], targets[train], numeric, select, classify=bool(class_names))
        kept = ", ".join(names[feature] for feature in chosen)
        notes = (*notes, f"kept {len(chosen)} of {len(names)} features by {select.method}: {kept}")
    mean, std = feature_statistics(rows[np.ix_(train, chosen)], numeric[chosen])
    features = [names[feature] for feature in chosen]
    needed = [column for column in columns if set(feature_names([column])[0]) & set(features)]
    preparation: dict[str, Any] = {"columns": needed, "features": features}
    if not class_names:
        preparation |= _target_statistics(targets[train], target, origin)
    info = DataInfo("features", (len(chosen),), class_names, target, mean, std, preparation)
    inputs = torch.from_numpy(rows[:, chosen].astype(np.float32))
    answers = torch.from_numpy(targets.astype(np.int64 if class_names else np.float32))
    numbers = np.arange(len(rows)) if numbers is None else numbers
    return Source(
        info,
        {split: Arrays(inputs[index], answers[index], origin, numbers[index]) for split, index in splits.items()},
        notes,
    )


def feature_names(columns: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    """The features that columns become, and whether each is a number (bool [F]) or one-hot ("color=red")."""
    names, numeric = [], []
    for column in columns:
        if column["kind"] == "number":
            names.append(column["name"])
            numeric.append(True)
        else:
            names += [f"{column['name']}={value}" for value in column["values"]]
            numeric += [False] * len(column["values"])
    return names, np.array(numeric, dtype=bool)


def _select(
    rows: np.ndarray, targets: np.ndarray, numeric: np.ndarray, select: FeatureSelection, *, classify: bool
) -> np.ndarray:
    """Positions of the features with the highest scores, in their original order."""
    from sklearn.feature_selection import f_classif, f_regression, mutual_info_classif, mutual_info_regression

    if select.keep > rows.shape[1]:
        raise DataError(
            f"data.select.keep: {select.keep} features cannot be kept, there are {rows.shape[1]}",
            where="data.select.keep",
            fix=f"data.select.keep={rows.shape[1]} or smaller",
        )
    if select.method == "mutual_info":  # noise breaks ties among equal numbers: fixed, so that the choice is repeatable
        score = mutual_info_classif if classify else mutual_info_regression
        scores = score(rows, targets, discrete_features=~numeric, random_state=0)
    else:
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # a constant feature scores 0/0
            scores = (f_classif if classify else f_regression)(rows, targets)[0]
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0, posinf=np.finfo(float).max), kind="stable")
    return np.sort(order[: select.keep])


def _target_statistics(targets: np.ndarray, name: str, where: str) -> dict[str, float]:
    mean, std = float(targets.mean()), float(targets.std())
    if not std > 0:
        raise DataError(
            f"the target '{name}' is {targets[0]:g} in every row of the training split: nothing to learn",
            where=where,
            fix="predict another column: data.target",
        )
    return {"target_mean": mean, "target_std": std}
