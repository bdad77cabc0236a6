"""Images changed by a known amount: exact where it can be, keyed by the sample, nothing where the amount is none."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mlcli.data.changes import KINDS, blurred, changed, views

IMAGES = torch.randint(0, 256, (6, 3, 12, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(6) * 7


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_change_of_a_sample_whatever_its_batch(kind):
    amount = 1.3 if kind == "scale" else 0.2 if kind == "noise" else 2
    whole = changed(IMAGES, kind, amount, INDICES)
    assert whole.shape == IMAGES.shape
    assert whole.dtype == torch.uint8
    assert not torch.equal(whole, IMAGES)
    assert torch.equal(
        torch.cat([changed(IMAGES[i : i + 1], kind, amount, INDICES[i : i + 1]) for i in range(6)]), whole
    )
    assert torch.equal(changed(IMAGES, kind, KINDS[kind].none, INDICES), IMAGES)


def test_a_shift_moves_whole_pixels_to_one_of_four_sides_and_repeats_the_border():
    images = IMAGES.repeat(8, 1, 1, 1)
    moved = changed(images, "shift", 2, torch.arange(48))
    padded = torch.nn.functional.pad(images.float(), [2] * 4, mode="replicate").byte()
    sides = {
        "left": padded[:, :, 2:-2, 4:],
        "right": padded[:, :, 2:-2, :-4],
        "up": padded[:, :, 4:, 2:-2],
        "down": padded[:, :, :-4, 2:-2],
    }
    found = {name: (moved == there).flatten(1).all(1) for name, there in sides.items()}
    assert torch.stack(list(found.values())).sum(0).tolist() == [1] * 48
    assert all(4 <= int(those.sum()) <= 20 for those in found.values())


def test_scale_and_rotation_are_about_the_middle():
    image = torch.zeros(1, 1, 21, 21)
    image[0, 0, 10, 15] = 255
    larger = changed(image, "scale", 2, torch.tensor([0]))
    assert divmod(int(larger.argmax()), 21) == (10, 20)
    turned = changed(image, "rotate", 90, torch.tensor([0]))
    assert divmod(int(turned.argmax()), 21) in ((5, 10), (15, 10))


@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_blur_against_scipy(sigma):
    ours = blurred(IMAGES, sigma)[0, 0].numpy()
    pixels = IMAGES[0, 0].numpy().astype(np.float64)
    theirs = gaussian_filter(pixels, sigma, mode="nearest", radius=int(np.ceil(3 * sigma)))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


def test_noise_has_the_deviation_that_was_asked_for():
    grey = torch.full((50, 1, 20, 20), 127, dtype=torch.uint8)
    noise = changed(grey, "noise", 0.1, torch.arange(50)).float() - 127
    assert noise.std().item() == pytest.approx(25.5, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.5)
    assert not torch.equal(noise[0], noise[1])


def test_views_are_the_image_its_mirror_and_other_sizes():
    assert [
        torch.equal(seen(IMAGES), there) for seen, there in zip(views(["flip"]), (IMAGES, IMAGES.flip(3)), strict=True)
    ]
    seen = [view(IMAGES) for view in views(["flip", "scale"])]
    assert len(seen) == 6
    assert torch.equal(seen[0], IMAGES)
    assert torch.equal(seen[1], IMAGES.flip(3))
    assert len({image.numpy().tobytes() for image in seen}) == 6


@pytest.mark.parametrize(("names", "passes"), [(["shift"], 3), (["flip", "shift"], 6), (["scale", "shift"], 9)])
def test_shifted_views_move_a_pixel_and_count_half_as_much_as_the_unmoved(names, passes):
    asked = views(names)
    assert len(set(asked)) == passes
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    found = [seen(IMAGES) for seen in asked]
    assert all(one.shape == IMAGES.shape and one.dtype == IMAGES.dtype for one in found)
    if names == ["shift"]:
        unmoved, _, down, up = found
        assert asked[0] is asked[1]
        assert torch.equal(unmoved, IMAGES)
        assert torch.equal(down[inside], IMAGES[:, :, 1:-3, 1:-3])
        assert torch.equal(up[inside], IMAGES[:, :, 3:-1, 3:-1])
        assert torch.equal(down[:, :, 0, 1:], IMAGES[:, :, 1, :-1]), "the border is mirrored"
