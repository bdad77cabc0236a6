"""Answers drawn below images: sizes, and that the caption says what it should."""

import numpy as np
import pytest
from PIL import Image

from mlcli.errors import DataError
from mlcli.tasks.classification.pictures import SURE, UNSURE, annotate, caption


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 8), (320, 320)), ((28, 28), (336, 336)), ((500, 400), (500, 400)), ((3000, 1000), (960, 320))],
    ids=["digit", "mnist", "photo", "large"],
)
def test_the_image_stays_recognisable_above_the_bar(size, expected):
    shown = caption(Image.new("RGB", size, (10, 200, 30)), "7", 0.9)
    assert shown.width == expected[0]
    assert shown.height > expected[1]
    assert colours(shown.crop((0, 0, *expected))) == {(10, 200, 30)}


def test_tiny_images_keep_sharp_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    shown = caption(Image.fromarray(pixels), "7", 0.9)
    assert (np.asarray(shown)[20:320:40, 20:320:40, 0] == pixels).all()


@pytest.mark.parametrize(("probability", "colour"), [(0.9, SURE), (0.3, UNSURE)], ids=["sure", "unsure"])
def test_the_line_is_as_long_as_the_probability(probability, colour):
    shown = np.asarray(caption(Image.new("RGB", (500, 500)), "7", probability)).astype(int)
    line = (abs(shown - np.array(colour)).sum(axis=2) < 10).sum(axis=1).max()
    assert line == pytest.approx(500 * probability, rel=0.15)


@pytest.mark.parametrize("size", [(8, 8), (300, 20), (20, 300)], ids=["tiny", "wide", "narrow"])
def test_any_label_fits_any_shape(size):
    shown = caption(Image.new("L", size), "a very long name of a class that no bar can hold " * 5, 1.0)
    edge = np.asarray(shown)[-20:, -4:]
    assert (edge == 255).all(), "nothing is drawn up to the edge"


def test_the_file_is_read_as_the_model_sees_it(tmp_path):
    image = Image.new("RGB", (400, 200), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    shown = annotate(tmp_path / "turned.jpg", "red", 0.5)
    assert shown.width < shown.height
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError):
        annotate(tmp_path / "bad.jpg", "red", 0.5)
