"""Crops and cutout against torchvision and naive loops."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop as Reference
from torchvision.transforms.v2 import functional

from mlcli.data.augment import geometry as crop
from mlcli.data.randomness import KeyedRandom, sample_keys

RANDOM = torch.Generator().manual_seed(0)


def pixels(batch: int, channels: int, height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=RANDOM)


def keyed(batch: int) -> KeyedRandom:
    return KeyedRandom(sample_keys(0, 0, torch.arange(batch)))


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect"), ("edge", "edge")])
@pytest.mark.parametrize("shape", [(1, 5, 9), (3, 8, 8)], ids=str)
def test_pad_as_torchvision(fill, mode, shape):
    images = pixels(2, *shape)
    assert torch.equal(crop.pad(images, 4, fill), functional.pad(images, [4], padding_mode=mode))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 9, 5), (3, 8, 8)], ids=str)
def test_crop_as_torchvision(dtype, shape):
    images = pixels(6, *shape).to(dtype)
    top, left = torch.tensor([0, 1, 2, 3, 0, 3]), torch.tensor([2, 0, 1, 2, 0, 1])
    height, width = shape[1] - 3, shape[2] - 2
    ours = crop.crop(images, top, left, (height, width))
    for image, cut, row, column in zip(images, ours, top.tolist(), left.tolist(), strict=True):
        assert torch.equal(cut, functional.crop(image, row, column, height, width))


def test_random_crop_reaches_every_place_equally_often():
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    image = (rows * 5 + columns + 1).to(torch.uint8).expand(4000, 1, 5, 5)
    middle = crop.random_crop(image, keyed(4000), padding=1, fill="edge")[:, 0, 2, 2].long() - 1
    counts = torch.bincount(middle, minlength=25).view(5, 5)[1:4, 1:4]
    assert counts.sum() == 4000
    assert stats.chisquare(counts.flatten().numpy()).pvalue > 1e-3


# --- resized crop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(9, 9), (7, 12)])
def test_resized_crop_as_torchvision(height, width):
    images = pixels(4, 3, height, width)
    boxes = torch.tensor([[0, 0, height, width], [2, 3, 4, 5], [1, 0, 1, 6], [height - 2, width - 1, 2, 1]])
    fractions = boxes / torch.tensor([height, width, height, width])
    ours = crop.resized_crop(images, fractions)
    for image, cut, box in zip(images.float(), ours, boxes.tolist(), strict=True):
        reference = functional.resized_crop(image, *box, size=[height, width], antialias=False)
        torch.testing.assert_close(cut, reference, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("width", "height"), [(400, 400), (640, 320), (300, 900)])
def test_boxes_are_distributed_as_torchvisions(width, height):
    ours = crop.sample_crop_boxes(keyed(2000), width / height).numpy()
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)
    drawn = [Reference.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    theirs = np.array(drawn) / [height, width, height, width]
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]).pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= 1 + 1e-6).all()


@pytest.mark.parametrize("aspect", [0.05, 20.0])
def test_image_too_long_for_any_box_gives_the_largest_centred_one(aspect):
    width, height = (round(400 * aspect), 400) if aspect < 1 else (400, round(400 / aspect))
    top, left, tall, wide = Reference.get_params(torch.zeros(1, height, width), [1.0, 1.0], [0.5, 2.0])
    expected = torch.tensor([top / height, left / width, tall / height, wide / width])
    boxes = crop.sample_crop_boxes(keyed(3), torch.tensor([aspect] * 3), area=(1.0, 1.0), ratio=(0.5, 2.0))
    torch.testing.assert_close(boxes, expected.expand(3, 4), rtol=0, atol=0.01)


def test_each_image_has_its_own_aspect():
    together = crop.sample_crop_boxes(keyed(2), torch.tensor([0.5, 2.0]))
    assert torch.equal(together[:1], crop.sample_crop_boxes(keyed(2), 0.5)[:1])
    assert torch.equal(together[1:], crop.sample_crop_boxes(keyed(2), 2.0)[1:])


# --- cutout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_cutout_blanks_one_square_around_any_pixel(size):
    images = torch.zeros(3000, 2, 6, 7, dtype=torch.uint8)
    blank = crop.cutout(images, keyed(3000), size=size, p=1.0, fill=torch.tensor([100.4, 200.6]))
    assert set(blank[:, 0].unique().tolist()) <= {0, 100}
    assert set(blank[:, 1].unique().tolist()) <= {0, 201}
    expected = {naive_square(row, column, size, 6, 7) for row in range(6) for column in range(7)}
    assert {image.numpy().tobytes() for image in blank[:, 0] > 0} == expected


def naive_square(row: int, column: int, size: int, height: int, width: int) -> bytes:
    square = np.zeros((height, width), dtype=bool)
    top, left = row - size // 2, column - size // 2
    for y in range(max(top, 0), min(top + size, height)):
        for x in range(max(left, 0), min(left + size, width)):
            square[y, x] = True
    return square.tobytes()


def test_cutout_has_its_probability():
    images = torch.zeros(2000, 1, 4, 4, dtype=torch.uint8)
    blanked = crop.cutout(images, keyed(2000), size=2, p=0.3, fill=torch.tensor([9.0])).flatten(1).any(1)
    assert stats.binomtest(int(blanked.sum()), 2000, 0.3).pvalue > 1e-3
