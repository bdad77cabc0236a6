"""Verdicts on made curves: what each looks like, and how sure one can be."""

from dataclasses import replace

import numpy as np
import pytest

from mlcli.experiment import Experiment
from mlcli.report.baselines import Baseline, Baselines
from mlcli.report.evidence import Evidence, curve, scatter, standard_error, trend
from mlcli.report.verdict import judge

CONFIG = {
    "task": "classification",
    "data": {"name": "digits", "val": 0.15},
    "augment": [],
    "model": {"name": "mlp", "hidden": [128, 64], "dropout": 0.0},
    "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "clip_norm": None},
    "schedule": {"name": "cosine", "warmup_epochs": 0.0},
    "train": {"epochs": 20, "seed": 0, "early_stopping": None},
}


def points(values):
    return tuple(enumerate(map(float, values), start=1))


def settled(level: float, epochs: int = 20, noise: float = 0.002):
    """Up to a level and around it from the sixth epoch on."""
    rng = np.random.default_rng(0)
    return points(level - 0.4 * np.exp(-np.arange(epochs) / 0.8) + noise * rng.normal(size=epochs))


def simple(trivial: float, best: float, metric: str = "accuracy") -> Baselines:
    entries = (Baseline("most frequent class", {metric: trivial}, 5000, 0), Baseline("forest", {metric: best}, 5000, 0))
    return Baselines("test", 2000, 2000, 5000, entries)


GOOD = Evidence(
    metric="accuracy",
    direction="max",
    curve=settled(0.95),
    train_loss=points(2.0 * np.exp(-np.arange(20) / 3) + 0.1),
    val_loss=points(1.9 * np.exp(-np.arange(20) / 3) + 0.15),
    train=0.965,
    val=0.95,
    samples=2000,
    split="test",
    score=0.948,
    score_samples=2000,
    best_epoch=18,
    baselines=simple(0.1, 0.90),
    config=CONFIG,
    data={"kind": "image", "target": "label"},
)


def test_a_good_fit():
    verdict = judge(GOOD)
    assert verdict.kind == "good fit"
    assert verdict.reasons[0] == ("training 96.5 %, validation 95.0 % accuracy; gap 1.5 ± 1.0 points on 2,000 samples")
    assert "better than the best simple model, forest: 94.8 % against 90.0 %" in verdict.reasons[1]


@pytest.mark.parametrize(
    ("evidence", "kind", "reason", "advice"),
    [
        (replace(GOOD, train=1.0, val=0.85, curve=settled(0.85), score=0.85, baselines=simple(0.1, 0.85)),
         "overfitting", "gap 15.0 ± 1.6 points", "augment"),
        (replace(GOOD, train=0.52, val=0.51, curve=settled(0.51), score=0.51, baselines=simple(0.1, 0.60)),
         "worse than a baseline", "worse than the best simple model, forest: 51.0 % against 60.0 %", "lr-find"),
        (replace(GOOD, train=0.42, val=0.41, curve=settled(0.41), score=0.41, baselines=simple(0.1, 0.42)),
         "good fit", "about as good as", "train.seed=1"),
        (replace(GOOD, train=0.45, val=0.44, curve=settled(0.44), score=0.43, baselines=simple(0.1, 0.45)),
         "underfitting", "39% of the way from guessing to perfect", "model.hidden=[256, 128]"),
        (replace(GOOD, curve=points(0.5 + 0.02 * np.arange(20))),
         "still improving", "from 78.0 % to 88.0 %, and the trend goes on", "train.epochs=40"),
        (replace(GOOD, samples=30), "too noisy to tell", "gap 1.5 ± 10.4 points on 30 samples", "data.val=0.3"),
        (replace(GOOD, train=1.0, val=0.93, samples=60), "too noisy to tell", "gap 7.0 ± ", "data.val=0.3"),
        (replace(GOOD, curve=points([0.5, 0.7, 0.8])), "too short to tell", "4 points or more", "train.epochs=40"),
        (replace(GOOD, state="diverged"), "diverged", "no longer finite after epoch 20", "optimizer.lr=0.01"),
    ],
    ids=["overfitting", "worse than a baseline", "nobody finds more", "underfitting", "still improving",
         "few samples", "a gap that may be luck", "too short", "diverged"],
)  # fmt: skip
def test_kinds(evidence, kind, reason, advice):
    verdict = judge(evidence)
    assert verdict.kind == kind
    assert any(reason in words for words in verdict.reasons), verdict.reasons
    assert any(advice in a.override for a in verdict.advice), verdict.advice
    assert len(verdict.advice) <= 2


def test_who_learned_nothing_is_not_told_to_grow():
    guessing = replace(GOOD, train=0.102, val=0.1, curve=settled(0.1), score=0.1, baselines=None)
    data = {"kind": "image", "target": "label", "class_names": [*"0123456789"]}
    assert judge(replace(guessing, data=data)).advice[0].override == "mlcli lr-find"
    assert judge(replace(guessing, data=data, train=0.3)).advice[0].override != "mlcli lr-find"
    linear = replace(guessing, data=data, config={"model": {"name": "linear"}})
    assert judge(linear).advice[0].override == "'model={name: mlp}'"


def test_best_long_ago_is_overfitting():
    values = [0.6, 0.8, 0.9, 0.93, *(0.93 - 0.01 * i + 0.001 * (-1) ** i for i in range(1, 17))]
    verdict = judge(replace(GOOD, curve=points(values), val=0.93, train=0.94, best_epoch=4))
    assert verdict.kind == "overfitting"
    assert verdict.reasons[0].startswith("validation accuracy was best at epoch 4 of 20, 93.0 %, and 79.5 %")


def test_a_small_decline_is_none_however_certain():
    values = [0.6, 0.8, 0.9, 0.93, *(0.93 - 0.0005 * i for i in range(1, 17))]
    assert judge(replace(GOOD, curve=points(values), val=0.93, train=0.94, best_epoch=4)).kind == "good fit"


def test_a_rising_loss_with_right_answers_is_reported():
    loss = [*np.linspace(1.0, 0.2, 8), *np.linspace(0.2, 0.5, 12)]
    verdict = judge(replace(GOOD, val_loss=points(loss)))
    assert verdict.kind == "good fit"
    assert "validation loss rose from 0.2 at epoch 8 to 0.5" in verdict.reasons[-1]


def test_without_a_training_score_the_losses_are_compared():
    apart = replace(GOOD, train=None, val_loss=points(np.r_[np.linspace(2, 0.6, 8), np.full(12, 0.6)]))
    assert judge(apart).kind == "overfitting"
    assert "training loss was 0.107 (mean over its epoch), validation loss 0.6" in judge(apart).reasons[0]
    assert judge(replace(GOOD, train=None)).kind == "good fit"
    still = replace(GOOD, train=None, val_loss=points(np.linspace(2.1, 1.8, 20)), baselines=None,
                    train_loss=points(np.linspace(2.0, 1.7, 20)))  # fmt: skip
    assert judge(still).kind == "underfitting"


@pytest.mark.parametrize(
    ("train", "val", "kind"), [(50.0, 53.0, "good fit"), (30.0, 53.0, "overfitting")], ids=["close", "apart"]
)
def test_numbers_are_compared_as_ratios(train, val, kind):
    evidence = replace(
        GOOD, metric="rmse", direction="min", train=train, val=val, score=54.0, samples=2000,
        curve=points(val + 40 * np.exp(-np.arange(20.0))), baselines=simple(90.0, 55.0, "rmse"),
    )  # fmt: skip
    verdict = judge(evidence)
    assert verdict.kind == kind
    assert f"{val / train:.2f} ± " in verdict.reasons[0]


def test_an_uncertainty_without_a_formula_is_not_taken_for_none():
    few = replace(GOOD, metric="map", train=0.45, val=0.42, samples=23, curve=points([0.3, 0.38, 0.42, 0.41, 0.42]),
                  score=0.41, baselines=None)  # fmt: skip
    assert few.val_error == pytest.approx(0.5 / 23**0.5)  # no share has a larger one
    assert few.score_error is None
    assert judge(few).kind == "too noisy to tell"
    assert "gap 3.0 ± 20.9 points on 23 samples" in " ".join(judge(few).reasons)


def test_nothing_measured_no_verdict_but_a_reason():
    empty = Evidence("loss", "min")
    assert judge(empty).kind == "too short to tell"
    assert judge(empty).reasons == ("a curve needs 4 points or more, this one has 0 evaluations",)


def test_every_advice_is_a_config_that_is_valid(tmp_path):
    (tmp_path / "x.yaml").write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n")
    config = Experiment.load(tmp_path / "x.yaml", []).plain()
    cases = [
        GOOD,
        replace(GOOD, state="diverged"),
        replace(GOOD, train=1.0, val=0.85, curve=settled(0.85)),
        replace(GOOD, samples=30),
        replace(GOOD, curve=points([0.5])),
        replace(GOOD, train=0.45, val=0.44, curve=settled(0.44), score=0.43, baselines=simple(0.1, 0.45)),
    ]
    seen = set()
    for case in cases:
        verdict = judge(replace(case, config=config))
        seen.add(verdict.kind)
        for advice in verdict.advice:
            if not advice.override.startswith("mlcli "):
                Experiment.load(tmp_path / "x.yaml", [advice.override.strip("'")])
    assert len(seen) == len(cases)


def test_standard_errors_against_simulation():
    rng = np.random.default_rng(0)
    shares = rng.binomial(200, 0.8, 4000) / 200
    assert standard_error("accuracy", 0.8, 200) == pytest.approx(shares.std(), rel=0.05)
    residuals = rng.normal(0, 3, (4000, 200))
    assert standard_error("rmse", 3.0, 200) == pytest.approx(np.sqrt((residuals**2).mean(1)).std(), rel=0.05)
    assert standard_error("mae", 2.394, 200) == pytest.approx(np.abs(residuals).mean(1).std(), rel=0.05)
    targets = rng.normal(0, 5, (4000, 200))
    r2 = 1 - (residuals**2).sum(1) / ((targets - targets.mean(1, keepdims=True)) ** 2).sum(1)
    assert standard_error("r2", 1 - 9 / 25, 200) == pytest.approx(r2.std(), rel=0.5)
    assert standard_error("accuracy", 1.0, 100) > 0.01
    assert standard_error("map", 0.5, 100) is None


def test_scatter_does_not_see_a_trend():
    rng = np.random.default_rng(0)
    assert scatter(points(np.arange(30))) == pytest.approx(0)
    assert scatter(points(np.arange(300) + rng.normal(0, 0.5, 300))) == pytest.approx(0.5, rel=0.2)
    assert scatter(points([1, 2, 3])) is None


def test_trend_is_least_squares():
    values = np.random.default_rng(0).normal(size=30).cumsum()
    line, cov = np.polyfit(np.arange(21, 31), values[20:], 1, cov=True)
    found = trend(points(values))
    assert found.slope == pytest.approx(line[0])
    assert found.error == pytest.approx(np.sqrt(cov[0, 0]))
    assert found.epochs == 9


def test_curves_are_means_by_epoch():
    entries = [
        {"split": "train", "step": 1, "epoch": 1, "loss": 3.0},
        {"split": "val", "step": 2, "epoch": 1, "loss": 9.0},
        {"split": "train", "step": 2, "epoch": 1, "loss": 1.0},
        {"split": "train", "step": 3, "epoch": 2, "loss": None},
        {"split": "train", "step": 4, "epoch": 2, "loss": 0.5},
    ]
    assert curve(entries, "train", "loss") == ((1, 2.0), (2, 0.5))
