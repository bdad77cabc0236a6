"""The loss of a classifier that knows nothing: the formula against the loss itself."""

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.tasks.classification.build import build_criterion
from mlcli.tasks.classification.config import Loss

LOSS = TypeAdapter(Loss)
SECTIONS = [
    {"name": "cross_entropy"},
    {"name": "cross_entropy", "label_smoothing": 0.2},
    {"name": "bce"},
    {"name": "hinge", "margin": 2.0},
    {"name": "hinge", "margin": 3.0, "power": 2},
    {"name": "focal", "gamma": 1.5},
    {"name": "mse"},
    {"name": "l1"},
    {"name": "smooth_l1", "beta": 0.4},
    {"name": "smooth_l1", "beta": 1.0},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("classes", [2, 7])
def test_the_formula_is_the_loss_of_equal_scores(section, classes):
    config = LOSS.validate_python(section)
    labels = torch.arange(20) % classes
    criterion = build_criterion(config)
    value, words = criterion.at_chance(labels, classes)
    # Any constant added to all scores must not matter, except to bce, which asks each class for itself.
    scores = torch.full((20, classes), 0.0 if config.name == "bce" else 1.3)
    assert value == pytest.approx(criterion(scores, labels).item())
    assert criterion.loss.at_chance(classes)[1] == pytest.approx(value, rel=1e-5)
    assert "weights of classes" not in words


def test_weights_of_classes_count():
    config = LOSS.validate_python({"name": "cross_entropy"})
    value, words = build_criterion(config, torch.tensor([3.0, 1.0])).at_chance(torch.tensor([0, 0, 1, 1]), 2)
    assert value == pytest.approx(2 * 0.693147, rel=1e-5)
    assert words == "ln C = ln 2 = 0.6931, for this batch's weights of classes and blends of labels"
