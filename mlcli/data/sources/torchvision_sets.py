"""MNIST and its relatives, CIFAR and SVHN, read whole into memory through torchvision's readers of their files.

CIFAR's files are pickles, which can run code: torchvision unpickles only what has the published MD5 sum. Downloads must
have theirs, too, and are unpacked here, not by torchvision, which trusts what stands in them.
"""

import contextlib
import gzip
import os
import string
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
from torch import Tensor

from mlcli.data.config import TorchvisionSet
from mlcli.data.source import Arrays, Source
from mlcli.data.sources.arrays import array_source, split_arrays
from mlcli.errors import DataError
from mlcli.reading import SILENCE_S, giving_up_after, open_regular

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
    published = _Published(config.name, config.root, config.download, config.emnist_split)
    images, labels, class_names = published.read(train=True)
    test_images, test_labels, _ = published.read(train=False)
    origin = f"{config.name}-train"
    splits = split_arrays(images, labels, class_names, {"val": config.val}, config.split_seed, origin)
    splits["test"] = Arrays(test_images, test_labels, f"{config.name}-test")
    return array_source(splits, class_names)


@dataclass(frozen=True)
class _Published:
    """A data set's files as published, below a root folder."""

    name: str
    root: Path
    download: bool
    emnist_split: str

    def read(self, *, train: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """uint8 [N, C, H, W], int64 [N] and the class names."""
        data = self._load(train=train)
        if self.name in ("cifar10", "cifar100"):
            images, labels = torch.from_numpy(data.data).permute(0, 3, 1, 2), torch.tensor(data.targets)
        elif self.name == "svhn":
            images, labels = torch.from_numpy(data.data), torch.from_numpy(data.labels)
        else:
            images, labels = data.data[:, None], data.targets
        class_names = DIGITS if self.name in ("mnist", "svhn") else tuple(data.classes)
        if self.name == "emnist":
            images = images.transpose(2, 3)  # its files hold each image mirrored along the diagonal
            if self.emnist_split == "letters":  # labelled 1 to 26, class 0 being "N/A"
                labels, class_names = labels - 1, class_names[1:]
        if len(images) != len(labels) or not len(labels) or labels.min() < 0 or labels.max() >= len(class_names):
            what = f"{TITLES[self.name]}: {len(images)} images and {len(labels)} labels do not fit together, "
            what += f"or labels are outside 0 to {len(class_names) - 1}"
            fix = "delete the files and download them again: data.download=true"
            raise DataError(what, where=str(self.root), fix=fix)
        return images.contiguous(), labels.long(), class_names

    def _load(self, *, train: bool) -> Any:
        """torchvision's dataset object, of which only the arrays are used."""
        from torchvision import datasets

        kind = getattr(datasets, TITLES[self.name])
        options: dict[str, Any] = {"train": train}
        if self.name == "svhn":
            options = {"split": "train" if train else "test"}
        elif self.name == "emnist":
            options |= {"split": self.emnist_split}
        files = self._files(kind)
        missing = self._missing(files)
        if missing and not self.download:
            archive = getattr(kind, "filename", "")
            unpack = f", or unpack {archive} there" if archive else ""
            what = f"{TITLES[self.name]} is not in {self.root}: no {', '.join(missing)}"
            fix = f"data.download=true to fetch it (needs network){unpack}, or set data.root to its folder"
            raise DataError(what, where="data.root", fix=fix)
        aside = contextlib.redirect_stdout(sys.stderr)  # torchvision's progress
        with self._as_data_error(files), giving_up_after(SILENCE_S), aside:
            if missing:
                self._download(kind, files)
            return kind(self.root, **options)

    def _files(self, kind: Any) -> list[str]:
        """The files both splits need, relative to the root."""
        match self.name:
            case "cifar10" | "cifar100":
                names = [name for name, _ in kind.train_list + kind.test_list] + [kind.meta["filename"]]
                return [os.path.join(kind.base_folder, name) for name in names]
            case "svhn":
                return [kind.split_list[split][1] for split in ("train", "test")]
            case "emnist":
                parts = [f"emnist-{self.emnist_split}-{split}" for split in ("train", "test")]
            case _:
                parts = ["train", "t10k"]
        contents = ("images-idx3-ubyte", "labels-idx1-ubyte")
        return [os.path.join(TITLES[self.name], "raw", f"{part}-{content}") for part in parts for content in contents]

    def _missing(self, files: list[str]) -> list[str]:
        """The files that are not there; those that are there as published, compressed, are unpacked."""
        missing = []
        for file in files:
            path = self.root / file
            packed = path.with_name(path.name + ".gz")
            there = next((place for place in (path, packed) if place.exists()), None)
            if there is None:
                missing.append(file)
                continue
            with self._as_data_error([file + ".gz" * (there == packed)]):
                os.close(open_regular(there, MOST_BYTES))  # no pipe, no device
                if there == packed:
                    unpack_gz(packed, path)
        return missing

    def _download(self, kind: Any, files: list[str]) -> None:
        """Fetch what was published, by its MD5 sum, and take the files out of it. Raises what the network raises."""
        from torchvision.datasets.utils import download_url

        places = {Path(file).name: self.root / file for file in files}
        match self.name:
            case "svhn":
                for url, name, md5 in (kind.split_list[split] for split in ("train", "test")):
                    download_url(url, self.root, name, md5)
            case "cifar10" | "cifar100":
                download_url(kind.url, self.root, kind.filename, kind.tgz_md5)
                wanted = {f"{kind.base_folder}/{name}": place for name, place in places.items()}
                unpack_tar(self.root / kind.filename, wanted)
            case "emnist":
                folder = (self.root / files[0]).parent
                download_url(kind.url, folder, "gzip.zip", kind.md5)
                unpack_zip_of_gz(folder / "gzip.zip", {f"gzip/{name}.gz": place for name, place in places.items()})
            case _:
                for packed, md5 in kind.resources:
                    place = places[packed.removesuffix(".gz")]
                    _download_from_any(kind.mirrors, place.parent, packed, md5)
                    unpack_gz(place.parent / packed, place)

    @contextlib.contextmanager
    def _as_data_error(self, files: list[str]) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # readers raise anything for a damaged byte; the network its own kinds
            cause = " ".join(str(error).split())[:200] or type(error).__name__
            complete = all(os.path.exists(os.path.join(self.root, file)) for file in files)
            if self.download and not complete:
                what = f"{TITLES[self.name]} could not be downloaded: {cause}"
                fix = f"check the network, or put these files there yourself: {', '.join(files)}"
                raise DataError(what, where=str(self.root), fix=fix) from error
            what = f"{TITLES[self.name]} could not be read; its files are damaged or not the published ones: {cause}"
            fix = "delete the files and download them again: data.download=true"
            raise DataError(what, where=f"{self.root}: {', '.join(files)}", fix=fix) from error


def _download_from_any(mirrors: list[str], folder: Path, name: str, md5: str) -> None:
    """Download from the first address that has the file; if none has, raise the last one's error."""
    from torchvision.datasets.utils import download_url

    for number, mirror in enumerate(mirrors, start=1):
        try:
            return download_url(f"{mirror}{name}", folder, name, md5)
        except (RuntimeError, OSError):  # another checksum, or no answer: urllib's errors are OSErrors
            if number == len(mirrors):
                raise
    return None


# --- untrusted archives ----------------------------------------------------------------------------------------------

# Only those files are taken out that we can name, to where we choose, and no more than fits. No path that stands in an
# archive is ever written to, so `../`, links and devices lead nowhere; an archive that has any is refused all the same,
# for it is not what it claims to be.

MOST_BYTES = 2**30
"""Of all that is looked at in one archive, unpacked, and of each file. The largest published file of those read here,
the images of EMNIST by class, has 547 MB."""
MOST_MEMBERS = 1_000
CHUNK_BYTES = 2**20


def unpack_gz(packed: Path, target: Path) -> None:
    """One compressed file. Raises DataError if it is larger than any published one, OSError or EOFError if damaged."""
    with gzip.open(packed) as file:
        _copy(file, target, packed)


def unpack_tar(archive: Path, wanted: Mapping[str, Path]) -> None:
    """The members of these names of a tar file, compressed or not, each to its place. Raises DataError."""
    missing, seen_bytes = dict(wanted), 0
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar, start=1):
            seen_bytes += member.size
            _judge(archive, member.name, number, seen_bytes, plain=member.isreg() or member.isdir())
            file = tar.extractfile(member) if member.isreg() and member.name in missing else None
            if file is not None:
                _copy(file, missing.pop(member.name), archive)
    _complete(archive, missing)


def unpack_zip_of_gz(archive: Path, wanted: Mapping[str, Path]) -> None:
    """Those members of a zip file that are compressed once more, unpacked to their places. Raises DataError."""
    missing, seen_bytes = dict(wanted), 0
    with zipfile.ZipFile(archive) as packed:
        for number, member in enumerate(packed.infolist(), start=1):
            seen_bytes += member.file_size
            link = (member.external_attr >> 16) & 0o170000 == 0o120000
            _judge(archive, member.filename, number, seen_bytes, plain=not link)
            if member.filename in missing:
                with packed.open(member) as inner, gzip.open(inner) as file:
                    _copy(file, missing.pop(member.filename), archive)
    _complete(archive, missing)


def _judge(archive: Path, name: str, number: int, seen_bytes: int, *, plain: bool) -> None:
    """Raise DataError for a member that no genuine archive of a data set has."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        fault = "would be written outside of its folder"
    elif not plain:
        fault = "is a link or a device, not a file"
    elif number > MOST_MEMBERS:
        fault = f"comes after {MOST_MEMBERS:,} others"
    elif seen_bytes > MOST_BYTES:
        fault = f"takes it to more than {MOST_BYTES / 2**30:g} GiB unpacked"
    else:
        return
    raise DataError(f"the archive is not what it should be: {name!r} in it {fault}", where=str(archive))


def _complete(archive: Path, missing: Mapping[str, Path]) -> None:
    if missing:
        raise DataError(f"the archive does not hold {', '.join(missing)}", where=str(archive))


def _copy(file: IO[bytes] | gzip.GzipFile, target: Path, origin: Path) -> None:
    """Write to a temporary file in the target's folder first, so that half a file is never taken for a whole one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with unfinished.open("xb") as out:
            while chunk := file.read(CHUNK_BYTES):
                if out.tell() + len(chunk) > MOST_BYTES:
                    raise DataError(f"it is more than {MOST_BYTES / 2**30:g} GiB unpacked", where=str(origin))
                out.write(chunk)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
