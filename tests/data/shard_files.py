"""Tar shards for tests: written by Python's tarfile, as other programs write them."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog")


def picture(seed: int, side: int = 12, kind: str = "png") -> bytes:
    """A small picture's file, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def labelled(first: int, count: int, prefix: str = "") -> dict[str, bytes]:
    """Members of samples of two classes in turn."""
    found = {}
    for number in range(first, first + count):
        found[f"{prefix}{number:04}.png"] = picture(number)
        found[f"{prefix}{number:04}.cls"] = CLASSES[number % 2].encode()
    return found


def write_folder(root: Path, train: int = 24, val: int = 8) -> Path:
    """A folder for each split and class, of JPEGs and PNGs."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            kind = ("jpeg", "png")[number % 3 == 0]
            path = root / split / CLASSES[number % 2] / f"{number:03}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number + 1000 * (split == "val"), kind=kind))
    return root
