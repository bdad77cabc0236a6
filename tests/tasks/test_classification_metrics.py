"""The classification metrics against scikit-learn and a naive calibration error."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch import Tensor

from mlcli.engine.contract import Batch
from mlcli.tasks.classification.metrics import ClassificationMetrics


def measured(p: Tensor, truth: Tensor, batch_size: int = 7) -> ClassificationMetrics:
    metrics = ClassificationMetrics(p.shape[1], [f"c{c}" for c in range(p.shape[1])])
    for rows in torch.arange(len(truth)).split(batch_size):
        metrics.update(p[rows], Batch(None, truth[rows], rows))
    return metrics


def drawn(classes: int, truths: list[int], decimals: int = 8) -> tuple[Tensor, Tensor]:
    """60 samples; few decimals make ties."""
    draw = torch.Generator().manual_seed(classes)
    p = (torch.randn(60, classes, generator=draw) * 2).softmax(dim=1).round(decimals=decimals)
    return p, torch.tensor(truths)[torch.randint(len(truths), (60,), generator=draw)]


CASES = {
    "ten_classes": drawn(10, list(range(10))),
    "with_ties": drawn(10, list(range(10)), decimals=1),
    "truth_lacks_classes": drawn(8, [0, 3, 7]),
    "never_predicted": (drawn(8, [0, 3, 7])[0] * torch.tensor([1, 1, 1, 0, 1, 1, 1, 0]), drawn(8, [0, 3, 7])[1]),
    "class_in_neither": (drawn(4, [0, 1])[0] * torch.tensor([1, 1, 1, 0]), drawn(4, [0, 1])[1]),
    "two_classes": drawn(2, [0, 1]),
}


@pytest.mark.parametrize("case", CASES)
def test_against_scikit_learn(case):
    p, truth = CASES[case]
    scores = measured(p, truth).compute()
    answers = p.numpy().argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, answers, labels=truth.unique(), average="macro", zero_division=0
    )
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, answers))
    assert scores["macro_precision"] == pytest.approx(precision)
    assert scores["macro_recall"] == pytest.approx(recall)
    assert scores["macro_f1"] == pytest.approx(f1)


@pytest.mark.parametrize("case", CASES)
def test_per_class_and_confusion_against_scikit_learn(case):
    p, truth = CASES[case]
    metrics, labels = measured(p, truth), list(range(p.shape[1]))
    answers = p.numpy().argmax(axis=1)
    columns = precision_recall_fscore_support(truth, answers, labels=labels, zero_division=0)
    for row, *theirs in zip(metrics.per_class(), *columns, strict=True):
        theirs = theirs if theirs[-1] else [None, None, None, 0]  # of no sample: not measurable
        assert [row[key] for key in ("precision", "recall", "f1", "support")] == pytest.approx(theirs)
    assert (metrics.confusion.numpy() == confusion_matrix(truth, answers, labels=labels)).all()


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][0].shape[1] > 5])
def test_top_5_against_scikit_learn(case):
    p, truth = CASES[case]
    last = p.shape[1] - 1  # scikit-learn puts the last of equals first; ours the first: mirror the classes
    theirs = top_k_accuracy_score(last - truth, p.flip(1), k=5, labels=range(last + 1))
    assert measured(p, truth).compute()["top5_accuracy"] == pytest.approx(theirs)


def test_top_5_is_never_below_accuracy_when_all_are_equal():
    scores = measured(torch.full((20, 10), 0.1), torch.zeros(20, dtype=torch.int64)).compute()
    assert scores["accuracy"] == scores["top5_accuracy"] == 1


def test_top_5_needs_more_than_5_classes():
    assert "top5_accuracy" not in measured(*drawn(5, [0, 1])).compute()
    assert "top5_accuracy" in measured(*drawn(6, [0, 1])).compute()


def naive_ece(p: Tensor, truth: Tensor) -> float:
    confidence, answers = p.double().max(dim=1)
    error = 0.0
    for m in range(15):
        inside = np.array([m / 15 < c <= (m + 1) / 15 or (m == 0 and c == 0) for c in confidence.tolist()])
        if inside.any():
            hit = (answers == truth).numpy()[inside].mean()
            error += inside.sum() / len(truth) * abs(hit - confidence.numpy()[inside].mean())
    return error


@pytest.mark.parametrize("case", CASES)
def test_calibration_error_against_a_naive_loop(case):
    p, truth = CASES[case]
    assert measured(p, truth).compute()["ece"] == pytest.approx(naive_ece(p, truth), abs=1e-6)


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    assert measured(sure, torch.zeros(10, dtype=torch.int64)).compute()["ece"] == 0
    assert measured(sure, torch.ones(10, dtype=torch.int64)).compute()["ece"] == 1
    assert measured(sure, torch.arange(10) % 2).compute()["ece"] == 0.5


def test_batches_and_merging_change_nothing():
    p, truth = CASES["ten_classes"]
    merged = measured(p[:25], truth[:25])
    merged.merge(measured(p[25:], truth[25:]))
    assert merged.compute() == pytest.approx(measured(p, truth, batch_size=60).compute())
    assert merged.compute() == pytest.approx(measured(p, truth, batch_size=1).compute())


def test_every_metric_has_a_direction_and_plain_numbers():
    metrics = measured(*CASES["ten_classes"])
    scores = metrics.compute()
    assert scores.keys() == metrics.directions.keys()
    assert all(type(score) is float and 0 <= score <= 1 for score in scores.values())
    assert {name for name, direction in metrics.directions.items() if direction == "min"} == {"ece"}


def test_nothing_seen_and_nan_predictions_do_not_crash():
    assert ClassificationMetrics(3, "abc").compute()["accuracy"] == 0
    assert measured(torch.full((4, 3), torch.nan), torch.tensor([0, 1, 2, 0])).confusion.sum() == 4


def test_update_runs_under_inference_mode_and_traces_without_reading_values():
    """A fake tensor has no values: whatever would wait for the device fails on it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.inference_mode():
        metrics = ClassificationMetrics(10, "abcdefghij")
        metrics.update(torch.rand(4, 10), Batch(None, torch.zeros(4, dtype=torch.int64), torch.arange(4)))
