"""Puts a `Training` together from a toy task, as `mlcli train` does from a real one."""

import hashlib
import io
from pathlib import Path

import torch

from mlcli.engine.board import Board
from mlcli.engine.checkpoint import load_newest
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.run import RunFolder, create_run
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.trainer import Training, fit
from tests.engine.toy import ToyTask

TIME_FIELDS = ("samples_per_s", "wait_share", "memory_mb", "seconds", "time")
"""Fields that differ between two runs with the same seed; everything else in metrics.jsonl is reproducible."""


class StopAfter:
    """A stop request that comes once the run has asked `polls` times."""

    def __init__(self, polls: float = float("inf")) -> None:
        self.left = polls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0

    @property
    def received(self) -> bool:
        """What an evaluation asks between its batches."""
        return self()

    @property
    def signal(self) -> bool:
        return self.left < 0


def settings_of(**sections) -> TrainerSettings:
    sections.setdefault("optimizer", {"name": "sgd", "lr": 0.05})
    train = {"epochs": 3, "batch_size": 6, "device": "cpu", "threads": 1, "log_every": 2, **sections.pop("train", {})}
    return TrainerSettings.model_validate({**sections, "train": train})


def training(
    root: Path, task: ToyTask, settings: TrainerSettings, *, run: RunFolder | None = None, stop=None
) -> Training:
    """A fresh training below `root`, or one that goes on with `run`."""
    runtime = decide_runtime(settings)
    feed = task.feed(runtime)
    select_by = choose_metric(task, settings.train.watch)
    state, offset = TrainingState.start(task, feed, settings, runtime, select_by), 0
    if run:
        saved, _, _ = load_newest(run.checkpoints)
        state.load_state_dict(saved)
        offset = saved["metrics_bytes"]
    run = run or create_run(root, "toy")
    run.update_status(state="running")
    log, screen = RunLog(run, offset, state.progress.step), Screen(feed.steps_per_epoch, select_by.metric)
    identity = {"config": settings.model_dump(mode="json"), "facts": task.facts, "versions": {}}
    board, stop = Board(log.tensorboard), stop or StopAfter()
    return Training(task, feed, settings, runtime, select_by, state, run, log, board, screen, stop, identity)


def train(root: Path, task: ToyTask, settings: TrainerSettings, **more) -> tuple[Training, str]:
    t = training(root, task, settings, **more)
    outcome = fit(t, t.feed.train_batches(t.state.progress.step))
    t.log.close()
    return t, outcome


def fingerprint(state: TrainingState) -> str:
    """SHA-256 over everything a checkpoint would hold of the state."""
    digest = hashlib.sha256()

    def feed(value) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(str((value.dtype, tuple(value.shape))).encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(repr(key).encode())
                feed(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                feed(item)
        else:
            digest.update(repr(value).encode())

    feed(state.state_dict())
    return digest.hexdigest()


def archive(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_if_long_ago(run: RunFolder) -> None:
    """Give the run's event files a name of an earlier second: TensorBoard reads them in the order of their names, which
    within one second of one process is not the order they were written in (10 stands before 9)."""
    for number, path in enumerate(sorted(run.path.glob("*/events.out.tfevents.*"))):
        path.rename(path.with_name(f"events.out.tfevents.{number:010d}"))
