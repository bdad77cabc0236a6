"""The part of a picture that is wanted, against Pillow's and torchvision's idea of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from mlcli.data.resize import resize


def noise(height: int, width: int, channels: int) -> np.ndarray:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def resized(pixels: np.ndarray, box, size: tuple[int, int]) -> np.ndarray:
    """[H, W, C], as whole numbers that can be subtracted."""
    out = np.zeros((3 if pixels.ndim == 3 else 1, *size), np.uint8)
    resize(pixels, box, out)
    return out.transpose(1, 2, 0).astype(int)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(24, 24), (7, 50), (90, 70), (44, 66)], ids=str)
@pytest.mark.parametrize("edges", [(60, 40), (59.5, 39.5), (59.125, 40)], ids=str)
def test_pillow_agrees_within_one_grey_level(channels, size, edges):
    """Also where the last pixels count in part: a picture of odd sides decoded at a half."""
    pixels, box = noise(40, 60, channels), (0.0, 0.0, *map(float, edges))
    expected = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR, box=box)).astype(int)
    found = resized(pixels, box, size)
    assert np.abs(found - expected.reshape(found.shape)).max() <= 1


@pytest.mark.parametrize("box", [(5.0, 3.0, 45.0, 33.0), (0.0, 0.0, 1.0, 1.0), (59.0, 39.0, 60.0, 40.0)], ids=str)
def test_torchvision_cuts_and_resizes_likewise(box):
    pixels = noise(40, 60, 3)
    left, top, right, bottom = map(int, box)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = functional.resized_crop(planes, top, left, bottom - top, right - left, [24, 24], antialias=True)
    assert (resized(pixels, box, (24, 24)) == expected.permute(1, 2, 0).numpy()).all()


def test_a_part_of_the_wanted_size_is_copied():
    pixels = noise(40, 60, 3)
    assert (resized(pixels, (10.0, 5.0, 34.0, 29.0), (24, 24)) == pixels[5:29, 10:34]).all()
    assert (resized(pixels, (0.0, 0.0, 60.0, 40.0), (40, 60)) == pixels).all()


@pytest.mark.parametrize("box", [(59.6, 39.6, 60.0, 40.0), (0.0, 0.0, 0.01, 0.01), (58.5, 0.5, 60.0, 39.9)], ids=str)
def test_slivers_at_the_edge_show_what_is_there(box):
    found = resized(np.full((40, 60, 3), 77, np.uint8), box, (16, 16))
    assert (found == 77).all()
