"""No field of a saved state is decoration: without it, or with another value in it, a run does not go on the same."""

import contextlib
import copy
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from mlcli.engine.checkpoint import by_age, checkpoint_path, load_checkpoint, save_checkpoint
from mlcli.engine.run import RunFolder
from mlcli.engine.state import TrainingState
from mlcli.errors import CheckpointError, DivergedError
from tests.engine.rig import StopAfter, fingerprint, settings_of, train
from tests.engine.toy import ToyMetrics, ToyTask
from tests.reliability.tiny import metrics_without_times

SETTINGS = settings_of(
    optimizer={"name": "adamw", "lr": 0.03, "clip_norm": 1.0},
    schedule={"name": "plateau", "factor": 0.5, "patience": 3, "min_delta": 2.0, "warmup_epochs": 0.5},
    train={
        "precision": "fp16",
        "accumulate": 2,
        "epochs": 9,
        "log_every": 2,
        "measure_train": 0,
        "watch": "mae",
        "ema": {"decay": 0.9},
        "lookahead": {"start_epoch": 2, "every_steps": 3},
        "early_stopping": {"patience": 4, "min_delta": 2.0},
        "tensorboard": {"layers": False, "pictures": False, "graph": False},
    },
)
"""Loss scaling, warm-up, plateau, average, slow weights and patience: whatever has something to remember."""
Field = tuple[str, ...]
"""The keys that lead to it; `*` stands for every key."""


class SpikyTask(ToyTask):
    """Targets so large at first that fp16 gradients overflow; of errors the largest, an early one, counts as best."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3, norm=True, accumulate=2, seed=1)
        self.targets = self.targets * 30

    def metrics(self, split: str = "train") -> ToyMetrics:
        metrics = super().metrics(split)
        metrics.directions["mae"] = "max"
        return metrics


class Stopped:
    """A run that ended with the checkpoint of `step`, and what comes of it if it goes on."""

    def __init__(self, folder: Path, step: int) -> None:
        cut, outcome = train(folder, SpikyTask(), SETTINGS, stop=StopAfter(27 if step < 16 else 33))
        assert outcome == "interrupted"
        cut.run.unlock()
        self.run = cut.run
        for path in by_age(cut.run.checkpoints):
            if path != checkpoint_path(cut.run.checkpoints, step):
                path.unlink()
        self.saved = load_checkpoint(cut.run.checkpoint("last"))

    def go_on(self, folder: Path, saved: dict[str, Any]) -> dict[str, Any]:
        """From `saved` in place of the newest checkpoint, in a copy of the run. Raises CheckpointError."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.run.path, folder)
        run = RunFolder(folder)
        save_checkpoint(by_age(run.checkpoints)[0], saved)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            t, outcome = train(folder.parent, SpikyTask(), SETTINGS, run=run)
        return {
            "outcome": outcome,
            "state": fingerprint(t.state),
            "metrics": metrics_without_times(run),
            "status": run.status()["best"],
            "lines": [line.split()[:5] for line in shown.getvalue().splitlines()],  # from there on: speed
        }


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> list[Stopped]:
    """In the middle of an epoch and of a log window; and right after an evaluation, as by a kill at that instant."""
    folder = tmp_path_factory.mktemp("stopped")
    return [Stopped(folder, 15), Stopped(folder, 16)]


def fields_of(saved: dict[str, Any], state: TrainingState) -> list[Field]:
    """Every field of the state: two levels deep, and what the optimizer remembers of each parameter."""
    paths: list[Field] = []
    for name in state.state_dict():
        inner = saved[name]
        paths += [(name,), *((name, key) for key in inner)]
    memories = {key for memory in saved["optimizer"]["state"].values() for key in memory}
    return paths + [("optimizer", "state", "*", key) for key in sorted(memories)]


def holders(saved: dict[str, Any], path: Field) -> Iterator[dict]:
    """The dicts that hold a field."""
    found = [saved]
    for key in path[:-1]:
        found = [inner for holder in found for inner in (holder.values() if key == "*" else [holder[key]])]
    yield from found


def without(saved: dict[str, Any], path: Field) -> dict[str, Any]:
    saved = copy.deepcopy(saved)
    for holder in holders(saved, path):
        del holder[path[-1]]
    return saved


def altered(saved: dict[str, Any], path: Field) -> dict[str, Any]:
    saved = copy.deepcopy(saved)
    for holder in holders(saved, path):
        holder[path[-1]] = _other(holder[path[-1]])
    return saved


def _other(value: Any) -> Any:
    """A value of the same kind; in a collection, all are others. Flags stay: they say which algorithm it is."""
    match value:
        case Tensor():
            return value * 1.5 + 1 if value.is_floating_point() else value + 1
        case dict():
            return {key: _other(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_other(inner) for inner in value]
        case bool():
            return value
        case int():
            return value - 1
        case float():
            return value * 1.5 + 1e-3
        case None:
            return 0.5
        case _:
            return value


def test_the_scenario_has_something_in_every_field(stopped):
    middle, judged = stopped
    assert middle.saved["window"]["steps"] > 0
    assert middle.saved["epoch_loss"]["steps"] > 0
    assert judged.saved["progress"]["judged_step"] == judged.saved["progress"]["step"]
    for progress in (middle.saved["progress"], judged.saved["progress"]):
        assert progress["stale"] > 0
        assert progress["best_epoch"] == 1
        assert progress["skipped"] > 0
    assert middle.saved["schedule"]["stale"] > 0


@pytest.mark.parametrize("change", [without, altered])
def test_no_field_is_decoration(stopped, tmp_path, change):
    wholes = [each.go_on(tmp_path / "run", each.saved) for each in stopped]
    unnoticed = []
    for path in fields_of(stopped[0].saved, _state_of(tmp_path)):
        noticed = False
        for each, whole in zip(stopped, wholes, strict=True):
            try:
                noticed |= each.go_on(tmp_path / "run", change(each.saved, path)) != whole
            except (CheckpointError, DivergedError, KeyError, RuntimeError, ValueError):  # some only at a step
                noticed = True
            if noticed:
                break
        if not noticed:
            unnoticed.append(".".join(path))
    assert unnoticed == []


def _state_of(folder: Path) -> TrainingState:
    t, _ = train(folder, SpikyTask(), SETTINGS, stop=StopAfter(1))
    return t.state
