"""Several ranks take the same steps and find the same scores as one process does."""

import contextlib
import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from mlcli.engine import distributed, presence
from mlcli.engine.evaluate import SelectBy, evaluate_split
from mlcli.engine.meter import Meter
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import Progress, TrainingState
from mlcli.engine.step import MicroBatches, Stepper
from mlcli.engine.stop import StopRequest
from mlcli.engine.sync_norm import is_synchronised, separate
from mlcli.engine.terms import Term
from mlcli.errors import DataError, OutOfMemoryError, RankError
from mlcli.tasks.classification import build as classification
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.regression import build as regression
from mlcli.tasks.regression.config import Regression
from tests.engine.many import on_ranks

SGD = {"name": "sgd", "lr": 0.1}
TRAIN = {"batch_size": 30, "device": "cpu", "threads": 1, "precision": "fp32"}


def config_of(kind, name: str, **sections):
    train = {**TRAIN, **sections.pop("train", {})}
    return TypeAdapter(kind).validate_python({"task": name, "optimizer": SGD, "train": train, **sections})


def digits(**sections):
    sections.setdefault("model", {"name": "mlp", "hidden": [16], "dropout": 0.3})
    return config_of(Classification, "classification", data={"name": "digits"}, **sections)


def trained(ranks: Ranks, config, build, steps: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The weights after some steps, and the mean loss of them all."""
    task, runtime = build.build_task(config), decide_runtime(config, ranks)
    feed = task.feed(runtime)
    state = TrainingState.start(task, feed, config, runtime, SelectBy("loss", "min", "val"))
    micro_batches = MicroBatches(config.train, state.progress, feed, ranks)
    if config.train.sync_batch_norm:
        ranks.synchronise(state.model)
    stepper = Stepper(task, state, config, runtime, Meter())
    task.train_mode(0)
    batches = feed.train_batches(0)
    for _ in range(steps):
        stepper.take(batches, micro_batches.parts, 0.05)
        state.progress.step += 1
    return state.model.state_dict(), state.window.read()


def check_bits(config, build=classification, steps: int = 50) -> None:
    """Two ranks come to the very bits of one process that takes each step in two parts."""
    halves = config.model_copy(update={"train": config.train.model_copy(update={"accumulate": 2})})
    expected, loss = trained(ALONE, halves, build, steps)
    for weights, theirs in on_ranks(2, trained, config, build, steps):
        assert theirs == loss
        assert all(torch.equal(expected[name], weights[name]) for name in expected)


MIXUP = [{"name": "mixup", "alpha": 0.8}]


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"augment": MIXUP},
        {"loader": {"sampler": "balanced"}},
        {"loader": {"sampler": "repeat_factor", "repeat_below": 0.15}},
        {"loss": {"name": "focal"}},
    ],
    ids=["dropout", "mixup", "balanced", "repeat_factor", "focal"],
)
def test_two_ranks_are_bit_equal_to_two_parts(sections):
    check_bits(digits(**sections))


def test_so_they_are_for_numbers():
    config = config_of(Regression, "regression", data={"name": "diabetes"}, model={"name": "mlp", "hidden": [16]})
    check_bits(config, regression)


def test_more_ranks_than_parts_differ_in_the_last_bits_only():
    config = digits(train={"batch_size": 31})
    expected, loss = trained(ALONE, config.model_copy(update={"model": plain_mlp()}), classification, 10)
    for weights, theirs in on_ranks(3, trained, config.model_copy(update={"model": plain_mlp()}), classification, 10):
        assert abs(theirs["loss"] / loss["loss"] - 1) < 1e-5
        for name, value in expected.items():
            assert torch.allclose(value, weights[name], rtol=1e-4, atol=1e-6)


def test_each_part_draws_its_own_dropout_whoever_takes_it():
    config = digits(train={"accumulate": 4})
    expected, _ = trained(ALONE, config, classification, 10)
    for weights, _ in on_ranks(2, trained, config, classification, 10):
        for name, value in expected.items():
            assert torch.allclose(value, weights[name], rtol=1e-4, atol=1e-6)


def plain_mlp():
    return digits(model={"name": "mlp", "hidden": [16]}).model


def normed_mlp():
    return digits(model={"name": "mlp", "hidden": [16], "batch_norm": True}).model


def test_batch_normalisation_sees_the_whole_step():
    config = digits(train={"batch_size": 31}).model_copy(update={"model": normed_mlp()})
    expected, _ = trained(ALONE, config, classification, 5)
    for weights, _ in on_ranks(2, trained, config, classification, 5):
        assert expected.keys() == weights.keys()
        for name, value in expected.items():
            difference = (value.float() - weights[name].float()).norm() / value.float().norm().clamp(min=1e-3)
            assert difference < 1e-5, name


def test_without_it_the_running_statistics_are_the_same_on_all_ranks():
    config = digits(train={"sync_batch_norm": False}).model_copy(update={"model": normed_mlp()})
    (first, _), (second, _) = on_ranks(2, trained, config, classification, 5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone, _ = trained(ALONE, config, classification, 5)
    (name,) = (name for name in first if name.endswith("running_var"))
    assert not torch.allclose(first[name], alone[name], rtol=1e-4)
    assert 0.5 < (first[name].sum() / alone[name].sum()).item() < 2


def normalised(ranks: Ranks, kind: type, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Everything that a layer makes of this rank's rows, whose sum of squares times a ramp is the loss."""
    layer = nn.Sequential(kind(x.shape[1]))
    with torch.no_grad():
        layer[0].weight.copy_(torch.linspace(0.5, 2, x.shape[1]))
    ranks.synchronise(layer)
    rows = torch.tensor_split(x, ranks.size)[ranks.rank].clone().requires_grad_()
    out = layer(rows)
    ramp = torch.tensor_split(torch.arange(x.numel()).view_as(x) / x.numel(), ranks.size)[ranks.rank]
    (out.square() * ramp).sum().backward()
    layer.eval()
    later = layer(rows)
    separate(layer)
    assert not is_synchronised(layer)
    return {"out": out.detach(), "grad": rows.grad, "weight": layer[0].weight.grad, "bias": layer[0].bias.grad,
            "mean": layer[0].running_mean, "var": layer[0].running_var, "later": later.detach()}  # fmt: skip


@pytest.mark.parametrize(("kind", "shape"), [(nn.BatchNorm1d, (7, 3)), (nn.BatchNorm2d, (7, 3, 4, 5))])
def test_a_synchronised_layer_is_torchs_layer_on_all_rows(kind, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 100  # far from 0: sums of squares cancel
    expected = normalised(ALONE, kind, x)
    ranks = on_ranks(3, normalised, kind, x)
    for name in ("out", "grad", "later"):
        torch.testing.assert_close(torch.cat([one[name] for one in ranks]), expected[name], rtol=1e-3, atol=1e-4)
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(one[name] for one in ranks), expected[name], rtol=1e-3, atol=1e-4)
    for one in ranks:
        torch.testing.assert_close(one["mean"], expected["mean"])
        torch.testing.assert_close(one["var"], expected["var"], rtol=1e-4, atol=1e-5)


# --- scores ----------------------------------------------------------------------------------------------------------


def measured(ranks: Ranks, config, build, held: int) -> tuple[dict[str, float], dict]:
    """Scores and details of so many samples of the training split."""
    task, runtime = build.build_task(config), decide_runtime(config, ranks)
    feed = task.feed(runtime)
    MicroBatches(config.train, Progress(), feed, ranks)  # which cuts what is measured at once as well
    scores, metrics = evaluate_split(task, task.model, feed, "train", runtime, samples=held)
    return scores, metrics.details()


def all_measured(ranks: Ranks, config, build, held: tuple[int, ...]) -> list[tuple[dict[str, float], dict]]:
    return [measured(ranks, config, build, count) for count in held]


def check_scores(config, build, held: tuple[int, ...], sizes: tuple[int, ...] = (2, 3)) -> None:
    """Any number of ranks finds the scores and details of one process, on splits of so many samples."""
    expected = all_measured(ALONE, config, build, held)
    for size in sizes:
        for found in on_ranks(size, all_measured, config, build, held):
            for (theirs, their_details), (scores, details) in zip(found, expected, strict=True):
                assert {n: f"{v:.5g}" for n, v in theirs.items()} == {n: f"{v:.5g}" for n, v in scores.items()}
                assert their_details.keys() == details.keys()
                for name in {"mistakes", "confusion"} & details.keys() or details.keys():
                    assert json.dumps(their_details[name], default=str) == json.dumps(details[name], default=str)


def test_scores_of_classes_do_not_depend_on_the_number_of_ranks():
    check_scores(digits(train={"batch_size": 7}), classification, (1, 2, 7, 1000))


def test_nor_do_those_of_numbers():
    config = config_of(Regression, "regression", data={"name": "diabetes"}, model={"name": "mlp", "hidden": [16]},
                       train={"batch_size": 7})  # fmt: skip
    check_scores(config, regression, (1, 2, 7, 280))


def test_what_is_sent_to_another_gpu_is_a_copy_on_the_host_of_all_of_it():
    from mlcli.engine.contract import each_tensor
    from mlcli.tasks.classification.metrics import ClassificationMetrics

    metrics = ClassificationMetrics(3, ("a", "b", "c"), name_of=str)
    metrics.confusion += 2
    nested = (metrics, [{"loss": Term(torch.tensor(2.0), 3)}], {"model": {"w": torch.ones(2)}})
    copied, terms, state = each_tensor(torch.Tensor.cpu, nested)
    assert copied is not metrics
    assert copied.compute() == metrics.compute()
    assert terms == [{"loss": Term(torch.tensor(2.0), 3)}]
    assert isinstance(terms[0]["loss"], Term)
    assert torch.equal(state["model"]["w"], torch.ones(2))
    assert each_tensor(torch.Tensor.cpu, (None, "text", 3, str)) == (None, "text", 3, str)


class OfGpu(torch.Tensor):
    """Stands for a tensor in the memory of a GPU that another process has not."""

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def __reduce_ex__(self, protocol: object) -> object:
        raise AssertionError("memory of a GPU was sent to another process")


def sent_from_a_gpu(ranks: Ranks) -> list[float]:
    """What both ways of sending make of such tensors, wherever they lie in a value."""
    ranks._device = torch.device("cuda", ranks.rank)
    metrics = ConfusionCounter()
    metrics.counts = torch.ones(2).as_subclass(OfGpu)
    value = (metrics, [{"loss": Term(torch.ones(2).as_subclass(OfGpu), 3)}])
    found = []
    for metrics, terms in [*ranks.gathered(value), ranks.from_first(lambda: value)]:
        tensors = [metrics.counts, terms[0]["loss"].mean]
        assert [type(tensor) for tensor in tensors] == [torch.Tensor, torch.Tensor]
        found += [tensor.sum().item() for tensor in tensors]
    return found


class ConfusionCounter:
    counts: torch.Tensor


def test_no_tensor_of_a_gpu_is_sent_as_it_is():
    assert on_ranks(2, sent_from_a_gpu) == [[2.0] * 6] * 2


# --- failing ---------------------------------------------------------------------------------------------------------


def summed(ranks: Ranks, failure: Exception | None, at: int) -> object:
    """A step in which one rank fails, and one after it."""
    parameter = nn.Parameter(torch.ones(3))

    def work():
        if ranks.rank == at and failure:
            raise failure
        parameter.grad = torch.full((3,), float(ranks.rank + 1))
        return {"loss": Term(torch.tensor(2.0), 1)}

    try:
        ranks.summed(work, [parameter])
    except Exception as error:
        caught = error
    else:
        caught = None
    if isinstance(caught, RankError | DataError):
        return caught
    failure = None
    terms = ranks.summed(work, [parameter])
    return caught, parameter.grad.tolist(), terms["loss"].mean.item(), terms["loss"].count.item()


def test_an_error_of_one_rank_is_told_to_all_by_its_own_words():
    error = DataError("a picture is damaged", where="a.png", fix="drop it")
    first, second, third = on_ranks(3, summed, error, 1)
    assert isinstance(second, DataError)
    for other in (first, third):
        assert isinstance(other, RankError)
        assert (other.what, other.where, other.fix) == ("rank 1 failed: a picture is damaged", "a.png", "drop it")


def test_when_one_runs_out_of_memory_all_know_and_may_go_on():
    for rank, answer in enumerate(on_ranks(3, summed, OutOfMemoryError("a micro-batch of 8 does not fit"), 2)):
        caught, gradient, mean, count = answer
        assert isinstance(caught, OutOfMemoryError)
        assert caught.what == (
            "a micro-batch of 8 does not fit" if rank == 2 else "a micro-batch does not fit into memory"
        )
        assert (gradient, mean, count) == ([6.0, 6.0, 6.0], 2.0, 3.0)


def told_in_a_step(ranks: Ranks, work: Callable[[], dict[str, Term]]) -> str | None:
    try:
        ranks.summed(work, [nn.Parameter(torch.ones(2))])
    except (RankError, ValueError) as error:
        return str(error)
    return None


def full_then_failed(ranks: Ranks) -> object:
    def work(failing: int, failure: Exception):
        if ranks.rank == failing:
            raise failure
        return {"loss": Term(torch.tensor(1.0), 1)}

    with contextlib.suppress(OutOfMemoryError):
        ranks.summed(lambda: work(1, OutOfMemoryError("too large")), [nn.Parameter(torch.ones(2))])
    return told_in_a_step(ranks, lambda: work(0, ValueError("odd")))


def test_what_went_well_in_the_end_is_not_told_of_a_later_failure():
    told = "error: rank 0 failed: ValueError: odd"
    assert on_ranks(3, full_then_failed) == ["odd", told, told]


def failed_as_others_left(ranks: Ranks) -> object:
    def work():
        if ranks.is_first:
            torch.distributed.all_reduce = lost
            raise ValueError("odd")
        return {"loss": Term(torch.tensor(1.0), 1)}

    def lost(*_, **__):
        raise RuntimeError("connection closed by peer")

    return told_in_a_step(ranks, work)


def test_who_failed_says_so_even_if_others_have_left_by_then():
    """They know of it by the store, and may be gone before the exchange has ended for the one that failed."""
    told = "error: rank 0 failed: ValueError: odd"
    assert on_ranks(3, failed_as_others_left) == ["odd", told, told]


def partly(ranks: Ranks) -> list[object]:
    """Gradients of two weights of which only the second rank reaches one and none reaches the third."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]

    def work():
        weights[0].grad = torch.ones(2)
        if ranks.rank == 1:
            weights[1].grad = torch.full((2,), 5.0)
        return {"loss": Term(torch.tensor(1.0), 1)}

    ranks.summed(work, weights)
    return [None if weight.grad is None else weight.grad.tolist() for weight in weights]


def test_a_weight_that_only_one_rank_reaches_has_its_gradient_on_all():
    assert on_ranks(2, partly) == [[[2.0, 2.0], [5.0, 5.0], None]] * 2


def killed(ranks: Ranks) -> object:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_error(ranks)


def test_a_rank_that_was_killed_is_named():
    first, second, third = on_ranks(3, killed)
    assert second == -signal.SIGKILL
    assert all(one.what.startswith("rank 1 (process ") and one.what.endswith(" is gone") for one in (first, third))


def hanging(ranks: Ranks) -> object:
    distributed.STEP_TIMEOUT_S = 1.0
    ranks.follow(StopRequest(), 1.0)
    if ranks.rank == 1:
        time.sleep(2)  # as one that compiles the first step
    if error := step_error(ranks):
        return error
    if ranks.rank == 1:
        time.sleep(600)
    return step_error(ranks)


def step_error(ranks: Ranks) -> object:
    try:
        ranks.summed(lambda: {"loss": Term(torch.tensor(1.0), 1)}, [nn.Parameter(torch.ones(2))])
    except RankError as error:
        return error
    return None


def test_a_rank_that_hangs_is_named_and_ended():
    first, second = on_ranks(2, hanging)
    assert second == -signal.SIGKILL
    assert first.what.startswith("rank 1 (process ")
    assert first.what.endswith(" does not answer")
    assert "the others wait for it in a step" in first.where


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(presence, "BEAT_S", 0.1)
    monkeypatch.setattr(presence, "SILENCE_S", 1.0)


def silent(ranks: Ranks, number: signal.Signals) -> object:
    """The last rank is stopped, or killed, while the others wait outside of a step."""
    try:
        for _ in range(2):
            ranks.gathered(ranks.rank)
        if ranks.rank == 1:
            os.kill(os.getpid(), number)
        ranks.together(lambda: None)
    except RankError as error:
        return error
    return None


@pytest.mark.parametrize(("number", "what"), [(signal.SIGSTOP, "does not answer"), (signal.SIGKILL, "is gone")])
def test_a_rank_that_is_stopped_or_killed_outside_of_a_step_is_named(impatient, number, what):
    first, second, third = on_ranks(3, silent, number)
    assert second == -signal.SIGKILL
    for one in (first, third):
        assert one.what.startswith("rank 1 (process "), one
        assert one.what.endswith(what)
        assert one.where == "the others wait for it before or after steps"


def working(ranks: Ranks) -> object:
    return ranks.from_first(lambda: time.sleep(2) or "done")


def test_a_rank_that_works_for_long_is_waited_for(impatient):
    assert on_ranks(2, working) == ["done", "done"]


def stopping(ranks: Ranks) -> object:
    stop = StopRequest()
    with stop:
        ranks.follow(stop, 1.0)
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        before = stop()
        ranks.summed(lambda: {"loss": Term(torch.tensor(1.0), 1)}, [nn.Parameter(torch.ones(2))])
        return before, stop(), int(stop.exit_code)


def test_a_stop_that_one_rank_is_asked_for_is_that_of_all_after_the_same_step():
    assert on_ranks(3, stopping) == [(False, True, 130)] * 3


def other_config(ranks: Ranks) -> object:
    try:
        ranks.same("config", {"optimizer": {"lr": 0.1, "name": "sgd"}, "seed": 3 + (ranks.rank == 1), "nan": math.nan})
    except RankError as error:
        return error.what, error.where
    return None


def test_what_another_rank_has_otherwise_is_named():
    told = ("rank 1 has other config than the first", "nan is nan, not nan, seed is 4, not 3")
    assert on_ranks(2, other_config) == [told] * 2


def same_config(ranks: Ranks) -> None:
    ranks.same("config", {"seed": 3, "nan": math.nan})


def test_what_is_no_number_on_all_is_the_same():
    assert on_ranks(2, same_config) == [None, None]


def test_a_batch_must_have_a_sample_for_each_rank():
    config = digits(train={"batch_size": 2})
    answers = on_ranks(3, trained, config, classification, 1)
    assert all("a batch of 2 is too small for 3 processes" in answer.what for answer in answers)


def test_a_rank_that_is_alone_says_where_it_waits_and_gives_up(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "QUIET_S", 0.01)
    monkeypatch.setattr(distributed, "START_S", 0.5)
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        started = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**started, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(RankError, match="rank 1 of 2 does not find the others"), distributed.joined_ranks("cpu"):
            pass
    assert f"rank 1 of 2 waits for the others at 127.0.0.1:{port}" in capsys.readouterr().err
