"""Data sets that need no download: scikit-learn's own copies, and the exclusive or."""

import gzip
import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlcli.data.source import Source
from mlcli.data.sources.arrays import image_source, split_arrays
from mlcli.data.sources.features import feature_source
from mlcli.data.splits import split_indices

if TYPE_CHECKING:
    from mlcli.data.config import Digits, EmbeddedTable, Xor

XOR_POINTS = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
XOR_LABELS = np.array([0, 1, 1, 0])


def digits(config: "Digits") -> Source:
    """8x8 digits, white on black, uint8: the counts 0 to 16 of set pixels in each 4x4 block, times 255 / 16."""
    counts = _digit_rows()
    images = torch.from_numpy(np.rint(counts[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    labels = torch.from_numpy(counts[:, -1].astype(np.int64))
    class_names = tuple("0123456789")
    shares = {"val": config.val, "test": config.test}
    return image_source(split_arrays(images, labels, class_names, shares, config.split_seed, "digits"), class_names)


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


def embedded_table(config: "EmbeddedTable", *, regression: bool) -> Source:
    """Iris, wine, breast cancer or diabetes; diabetes in its original units, as the model standardises by itself."""
    from sklearn import datasets

    options = {"scaled": False} if config.name == "diabetes" else {}
    data = getattr(datasets, f"load_{config.name}")(**options)
    class_names = () if regression else tuple(str(name) for name in data.target_names)
    splits = split_indices(
        len(data.target),
        {"val": config.val, "test": config.test},
        config.split_seed,
        labels=None if regression else data.target,
        class_names=class_names,
        unit="rows",
        where=config.name,
    )
    medians = np.median(data.data[splits["train"]], axis=0)
    columns = [
        {"name": str(name), "kind": "number", "missing": float(median)}
        for name, median in zip(data.feature_names, medians, strict=True)
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


def xor(config: "Xor") -> Source:
    """The four points in every split, `repeats` times, each with noise of its own."""
    names = ("train", "val", "test")
    size = len(XOR_POINTS) * config.repeats
    points = np.tile(XOR_POINTS, (config.repeats * len(names), 1))
    noise = np.concatenate(
        [np.random.default_rng([config.split_seed, number]).normal(size=(size, 2)) for number in range(len(names))]
    )
    return feature_source(
        points + config.noise * noise,
        np.tile(XOR_LABELS, config.repeats * len(names)),
        {split: np.arange(size) + number * size for number, split in enumerate(names)},
        columns=[{"name": name, "kind": "number", "missing": 0.5} for name in ("x1", "x2")],
        class_names=("false", "true"),
        target="label",
        origin="xor",
    )
