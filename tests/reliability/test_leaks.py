"""A long run takes no more memory and no more files open than a short one, and leaves neither threads nor processes."""

import gc
import os
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy.stats import theilslopes

from mlcli.commands import train
from mlcli.engine.run import list_runs
from tests.engine.rig import settings_of
from tests.engine.rig import train as train_toy
from tests.engine.toy import ToyTask
from tests.reliability.soak import LONG, soaked
from tests.reliability.tiny import experiment, session, write_data

MOST_GROWTH_BYTES = 2 * 2**20
"""Of memory over the second half of a run; one leaked model, batch or picture an epoch is many times that."""


class Watched:
    """Never asks to stop, and notes now and then what the process holds."""

    def __init__(self, every: int) -> None:
        self.process, self.every, self.polls = psutil.Process(), every, 0
        self.received = self.signal = None
        self.memory_bytes: list[int] = []
        self.open_files: list[int] = []
        self.threads: list[int] = []
        self.children: list[int] = []

    def __call__(self) -> bool:
        self.polls += 1
        if self.polls % self.every == 0:
            gc.collect()
            self.memory_bytes.append(self.process.memory_info().rss)
            self.open_files.append(self.process.num_fds())
            self.threads.append(threading.active_count())
            self.children.append(len(self.process.children()))
        return False

    def check(self) -> None:
        """Nothing grows over the second half: by the median slope of all pairs (Theil 1950, Sen 1968).

        One step of the allocator does not tilt it, wherever it falls.
        """
        half, quarter = len(self.memory_bytes) // 2, len(self.memory_bytes) // 4
        later = np.array(self.memory_bytes[half:], dtype=np.float64)
        slope = theilslopes(later).slope
        assert len(later) >= 20
        assert slope * len(later) < MOST_GROWTH_BYTES, f"memory grows: {(later / 2**20).round(1).tolist()} MB"
        for held in (self.open_files, self.threads, self.children):
            # The middle one, for a file may be open just now that is closed a moment later.
            assert np.median(held[half:]) <= np.median(held[quarter:half]), held


@pytest.fixture(autouse=True)
def only_new_objects_are_collected():
    """Else each collection would go through all that was ever imported, a fifth of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny"))


def test_a_long_training_holds_no_more_than_a_short_one(tmp_path):
    """With everything that is done in an epoch: logs, looks at the layers, evaluation, pictures, saving."""
    settings = settings_of(
        schedule={"name": "plateau"},
        train={"epochs": soaked(200), "ema": {"decay": 0.9}, "log_every": 4, "tensorboard": {"share": 1.0}},
    )
    watched = Watched(every=8)
    t, outcome = train_toy(tmp_path, ToyTask(norm=True, dropout=0.2), settings, stop=watched)
    t.run.unlock()
    assert outcome == "finished"
    watched.check()


@pytest.mark.parametrize("name", ["cnn", "detection"] if LONG else ["cnn"])
def test_reading_by_workers_for_long_holds_no_more(data, tmp_path, name):
    config = experiment(data, name, f"train.epochs={soaked(25)}", "loader.workers=2", "train.log_every=1")
    watched = Watched(every=6)
    t, outcome = session(tmp_path, config, stop=watched)
    t.run.unlock()
    assert outcome == "finished"
    watched.check()


def test_a_run_leaves_no_thread_process_or_file_open(data, tmp_path):
    def held() -> tuple[int, int, int]:
        gc.collect()
        return threading.active_count(), len(psutil.Process().children()), len(os.listdir("/proc/self/fd"))

    def run(name: str) -> None:
        train.run(data / "cnn.yaml", ["loader.workers=2"], name=name, resume=None, root=tmp_path)

    run("first")  # which opens what a process opens once, such as a font
    before = held()
    run("second")
    assert held() == before
    assert len(list_runs(tmp_path)) == 2


def watched_memory(held_bytes: np.ndarray) -> Watched:
    watched = Watched(every=1)
    watched.memory_bytes = held_bytes.tolist()
    watched.open_files = watched.threads = watched.children = [1] * len(held_bytes)
    return watched


@pytest.mark.parametrize("at", [0.55, 0.7, 0.9, 0.97])
def test_one_step_of_the_allocator_is_no_leak(at):
    steps = np.arange(200)
    watched_memory(1e9 + 1e7 * (steps > at * 200)).check()


def test_a_leak_is_found_in_noise():
    steps = np.arange(200)
    noise = np.random.default_rng(0).normal(0, 1e5, 200)
    with pytest.raises(AssertionError, match="memory grows"):
        watched_memory(1e9 + 30_000 * steps + noise).check()
