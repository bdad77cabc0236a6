"""Verdicts on made histories of runs whose answer is known, each with the reason why it is the answer."""

from dataclasses import replace

import numpy as np
import pytest

from mlcli.report.advice import advise
from mlcli.report.baselines import Baseline, Baselines
from mlcli.report.evidence import Curve, Evidence
from mlcli.report.record import Record
from mlcli.report.verdict import judge
from tests.report import crafted

EPOCHS = 20


def by_epoch(values) -> Curve:
    return tuple(enumerate(map(float, values), start=1))


def saturating(end: float, epochs: int = EPOCHS, noise: float = 0.002, start: float = 0.4, tau: float = 1.0) -> Curve:
    """From `start` to `end`, settled after a few `tau` epochs, with normal noise."""
    chance = noise * np.random.default_rng(1).normal(size=epochs)
    return by_epoch(end + (start - end) * np.exp(-np.arange(epochs) / tau) + chance)


def cosine(epochs: int = EPOCHS, peak: float = 0.1) -> Curve:
    """The learning rate after each epoch; 0 after the last."""
    return by_epoch(peak * (1 + np.cos(np.pi * np.arange(1, epochs + 1) / epochs)) / 2)


def simple_models(score: float, metric: str = "accuracy", trivial: float = 0.1, **more) -> Baselines:
    entries = (Baseline("trivial", {metric: trivial}, 5000, 0), Baseline("forest", {metric: score}, 5000, 0))
    return Baselines("test", 2000, 2000, 5000, entries, **more)


SETTLED = Evidence(
    metric="accuracy",
    direction="max",
    curve=saturating(0.90),
    train_loss=saturating(0.20, start=2.0, tau=3),
    val_loss=saturating(0.30, start=2.1, tau=3),
    lr=cosine(),
    train=0.92,
    val=0.90,
    samples=4000,
    split="val",
    score=0.90,
    score_samples=4000,
    best_epoch=17,
)
NUMBERS = replace(
    SETTLED, metric="rmse", direction="min", curve=saturating(53.0, start=90.0, noise=0.2), train=50.0, val=53.0,
    score=53.0, samples=2000, score_samples=2000,
)  # fmt: skip
BOXES = replace(
    SETTLED, metric="map", curve=saturating(0.60, epochs=12), train_loss=saturating(0.5, 12, start=4.0, tau=2),
    val_loss=saturating(0.6, 12, start=4.2, tau=2), lr=cosine(12), train=None, val=0.60, samples=200, score=0.60,
    score_samples=200, best_epoch=11,
)  # fmt: skip
CLIMBING = by_epoch(0.5 + 0.02 * np.arange(EPOCHS))
RECOVERING = by_epoch([*np.linspace(0.5, 0.9, 8), *np.linspace(0.898, 0.875, 6), *np.linspace(0.878, 0.894, 6)])
FALLEN = by_epoch([*np.linspace(0.5, 0.9, 8), *np.linspace(0.9, 0.7, 6), *np.linspace(0.72, 0.85, 6)])
LATE_DECLINE = by_epoch([0.6, 0.8, 0.9, 0.93, *(0.93 - 0.01 * i + 0.001 * (-1) ** i for i in range(1, 17))])
RATIO_119 = by_epoch([90, 70, 62, 59.5, *(59.5 + 0.35 * i + 0.05 * (-1) ** i for i in range(1, 17))])
EXPLODING = by_epoch([2.0, 1.0, 0.6, 0.5, *np.linspace(0.6, 4.0, 16)])

HISTORIES = {
    # What a fit looks like
    "settled, small gap": (SETTLED, "good fit", "the gap of 2 points is small, and known to one point"),
    "large gap": (replace(SETTLED, train=1.0, val=0.80, score=0.80, curve=saturating(0.80)), "overfitting",
                  "20 points are far beyond their uncertainty of 1.3"),
    "low on training samples": (replace(SETTLED, train=0.40, val=0.39, curve=saturating(0.39, start=0.1)),
                                "underfitting", "it has not even learned its training samples"),
    "low, with simple models": (
        replace(SETTLED, train=0.45, val=0.44, split="test", score=0.44, curve=saturating(0.44, start=0.1),
                baselines=simple_models(0.455)),
        "underfitting", "less than half of the way from guessing to perfect, and the simple model is no worse"),
    "as hard for every model": (
        replace(SETTLED, train=0.42, val=0.41, split="test", score=0.41, curve=saturating(0.41, start=0.1),
                baselines=simple_models(0.41)),
        "good fit", "a low score is no underfitting where the simple models do not find more either"),
    "validation better than training": (replace(SETTLED, train=0.88), "good fit", "a negative gap is none"),
    "all ties": (replace(SETTLED, curve=by_epoch([0.9] * EPOCHS), best_epoch=1), "good fit",
                 "a curve that stands still neither rises nor falls"),
    # What a trend is worth
    "climbing, learning rate constant": (replace(SETTLED, curve=CLIMBING, lr=by_epoch([0.1] * EPOCHS), val=0.88),
                                         "still improving", "nothing has changed at the end that would stop the rise"),
    "climbing, learning rate unknown": (replace(SETTLED, curve=CLIMBING, lr=(), val=0.88), "still improving",
                                        "without a schedule in the log the curve is all there is"),
    "climbing, learning rate 0 at the end": (replace(SETTLED, curve=CLIMBING, val=0.88), "good fit",
                                             "with the learning rate at 0, further epochs would change nothing"),
    "rising again, best at epoch 8 of 20": (
        replace(SETTLED, curve=RECOVERING, lr=by_epoch([0.1] * EPOCHS), best_epoch=8), "good fit",
        "a rise that does not reach the earlier best wins back what was lost; the loss of 1 point is small"),
    "best at epoch 8 of 20, learning rate 0": (replace(SETTLED, curve=RECOVERING, best_epoch=8), "good fit",
                                               "neither improving any more nor clearly worse"),
    "fallen, best at epoch 8 of 20": (replace(SETTLED, curve=FALLEN, best_epoch=8), "overfitting",
                                      "it rises again, but 12 points below the best while the training loss fell"),
    "a rise smaller than the noise": (replace(SETTLED, curve=saturating(0.9, noise=0.02), lr=()), "good fit",
                                      "a slope within its own uncertainty is no trend"),
    "a rise of a third of a sample": (
        replace(SETTLED, curve=by_epoch(0.80 + 0.001 * np.arange(EPOCHS)), samples=300, lr=(), train=0.85, val=0.82),
        "good fit", "however straight, 0.6 points on 300 samples are not worth waiting for"),
    "three epochs": (replace(SETTLED, curve=by_epoch([0.5, 0.7, 0.8])), "too short to tell", "no shape yet"),
    "four epochs, all up": (replace(SETTLED, curve=by_epoch([0.5, 0.6, 0.7, 0.8]), lr=(), val=0.8), "still improving",
                            "four points on a line are a trend"),
    "four epochs, up and down": (replace(SETTLED, curve=by_epoch([0.5, 0.8, 0.6, 0.8]), lr=(), val=0.8),
                                 "too noisy to tell", "it jumps by more than any gap that matters"),
    # How training ended
    "loss not finite": (replace(SETTLED, state="diverged"), "diverged", "the run says so"),
    "diverging late": (replace(SETTLED, curve=LATE_DECLINE, train_loss=EXPLODING, val=0.93, best_epoch=4), "diverged",
                       "both the training loss and the score got much worse, which is not overfitting"),
    "getting worse while the training loss falls": (replace(SETTLED, curve=LATE_DECLINE, val=0.93, best_epoch=4),
                                                    "overfitting", "13 points lost on 4,000 samples"),
    "stopped early in time": (
        replace(SETTLED, curve=saturating(0.90)[:12], lr=by_epoch([0.1] * 12), best_epoch=7), "good fit",
        "the best was kept, and nothing has got worse beyond the noise"),
    # How much is known
    "no validation split": (replace(SETTLED, watched="train", train=None, val=0.97, val_loss=()), "fit unknown",
                            "training scores alone say nothing about other samples"),
    "no validation split, low": (
        replace(SETTLED, watched="train", train=None, val=0.3, curve=saturating(0.3, start=0.1), val_loss=()),
        "underfitting", "that it has not learned its own samples needs no others"),
    "nothing to compare with": (replace(SETTLED, train=None, val_loss=()), "fit unknown",
                                "a validation score without a training score has no gap"),
    "twenty validation samples": (replace(SETTLED, samples=20), "too noisy to tell", "a gap of 2 points ± 13"),
    "a gap of three samples": (replace(SETTLED, samples=40, train=0.97, val=0.90), "too noisy to tell",
                               "7 points ± 10 matter if they are real, which nobody knows"),
    "a noisy curve": (replace(SETTLED, curve=saturating(0.75, noise=0.15)), "too noisy to tell",
                      "the score jumps by far more than a gap that matters"),
    # Other metrics
    "regression, close": (NUMBERS, "good fit", "1.06 times the training error, ± 0.03"),
    "regression, apart": (replace(NUMBERS, train=30.0), "overfitting", "1.77 times the training error, ± 0.06"),
    "regression, 1.19 ± 0.22 and declining": (
        replace(NUMBERS, curve=RATIO_119, train=50.0, val=59.5, samples=58, best_epoch=4), "too noisy to tell",
        "neither the ratio nor the decline of 7 % exceeds the uncertainty of 58 samples"),
    "regression, 1.4 ± 0.5": (replace(NUMBERS, train=38.0, samples=16), "too noisy to tell", "it may be 1 as well"),
    "detection, by the losses": (BOXES, "good fit", "the losses are close; the learning rate has ended at 0"),
    "detection, losses apart": (replace(BOXES, val_loss=saturating(2.5, 12, start=4.2, tau=2)), "overfitting",
                                "2 of the first 4 lie between the losses, and they scatter by 0.002"),
    "detection, 23 pictures": (replace(BOXES, train=0.66, samples=23), "too noisy to tell",
                               "no formula for the uncertainty of mAP does not make it none"),
    "detection, a huge gap on 200 pictures": (replace(BOXES, train=0.95), "overfitting",
                                              "35 points exceed the largest uncertainty there can be, 7"),
    "detection, a gap of 6 points on 200 pictures": (replace(BOXES, train=0.66), "too noisy to tell",
                                                     "6 points are within the largest uncertainty there can be"),
    "no number of samples, few epochs": (
        replace(SETTLED, samples=None, train=1.0, val=0.8, curve=by_epoch([0.4, 0.79, 0.80, 0.80])),
        "too noisy to tell", "with an unknown number of samples only the jumps of the curve are known"),
    "r2 below 0 on both": (
        replace(SETTLED, metric="r2", curve=by_epoch([-0.2] * EPOCHS), train=-0.1, val=-0.2, score=-0.2, samples=2000),
        "underfitting", "10 points apart, but the mean of all targets would be the better answer to either"),
    "twice a tiny error": (
        replace(NUMBERS, train=0.001, val=0.002, score=0.002, curve=saturating(0.002, start=90.0, noise=1e-5)),
        "good fit", "of an error of 90 nothing is left, on training and validation samples alike"),
    "twice an error that matters": (
        replace(NUMBERS, train=2.0, val=4.0, score=4.0, curve=saturating(4.0, start=90.0, noise=0.02)),
        "overfitting", "2 of 90 can still be gained"),
    "always the most frequent of two classes": (
        replace(SETTLED, train=0.95, val=0.95, score=0.95, curve=by_epoch([0.95] * EPOCHS),
                macro_f1=0.95 / 1.95, data={"class_names": ["no", "yes"]}),
        "underfitting", "macro f1 is that of one answer for all"),
    "both of two classes": (
        replace(SETTLED, train=0.95, val=0.95, score=0.95, curve=by_epoch([0.95] * EPOCHS),
                macro_f1=0.7, data={"class_names": ["no", "yes"]}),
        "good fit", "the rare class is recognised as well"),
    # How others' curves look
    "jumping between two values": (
        replace(SETTLED, curve=by_epoch([0.3, 0.55] * 10), train=0.55, val=0.55, score=0.55, lr=by_epoch([1.0] * 20)),
        "too noisy to tell", "steps that are too large; where it stops is chance"),
    "late and steep": (
        replace(SETTLED, curve=by_epoch([0.5] * 14 + [0.55, 0.62, 0.7, 0.78, 0.85, 0.9]), lr=by_epoch([0.1] * 20),
                train=0.99), "still improving", "nothing says that the rise is over"),
    "at chance": (replace(SETTLED, curve=by_epoch([0.1] * 20), train=0.101, val=0.1, score=0.1), "underfitting",
                  "one of ten is what guessing gets right"),
    "fine-tuned, best at once": (
        replace(SETTLED, curve=saturating(0.94, start=0.95, noise=0.004), train=0.985, val=0.952, best_epoch=1),
        "good fit", "it began near its end; 3 points are small"),
    "collapsed at the end": (
        replace(SETTLED, curve=by_epoch([0.5, 0.7, 0.8, 0.85] + [0.9] * 11 + [0.3] + [0.1] * 4),
                train_loss=by_epoch([2, 1, 0.8, 0.6, 0.5] + [0.3] * 10 + [2.0] + [2.3] * 4), best_epoch=8),
        "diverged", "the training loss rose with it"),
    "memorised amounts": (
        replace(NUMBERS, train=0.0, train_loss=by_epoch(8100 * np.exp(-np.arange(20.0))),
                val_loss=by_epoch([3000.0 + n % 2 for n in range(20)])),
        "overfitting", "no error on training samples, where a ratio says nothing; the losses are far apart"),
    "never a box found": (
        replace(BOXES, curve=by_epoch([0.0] * 12), val=0.0, score=0.0, train_loss=by_epoch([3.9] * 12),
                val_loss=by_epoch([4.0] * 12)), "underfitting", "the loss never fell"),
    "a noisy climb over a hundred epochs": (
        replace(SETTLED, curve=by_epoch([0.5 + 0.003 * n + 0.01 * (-1) ** n for n in range(100)]), train=0.82, val=0.8,
                lr=by_epoch([0.01] * 100), best_epoch=99), "still improving", "10 points in the last third, ± 1"),
    # Simple models
    "worse than a simple model": (
        replace(SETTLED, split="test", score=0.85, score_samples=2000, baselines=simple_models(0.90)),
        "worse than a baseline", "5 points, of which 2 are uncertain"),
    "within the uncertainty of a simple model": (
        replace(SETTLED, split="test", score=0.89, score_samples=2000, baselines=simple_models(0.90)), "good fit",
        "1 point below is no difference on 2,000 samples"),
}  # fmt: skip


@pytest.mark.parametrize(("evidence", "kind", "why"), HISTORIES.values(), ids=HISTORIES)
def test_the_verdict_on_a_known_history(evidence, kind, why):
    verdict = judge(evidence)
    assert verdict.kind == kind, (why, verdict.reasons)
    assert verdict.reasons
    assert all(verdict.reasons)


def test_a_rise_that_the_schedule_ended_is_a_remark():
    verdict = judge(HISTORIES["climbing, learning rate 0 at the end"][0])
    assert any("78.0 % to 88.0 % while the learning rate fell to 0, which ends the trend" in r for r in verdict.reasons)


def test_without_a_validation_split_one_is_advised():
    evidence = replace(HISTORIES["no validation split"][0], config={"data": {"val": 0}, "train": {"seed": 0}})
    assert [advice.override for advice in judge(evidence).advice] == ["data.val=0.15"]
    assert judge(evidence).reasons[0].startswith("without a validation split, overfitting cannot be distinguished")


def test_models_that_were_left_out_stand_where_the_comparison_is_made():
    ahead = replace(SETTLED, split="test", score=0.90, baselines=simple_models(0.80))
    assert any("it is better than the best simple model, forest: 90.0 %" in r for r in judge(ahead).reasons)
    partial = simple_models(0.80, left_out=("nearest neighbours", "linear SVM"))
    (words,) = (r for r in judge(replace(ahead, baselines=partial)).reasons if "simple model" in r)
    assert words == (
        "on test it is better than the best simple model of those there was time for, forest: 90.0 % against 80.0 %; "
        "left out: nearest neighbours, linear SVM"
    )
    part = replace(partial, rows_there=50_000)
    assert any("forest (on 5,000 of 50,000 rows)" in r for r in judge(replace(ahead, baselines=part)).reasons)


@pytest.mark.parametrize(
    ("counts", "given"),
    [((205, 87, 72), True), ((133, 23, 40), False), ((140, 30, 30), False), ((170, 30, 0), False), ((9, 2, 0), False)],
)
def test_a_larger_share_is_no_advice_where_the_data_name_the_split(tmp_path, counts, given):
    splits = {split: count for split, count in zip(("train", "val", "test"), counts, strict=True) if count}
    scores = {split: {"accuracy": 0.8} for split in splits}
    status = crafted.status("accuracy", "max", scores)
    text = "task: classification\ndata: {name: digits, val: 0.15}\ntrain: {seed: 0}\n"
    files = {"status": status, "metrics": crafted.metrics("accuracy", [0.5, 0.6, 0.7, 0.8]), "resolved.yaml": text}
    run = crafted.craft(tmp_path, summary={"splits": splits}, **files)
    evidence = Evidence.of(Record.read(run))
    assert evidence.val_given == given
    offered = [advice.override for advice in advise("too noisy to tell", evidence)]
    assert ("data.val=0.3" in offered) != given


def test_the_learning_rate_of_a_record_is_that_after_each_epoch(tmp_path):
    values = [0.5, 0.6, 0.7, 0.8]
    entries = crafted.metrics("accuracy", values)
    for entry in entries:
        if entry["split"] == "train":
            entry["lr"] = 0.1 - 0.1 * entry["step"] / 40
    scores = {split: {"accuracy": 0.8} for split in ("train", "val")}
    run = crafted.craft(tmp_path, status=crafted.status("accuracy", "max", scores), metrics=entries)
    evidence = Evidence.of(Record.read(run))
    assert [epoch for epoch, _ in evidence.lr] == [1, 2, 3, 4]
    assert [rate for _, rate in evidence.lr] == pytest.approx([0.075, 0.05, 0.025, 0.0])
    assert judge(evidence).kind != "still improving"
