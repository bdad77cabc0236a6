"""fp16 gradients that overflow: the step is left out and counted; schedule and average do not move on for it."""

import pytest
import torch
from torch import Tensor, nn

from mlcli.engine.documents import LayerLook, read_entries
from mlcli.engine.log import read_metrics
from mlcli.engine.terms import Term, Terms
from mlcli.engine.trainer import Training
from tests.engine.rig import settings_of, train
from tests.engine.toy import ToyTask

DECAY = 0.9
SPIKES = (3, 7, 8, 15)
SCHEDULES = ({"name": "polynomial"}, {"name": "one_cycle"}, {"name": "cosine", "warmup_epochs": 2})


class SpikyTask(ToyTask):
    """Its loss is a million times larger in some steps: finite itself, its gradients beyond fp16's 65504."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, Tensor]] = []
        """As each step found them."""

    def losses(self, net: nn.Module, batch) -> Terms:
        self.weights.append({name: value.clone() for name, value in self.model.state_dict().items()})
        factor = 1e6 if self.calls in SPIKES else 1e-3
        term = super().losses(net, batch)["mse"]
        return {"mse": Term(term.mean * factor, term.count)}


@pytest.fixture(scope="module", params=SCHEDULES, ids=lambda schedule: schedule["name"])
def trained(request, tmp_path_factory) -> tuple[Training, SpikyTask]:
    task = SpikyTask()
    settings = settings_of(
        optimizer={"name": "sgd", "lr": 0.5},
        schedule=request.param,
        train={"precision": "fp16", "epochs": 6, "log_every": 1, "ema": {"decay": DECAY}},
    )
    t, outcome = train(tmp_path_factory.mktemp("fp16"), task, settings)
    assert outcome == "finished"
    task.weights.append(t.state.model.state_dict())
    return t, task


def left_out(task: SpikyTask) -> list[int]:
    """The steps (from 0) that changed no weight."""
    return [
        step
        for step, (before, after) in enumerate(zip(task.weights, task.weights[1:], strict=False))
        if all(torch.equal(before[name], after[name]) for name in before)
    ]


def test_the_steps_are_left_out_and_counted(trained):
    t, task = trained
    assert left_out(task) == list(SPIKES)
    assert t.state.progress.skipped == len(SPIKES)
    assert t.state.progress.step == t.total_steps == 24
    assert t.state.scaler.get_scale() == 65536 / 2 ** len(SPIKES)
    notes = [
        line
        for line in read_entries(t.run.path / "layers.jsonl", LayerLook)
        if any("overflow" in n for n in line["notes"])
    ]
    assert [line["step"] for line in notes] == [step + 1 for step in SPIKES]


def test_the_schedule_does_not_advance(trained):
    t, _ = trained
    lrs = [line["lr"] for line in read_metrics(t.log.path) if line["split"] == "train"]
    taken = [step - sum(spike < step for spike in SPIKES) for step in range(t.total_steps)]
    assert lrs == [t.state.schedule.lr_at(step) for step in taken]


def test_the_average_does_not_advance(trained):
    t, task = trained
    after = [weights for step, weights in enumerate(task.weights[1:]) if step not in SPIKES]
    for name, average in t.state.ema.state_dict().items():
        expected = task.weights[0][name].clone()
        for step, weights in enumerate(after):
            decay = min(DECAY, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights[name]
        torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-6)
