"""torchvision's data sets, from tiny files in each of their formats written here."""

import gzip
import hashlib
import pickle
import string

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from mlcli.data.config import TorchvisionSet
from mlcli.data.sources.build import build_source
from mlcli.errors import DataError


def write_idx(path, values: np.ndarray, *, compress: bool = False) -> None:
    """The format of MNIST: two zero bytes, 8 for uint8, the number of dimensions, big-endian sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.astype(np.uint8).tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def random_images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_mnist(root, folder: str, train="train", test="t10k", *, classes=10, first=0, **options):
    written = {}
    for part, count in ((train, classes * 4), (test, classes)):
        images, labels = random_images(count, 28, 28), np.arange(count) % classes + first
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images, **options)
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", labels, **options)
        written[part] = images, labels
    return written


def everything(samples) -> tuple[np.ndarray, np.ndarray]:
    return samples.read(np.arange(len(samples))).numpy(), samples.targets.numpy()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("name", "folder", "some_class"),
    [("mnist", "MNIST", "7"), ("fashion_mnist", "FashionMNIST", "Ankle boot"), ("kmnist", "KMNIST", "tsu")],
)
def test_mnist_and_relatives(tmp_path, name, folder, some_class, compress):
    written = write_mnist(tmp_path, folder, compress=compress)
    source = build_source(TorchvisionSet(name=name, root=tmp_path, val=0.25))
    assert {split: len(samples) for split, samples in source.splits.items()} == {"train": 30, "val": 10, "test": 10}
    images, labels = everything(source.splits["test"])
    assert np.array_equal(images[:, 0], written["t10k"][0])
    assert np.array_equal(labels, written["t10k"][1])
    places = [int(source.splits["val"].name(index).split(":")[1]) for index in range(10)]
    images, labels = everything(source.splits["val"])
    assert np.array_equal(images[:, 0], written["train"][0][places])
    assert sorted(labels) == list(range(10))
    assert some_class in source.info.class_names
    assert source.info.input_shape == (1, 28, 28)
    train = everything(source.splits["train"])[0] / 255
    assert source.info.mean == pytest.approx((train.mean(),))
    assert source.info.std == pytest.approx((train.std(),))


def test_emnist_images_are_turned_upright(tmp_path):
    written = write_mnist(tmp_path, "EMNIST", "emnist-balanced-train", "emnist-balanced-test", classes=47)
    source = build_source(TorchvisionSet(name="emnist", root=tmp_path, val=0.25))
    images, labels = everything(source.splits["test"])
    assert np.array_equal(images[:, 0], written["emnist-balanced-test"][0].transpose(0, 2, 1))
    assert np.array_equal(labels, np.arange(47))
    assert source.info.class_names[:11] == (*string.digits, "A")


def test_emnist_letters_count_from_zero(tmp_path):
    write_mnist(tmp_path, "EMNIST", "emnist-letters-train", "emnist-letters-test", classes=26, first=1)
    source = build_source(TorchvisionSet(name="emnist", root=tmp_path, emnist_split="letters", val=0.25))
    assert source.info.class_names == tuple(string.ascii_lowercase)
    assert np.array_equal(source.splits["test"].targets, np.arange(26))


def write_cifar(root, kind, monkeypatch, *, classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write batches as the originals are, and make the published table of check sums theirs."""
    folder = root / kind.base_folder
    folder.mkdir()
    key = "labels" if classes == 10 else "fine_labels"
    written = {}

    def save(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for table in ("train_list", "test_list"):
        sums = []
        for name, _ in getattr(kind, table):
            images, labels = random_images(classes * 4, 3072), np.arange(classes * 4) % classes
            sums.append([name, save(name, {"data": images, key: labels.tolist()})])
            written[name] = images.reshape(-1, 3, 32, 32), labels
        monkeypatch.setattr(kind, table, sums)
    names = [f"class {label}" for label in range(classes)]
    sums = save(kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums})
    return written


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("cifar10", datasets.CIFAR10, 10), ("cifar100", datasets.CIFAR100, 100)]
)
def test_cifar(tmp_path, monkeypatch, name, kind, classes):
    written = write_cifar(tmp_path, kind, monkeypatch, classes=classes)
    source = build_source(TorchvisionSet(name=name, root=tmp_path, val=0.25))
    images, labels = everything(source.splits["test"])
    test_name = kind.test_list[0][0]
    assert np.array_equal(images, written[test_name][0])
    assert np.array_equal(labels, written[test_name][1])
    assert source.info.input_shape == (3, 32, 32)
    assert source.info.class_names[3] == "class 3"
    assert source.info.preparation == {"image_size": [32, 32], "fit": "crop", "channels": 3}
    assert source.splits["train"].read(np.array([0])).is_contiguous()


def test_pickles_with_another_check_sum_are_never_opened(tmp_path):
    """A pickle can run code; this one would leave a file behind."""

    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps({"data": Trap()}))
    with pytest.raises(DataError, match="damaged or not the published ones"):
        build_source(TorchvisionSet(name="cifar10", root=tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_svhn(tmp_path, monkeypatch):
    table = dict(datasets.SVHN.split_list)
    written = {}
    for split in ("train", "test"):
        images, labels = random_images(40, 32, 32, 3), np.arange(40) % 10 + 1  # 10 stands for the digit 0
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None].astype(np.uint8)})
        table[split] = [table[split][0], path.name, hashlib.md5(path.read_bytes()).hexdigest()]
        written[split] = images, labels % 10
    monkeypatch.setattr(datasets.SVHN, "split_list", table)
    source = build_source(TorchvisionSet(name="svhn", root=tmp_path, val=0.25))
    images, labels = everything(source.splits["test"])
    assert np.array_equal(images, written["test"][0].transpose(0, 3, 1, 2))
    assert np.array_equal(labels, written["test"][1])
    assert source.info.class_names == tuple(string.digits)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("emnist", "EMNIST/raw/emnist-balanced-test-labels-idx1-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_5"),
        ("cifar100", "cifar-100-python/meta"),
        ("svhn", "test_32x32.mat"),
    ],
)
def test_missing_files_are_listed(tmp_path, name, file):
    with pytest.raises(DataError) as caught:
        build_source(TorchvisionSet(name=name, root=tmp_path / "nowhere"))
    assert file in caught.value.what
    assert str(tmp_path / "nowhere") in caught.value.what
    assert "data.download=true" in caught.value.fix


def test_only_what_is_missing_is_listed(tmp_path):
    write_mnist(tmp_path, "MNIST")
    (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        build_source(TorchvisionSet(name="mnist", root=tmp_path))
    assert caught.value.what.endswith(": no MNIST/raw/t10k-labels-idx1-ubyte")


@pytest.mark.parametrize("damage", ["truncated", "not idx", "empty", "damaged gz"])
def test_damaged_files(tmp_path, damage):
    write_mnist(tmp_path, "MNIST")
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "not idx":
            path.write_bytes(b"<html>404</html>")
        case "empty":
            path.write_bytes(b"")
        case "damaged gz":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-50])
            path.unlink()
    with pytest.raises(DataError, match="MNIST could not be read") as caught:
        build_source(TorchvisionSet(name="mnist", root=tmp_path))
    assert "train-images-idx3-ubyte" in caught.value.where


def test_labels_out_of_range(tmp_path):
    write_mnist(tmp_path, "MNIST", first=1)
    with pytest.raises(DataError, match="outside 0 to 9"):
        build_source(TorchvisionSet(name="mnist", root=tmp_path))


def test_download_that_cannot_work_is_an_error_of_the_data(tmp_path, monkeypatch):
    """A server that nobody listens at: refused at once, with or without a network."""
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(DataError, match="MNIST could not be downloaded") as caught:
        build_source(TorchvisionSet(name="mnist", root=tmp_path, download=True))
    assert caught.value.code == 4
    assert "MNIST/raw/train-images-idx3-ubyte" in caught.value.fix


def test_training_split_is_not_a_view_of_the_whole(tmp_path):
    write_mnist(tmp_path, "MNIST")
    splits = build_source(TorchvisionSet(name="mnist", root=tmp_path, val=0)).splits
    assert list(splits) == ["train", "test"]
    assert splits["train"].read(np.array([5, 3])).shape == (2, 1, 28, 28)
    assert splits["train"].targets.dtype == torch.int64
