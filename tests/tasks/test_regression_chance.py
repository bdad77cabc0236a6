"""The loss of a regression that answers the mean."""

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.tasks.regression.build import build_loss
from mlcli.tasks.regression.config import Loss


@pytest.mark.parametrize(
    ("section", "expected"),
    [({"name": "mse"}, 2.5), ({"name": "l1"}, 1.5), ({"name": "smooth_l1", "beta": 1.0}, (0.5 + 1.5) / 2)],
    ids=["mse", "l1", "smooth_l1"],
)
def test_loss_of_the_mean(section, expected):
    config = TypeAdapter(Loss).validate_python(section)
    criterion, words = build_loss(config)
    assert criterion(torch.zeros(2), torch.tensor([1.0, -2.0])).item() == pytest.approx(expected)
    assert "mean" in words or "variance" in words
