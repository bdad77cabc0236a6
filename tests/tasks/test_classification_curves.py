"""Precision-recall counts against scikit-learn at the same thresholds."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_curve
from torch import Tensor

from mlcli.tasks.classification import metrics as curves
from mlcli.tasks.classification.metrics import THRESHOLDS, PrecisionRecallCounts


def counted(p: Tensor, truth: Tensor, batch_size: int = 7) -> PrecisionRecallCounts:
    counts = PrecisionRecallCounts(p.shape[1])
    for rows in torch.arange(len(truth)).split(batch_size):
        counts.update(p[rows], truth[rows])
    return counts


def drawn(classes: int, decimals: int | None) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(classes)
    p = (torch.randn(120, classes, generator=draw) * 2).softmax(dim=1)
    return p if decimals is None else p.round(decimals=decimals), torch.randint(classes, (120,), generator=draw)


CASES = {"ten_classes": drawn(10, None), "on_the_thresholds": drawn(4, 2), "two_classes": drawn(2, None)}


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_a_confusion_matrix_at_each_threshold(case):
    p, truth = CASES[case]
    found = counted(p, truth).curves([f"c{c}" for c in range(p.shape[1])])
    thresholds = np.arange(THRESHOLDS, dtype=np.float32) / np.float32(THRESHOLDS - 1)
    assert len(found) == p.shape[1]
    for c in range(p.shape[1]):
        curve = found[f"c{c}"]
        assert curve["threshold"] == pytest.approx(thresholds)
        for place in (0, 1, 10, 29, 57, 99, 100):
            answers = p[:, c].numpy() >= thresholds[place]
            tn, fp, fn, tp = confusion_matrix(truth.numpy() == c, answers, labels=[False, True]).ravel().tolist()
            assert [curve[key][place] for key in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]


@pytest.mark.parametrize("case", CASES)
def test_precision_and_recall_against_scikit_learn(case):
    """Its thresholds are the probabilities that occur; the first at ours or above answers the same samples."""
    p, truth = CASES[case]
    curve = counted(p, truth).curves([f"c{c}" for c in range(p.shape[1])])["c1"]
    precision, recall, theirs = precision_recall_curve(truth.numpy() == 1, p[:, 1].numpy())
    ours = np.arange(THRESHOLDS, dtype=np.float32) / np.float32(THRESHOLDS - 1)
    places = np.searchsorted(theirs, ours)  # beyond all of them: the end point, precision 1 and recall 0
    np.testing.assert_allclose(curve["precision"], precision[places])
    np.testing.assert_allclose(curve["recall"], recall[places])


def test_batches_and_merging_change_nothing():
    p, truth = CASES["ten_classes"]
    names = list("abcdefghij")
    merged = counted(p[:50], truth[:50])
    merged.merge(counted(p[50:], truth[50:]))
    assert merged.curves(names) == counted(p, truth, batch_size=120).curves(names)


def test_the_classes_with_most_samples_are_handed_out_in_label_order():
    p = torch.full((60, 30), 1 / 30)
    truth = torch.tensor([29] * 20 + [28] * 15 + list(range(2, 27)))  # 0, 1 and 27 never occur
    assert list(counted(p, truth).curves([str(c) for c in range(30)])) == [*map(str, range(2, 20)), "28", "29"]
    few = counted(p[:5], torch.tensor([3, 3, 7, 7, 7])).curves([str(c) for c in range(30)])
    assert list(few) == ["3", "7"], "without samples there is no recall"


def test_only_so_many_classes_are_counted(monkeypatch):
    monkeypatch.setattr(curves, "MOST_COUNTED", 4)
    p, truth = CASES["ten_classes"]
    names = [str(c) for c in range(10)]
    found = counted(p, truth).curves(names)
    monkeypatch.undo()
    whole = counted(p, truth).curves(names)
    assert found == {name: whole[name] for name in ("0", "1", "2", "3")}
