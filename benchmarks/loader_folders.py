"""How fast do batches come out of folders of JPEGs, beside other loaders? 32x32 (CIFAR's kind) and 640x480 pictures.

    python benchmarks/loader_folders.py [--small 10240] [--large 512] [--rounds 3] [--seconds 1]

Each loader crops at random (32x32: with padding 4; 640x480: a random resized crop to 224x224), flips, normalises and
delivers float32 batches on the CPU, of 256 and 64. They run in turn, in alternating order, with the files in the page
cache. The pictures are cut from scikit-learn's two photographs. CPU time counts the loader's processes and threads,
and hardly depends on what else the machine does. Other loaders come with `pip install .[peers]`; absent ones are named.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from loader_peers import MEAN, PEERS, STD, Folder
from machine_line import machine_line
from PIL import Image
from rounds import alternate, spread, table
from sklearn.datasets import load_sample_images
from torch import Tensor

from mlcli.data.augmentations import Augmentation, HorizontalFlip, RandomCrop, RandomResizedCrop
from mlcli.data.config import ImageFolder
from mlcli.data.feed import SampleFeed
from mlcli.data.sources.image_files import image_source
from mlcli.data.sources.image_folder import read_folder
from mlcli.engine.settings import Loader, Train

SMALL, LARGE = 10_240, 512  # files
MLCLI_WORKERS = (0, 1, 2)
ROUNDS, SECONDS = 3, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=SMALL, help="files of 32x32 pixels, 320 at least")
    parser.add_argument("--large", type=int, default=LARGE, help="files of 640x480 pixels, 80 at least")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a loader is measured in each round")
    chosen = parser.parse_args()
    print(f"{machine_line()}, {chosen.rounds} rounds of {chosen.seconds:g} s\n")
    with tempfile.TemporaryDirectory() as parent:
        for side, padding, count, batch_size, title in (
            (32, 4, chosen.small, 256, "32x32 JPEGs, crop with padding, flip, normalise"),
            (224, 0, chosen.large, 64, "640x480 JPEGs, random resized crop to 224x224, flip, normalise"),
        ):
            folder = Folder(Path(parent, f"side-{side}"), side, padding, batch_size)
            write_photos(folder.root, count, (32, 32) if padding else (640, 480))
            print(f"{title} ({count:,} files, batches of {batch_size})\n")
            print(compared(folder, chosen.rounds, chosen.seconds) + "\n", flush=True)


def compared(folder: Folder, rounds: int, seconds: float) -> str:
    """A table of images/s and CPU us an image, fastest first; which loaders were absent below it."""
    loaders, absent = {}, []
    ours = {f"mlcli, {workers} workers": partial(mlcli, workers=workers) for workers in MLCLI_WORKERS}
    for name, open_loader in (ours | PEERS).items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                opened = open_loader(folder)
                next(opened)  # only now it imports what it needs
            loaders[name] = opened
        except ImportError as error:
            absent.append(f"{name} ({error.name})")
    found = alternate({name: partial(measured, batches, seconds) for name, batches in loaders.items()}, rounds)
    rows = [
        (name, spread([rate for rate, _ in pairs]), spread([1e6 * cpu_s for _, cpu_s in pairs]))
        for name, pairs in found.items()
    ]
    rows.sort(key=lambda row: -statistics.median(rate for rate, _ in found[row[0]]))
    text = table(["loader", "images/s (min - max)", "CPU us an image (min - max)"], rows)
    return text + (f"\n\nAbsent: {', '.join(absent)}." if absent else "")


def measured(batches: Iterator[Tensor], seconds: float) -> tuple[float, float]:
    """Images a second, and CPU seconds an image, of a loader that has been at rest."""
    time.sleep(0.3)  # until the loader before has its batches ahead ready and is still
    for _ in range(4):  # wake the workers up and empty what they had ready
        assert next(batches).dtype == torch.float32
    began, cpu_began, images = time.perf_counter(), cpu_s(), 0
    while time.perf_counter() - began < seconds:
        images += len(next(batches))
    return images / (time.perf_counter() - began), (cpu_s() - cpu_began) / images


def cpu_s() -> float:
    """CPU time so far of this process and all it has started, living or dead."""
    here = os.times()
    total = here.user + here.system + here.children_user + here.children_system
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def mlcli(folder: Folder, workers: int) -> Iterator[Tensor]:
    crop: Augmentation = (
        RandomCrop(name="random_crop", padding=folder.padding)
        if folder.padding
        else RandomResizedCrop(name="random_resized_crop")
    )
    size = None if folder.padding else folder.side
    feed = SampleFeed(
        image_source(read_folder(folder.root), ImageFolder(name="folder", root=folder.root, image_size=size)),
        (crop, HorizontalFlip(name="horizontal_flip")),
        train=Train(batch_size=folder.batch_size),
        loader=Loader(cache="none", workers=workers),
        device=torch.device("cpu"),
    )
    mean, std = (255 * torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    floats = torch.empty(folder.batch_size, 3, folder.side, folder.side)  # used again, as DALI's are
    for batch in feed.train_batches(0):
        yield floats.copy_(batch.inputs).sub_(mean).div_(std)


def write_photos(root: Path, count: int, size: tuple[int, int]) -> None:
    """Ten classes of JPEGs, each a random part of a photograph."""
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]  # 640 x 427
    dice = np.random.default_rng(0)
    for number in range(count):
        height = int(dice.integers(200, 427))
        width = height * size[0] // size[1]
        left, top = int(dice.integers(640 - width + 1)), int(dice.integers(427 - height + 1))
        part = photos[number % 2].resize(
            size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height), reducing_gap=2
        )
        path = root / f"class{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path, quality=90)


if __name__ == "__main__":
    main()
