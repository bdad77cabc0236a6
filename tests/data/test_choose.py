"""The number of workers is measured; which number it is changes nothing but the speed."""

import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.data import choose
from mlcli.data.augmentations import RandomResizedCrop
from mlcli.data.batches import Part
from mlcli.data.choose import fastest_workers
from mlcli.data.decode import Preparation
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, ImageFilesSamples, Source
from mlcli.engine.settings import Loader, Train
from mlcli.errors import DataError


def parts(size: int = 8):
    while True:
        yield Part(torch.arange(size), torch.zeros(size, dtype=torch.int64))


class Clock:
    """A clock that only readers move, so that what is measured does not depend on this machine."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(choose, "time", made)
    return made


class TimedReader:
    """A reader that takes a known time for a sample, and waits before some of the first."""

    def __init__(self, clock: Clock, sample_s: float, waits_s: tuple[float, ...] = ()) -> None:
        self.clock, self.sample_s, self.waits_s = clock, sample_s, [*waits_s]

    def fetch(self, parts):
        for part in parts:
            self.clock.now_s += self.sample_s * len(part) + (self.waits_s.pop(0) if self.waits_s else 0.0)
            yield part, torch.zeros(len(part), 1)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("sample_s", "chosen", "tried"),
    [
        ({0: 4e-3, 1: 4e-3, 2: 4e-3, 4: 4e-3}, 1, (0, 1, 2)),
        ({0: 8e-3, 1: 8e-3, 2: 4e-3, 4: 4e-3}, 2, (0, 1, 2, 4)),
        ({0: 2e-3, 1: 8e-3, 2: 8e-3, 4: 8e-3}, 0, (0, 1, 2)),
        ({0: 4e-3, 1: 4e-3, 2: 20e-3, 4: 1e-3}, 1, (0, 1, 2)),
    ],
    ids=["more do not help", "two help", "sharing hurts", "two hurt"],
)
def test_the_fewest_that_are_fast_enough(clock, sample_s, chosen, tried):
    found, why = fastest_workers(lambda workers, size: TimedReader(clock, sample_s[workers]), parts(), most=4)
    assert found == chosen
    rates = why.removeprefix("measured images/s by workers: ").split(", ")
    assert tuple(int(rate.split(":")[0]) for rate in rates) == tried


def test_no_more_workers_than_allowed(clock):
    asked = []

    def opened(workers, size):
        asked.append(workers)
        return TimedReader(clock, 8e-3 / max(1, workers))

    fastest_workers(opened, parts(), most=2)
    assert asked == [0, 1, 2]


def test_slow_samples_are_measured_one_at_a_time(clock):
    sizes = {}

    def opened(workers, size):
        sizes[workers] = size
        return TimedReader(clock, 0.05)

    fastest_workers(opened, parts(), most=1)
    assert sizes == {0: 1, 1: 1}


def test_waiting_for_others_does_not_make_samples_slow(clock):
    """Of the first samples all but one wait for a processor that others hold."""
    sizes = {}

    def opened(workers, size):
        sizes[workers] = size
        return TimedReader(clock, 0.001, (0.05, 0.05, 0.0, 0.05) if size == 1 else ())

    fastest_workers(opened, parts(), most=1)
    assert sizes[1] == 8


@pytest.fixture
def files(tmp_path) -> ImageFilesSamples:
    noise = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
    paths = np.array([f"{number}.jpg".encode() for number in range(12)])
    return ImageFilesSamples(str(tmp_path), paths, torch.arange(12) % 2, Preparation((8, 8)))


@pytest.fixture
def feed(files):
    feeds = []

    def make(workers) -> SampleFeed:
        feeds.append(
            SampleFeed(
                Source(DataInfo("image", (3, 8, 8), ("a", "b"), "label", (0.5,) * 3, (0.2,) * 3), {"train": files}),
                (RandomResizedCrop(name="random_resized_crop"),),
                train=Train(batch_size=4),
                loader=Loader(workers=workers),
                device=torch.device("cpu"),
            )
        )
        return feeds[-1]

    yield make
    for made in feeds:
        made.close()


def test_files_read_while_training_are_measured_and_nothing_changes(feed):
    measured = feed("auto")
    _, (what, workers, why) = measured.choices
    assert what == "workers"
    assert int(workers) >= 0
    assert why.startswith("measured images/s by workers: 0: ")
    expected = [batch.inputs for batch in islice(feed(0).train_batches(0), 7)]
    found = [batch.inputs for batch in islice(measured.train_batches(0), 7)]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_a_bad_file_is_left_to_the_training(feed, files):
    for number in range(12):
        Path(files.root, f"{number}.jpg").write_bytes(b"no image")
    fed = feed("auto")
    assert "usable CPUs" in fed.choices[1].why
    with pytest.raises(DataError, match="damaged or not one of"):
        next(fed.train_batches(0))


# --- beside the model on a GPU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "text"),
    [
        (10**9, r"they would fit on the GPU \(30\.7 MB, and 24\.6 MB to augment a batch, are 5\.5 % of its free "
                r"memory\): loader\.cache=device"),
        (2 * 10**8, r"on the GPU they would leave the model too little room \(.* are 27\.6 % of its free memory\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_whether_samples_fit_on_the_gpu_is_said_and_left_to_the_user(monkeypatch, free, text, kind):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    shape, num = (3, 32, 32), 10_000
    paths = np.array([b"a.png"] * num)
    samples = ImageFilesSamples("nowhere", paths, torch.zeros(num, dtype=torch.int64), Preparation((32, 32)))
    if kind == "arrays":
        samples = Arrays(torch.zeros((num, *shape), dtype=torch.uint8), samples.targets, "noise")
    source = Source(DataInfo("image", shape, ("a",), "label", (0.5,) * 3, (0.2,) * 3), {"train": samples})
    on_gpu = {"crops": False, "batch_size": 500}
    cache, why = choose.choose_cache(source, Loader(), torch.device("cuda"), (), **on_gpu)
    assert cache == "ram"
    assert re.search(text, why)
    assert "GPU" not in choose.choose_cache(source, Loader(), torch.device("cpu"), (), **on_gpu)[1]
