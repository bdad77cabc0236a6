"""Images that show the same: the search beside one that compares everything, and what must not be taken for a copy."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits, load_sample_images

from mlcli.data import likeness
from mlcli.data.likeness import equal_groups, near_pairs, perceptual_hashes, propose


def pixels(images: list[Image.Image]) -> np.ndarray:
    """uint8 [N, 3, 32, 32]"""
    resized = [image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in resized])


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    """60 parts of two photographs, 96x80 pixels each; sky and leaves are as alike as such things are."""
    parts = [
        Image.fromarray(photo[top : top + 80, left : left + 96])
        for photo in load_sample_images().images
        for top in range(0, 345, 85)
        for left in range(0, 540, 106)
    ]
    assert len(parts) == 60
    return parts


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file)


CHANGES = {
    "compressed": (lambda image: jpeg(image, 50), "same"),
    "smaller": (lambda image: image.resize((60, 50), Image.Resampling.LANCZOS), "same"),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.7), "same"),
    "grey": (lambda image: image.convert("L"), "near"),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
    "cut": (lambda image: image.crop((2, 2, 94, 78)), "near"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_nothing_else(photos, change):
    changed, kind = CHANGES[change]
    found = near_pairs(pixels([*photos, changed(photos[7])]))
    assert found.pairs.tolist() == [[7, 60]]
    assert bool(found.mirrored[0]) == (kind == "mirrored")
    if kind == "same":
        assert found.same[0]


def test_different_pictures_are_not_alike(photos):
    assert len(near_pairs(pixels(photos)).pairs) == 0


def test_similar_things_are_no_copies():
    """Handwritten digits of one class are as alike as a hash can see, and still 1,797 different ones."""
    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    found = near_pairs(pixels([Image.fromarray(digit) for digit in digits]))
    assert len(found.pairs) <= 2
    assert not found.same.any()


def blobs(count: int) -> list[Image.Image]:
    """Ellipses near the middle of a picture of one colour, noisy: as alike as cells or X-rays."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:32, 0:32]
    pictures = []
    for _ in range(count):
        (left, top), radius, longer = random.normal(16, 0.8, 2), random.normal(6, 0.8), random.normal(1, 0.1)
        away = np.hypot((x - left) * longer, y - top) - radius
        levels = 200 / (1 + np.exp(away)) + random.normal(0, 1, (32, 32)) + 10
        pictures.append(Image.fromarray(levels.clip(0, 255).astype(np.uint8)))
    return pictures


def test_in_a_dense_set_only_what_cannot_be_chance_is_a_copy():
    pictures = blobs(400)
    found = near_pairs(pixels(pictures))
    assert len(found.pairs) <= 1
    assert not found.same.any()
    brighter = [picture.point(lambda level: level + 2) for picture in pictures[:8]]
    found = near_pairs(pixels(pictures + brighter))
    same = {tuple(pair) for pair in found.pairs[found.same].tolist()}
    assert same == {(number, 400 + number) for number in range(8)}


def test_equal_groups_are_exact(photos):
    stack = pixels(photos[:6])
    stack = np.concatenate([stack, stack[[1, 4, 1]]])
    sizes = np.full((9, 2), 32)
    assert [group.tolist() for group in equal_groups(stack, sizes)] == [[1, 6, 8], [4, 7]]
    stack[8, 0, 0, 0] ^= 1
    assert [group.tolist() for group in equal_groups(stack, sizes)] == [[1, 6], [4, 7]]
    sizes[7] = 64
    assert [group.tolist() for group in equal_groups(stack, sizes)] == [[1, 6]]


def every_pair(hashes: np.ndarray, others: np.ndarray, bits: int) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(others))
        if (int(hashes[i]) ^ int(others[j])).bit_count() <= bits
    }


def close_hashes(seed: int) -> np.ndarray:
    """200 random hashes, each followed by itself with up to 16 bits flipped."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, 200, dtype=np.uint64)
    flipped = []
    for value in hashes.tolist():
        for bit in random.choice(64, random.integers(0, 17), replace=False).tolist():
            value ^= 1 << bit
        flipped.append(value)
    return np.stack([hashes, np.array(flipped, dtype=np.uint64)], axis=1).ravel()


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_all_within_seven_bits_and_nothing_beyond_twelve(seed):
    hashes = close_hashes(seed)
    found = set(map(tuple, propose(hashes, hashes).tolist()))
    assert every_pair(hashes, hashes, 7) <= found <= every_pair(hashes, hashes, 12)
    assert len(every_pair(hashes, hashes, 7)) > 50


def test_too_many_proposals_narrow_the_search(monkeypatch):
    monkeypatch.setattr(likeness, "MOST_PROPOSED", 500)
    hashes = close_hashes(0)
    found = set(map(tuple, propose(hashes, hashes).tolist()))
    assert found
    assert found <= every_pair(hashes, hashes, 4)


def test_hashes_bear_brightness_and_compression(photos):
    def hashes(images: list[Image.Image]) -> np.ndarray:
        return perceptual_hashes(pixels(images).astype(np.float32).mean(axis=1))

    first = hashes(photos)
    for changed in (lambda image: jpeg(image, 60), lambda image: ImageEnhance.Brightness(image).enhance(0.8)):
        apart = np.bitwise_count(first ^ hashes([changed(image) for image in photos]))
        assert np.median(apart) <= 4
        assert (apart <= 12).mean() > 0.85  # a clear sky has no shape to be known by
    strangers = np.bitwise_count(first[:, None] ^ first[None])[np.triu_indices(len(first), 1)]
    assert np.median(strangers) > 20
