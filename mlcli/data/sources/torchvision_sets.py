"""MNIST and its relatives, CIFAR and SVHN, read whole into memory through torchvision's readers of their files.

CIFAR's files are pickles, which can run code: torchvision unpickles only what has the published MD5 sum. Downloads must
have theirs, too, and are unpacked by archives.py, not by torchvision, which trusts what stands in them.
"""

import contextlib
import os
import socket
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcli.data.config import TorchvisionSet
from mlcli.data.source import Arrays, Source
from mlcli.data.sources.archives import unpack_gz, unpack_tar, unpack_zip_of_gz
from mlcli.data.sources.arrays import array_source, split_arrays
from mlcli.errors import DataError

TIMEOUT_S = 20  # without an answer; urllib's own is to wait for ever
DIGITS = tuple(string.digits)
TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "emnist": "EMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "svhn": "SVHN",
}
"""torchvision's class for each name; MNIST's relatives keep their files in a folder of that name."""


def torchvision_set(config: TorchvisionSet) -> Source:
    """Train and test as published, `val` split off the former. Raises DataError if files are missing or damaged."""
    images, labels, class_names = _read(config, train=True)
    test_images, test_labels, _ = _read(config, train=False)
    splits = split_arrays(images, labels, class_names, {"val": config.val}, config.split_seed, f"{config.name}-train")
    splits["test"] = Arrays(test_images, test_labels, f"{config.name}-test")
    return array_source(splits, class_names)


def _read(config: TorchvisionSet, *, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """uint8 [N, C, H, W], int64 [N] and the class names."""
    data = _load(config, train=train)
    if config.name in ("cifar10", "cifar100"):
        images, labels = torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
    elif config.name == "svhn":
        images, labels = torch.from_numpy(data.data), torch.from_numpy(data.labels)
    else:
        images, labels = data.data[:, None], data.targets
    class_names = DIGITS if config.name in ("mnist", "svhn") else tuple(data.classes)
    if config.name == "emnist":
        images = images.transpose(2, 3)  # its files hold each image mirrored along the diagonal
        if config.emnist_split == "letters":  # labelled 1 to 26, class 0 being "N/A"
            labels, class_names = labels - 1, class_names[1:]
    if len(images) != len(labels) or not len(labels) or labels.min() < 0 or labels.max() >= len(class_names):
        raise DataError(
            f"{TITLES[config.name]}: {len(images)} images and {len(labels)} labels do not fit together, "
            f"or labels are outside 0 to {len(class_names) - 1}",
            where=str(config.root),
            fix="delete the files and get them anew: data.download=true",
        )
    return images.contiguous(), labels.long(), class_names


def _load(config: TorchvisionSet, *, train: bool) -> Any:
    """torchvision's dataset object, of which only the arrays are used."""
    from torchvision import datasets

    kind = getattr(datasets, TITLES[config.name])
    options: dict[str, Any] = {"train": train}
    if config.name == "svhn":
        options = {"split": "train" if train else "test"}
    elif config.name == "emnist":
        options |= {"split": config.emnist_split}
    files = _files(config, kind)
    missing = _missing(config, files)
    if missing and not config.download:
        archive = getattr(kind, "filename", "")
        unpack = f", or unpack {archive} there" if archive else ""
        raise DataError(
            f"{TITLES[config.name]} is not in {config.root}: no {', '.join(missing)}",
            where="data.root",
            fix=f"data.download=true to fetch it (needs network){unpack}, or set data.root to where it lies",
        )
    with _as_data_error(config, files), _bounded_download():
        if missing:
            _download(config, kind, files)
        return kind(config.root, **options)


def _files(config: TorchvisionSet, kind: Any) -> list[str]:
    """The files both splits need, relative to the root."""
    match config.name:
        case "cifar10" | "cifar100":
            names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
            return [os.path.join(kind.base_folder, name) for name in names]
        case "svhn":
            return [kind.split_list[split][1] for split in ("train", "test")]
        case "emnist":
            parts = [f"emnist-{config.emnist_split}-{split}" for split in ("train", "test")]
        case _:
            parts = ["train", "t10k"]
    contents = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [os.path.join(TITLES[config.name], "raw", f"{part}-{content}") for part in parts for content in contents]


def _missing(config: TorchvisionSet, files: list[str]) -> list[str]:
    """The files that are not there; those that are there as published, compressed, are unpacked."""
    missing = []
    for file in files:
        path = config.root / file
        packed = path.with_name(path.name + ".gz")
        if path.exists():
            continue
        if packed.exists():
            with _as_data_error(config, [file + ".gz"]):
                unpack_gz(packed, path)
        else:
            missing.append(file)
    return missing


def _download(config: TorchvisionSet, kind: Any, files: list[str]) -> None:
    """Fetch what was published, by its MD5 sum, and take the files out of it. Raises what the network raises."""
    from torchvision.datasets.utils import download_url

    places = {Path(file).name: config.root / file for file in files}
    match config.name:
        case "svhn":
            for url, name, md5 in (kind.split_list[split] for split in ("train", "test")):
                download_url(url, config.root, name, md5)
        case "cifar10" | "cifar100":
            download_url(kind.url, config.root, kind.filename, kind.tgz_md5)
            wanted = {f"{kind.base_folder}/{name}": place for name, place in places.items()}
            unpack_tar(config.root / kind.filename, wanted)
        case "emnist":
            folder = (config.root / files[0]).parent
            download_url(kind.url, folder, "gzip.zip", kind.md5)
            unpack_zip_of_gz(folder / "gzip.zip", {f"gzip/{name}.gz": place for name, place in places.items()})
        case _:
            for packed, md5 in kind.resources:
                place = places[packed.removesuffix(".gz")]
                _download_from_any(kind.mirrors, place.parent, packed, md5)
                unpack_gz(place.parent / packed, place)


def _download_from_any(mirrors: list[str], folder: Path, name: str, md5: str) -> None:
    """From the first of several addresses that has it; what was wrong with the last is raised."""
    from torchvision.datasets.utils import download_url

    for number, mirror in enumerate(mirrors, start=1):
        try:
            return download_url(f"{mirror}{name}", folder, name, md5)
        except (RuntimeError, OSError):  # another checksum, or no answer: urllib's errors are OSErrors
            if number == len(mirrors):
                raise
    return None


@contextlib.contextmanager
def _as_data_error(config: TorchvisionSet, files: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # readers raise anything for a damaged byte; the network its own kinds
        cause = " ".join(str(error).split())[:200] or type(error).__name__
        complete = all(os.path.exists(os.path.join(config.root, file)) for file in files)
        if config.download and not complete:
            raise DataError(
                f"{TITLES[config.name]} could not be downloaded: {cause}",
                where=str(config.root),
                fix=f"check the network, or put these files there yourself: {', '.join(files)}",
            ) from error
        raise DataError(
            f"{TITLES[config.name]} could not be read; its files are damaged or not the published ones: {cause}",
            where=f"{config.root}: {', '.join(files)}",
            fix="delete the files and get them anew: data.download=true",
        ) from error


@contextlib.contextmanager
def _bounded_download() -> Iterator[None]:
    """Give up on a silent network, and keep torchvision's progress off the standard output."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)
