"""Cost grows as work grows, and no faster: start-up, memory and images a second against files and against batch size.

Files are hard links to a hundred different 32x32 JPEG files, in ten folders of their classes, in memory (/dev/shm)
where there is such a place. Each measurement is a process of its own: it lists and divides the files, opens the loader
and reads its first batch (start-up), then reads on for a while (images a second); memory is what the process holds
beyond its imports. Against batch size, files are read, taken from RAM, and trained on (a small VGG). The table goes to
standard output, the same as curves to a picture.

    python benchmarks/scaling.py [--largest 100000] [--seconds 3] [--rounds 3] [--threads 1] [--picture scaling.png]
"""

import argparse
import io
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine_line import machine_line
from PIL import Image
from rounds import alternate, spread, table

CLASSES, ORIGINALS, SIDE = 10, 100, 32
MOST_LINKS = 30_000
"""Of one file; ext4 allows 65,000."""
FILES_FOR_BATCHES = 10_000
BATCHES = (16, 64, 256, 1024)
RESULTS = Path(__file__).parent


class Cost(NamedTuple):
    """Of one loader, or one training. start_s: until the first batch. memory_mb: held beyond the imports."""

    start_s: float
    images_per_s: float
    memory_mb: float


def load(root: str, batch: int, cache: str, seconds: float, threads: int) -> Cost:
    """Read training batches of a folder, in the process it is called in."""
    task, runtime, memory_mb = _prepared(root, batch, cache, threads)
    began = time.perf_counter()
    feed = task().feed(runtime)
    batches = feed.train_batches(0)
    next(batches)
    start_s = time.perf_counter() - began
    rate = _rate(lambda: len(next(batches)), seconds)
    held = memory_mb()
    feed.close()
    return Cost(start_s, rate, held)


def train(root: str, batch: int, cache: str, seconds: float, threads: int) -> Cost:
    """Train on a folder's images from RAM, in the process it is called in."""
    from mlcli.engine.meter import Meter
    from mlcli.machine.bench.learner import Learner

    task, runtime, memory_mb = _prepared(root, batch, cache, threads)
    began, meter = time.perf_counter(), Meter()
    made = task()
    feed = made.feed(runtime)
    learner, batches = Learner(made, made.config, runtime, feed), feed.train_batches(0)
    learner.step(batches, meter)
    start_s = time.perf_counter() - began
    return Cost(start_s, _rate(lambda: learner.step(batches, meter), seconds), memory_mb())


def _prepared(root: str, batch: int, cache: str, threads: int) -> tuple[Callable[[], Any], Any, Callable[[], float]]:
    """How to build the task, its runtime, and how many MB are held since now; imports are done with by then."""
    import psutil

    from mlcli.engine.runtime import decide_runtime
    from mlcli.tasks.classification.build import build_task
    from mlcli.tasks.classification.config import Classification

    plain = {
        "task": "classification",
        "data": {"name": "folder", "root": root, "image_size": SIDE},
        "model": {"name": "vgg", "depth": 11, "width": 0.25},
        "train": {"batch_size": batch, "threads": threads, "device": "cpu"},
        "loader": {"cache": cache, "workers": 0},
    }
    config = Classification.model_validate(plain)
    runtime, before = decide_runtime(config), psutil.Process().memory_info().rss
    return partial(build_task, config), runtime, lambda: (psutil.Process().memory_info().rss - before) / 1e6


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Images a second of `work`, which returns how many it was."""
    work()
    began, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        images += work()
    return images / passed


def in_own_process(measure: Callable[..., Cost], *arguments: Any) -> Cost:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def link_files(folder: Path, count: int) -> Path:
    """A folder of that many images in folders of their classes, of which `ORIGINALS` are different."""
    root, draw = folder / str(count), np.random.default_rng(0)
    pictures = []
    for _ in range(ORIGINALS):
        target = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(target, "JPEG", quality=90)
        pictures.append(target.getvalue())
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
    newest: dict[int, Path] = {}
    for number in range(count):
        place = root / f"class{number % CLASSES}" / f"{number}.jpg"
        if number // ORIGINALS % MOST_LINKS == 0:
            place.write_bytes(pictures[number % ORIGINALS])
            newest[number % ORIGINALS] = place
        else:
            os.link(newest[number % ORIGINALS], place)
    return root


def sizes_up_to(largest: int) -> list[int]:
    """1,000 and its tenfolds."""
    sizes = [1000]
    while sizes[-1] * 10 <= largest:
        sizes.append(sizes[-1] * 10)
    return sizes


def draw(path: Path, by_files: dict[int, Cost], by_batch: dict[str, dict[int, Cost]], note: str) -> None:
    """Four curves: start-up, memory and speed against files, speed against batch size."""
    from mlcli.show.figure import headline, image_of, new_figure, plain_axes

    figure = new_figure(11, 7)
    axes = figure.subplots(2, 2)
    files = list(by_files)
    for place, title, field in ((axes[0, 0], "start-up, s", "start_s"), (axes[0, 1], "memory, MB", "memory_mb"),
                                (axes[1, 0], "images a second", "images_per_s")):  # fmt: skip
        place.plot(files, [getattr(by_files[size], field) for size in files], marker="o")
        highest = max(getattr(cost, field) for cost in by_files.values())
        place.set(xscale="log", xlabel="files", ylim=(0, 1.15 * highest))
        headline(place, title, "batches of 256 read from files")
    for name, found in by_batch.items():
        axes[1, 1].plot(list(found), [cost.images_per_s for cost in found.values()], marker="o", label=name)
    axes[1, 1].set(xscale="log", yscale="log", xlabel="batch size")
    axes[1, 1].legend(frameon=False, fontsize=8)
    headline(axes[1, 1], "images a second", note)
    for place in axes.flat:
        plain_axes(place)
    image_of(figure).save(path)


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def rows(found: dict[Any, list[Cost]]) -> list[list[str]]:
    return [
        [f"{key:,}" if isinstance(key, int) else key, spread([c.start_s for c in costs], ".2f"),
         spread([c.memory_mb for c in costs]), spread([c.images_per_s for c in costs])]
        for key, costs in found.items()
    ]  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--largest", type=int, default=100_000, help="files; a million take minutes")
    arguments.add_argument("--seconds", type=float, default=3.0, help="of reading, each time")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    arguments.add_argument("--picture", type=Path, default=RESULTS / "scaling.png")
    chosen = arguments.parse_args()
    print(f"{machine_line()}; {chosen.threads} threads here, {chosen.rounds} rounds\n", flush=True)
    memory = Path("/dev/shm")
    head = ("until the first batch, s", "memory, MB", "images/s")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        sizes = sizes_up_to(chosen.largest)
        roots = {size: link_files(Path(name), size) for size in {*sizes, min(FILES_FOR_BATCHES, chosen.largest)}}
        how = (chosen.seconds, chosen.threads)
        by_files = alternate(
            {size: partial(in_own_process, load, str(roots[size]), 256, "none", *how) for size in sizes}, chosen.rounds
        )
        print(table(("files, read in batches of 256", *head), rows(by_files)), flush=True)
        root = str(roots[min(FILES_FOR_BATCHES, chosen.largest)])
        kinds = {"from files": (load, "none"), "from RAM": (load, "ram"), "training": (train, "ram")}
        by_batch = alternate(
            {
                (kind, batch): partial(in_own_process, measure, root, batch, cache, *how)
                for kind, (measure, cache) in kinds.items()
                for batch in chosen.batches
            },
            chosen.rounds,
        )
    named = {f"{kind}, batches of {batch}": costs for (kind, batch), costs in by_batch.items()}
    print(f"\n{table((f'{min(FILES_FOR_BATCHES, chosen.largest):,} files', *head), rows(named))}")
    curves = {kind: {batch: middle(costs) for (of, batch), costs in by_batch.items() if of == kind} for kind in kinds}
    draw(chosen.picture, {size: middle(costs) for size, costs in by_files.items()}, curves, "loading, and training")
    print(f"\n![The same as curves]({chosen.picture.name})")


if __name__ == "__main__":
    main()
