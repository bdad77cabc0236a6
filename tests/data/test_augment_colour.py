"""Colour changes against torchvision's, one sample at a time."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from mlcli.data.augment import colour
from mlcli.data.randomness import KeyedRandom, sample_keys

FACTORS = torch.tensor([0.0, 0.4, 1.0, 1.7, 3.0])
TURNS = torch.tensor([0.0, 0.1, -0.25, 0.5, -0.49])


def pixels(channels: int, batch: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, channels, 7, 10), dtype=torch.uint8, generator=generator)
    images[:, :, 0] = 77  # a row of grey, where hue is undefined
    return images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "reference", "amounts"),
    [
        (colour.adjust_brightness, functional.adjust_brightness, FACTORS),
        (colour.adjust_contrast, functional.adjust_contrast, FACTORS),
        (colour.adjust_saturation, functional.adjust_saturation, FACTORS),
        (colour.adjust_hue, functional.adjust_hue, TURNS),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_as_torchvision(ours, reference, amounts, channels, dtype):
    images = pixels(channels)
    changed = ours(images.to(dtype), amounts)
    for image, amount, result in zip(images, amounts.tolist(), changed, strict=True):
        expected = reference(image.float() / 255, amount) * 255  # torchvision's floats end at 1
        torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_as_torchvision(channels):
    images = pixels(channels)
    expected = functional.rgb_to_grayscale(images.float(), num_output_channels=channels)
    torch.testing.assert_close(colour.grey(images), expected, rtol=0, atol=1e-3)


def test_random_grey_keeps_type_and_some_colour():
    images = pixels(3, batch=400)
    changed = colour.random_grey(images, KeyedRandom(sample_keys(0, 0, torch.arange(400))), p=0.25)
    is_grey = (changed == changed[:, :1]).flatten(1).all(1)
    assert changed.dtype == torch.uint8
    assert 70 < is_grey.sum() < 130
    assert torch.equal(changed[~is_grey], images[~is_grey])
    reference = functional.rgb_to_grayscale(images[is_grey], num_output_channels=3).int()
    assert (changed[is_grey].int() - reference).abs().max() <= 1  # torchvision cuts decimals off


def test_random_colour_is_the_four_changes_in_order():
    images, keys = pixels(3), sample_keys(0, 0, torch.arange(5))
    spreads = {"brightness": 0.5, "contrast": 2.0, "saturation": 0.3, "hue": 0.1}
    random = KeyedRandom(keys)
    expected = colour.adjust_brightness(images, random.uniform(0.5, 1.5))
    expected = colour.adjust_contrast(expected, random.uniform(0.0, 3.0))
    expected = colour.adjust_saturation(expected, random.uniform(0.7, 1.3))
    expected = colour.adjust_hue(expected, random.uniform(-0.1, 0.1))
    assert torch.equal(colour.random_colour(images, KeyedRandom(keys), **spreads), expected)


def test_random_colour_of_no_spread_returns_what_came_in():
    images = pixels(3)
    assert colour.random_colour(images, KeyedRandom(torch.arange(5)), brightness=0, contrast=0, saturation=0) is images
