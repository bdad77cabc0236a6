"""The loop: it learns, it equals a hand-written loop, micro-batches add up, it stops and refuses as promised."""

import json

import pytest
import torch

from mlcli.engine.checkpoint import by_age, load_checkpoint
from mlcli.engine.log import read_metrics
from mlcli.engine.terms import Term
from mlcli.engine.trainer import fit
from mlcli.errors import CheckpointError, ConfigError, DivergedError
from tests.engine.rig import TIME_FIELDS, StopAfter, as_if_long_ago, fingerprint, settings_of, train, training
from tests.engine.toy import ToyFeed, ToyMetrics, ToyTask


def test_it_equals_a_loop_written_by_hand(tmp_path):
    schedule = {"name": "polynomial"}
    t, outcome = train(tmp_path, ToyTask(), settings_of(schedule=schedule))
    assert outcome == "finished"

    task = ToyTask()
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05, momentum=0.9)
    batches = ToyFeed(task).train_batches(0)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 11)
        batch = next(batches)
        loss = (task.model(batch.inputs) - batch.targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours, theirs in zip(t.state.model.parameters(), task.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_micro_batches_make_the_same_step_as_one_batch(tmp_path, accumulate):
    """batch 6 in 4 parts is 2 + 2 + 1 + 1: unequal parts must weigh by their size."""
    whole, _ = train(tmp_path, ToyTask(), settings_of())
    parts, _ = train(tmp_path, ToyTask(accumulate=accumulate), settings_of(train={"accumulate": accumulate}))
    for a, b in zip(whole.state.model.parameters(), parts.state.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_it_learns_and_keeps_the_best(tmp_path):
    t, _ = train(
        tmp_path, ToyTask(samples=120), settings_of(optimizer={"name": "sgd", "lr": 0.01}, train={"epochs": 40})
    )
    best = load_checkpoint(t.run.checkpoint("best"))
    assert best["scores"]["mae"] < 0.1
    assert best["scores"]["mae"] == t.state.progress.best_value
    scores = [line["mae"] for line in read_metrics(t.log.path) if line["split"] == "val"]
    assert t.state.progress.best_value == min(scores)
    assert t.state.progress.best_epoch == scores.index(min(scores)) + 1


@pytest.mark.parametrize("stop_after", range(1, 16))
def test_a_stopped_run_goes_on_as_if_it_never_stopped(tmp_path, stop_after):
    """Stopped before each step in turn and in mid-evaluation; with dropout, batch norm, EMA, warm-up and plateau."""
    settings = settings_of(
        optimizer={"name": "adamw", "lr": 0.01, "clip_norm": 1.0},
        schedule={"name": "plateau", "patience": 1, "min_delta": 0.5, "warmup_epochs": 0.5},
        train={"accumulate": 2, "ema": {"decay": 0.9}, "log_every": 3, "epochs": 2},
    )
    toy = {"dropout": 0.3, "norm": True, "accumulate": 2}
    whole, _ = train(tmp_path / "whole", ToyTask(**toy), settings)

    cut, outcome = train(tmp_path / "cut", ToyTask(**toy), settings, stop=StopAfter(stop_after))
    assert outcome == "interrupted"
    torch.manual_seed(999)  # whatever the new process's generators hold must not matter
    rest, outcome = train(tmp_path / "cut", ToyTask(**toy), settings, run=cut.run)
    assert outcome == "finished"
    assert fingerprint(rest.state) == fingerprint(whole.state)
    assert lines_without_times(rest) == lines_without_times(whole)


@pytest.mark.parametrize("stop_after", [3, 7, 11])
def test_a_stopped_fp16_run_keeps_its_loss_scale(tmp_path, stop_after):
    settings = settings_of(train={"precision": "fp16", "epochs": 3})
    whole, _ = train(tmp_path, overflowing_task(), settings)
    cut, _ = train(tmp_path, overflowing_task(), settings, stop=StopAfter(stop_after))
    rest, _ = train(tmp_path, overflowing_task(), settings, run=cut.run)
    assert rest.state.scaler.get_scale() < 65536
    assert fingerprint(rest.state) == fingerprint(whole.state)


def overflowing_task() -> ToyTask:
    """Its gradients pass 65504, the largest fp16 number, once scaled by 65536."""
    task = ToyTask()
    task.targets = task.targets * 1e4
    return task


@pytest.mark.parametrize("stop_after", [6, 10, 14])
def test_patience_and_the_best_survive_a_stop(tmp_path, stop_after):
    settings = settings_of(
        optimizer={"name": "sgd", "lr": 1e-12},
        train={"epochs": 50, "early_stopping": {"patience": 3, "min_delta": 0.01}},
    )
    whole, _ = train(tmp_path, ToyTask(), settings)
    cut, _ = train(tmp_path, ToyTask(), settings, stop=StopAfter(stop_after))
    rest, outcome = train(tmp_path, ToyTask(), settings, run=cut.run)
    assert outcome == "stopped early"
    assert rest.state.progress == whole.state.progress


def test_a_resumed_epoch_shows_the_mean_loss_of_all_its_steps(tmp_path, capsys):
    alone = {"train": {"measure_train": 0}}
    train(tmp_path, ToyTask(), settings_of(**alone))
    second_epoch = capsys.readouterr().out.splitlines()[-2].split()[:4]
    cut, _ = train(tmp_path, ToyTask(), settings_of(**alone), stop=StopAfter(11))
    assert cut.state.progress.step == 7  # in the second of three epochs of four steps, after its first log point
    train(tmp_path, ToyTask(), settings_of(**alone), run=cut.run)
    assert capsys.readouterr().out.splitlines()[-2].split()[:4] == second_epoch


def test_what_was_logged_after_the_last_checkpoint_is_not_logged_twice(tmp_path):
    """As after kill -9: the log has got further than the newest checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = settings_of(train={"checkpoints": {"every_steps": 1, "keep_last": 20}})
    whole, _ = train(tmp_path, ToyTask(), settings)
    expected = lines_without_times(whole)
    for path in by_age(whole.run.checkpoints)[:6]:  # steps 12 to 7
        path.unlink()
    rest = training(tmp_path, ToyTask(), settings, run=whole.run)
    assert rest.log.path.stat().st_size == rest.log.offset
    fit(rest, rest.feed.train_batches(6))
    rest.log.close()
    assert lines_without_times(rest) == expected
    events = EventAccumulator(str(rest.run.path / "train"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [2, 4, 6, 8, 10, 12]


def test_clipped_gradients_move_the_weights_less(tmp_path):
    free, _ = train(tmp_path, ToyTask(), settings_of(train={"epochs": 1}))
    clip = {"name": "sgd", "lr": 0.05, "momentum": 0.0, "clip_norm": 1e-3}
    clipped, _ = train(tmp_path, ToyTask(), settings_of(optimizer=clip, train={"epochs": 1}))
    start = list(ToyTask().model.parameters())
    moved = [sum((a - b).square().sum() for a, b in zip(t.state.model.parameters(), start, strict=True)).sqrt()
             for t in (free, clipped)]  # fmt: skip
    assert moved[1] <= 4 * 0.05 * 1e-3 + 1e-6
    assert moved[0] > 10 * moved[1]


def lines_without_times(t):
    return [{k: v for k, v in line.items() if k not in TIME_FIELDS} for line in read_metrics(t.log.path)]


def test_evaluating_and_logging_change_nothing(tmp_path):
    toy = {"dropout": 0.3, "norm": True}
    often, _ = train(tmp_path, ToyTask(**toy), settings_of(train={"log_every": 1}))
    seldom, _ = train(tmp_path, ToyTask(**toy), settings_of(train={"log_every": 100, "evaluate_every": 3}))
    for a, b in zip(often.state.model.state_dict().values(), seldom.state.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


class Scripted(ToyTask):
    """Its evaluations come out as written: (hits, loss) an epoch."""

    def __init__(self, *evaluations: tuple[float, float]) -> None:
        super().__init__()
        self.script = iter(evaluations)

    def evaluate(self, net, batch):
        if int(batch.indices[0]) == 0:
            self.now = next(self.script)
        return {"mse": Term(torch.tensor(self.now[1]), len(batch))}, torch.zeros(len(batch))

    def metrics(self, split="train"):
        metrics = super().metrics(split)
        metrics.compute = lambda: {"mae": 1.0, "hits": self.now[0]}
        return metrics


NAN = float("nan")


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([(0.9, 0.5), (0.9, 0.2), (0.9, 0.3)], 2),
        ([(0.9, 0.5), (0.9, 0.5), (0.8, 0.1)], 2),
        ([(0.9, 0.5), (0.95, 0.9), (0.9, 0.1)], 2),
        ([(NAN, 0.1), (0.5, 0.5), (NAN, 0.1)], 2),
        ([(0.5, 0.5), (0.5, NAN), (0.5, 0.6)], 1),
        ([(0.5, NAN), (0.5, NAN), (0.5, 0.6)], 3),
    ],
    ids=["lower loss", "then the later", "the metric first", "no NaN", "no NaN loss", "any loss before NaN"],
)
def test_ties_go_to_the_lower_loss_and_then_to_the_later_epoch(tmp_path, evaluations, best):
    t, _ = train(tmp_path, Scripted(*evaluations), settings_of(train={"watch": "hits", "measure_train": 0}))
    assert (t.state.progress.best_epoch, t.run.status()["best"]["epoch"]) == (best, best)
    assert load_checkpoint(t.run.checkpoint("best"))["epoch"] == best


def test_of_equal_losses_the_later_epoch_is_best(tmp_path):
    t, _ = train(tmp_path, Scripted((0.1, 0.5), (0.2, 0.5), (0.9, 0.6)), settings_of(train={"watch": "loss"}))
    assert t.state.progress.best_epoch == 2


def test_a_tie_with_a_lower_loss_resets_patience_and_one_with_the_same_does_not(tmp_path):
    early = {"patience": 2, "min_delta": 0.01}
    settings = settings_of(train={"watch": "hits", "epochs": 9, "early_stopping": early, "measure_train": 0})
    falling = [(0.9, 0.5), (0.9, 0.4), (0.9, 0.3), (0.9, 0.3), (0.9, 0.3)]
    t, outcome = train(tmp_path, Scripted(*falling), settings)
    assert (outcome, t.state.progress.step, t.state.progress.best_epoch) == ("stopped early", 5 * 4, 5)


def test_a_checkpoint_without_the_best_loss_goes_on(tmp_path):
    """As version 0.1.0 wrote them."""
    t, _ = train(tmp_path, ToyTask(), settings_of())
    saved = load_checkpoint(t.run.checkpoint("last"))
    assert saved["progress"].pop("best_loss") == pytest.approx(load_checkpoint(t.run.checkpoint())["scores"]["loss"])
    del saved["progress"]["reference_loss"]
    t.state.load_state_dict(saved)
    assert (t.state.progress.best_loss, t.state.progress.best_value) == (None, saved["progress"]["best_value"])


@pytest.mark.parametrize("value", [torch.tensor([False, False]), torch.tensor(1), torch.zeros(1)])
def test_sums_of_losses_of_another_kind_are_refused(tmp_path, value):
    t, _ = train(tmp_path, ToyTask(), settings_of())
    saved = load_checkpoint(t.run.checkpoint("last"))
    saved["window"] = {"sums": {"loss": value}, "steps": 1}
    with pytest.raises(CheckpointError, match="its sum of 'loss' is not as it should be"):
        t.state.load_state_dict(saved)


def test_early_stopping_stops_when_the_metric_stands_still(tmp_path):
    settings = settings_of(
        optimizer={"name": "sgd", "lr": 1e-12},
        train={"epochs": 50, "early_stopping": {"patience": 3, "min_delta": 0.01}},
    )
    t, outcome = train(tmp_path, ToyTask(), settings)
    assert outcome == "stopped early"
    assert t.state.progress.step == 4 * 4  # one evaluation to compare with, then three without improvement
    assert by_age(t.run.checkpoints)[0].name == "step-00000016.ckpt"


def test_watching_a_metric_that_is_better_when_larger(tmp_path):
    t, _ = train(tmp_path, ToyTask(samples=60), settings_of(train={"watch": "hits", "epochs": 10}))
    scores = [line["hits"] for line in read_metrics(t.log.path) if line["split"] == "val"]
    assert t.state.progress.best_value == max(scores)


def test_an_unknown_metric_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no metric is called 'accuracy'") as caught:
        training(tmp_path, ToyTask(), settings_of(train={"watch": "accuracy"}))
    assert caught.value.fix == "one of hits, loss, mae"


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(DivergedError, match="the loss is not finite: mse = nan"):
        train(tmp_path, ToyTask(bad_step=6), settings_of(train={"epochs": 10}))
    (run,) = (tmp_path / "toy").iterdir()
    for path in by_age(run / "checkpoints"):
        assert all(torch.isfinite(value).all() for value in load_checkpoint(path)["model"].values())
    assert by_age(run / "checkpoints")[0].name == "step-00000004.ckpt"


def test_only_the_last_checkpoints_are_kept_and_the_best_besides(tmp_path):
    t, _ = train(
        tmp_path, ToyTask(), settings_of(train={"epochs": 5, "checkpoints": {"keep_last": 3, "every_steps": 1}})
    )
    assert [path.name for path in by_age(t.run.checkpoints)] == [f"step-{s:08d}.ckpt" for s in (20, 19, 18)]
    assert t.run.checkpoint("best").name == "best.ckpt"


def test_the_average_is_evaluated_and_saved_not_the_raw_weights(tmp_path):
    t, _ = train(tmp_path, ToyTask(), settings_of(train={"ema": {"decay": 0.5}, "epochs": 1}))
    best, last = load_checkpoint(t.run.checkpoint("best")), load_checkpoint(t.run.checkpoint("last"))
    for name, average in last["ema"].items():
        assert torch.equal(best["model"][name], average)
    assert not torch.equal(best["model"]["0.weight"], last["model"]["0.weight"])


def test_fp16_overflow_skips_the_step_and_the_schedule_waits(tmp_path):
    t, _ = train(
        tmp_path,
        overflowing_task(),
        settings_of(train={"precision": "fp16", "epochs": 1}, schedule={"name": "polynomial"}),
    )
    assert t.state.progress.skipped > 0
    assert t.state.scaler.get_scale() < 65536
    last = [line for line in read_metrics(t.log.path) if line["split"] == "train"][-1]
    assert last["lr"] == pytest.approx(0.05 * (1 - (3 - t.state.progress.skipped) / 3), abs=0.05 / 3 + 1e-9)


def test_status_and_metrics_tell_what_happened(tmp_path, capsys):
    t, _ = train(tmp_path, ToyTask(), settings_of())
    status = json.loads((t.run.path / "status.json").read_text())
    assert (status["epoch"], status["step"]) == (3, 12)
    assert status["best"]["metric"] == "mae"
    lines = read_metrics(t.log.path)
    assert [(line["split"], line["step"]) for line in lines] == [
        ("train", 2), ("train", 4), ("val", 4), ("train_measured", 4), ("train", 6), ("train", 8),
        ("val", 8), ("train_measured", 8), ("train", 10), ("train", 12), ("val", 12), ("train_measured", 12),
    ]  # fmt: skip
    assert {"loss", "lr", "samples_per_s", "wait_share"} <= lines[0].keys()
    # the same samples here, and the same model: training steps have told their loss, these tell the metric
    assert [line["mae"] for line in lines if line["split"] == "train_measured"] == [
        line["mae"] for line in lines if line["split"] == "val"
    ]
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 4
    assert "train loss" in printed[0]
    assert "val mae" in printed[0]


@pytest.mark.parametrize(
    ("samples", "share", "measured"),
    [(24, 1.0, [24, 24]), (300, 0.05, [100, 300]), (24, 0, [24]), (6000, 0.05, [300, 6000])],
)
def test_training_samples_are_measured_beside_the_others(tmp_path, monkeypatch, samples, share, measured):
    """A share of them, but no fewer than say something; nobody is asked twice where the loss is watched."""
    seen = []

    def counted(self, predictions, batch):
        self.seen = getattr(self, "seen", 0) + len(batch)

    def told(self):
        seen.append(self.seen)
        return {"mae": 1.0}

    monkeypatch.setattr(ToyMetrics, "update", counted)
    monkeypatch.setattr(ToyMetrics, "compute", told)
    kwargs = {"train": {"epochs": 1, "measure_train": share}}
    splits, of_split = [], ToyTask.metrics
    monkeypatch.setattr(ToyTask, "metrics", lambda self, split: splits.append(split) or of_split(self, split))
    train(tmp_path, ToyTask(samples=samples, batch_size=samples), settings_of(**kwargs))
    assert sorted(seen) == measured
    assert splits[-len(measured) :] == ["val", "train"][: len(measured)]


def test_tensorboard_holds_every_point_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cut, _ = train(tmp_path, ToyTask(), settings_of(), stop=StopAfter(9))
    as_if_long_ago(cut.run)
    train(tmp_path, ToyTask(), settings_of(), run=cut.run)
    train_events, val_events = (EventAccumulator(str(cut.run.path / split)).Reload() for split in ("train", "val"))
    assert [point.step for point in train_events.Scalars("loss")] == [2, 4, 6, 8, 10, 12]
    assert [point.step for point in val_events.Scalars("mae")] == [4, 8, 12]


def test_a_compiled_model_is_saved_under_the_same_names(tmp_path, monkeypatch):
    real_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real_compile(model, backend="eager"))
    compiled, _ = train(tmp_path, ToyTask(), settings_of(train={"compile": True, "epochs": 1}))
    plain, _ = train(tmp_path, ToyTask(), settings_of(train={"epochs": 1}))
    assert compiled.state.state_dict()["model"].keys() == plain.state.state_dict()["model"].keys()
    assert fingerprint(compiled.state) == fingerprint(plain.state)


def test_a_metric_that_measuring_does_not_give_is_refused(tmp_path, monkeypatch):
    """Some detectors have no loss but in training."""
    judged = ToyTask.evaluate
    monkeypatch.setattr(ToyTask, "evaluate", lambda self, net, batch: ({}, judged(self, net, batch)[1]))
    with pytest.raises(ConfigError, match="gives no 'loss'") as raised:
        train(tmp_path, ToyTask(), settings_of(train={"watch": "loss"}))
    assert raised.value.fix == "train.watch: one of mae, hits"
