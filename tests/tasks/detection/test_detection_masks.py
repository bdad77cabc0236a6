"""Masks pasted into pictures, against torchvision and by area."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mlcli.tasks.detection.masks import decode, paste, run_length


def disc(side: int = 28) -> torch.Tensor:
    v, u = torch.meshgrid(*[(torch.arange(side) + 0.5) / side * 2 - 1] * 2, indexing="ij")
    return torch.sigmoid(20 * (0.9 - (u**2 + v**2).sqrt()))


@pytest.mark.parametrize(
    "box", [[10.0, 20, 70, 60], [10.4, 20.7, 70.2, 60.5], [-20.0, 5, 50, 90], [60.0, 60, 140, 130]]
)
def test_masks_lie_where_torchvision_puts_them(box):
    theirs = paste_masks_in_image(disc()[None, None], torch.tensor([box]), (100, 120))[0, 0].numpy() >= 0.5
    ours = paste(disc(), torch.tensor(box), 100, 120)
    assert ours.shape == (100, 120)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.93  # torchvision rounds the box to whole pixels first


def test_an_ellipse_has_its_area_and_centre():
    mask = paste(disc(), torch.tensor([20.0, 10, 100, 70]), 90, 120)
    rows, columns = np.nonzero(mask)
    assert mask.sum() == pytest.approx(np.pi * 36 * 27, rel=0.02)
    assert (columns.mean() + 0.5, rows.mean() + 0.5) == (pytest.approx(60, abs=0.1), pytest.approx(40, abs=0.1))


@pytest.mark.parametrize(
    "box", [[5.0, 5, 5, 9], [200.0, 10, 240, 50], [30.0, 30, 20, 20]], ids=["line", "off", "swapped"]
)
def test_boxes_without_pixels_have_empty_masks(box):
    assert paste(disc(), torch.tensor(box), 60, 60).sum() == 0


def test_run_length_codes_are_read_back():
    mask = np.random.default_rng(0).random((13, 7)) < 0.4
    assert (decode(run_length(mask), 13, 7) == mask).all()
