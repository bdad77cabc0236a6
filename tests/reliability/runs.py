"""The training that trials disturb: real steps, saves, evaluations and a prune within a tenth of a second."""

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import safetensors.torch
import torch

from mlcli.commands import train as train_command
from mlcli.engine.checkpoint import by_age, load_checkpoint
from mlcli.engine.log import read_metrics
from mlcli.engine.run import RunFolder, list_runs
from mlcli.engine.settings import TrainerSettings
from tests.engine.rig import TIME_FIELDS, fingerprint, settings_of, train
from tests.engine.toy import ToyTask
from tests.reliability.faults import Action, Call, Faulty

QUIET = {"layers": False, "pictures": False, "graph": False, "embeddings": False}
TOY = {
    "optimizer": {"name": "adamw", "lr": 0.05},
    "train": {"epochs": 2, "ema": {"decay": 0.9}, "checkpoints": {"every_steps": 1}, "tensorboard": QUIET},
}
"""Two epochs of two steps, each of them saved; of the four checkpoints the last two are kept, and the best."""


class Whole(NamedTuple):
    """All that must be the same after any disturbance: the state's SHA-256, the best model's, and the curves."""

    state: str
    best: str
    metrics: list[dict]


def toy_task() -> ToyTask:
    return ToyTask(samples=12, dropout=0.3)


def toy_settings() -> TrainerSettings:
    return settings_of(**TOY)


def toy_run(root: Path, journal: Path, action: Action | None = None, call: Call | None = None) -> Whole:
    """Train from the start, with a fault."""
    Faulty(root, journal, action, call).install()
    t, _ = train(root, toy_task(), toy_settings())
    return whole(t)


def toy_resume(root: Path, journal: Path, action: Action | None = None, call: Call | None = None) -> Whole:
    """Go on with the one run below `root`."""
    Faulty(root, journal, action, call).install()
    (run,) = list_runs(root)
    run.lock()
    t, _ = train(root, toy_task(), toy_settings(), run=run)
    return whole(t)


def whole(t: Any) -> Whole:
    return Whole(fingerprint(t.state), weights_of(t.run.checkpoint("best")), lines_of(t.run))


def weights_of(checkpoint: Path) -> str:
    return digest(load_checkpoint(checkpoint)["model"])


def digest(weights: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(safetensors.torch.save({k: v.contiguous() for k, v in weights.items()})).hexdigest()


def lines_of(run: RunFolder) -> list[dict]:
    """metrics.jsonl but for times."""
    lines = read_metrics(run.path / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


def verified_steps(folder: Path) -> list[int]:
    """Steps of the numbered checkpoints, newest first; all of them, and the best, verify."""
    for path in [*by_age(folder), *folder.glob("best.ckpt")]:
        load_checkpoint(path)
    return [int(path.stem[5:]) for path in by_age(folder)]


def leftovers(root: Path) -> list[str]:
    """Temporary files, and anything else that is neither one's nor the other's."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.tmp"))


DIGITS = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [8]}
train:
  {epochs: 2, batch_size: 512, device: cpu, threads: 1, baselines: false, checkpoints: {every_steps: 1}, tensorboard: {
   layers: false, pictures: false, graph: false, embeddings: false}}
"""
"""Two epochs of three steps, each of them saved."""


def type_train(folder: Path) -> int:
    """`mlcli train` in `folder`, or with --resume where there is something to go on from. Returns the exit code."""
    os.chdir(folder)
    run = next((run for run in reversed(list_runs(Path("runs"))) if by_age(run.checkpoints)), None)
    config = None if run else folder / "digits.yaml"
    return train_command.run(config, [], name=None, resume=str(run.path) if run else None, root=Path("runs"))


class Finished(NamedTuple):
    """All that must be the same at the end of a typed training: of its last checkpoint, its export and its curves."""

    state: str
    best: str
    exported: str
    metrics: list[dict]


def finished(run: RunFolder) -> Finished:
    assert run.status()["state"] == "finished"
    content = load_checkpoint(run.checkpoint("last"))
    del content["metrics_bytes"]  # lines are as long as the times in them
    state = fingerprint(SimpleNamespace(state_dict=lambda: content))
    exported = digest(safetensors.torch.load_file(run.path / "model.safetensors"))
    return Finished(state, weights_of(run.checkpoint("best")), exported, lines_of(run))
