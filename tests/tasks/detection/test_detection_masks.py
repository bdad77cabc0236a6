"""Masks pasted into pictures, against torchvision and by area."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mlcli.tasks.detection import masks
from mlcli.tasks.detection.masks import INSIDE, UNCODED, decode, pasted, run_length


def paste(mask, box, height: int, width: int) -> np.ndarray:
    """One object's pixels: bool [height, width]."""
    (code,), (area,) = pasted(mask[None], np.array([box], dtype=np.float64), np.array([[width, height]]))
    pixels = decode(code, height, width)
    assert area == pixels.sum()
    return pixels


def one_by_one(mask: torch.Tensor, box: list[float], height: int, width: int) -> np.ndarray:
    """The same in the plainest way, a loop over objects and all of the picture's pixels in view."""
    canvas = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = box
    first_x, end_x = max(0, int(left)), min(width, int(np.ceil(right)))
    first_y, end_y = max(0, int(top)), min(height, int(np.ceil(bottom)))
    if first_x >= end_x or first_y >= end_y or right <= left or bottom <= top:
        return canvas
    x = (torch.arange(first_x, end_x) + 0.5 - left) / (right - left) * 2 - 1
    y = (torch.arange(first_y, end_y) + 0.5 - top) / (bottom - top) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    values = functional.grid_sample(mask[None, None].float(), grid[None], align_corners=False)[0, 0]
    canvas[first_y:end_y, first_x:end_x] = (values >= INSIDE).numpy()
    return canvas


def random_objects(count: int, seed: int):
    """Maps, boxes in and around pictures of several sizes, and those sizes; some fill a picture, some have no area."""
    numbers = np.random.default_rng(seed)
    sizes = numbers.integers(1, 200, (count, 2))
    low = numbers.uniform(-0.3, 1, (count, 2)) * sizes
    boxes = np.concatenate([low, low + numbers.exponential(0.5, (count, 2)) * sizes], axis=1)
    boxes[: count // 8, :2], boxes[: count // 8, 2:] = 0, sizes[: count // 8]  # runs go on from column to column
    boxes[-count // 8 :] = boxes[-count // 8 :].round()
    boxes[-3:] = [[5, 5, 5, 9], [30, 30, 20, 20], [np.nan] * 4]
    maps = torch.rand(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    maps = functional.interpolate(maps, size=(28, 28), mode="bilinear")[:, 0]
    maps[: count // 16] = 1
    return maps.half(), boxes, sizes


@pytest.mark.parametrize("together", [1 << 19, 3000])
def test_masks_are_pasted_and_coded_in_bulk_as_they_are_one_by_one(together, monkeypatch):
    monkeypatch.setattr(masks, "PASTED_TOGETHER", together)
    maps, boxes, sizes = random_objects(300, seed=together)
    plain = [
        one_by_one(mask, np.nan_to_num(box).tolist(), int(height), int(width))
        for mask, box, (width, height) in zip(maps, boxes, sizes, strict=True)
    ]
    codes, areas = pasted(maps, boxes, sizes)
    assert codes == [run_length(mask) for mask in plain]
    assert areas.tolist() == [mask.sum() for mask in plain]
    assert sum(mask.all() for mask in plain) > 3 < sum(not mask.any() for mask in plain)
    coded = np.random.default_rng(0).random(len(codes)) < 0.5
    some, same_areas = pasted(maps, boxes, sizes, coded)
    assert some == [code if needed else UNCODED for code, needed in zip(codes, coded, strict=True)]
    assert (same_areas == areas).all()


def test_no_objects_have_no_masks():
    codes, areas = pasted(torch.zeros(0, 28, 28), np.zeros((0, 4)), np.zeros((0, 2), dtype=np.int64))
    assert (codes, len(areas)) == ([], 0)


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
