"""How fast do a million pictures come out of tar shards: the first batch, memory, and images/s beside a folder?

    python benchmarks/shards.py [--images 1000000] [--files 20000] [--rounds 3] [--seconds 4] [--quick]

A process of its own opens shards of 8x8 PNGs, whose index is there already, and takes the first batch; then its memory
is watched over an epoch's batches. Rates are those of the same 32x32 JPEGs in a folder and in the shards that
`mlcli data convert` writes of it, without and with workers, in alternating order, with the files in the page cache.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_folders import measured, write_photos
from machine_line import machine_line
from PIL import Image
from rounds import alternate, spread, table

from mlcli.data.augmentations import HorizontalFlip
from mlcli.data.config import ImageFolder, ImageShards
from mlcli.data.feed import SampleFeed
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source
from mlcli.data.sources.shard_writer import ShardEntry, write_classes, write_shards
from mlcli.engine.settings import Loader, Train

BATCH, CLASSES = 256, 10
OPEN = """
import sys, time
import psutil, torch
import mlcli.data.feed, mlcli.data.sources.build
from shards import batches, source_of
memory = psutil.Process().memory_info
before, began, cpu_began = memory().rss, time.perf_counter(), time.process_time()
source = source_of(sys.argv[1], image_size=8)
opened_s = time.perf_counter() - began
stream = batches(source, 0)
next(stream)
first_s, cpu_s, after = time.perf_counter() - began, time.process_time() - cpu_began, memory().rss
reached = []
for number in range(int(sys.argv[2])):
    next(stream)
    reached.append(memory().rss)
quarter = max(1, len(reached) // 4)
print(opened_s, first_s, cpu_s, after - before, max(reached) - after, max(reached[-quarter:]) - max(reached[:quarter]))
"""


def source_of(root: str, **keys: Any) -> Source:
    return build_source(ImageShards(name="shards", root=root, val=0, test=0, normalize="imagenet", **keys))


def batches(source: Source, workers: int):
    """Batches as training takes them, without end."""
    loader = Loader(cache="none", workers=workers)
    flip = (HorizontalFlip(name="horizontal_flip"),)
    feed = SampleFeed(source, flip, train=Train(batch_size=BATCH), loader=loader, device=torch.device("cpu"))
    return (batch.inputs.float() for batch in feed.train_batches(0))


def write_million(out: Path, count: int) -> None:
    """Shards of tiny pictures, a thousand different ones in turn."""
    dice, files = np.random.default_rng(0), []
    for _ in range(1000):
        file = io.BytesIO()
        Image.fromarray(dice.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    entries = (
        ShardEntry(
            b"%03d/%08d.png" % (number % CLASSES, number), files[number % 1000], "cls", b"%d" % (number % CLASSES)
        )
        for number in range(count)
    )
    write_shards(out, {"train": (count, entries)}, {}, 64 * 2**20)


def opened(root: Path, num_batches: int) -> list[float]:
    """Seconds until the data are open, until the first batch and of CPU time; bytes of memory until then, and after."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    command = [sys.executable, "-c", OPEN, str(root), str(num_batches)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [float(value) for value in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000, help="of 8x8 pixels, in shards")
    parser.add_argument("--files", type=int, default=20_000, help="of 32x32 pixels, in a folder and in shards")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="that each is measured in a round")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.images, chosen.files, chosen.rounds, chosen.seconds = 2000, 600, 1, 0.3
    print(machine_line(), end="\n\n")
    with tempfile.TemporaryDirectory() as parent:
        os.environ["XDG_CACHE_HOME"] = parent
        million = Path(parent) / "million"
        write_million(million, chosen.images)
        began = time.perf_counter()
        source_of(str(million), image_size=8)
        indexed_s = time.perf_counter() - began
        runs = [opened(million, chosen.images // BATCH // 4) for _ in range(chosen.rounds)]
        loaded_s, first_s, cpu_s, taken, grown, later = ([run[part] for run in runs] for part in range(6))
        rows = [
            ("the index made, once", f"{indexed_s:.1f} s"),
            ("data open, the index there", spread(loaded_s, ".2f") + " s"),
            ("first batch", spread(first_s, ".2f") + " s"),
            ("the same in CPU time", spread(cpu_s, ".2f") + " s"),
            ("memory taken until then", spread([value / 2**20 for value in taken], ".0f") + " MB"),
            ("and over a quarter of an epoch", spread([value / 2**20 for value in grown], ".0f") + " MB"),
            ("its last quarter above its first", spread([value / 2**20 for value in later], ".1f") + " MB"),
        ]
        print(table((f"{chosen.images:,} pictures of 8x8 in shards", "median (min - max)"), rows), end="\n\n")
        folder = Path(parent) / "folder"
        write_photos(folder, chosen.files, (32, 32))
        ours = build_source(ImageFolder(name="folder", root=folder, val=0, test=0, normalize="imagenet"))
        write_classes(ours, Path(parent) / "shards", 64 * 2**20)
        sources = {"folder": ours, "shards": source_of(str(Path(parent) / "shards"))}
        measures = {
            (workers, name): partial(measured, batches(source, workers), chosen.seconds)
            for workers in (0, 2)
            for name, source in sources.items()
        }
        found = alternate(measures, chosen.rounds)
        compared = []
        for workers in (0, 2):
            of_shards, of_files = found[workers, "shards"], found[workers, "folder"]
            for part, unit, factor in ((0, "images/s", 1), (1, "CPU us an image", 1e6)):
                shards, files = ([factor * one[part] for one in pairs] for pairs in (of_shards, of_files))
                ratio = statistics.median(a / b for a, b in zip(shards, files, strict=True))
                compared.append((f"{workers} workers, {unit}", spread(files), spread(shards), f"{ratio:.2f}"))
        print(table(("32x32 JPEGs", "folder", "shards", "shards / folder"), compared))


if __name__ == "__main__":
    main()
