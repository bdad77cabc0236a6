"""Flips, rotations and affine maps against torchvision's, one sample at a time."""

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from mlcli.data.augment import geometry
from mlcli.data.randomness import KeyedRandom, sample_keys

BILINEAR = InterpolationMode.BILINEAR
ANGLES = torch.tensor([0.0, 17.0, -33.0, 90.0, 179.0])


def pixels(channels: int, height: int, width: int, batch: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("dim", "reference"), [(2, functional.vertical_flip), (3, functional.horizontal_flip)])
def test_flip_as_torchvision(dim, reference, dtype):
    images, chosen = pixels(3, 6, 9).to(dtype), torch.tensor([True, False, True, True, False])
    expected = [reference(image) if flip else image for image, flip in zip(images, chosen, strict=True)]
    assert torch.equal(geometry.flip(images, chosen, dim), torch.stack(expected))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_random_flip_never_and_always(p):
    images, random = pixels(1, 4, 4), KeyedRandom(torch.arange(5))
    assert torch.equal(geometry.random_flip(images, random, p=p, dim=3), images.flip(3) if p else images)


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 8, 13)], ids=str)
def test_rotation_as_torchvision(shape):
    images = pixels(*shape)
    ours = geometry.warp(images, geometry.rotation_map(ANGLES))
    for image, angle, turned in zip(images.float(), ANGLES.tolist(), ours, strict=True):
        torch.testing.assert_close(turned, functional.rotate(image, angle, BILINEAR), rtol=0, atol=5e-3)


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 8, 13)], ids=str)
def test_affine_as_torchvision(shape):
    images = pixels(*shape)
    shifts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, -3.0], [1.0, 2.0], [-2.0, 1.0]])
    scales, shears = torch.tensor([1.0, 1.3, 0.7, 0.9, 1.1]), torch.tensor([0.0, 0.0, 20.0, -10.0, 35.0])
    ours = geometry.warp(images, geometry.affine_map(ANGLES, shifts, scales, shears))
    for row, image in enumerate(images.float()):
        reference = functional.affine(
            image,
            angle=ANGLES[row].item(),
            translate=shifts[row].tolist(),
            scale=scales[row].item(),
            shear=[shears[row].item(), 0.0],
            interpolation=BILINEAR,
        )
        torch.testing.assert_close(ours[row], reference, rtol=0, atol=5e-3)


def test_random_rotation_stays_within_its_bounds_and_uses_them():
    # A white right half: the share of white in the upper right corner pixel's column tells the angle's sign.
    images = pixels(3, 16, 16, batch=200)
    random, same = (KeyedRandom(sample_keys(0, 0, torch.arange(200))) for _ in range(2))
    angles = same.uniform(-20, 20)
    assert angles.min() < -18
    assert angles.max() > 18
    ours = geometry.random_rotation(images, random, degrees=20.0)
    assert torch.equal(ours, geometry.warp(images, geometry.rotation_map(angles)))


def test_random_affine_of_no_spread_changes_nothing():
    still = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
    images = pixels(3, 7, 12)
    ours = geometry.random_affine(images, KeyedRandom(torch.arange(5)), **still)
    torch.testing.assert_close(ours, images.float(), rtol=0, atol=1e-3)


def test_random_affine_shifts_by_shares_of_width_and_height():
    shifts = {"degrees": 0.0, "translate": 0.25, "scale": (1.0, 1.0)}
    images = torch.zeros(300, 1, 40, 80)
    images[:, :, 18:22, 38:42] = 255.0
    moved = geometry.random_affine(images, KeyedRandom(sample_keys(0, 0, torch.arange(300))), **shifts)[:, 0]
    mass = moved.sum((1, 2))
    rows = (moved.sum(2) * torch.arange(40)).sum(1) / mass - 19.5
    columns = (moved.sum(1) * torch.arange(80)).sum(1) / mass - 39.5
    assert 9 < rows.abs().max() < 10.1
    assert 18 < columns.abs().max() < 20.1
    assert rows.min() < 0 < rows.max()
    assert columns.min() < 0 < columns.max()
