"""scikit-learn's data sets and the exclusive or, against scikit-learn's own arrays."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from mlcli.data.config import ClassificationTable, Digits, FeatureSelection, RegressionTable, Xor
from mlcli.data.info import DataInfo
from mlcli.data.sources.build import build_source
from mlcli.data.sources.rows import prepare_rows


def test_digits_are_all_there_and_scaled():
    source = build_source(Digits(name="digits"))
    original = datasets.load_digits()
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 1168, "val": 270, "test": 359}
    seen = []
    for samples in source.splits.values():
        everything = np.arange(len(samples))
        images = samples.read(everything)
        places = np.array([int(samples.name(index).removeprefix("digits:")) for index in everything])
        assert images.dtype == torch.uint8
        assert np.abs(images[:, 0].numpy() - original.images[places] * 255 / 16).max() <= 0.5
        assert np.array_equal(samples.targets.numpy(), original.target[places])
        assert np.abs(np.bincount(samples.targets) / len(samples) - 0.1).max() < 0.01
        seen.append(places)
    assert sorted(np.concatenate(seen)) == list(range(1797))
    assert source.splits["train"].read(np.arange(1168)).max() == 255


def test_digits_facts():
    info = build_source(Digits(name="digits")).info
    images = build_source(Digits(name="digits")).splits["train"].read(np.arange(1168)).double() / 255
    assert info.input_shape == (1, 8, 8)
    assert info.class_names == tuple("0123456789")
    assert info.mean == pytest.approx((images.mean().item(),))
    assert info.std == pytest.approx((images.std(correction=0).item(),))
    assert info.preparation == {"image_size": [8, 8], "fit": "crop", "channels": 1}
    assert DataInfo.from_plain(info.to_plain()) == info


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer"])
def test_tables_hold_the_original_rows(name):
    source = build_source(ClassificationTable(name=name))
    original = getattr(datasets, f"load_{name}")()
    assert source.info.num_classes == len(original.target_names)
    total = 0
    for samples in source.splits.values():
        places = [int(samples.name(index).split(":")[1]) for index in range(len(samples))]
        assert np.allclose(samples.read(np.arange(len(samples))), original.data[places], rtol=1e-6)
        assert np.array_equal(samples.targets, original.target[places])
        total += len(places)
    assert total == len(original.target)
    train = source.splits["train"].read(np.arange(len(source.splits["train"]))).double()
    assert source.info.mean == pytest.approx(train.mean(dim=0).tolist(), rel=1e-5)
    assert source.info.std == pytest.approx(train.std(dim=0, correction=0).tolist(), rel=1e-5)


def test_regression_table():
    source = build_source(RegressionTable(name="diabetes"), regression=True)
    targets = source.splits["train"].targets
    assert targets.dtype == torch.float32
    assert source.info.class_names == ()
    assert source.info.num_outputs == 1
    assert source.info.preparation["target_mean"] == pytest.approx(targets.double().mean().item())
    assert source.info.preparation["target_std"] == pytest.approx(targets.double().std(correction=0).item())


@pytest.mark.parametrize("method", ["mutual_info", "univariate"])
def test_selection_keeps_what_tells_most(method):
    """Petal length and width tell the irises apart far better than the sepals do."""
    config = ClassificationTable(name="iris", select=FeatureSelection(method=method, keep=2))
    source = build_source(config)
    assert source.info.preparation["features"] == ["petal length (cm)", "petal width (cm)"]
    assert source.info.input_shape == (2,)
    assert any("kept 2 of 4 features" in note for note in source.notes)
    row = {"petal width (cm)": "0.2", "petal length (cm)": "1.4"}
    assert prepare_rows(source.info.preparation, [row])[0].tolist() == pytest.approx([1.4, 0.2])


def test_xor_without_noise():
    source = build_source(Xor(name="xor", repeats=3))
    for samples in source.splits.values():
        points = samples.read(np.arange(12))
        assert torch.equal(samples.targets, (points[:, 0] != points[:, 1]).long())
        assert {tuple(point) for point in points.tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert source.info.class_names == ("false", "true")
    assert source.info.mean == (0.5, 0.5)
    assert source.info.std == (0.5, 0.5)


def test_xor_noise_differs_between_splits_and_repeats_with_the_seed():
    def points(split, **options):
        return build_source(Xor(name="xor", repeats=50, noise=0.1, **options)).splits[split].read(np.arange(200))

    assert torch.equal(points("train"), points("train"))
    assert not torch.equal(points("train"), points("val"))
    assert not torch.equal(points("train"), points("train", split_seed=1))
    assert (points("test") - points("test").round()).std() == pytest.approx(0.1, rel=0.1)
