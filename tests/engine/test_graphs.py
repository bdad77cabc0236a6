"""Steps as CUDA graphs: what is captured, replayed and refused, with a graph that replays by doing the work again."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mlcli.engine import graphs
from mlcli.engine.graphs import StepGraphs, refuse_graphs
from mlcli.engine.hooks import leaves, watch
from mlcli.engine.meter import Budget
from mlcli.engine.ranks import ALONE
from mlcli.engine.runtime import decide_compile, decide_runtime
from mlcli.engine.settings import Train
from mlcli.engine.trainer import fit
from mlcli.errors import ConfigError, OutOfMemoryError
from mlcli.experiment import Experiment
from mlcli.tasks.classification.config import Classification
from tests.engine.rig import StopAfter, fingerprint, settings_of, training
from tests.engine.test_no_waiting import TASKS
from tests.engine.toy import ToyTask
from tests.reliability.soak import LONG
from tests.reliability.tiny import metrics_without_times


class Repeated:
    """Stands for a CUDA graph: fixed memory for what it reads and writes, and nothing is done while it is captured."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.parameters = model, list(model.parameters())
        self.warm_ups = self.replays = 0

    def warm_up(self, work):
        self.warm_ups += 1
        return work()

    def capture(self, work):
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        with torch.random.fork_rng():
            self.work, self.terms = work, work()
        for buffer, before in buffers:
            buffer.copy_(before)
        self.gradients = [parameter.grad for parameter in self.parameters]
        for gradient in filter(lambda one: one is not None, self.gradients):
            gradient.fill_(float("nan"))
        return self.terms

    def replay(self):
        self.replays += 1
        held = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        terms = self.work()
        for parameter, memory, before in zip(self.parameters, self.gradients, held, strict=True):
            if memory is not None:
                memory.copy_(parameter.grad)
            parameter.grad = before
        for name, term in terms.items():
            self.terms[name].mean.copy_(term.mean)
            if isinstance(term.count, torch.Tensor):
                self.terms[name].count.copy_(term.count)


def with_graphs(t) -> list[Repeated]:
    """Have a training replay its steps. Returns the graphs it makes."""
    made: list[Repeated] = []

    def make() -> Repeated:
        made.append(Repeated(t.state.model))
        return made[-1]

    t.stepper.launch = StepGraphs(t.state.model, make)
    return made


def outcome(root, make_task, settings, *, by_graphs: bool, **more):
    t = training(root, make_task(), settings, **more)
    made = with_graphs(t) if by_graphs else []
    fit(t, t.feed.train_batches(t.state.progress.step))
    t.log.close()
    t.feed.close()
    return t, made


UNWATCHED = {"tensorboard": {"layers": False}}
SETTINGS = {
    "plain": {"train": UNWATCHED},
    "average, clipping, schedule": {
        "optimizer": {"name": "adamw", "clip_norm": 0.5},
        "schedule": {"name": "one_cycle"},
        "train": {"ema": {"decay": 0.9}, "log_every": 3, **UNWATCHED},
    },
    "layers watched at log points": {"train": {"log_every": 2}},
}


@pytest.mark.parametrize("accumulate", [1, 4], ids=["whole batches", "parts of two sizes"])
@pytest.mark.parametrize("name", SETTINGS)
def test_replayed_steps_are_the_same_bit_for_bit(tmp_path, monkeypatch, name, accumulate):
    monkeypatch.setattr(Budget, "allows", lambda *_: True)  # whatever time it takes
    sections = {**SETTINGS[name], "train": {"epochs": 5, **SETTINGS[name].get("train", {})}}
    settings = settings_of(**sections)

    def task() -> ToyTask:
        return ToyTask(accumulate=accumulate, dropout=0.3, norm=accumulate == 1)

    settings.train.__dict__["accumulate"] = accumulate
    usual, _ = outcome(tmp_path / "usual", task, settings, by_graphs=False)
    replayed, made = outcome(tmp_path / "replayed", task, settings, by_graphs=True)
    assert fingerprint(replayed.state) == fingerprint(usual.state)
    assert metrics_without_times(replayed.run) == metrics_without_times(usual.run)
    assert len(made) == (1 if accumulate == 1 else 2), "one for each size of part"
    steps = 5 * usual.steps_per_epoch
    for graph in made:
        assert graph.warm_ups == graphs.WARM_UPS
        assert graph.replays > 0
    computed = sum(graph.warm_ups + graph.replays for graph in made)
    assert computed < steps * accumulate if "watched" in name else computed == steps * accumulate


@pytest.mark.parametrize("name", ["mlp", "cnn with augmentation", *(["yolo"] if LONG else [])])
def test_real_models_are_replayed_as_they_are_computed(tmp_path, name):
    kind, content = TASKS[name]
    config = kind.model_validate(content | {"train": {**content["train"], **UNWATCHED}})
    found = []
    for by_graphs in (False, True):
        t, made = outcome(
            tmp_path / str(by_graphs), Experiment(config, "").build, config, by_graphs=by_graphs, stop=StopAfter(6)
        )
        found.append(fingerprint(t.state))
    assert found[0] == found[1]
    assert sum(graph.replays for graph in made) >= 3


def test_nothing_that_a_loss_was_computed_from_outlives_its_step(tmp_path):
    """It would belong to another stream than the one that is captured next."""
    t = training(tmp_path, ToyTask(), settings_of(train=UNWATCHED))
    with_graphs(t)
    batches = t.feed.train_batches(0)
    for number in range(2 * graphs.WARM_UPS):
        with watch(leaves(t.state.model), after=lambda *_: None) if number % 2 else nullcontext():
            assert [loss.grad_fn for loss in t.stepper.take(batches, 1, 0.01)] == [None]
    t.log.close()


def test_a_run_that_goes_on_replays_the_same_steps(tmp_path):
    settings = settings_of(train={"epochs": 6, **UNWATCHED})

    def task() -> ToyTask:
        return ToyTask(dropout=0.3, norm=True)

    usual, _ = outcome(tmp_path / "usual", task, settings, by_graphs=False)
    stopped, _ = outcome(tmp_path / "stopped", task, settings, by_graphs=True, stop=StopAfter(11))
    again, made = outcome(tmp_path / "stopped", task, settings, by_graphs=True, run=stopped.run)
    assert made[0].replays > 0
    assert fingerprint(again.state) == fingerprint(usual.state)


def test_layers_that_thaw_are_captured_anew(tmp_path):
    class Thawing(ToyTask):
        def train_mode(self, epoch: int) -> None:
            super().train_mode(epoch)
            self.model[0].requires_grad_(epoch >= 2)

    settings = settings_of(train={"epochs": 5, **UNWATCHED})
    usual, _ = outcome(tmp_path / "usual", Thawing, settings, by_graphs=False)
    replayed, made = outcome(tmp_path / "replayed", Thawing, settings, by_graphs=True)
    assert len(made) == 2
    assert fingerprint(replayed.state) == fingerprint(usual.state)


def test_more_kinds_of_parts_than_graphs_are_computed_as_usual(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 1)
    settings = settings_of(train={"epochs": 3, **UNWATCHED})

    def task() -> ToyTask:
        return ToyTask(accumulate=4, dropout=0.3)

    usual, _ = outcome(tmp_path / "usual", task, settings, by_graphs=False)
    replayed, made = outcome(tmp_path / "replayed", task, settings, by_graphs=True)
    assert len(made) == 1
    assert fingerprint(replayed.state) == fingerprint(usual.state)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("operation not permitted when stream is capturing\nmore"), ConfigError, "not permitted when"),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError, "does not fit into memory"),
    ],
)
def test_what_cannot_be_captured_is_told(tmp_path, error, kind, text):
    class Failing(Repeated):
        def capture(self, work):
            try:
                raise error
            finally:
                raise RuntimeError(str(error))  # as leaving a capture that failed does

    t = training(tmp_path, ToyTask(), settings_of(train=UNWATCHED))
    t.stepper.launch = StepGraphs(t.state.model, lambda: Failing(t.state.model))
    with pytest.raises(kind, match=text) as told:
        fit(t, t.feed.train_batches(0))
    assert told.value.where == "train.cuda_graphs"
    assert "train.cuda_graphs=false" in told.value.fix
    assert "\n" not in told.value.what


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": torch.device("cpu")}, "they are of NVIDIA GPUs, and the device is cpu"),
        ({"train": {"compile": True}}, "train.compile"),
        ({"train": {"auto_microbatch": True}}, "train.auto_microbatch"),
        ({"is_static": False}, "shapes inside this model"),
        ({"counts_alike": False}, "a count of its own"),
        ({"ranks": SimpleNamespace(size=2)}, "several processes"),
        ({}, ""),
    ],
    ids=str,
)
def test_where_graphs_cannot_be_is_refused(change, reason):
    gpu = replace(
        decide_runtime(settings_of()), device=change.get("device", torch.device("cuda")),
        ranks=change.get("ranks", ALONE),
    )  # fmt: skip
    train = Train(cuda_graphs=True, **change.get("train", {}))
    task = SimpleNamespace(is_static=change.get("is_static", True), counts_alike=change.get("counts_alike", True))
    if not reason:
        refuse_graphs(task, train, gpu)
        return
    with pytest.raises(ConfigError, match=reason) as told:
        refuse_graphs(task, train, gpu)
    assert told.value.fix == "train.cuda_graphs=false"
    refuse_graphs(task, train.model_copy(update={"cuda_graphs": False}), gpu)


def test_a_training_on_a_cpu_refuses_before_anything_is_written(mlcli, tmp_path):
    (tmp_path / "x.yaml").write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n")
    done = mlcli("train", tmp_path / "x.yaml", "train.device=cpu", "train.cuda_graphs=true")
    assert done.code == 2
    assert "the device is cpu" in done.err
    assert not (tmp_path / "runs").exists()


def test_compile_is_left_alone_where_steps_are_graphs():
    gpu = replace(decide_runtime(settings_of()), device=torch.device("cuda"))
    assert decide_compile(gpu, 1e6, is_static=True).value == "yes"
    assert decide_compile(gpu, 1e6, is_static=True, by_graphs=True).value == "no"


def test_a_config_with_graphs_is_evaluated_anywhere():
    config = Classification.model_validate(
        {"task": "classification", "data": {"name": "digits"}, "model": {"name": "mlp"},
         "train": {"cuda_graphs": True, "device": "cpu"}}
    )  # fmt: skip
    assert decide_runtime(config).device.type == "cpu"
