"""Data sets that need no download: scikit-learn's own copies, and the exclusive or."""

import gzip
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mlcli.data.config import FeatureSelection
from mlcli.data.source import Source
from mlcli.data.sources.arrays import array_source, feature_source, split_arrays
from mlcli.data.splits import split_indices

XOR_POINTS = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
XOR_LABELS = np.array([0, 1, 1, 0])


def digits(*, val: float = 0.15, test: float = 0.2, split_seed: int = 0) -> Source:
    """8x8 digits, white on black, uint8: the counts 0 to 16 of set pixels in each 4x4 block, times 255 / 16."""
    counts = _digit_rows()
    images = torch.from_numpy(np.rint(counts[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(counts[:, -1].astype(np.int64))
    class_names = tuple("0123456789")
    splits = split_arrays(images, labels, class_names, {"val": val, "test": test}, split_seed, "digits")
    return array_source(splits, class_names)


def _digit_rows() -> np.ndarray:
    """int [1797, 65]: the 64 counts of a picture and its label, as scikit-learn's `load_digits` reads them.

    From the file in its package: importing scikit-learn costs half as much as importing torch, and nothing else of it
    is needed before the first step.
    """
    spec = find_spec("sklearn")  # found, not imported
    assert spec is not None, "scikit-learn is a dependency"
    assert spec.submodule_search_locations, "scikit-learn is a package"
    packed = Path(spec.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    return np.loadtxt(io.BytesIO(gzip.decompress(packed.read_bytes())), delimiter=",", dtype=np.int64)


def embedded_table(
    name: Literal["iris", "wine", "breast_cancer", "diabetes"],
    *,
    val: float = 0.15,
    test: float = 0.15,
    split_seed: int = 0,
    select: FeatureSelection | None = None,
) -> Source:
    """Iris, wine, breast cancer or diabetes; diabetes in its original units, as the model standardises by itself."""
    from sklearn import datasets

    regression = name == "diabetes"
    data = getattr(datasets, f"load_{name}")(**({"scaled": False} if regression else {}))
    class_names = () if regression else tuple(map(str, data.target_names))
    splits = split_indices(
        len(data.target),
        {"val": val, "test": test},
        split_seed,
        labels=None if regression else data.target,
        class_names=class_names,
        unit="rows",
        where=name,
    )
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
        origin=name,
        select=select,
    )


def xor(*, repeats: int = 1, noise: float = 0.0, split_seed: int = 0) -> Source:
    """The four points in every split, `repeats` times, each with Gaussian noise of its own.

    noise: standard deviation of it.
    """
    names = ("train", "val", "test")
    size = len(XOR_POINTS) * repeats
    points = np.tile(XOR_POINTS, (repeats * len(names), 1))
    normal = np.concatenate(
        [np.random.default_rng([split_seed, number]).normal(size=(size, 2)) for number in range(len(names))]
    )
    return feature_source(
        points + noise * normal,
        np.tile(XOR_LABELS, repeats * len(names)),
        {split: np.arange(size) + number * size for number, split in enumerate(names)},
        columns=[{"name": name, "kind": "number", "missing": 0.5} for name in ("x1", "x2")],
        class_names=("false", "true"),
        target="label",
        origin="xor",
    )
