"""The losses against torch, a naive loop and their own equations."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional

from mlcli.errors import ConfigError
from mlcli.tasks.classification.build import build_criterion
from mlcli.tasks.classification.config import Loss
from mlcli.tasks.classification.losses import Criterion, HingeLoss, class_weights

LOSSES: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "cross_entropy_smooth": {"name": "cross_entropy", "label_smoothing": 0.1},
    "hinge": {},
    "hinge_squared": {"name": "hinge", "margin": 0.7, "power": 2},
    "bce": {},
    "bce_smooth": {"name": "bce", "label_smoothing": 0.2},
    "focal": {},
    "focal_low_gamma": {"name": "focal", "gamma": 0.5},
    "mse": {},
    "l1": {},
    "smooth_l1": {},
}
TAKES_BLENDS = [case for case in LOSSES if not case.startswith("hinge")]
BLENDS_LINEARLY = [case for case in TAKES_BLENDS if case not in ("mse", "l1", "smooth_l1")]


def criterion(case: str, weights: Tensor | None = None) -> Criterion:
    return build_criterion(TypeAdapter(Loss).validate_python({"name": case} | LOSSES.get(case, {})), weights)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(12, 5, generator=draw) * 3, torch.randint(5, (12,), generator=draw)


WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5, 0.3])


def naive(case: str, scores: list[float], label: int) -> float:
    """One sample's loss in plain Python."""
    options: dict[str, Any] = {"name": case} | LOSSES[case]
    exps = [math.exp(s) for s in scores]
    p = [e / sum(exps) for e in exps]
    sigmoid = [1 / (1 + math.exp(-s)) for s in scores]
    smoothing, classes = options.get("label_smoothing", 0.0), len(scores)
    gaps = [p[c] - (c == label) for c in range(classes)]
    match options["name"]:
        case "cross_entropy":
            target = [(1 - smoothing) * (c == label) + smoothing / classes for c in range(classes)]
            return -sum(t * math.log(q) for t, q in zip(target, p, strict=True))
        case "hinge":
            margin, power = options.get("margin", 1.0), options.get("power", 1)
            wrong = [s for c, s in enumerate(scores) if c != label]
            return sum(max(0.0, margin - scores[label] + s) ** power for s in wrong)
        case "bce":
            target = [1 - smoothing / 2 if c == label else smoothing / 2 for c in range(classes)]
            terms = [t * math.log(q) + (1 - t) * math.log(1 - q) for t, q in zip(target, sigmoid, strict=True)]
            return -sum(terms) / classes
        case "focal":
            return -((1 - p[label]) ** options.get("gamma", 2.0)) * math.log(p[label])
        case "mse":
            return sum(g * g for g in gaps)
        case "l1":
            return sum(abs(g) for g in gaps)
        case _:
            return sum(g * g if abs(g) < 0.5 else abs(g) - 0.25 for g in gaps)  # beta 0.5: g^2 / (2 beta)


@pytest.mark.parametrize("case", LOSSES)
def test_against_a_naive_loop(case, batch):
    logits, labels = batch
    each = [naive(case, scores, label) for scores, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert criterion(case)(logits, labels).item() == pytest.approx(sum(each) / len(each), rel=1e-5)
    weighted = [loss * WEIGHTS[label].item() for loss, label in zip(each, labels.tolist(), strict=True)]
    assert criterion(case, WEIGHTS)(logits, labels).item() == pytest.approx(sum(weighted) / len(each), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_against_torch(smoothing, batch):
    logits, labels = batch
    ours = build_criterion(TypeAdapter(Loss).validate_python({"name": "cross_entropy", "label_smoothing": smoothing}))
    torch.testing.assert_close(
        ours(logits, labels), functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    )
    blends = torch.rand(12, 5).softmax(dim=1)
    torch.testing.assert_close(
        ours(logits, blends), functional.cross_entropy(logits, blends, label_smoothing=smoothing)
    )


def test_weighted_mean_is_over_samples_not_over_weights(batch):
    logits, labels = batch
    torchs = functional.cross_entropy(logits, labels, weight=WEIGHTS)
    ours = criterion("cross_entropy", WEIGHTS)(logits, labels)
    torch.testing.assert_close(ours, torchs * WEIGHTS[labels].sum() / len(labels))


@pytest.mark.parametrize("power", [1, 2])
def test_hinge_is_torchs_times_the_number_of_classes(power, batch):
    logits, labels = batch
    torchs = functional.multi_margin_loss(logits, labels, p=power, margin=0.7, weight=WEIGHTS, reduction="none")
    torch.testing.assert_close(HingeLoss(0.7, power)(logits, labels) * WEIGHTS[labels], torchs * logits.shape[1])


def test_focal_with_gamma_0_is_cross_entropy(batch):
    focal = build_criterion(TypeAdapter(Loss).validate_python({"name": "focal", "gamma": 0}))
    torch.testing.assert_close(focal(*batch), functional.cross_entropy(*batch))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", LOSSES)
def test_parts_of_a_batch_add_up_to_the_whole(case, weights, batch):
    logits, labels = batch
    loss = criterion(case, weights)
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    whole = logits.clone().requires_grad_()
    loss(whole, labels).backward()
    pieces = logits.clone().requires_grad_()
    total = sum(len(labels[part]) / 12 * loss(pieces[part], labels[part]) for part in parts)
    total.backward()
    torch.testing.assert_close(total, loss(whole, labels))
    torch.testing.assert_close(pieces.grad, whole.grad)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", TAKES_BLENDS)
def test_a_one_hot_row_is_its_label(case, weights, batch):
    logits, labels = batch
    loss = criterion(case, weights)
    torch.testing.assert_close(loss(logits, functional.one_hot(labels, 5).float()), loss(logits, labels))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", BLENDS_LINEARLY)
def test_a_blend_costs_the_blend_of_the_losses(case, weights, batch):
    logits, labels = batch
    loss, others = criterion(case, weights), labels.roll(1)
    blend = 0.3 * functional.one_hot(labels, 5) + 0.7 * functional.one_hot(others, 5)
    torch.testing.assert_close(loss(logits, blend), 0.3 * loss(logits, labels) + 0.7 * loss(logits, others))


@pytest.mark.parametrize("case", ["mse", "l1", "smooth_l1"])
def test_distances_vanish_where_softmax_is_the_blend(case):
    blend = torch.tensor([[0.25, 0.5, 0.25]])
    assert criterion(case)(blend.log(), blend).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1], ids=["right", "wrong"])
@pytest.mark.parametrize("case", LOSSES)
def test_finite_at_extremes(case, label):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = criterion(case)(logits, torch.tensor([label, label]))
    loss.backward()
    assert 0 <= loss < float("inf")
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("case", LOSSES)
def test_float32_under_autocast(case, batch):
    logits, labels = batch
    weights = WEIGHTS
    with torch.autocast("cpu", torch.bfloat16):
        half = criterion(case, weights)(logits.bfloat16(), labels)
    full = criterion(case, weights)(logits.bfloat16().float(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "hinge"])
def test_probabilities_sum_to_one_and_keep_the_order(loss):
    logits = torch.tensor([[1.0, -2.0, 0.5], [-1e4, -1e4, -1e4], [1e4, 0.0, -1e4]])
    p = criterion(loss).loss.probabilities(logits.bfloat16().float())
    assert p.dtype == torch.float32
    torch.testing.assert_close(p.sum(dim=1), torch.ones(3))
    assert (p.argmax(dim=1) == logits.argmax(dim=1)).all()
    if loss == "bce":
        torch.testing.assert_close(p[0], logits[0].sigmoid() / logits[0].sigmoid().sum())


def test_balanced_weights_against_scikit_learn():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights("balanced", labels, 3)
    theirs = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy()))
    torch.testing.assert_close(weights, (theirs / theirs.mean()).float())
    assert weights.mean().item() == pytest.approx(1)


def test_a_class_without_samples_weighs_nothing():
    weights = class_weights("balanced", torch.tensor([0, 0, 2]), 3)
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 0.0, 4 / 3]))


def test_given_weights_must_fit_the_classes():
    assert class_weights("none", torch.tensor([0, 1]), 2) is None
    torch.testing.assert_close(class_weights((1.0, 2.0), torch.tensor([0, 1]), 2), torch.tensor([1.0, 2.0]))
    with pytest.raises(ConfigError, match="2 class weights for 3 classes"):
        class_weights((1.0, 2.0), torch.tensor([0, 1, 2]), 3)
