"""Plain JPEGs take a faster way, and nobody can tell from the pixels or from what is refused."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from mlcli.data import decode
from mlcli.data.decode import Preparation, read_size
from mlcli.data.jpeg import HEADER, decode_jpeg, read_header, read_jpeg
from mlcli.errors import DataError


def photo(width: int = 90, height: int = 70, mode: str = "RGB") -> Image.Image:
    """Smooth colours, as a photograph's."""
    few = np.random.default_rng(width * height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def with_exif(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a camera"
    return {"exif": exif}


XMP = b'http://ns.adobe.com/xap/1.0/\x00<x tiff:Orientation="6"/>'
PLAIN = {
    "4:2:0": {},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "RGB inside": {"keep_rgb": True, "subsampling": 0},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 2},
    "profile and comment": {"icc_profile": bytes(3000), "comment": b"hello"},
    "EXIF upright": with_exif(1),
}
TURNED = {f"EXIF {orientation}": with_exif(orientation) for orientation in range(2, 9)}
ODD = {"XMP": {"xmp": XMP[29:]}}


@pytest.fixture
def both(monkeypatch):
    """Decodes in the ordinary way and by Pillow alone: pixels, or what was refused in which words."""

    def decoded(data: bytes, channels: int, size: tuple[int, int] | None = None, crop=None):
        found = []
        for read in (read_jpeg, lambda *_: None):
            monkeypatch.setattr(decode, "read_jpeg", read)
            height, width = size or Image.open(io.BytesIO(data)).size[::-1]
            out, prepare = np.zeros((channels, height, width), np.uint8), Preparation((height, width), "stretch")
            prepare = Preparation((height, width), "stretch", channels)
            try:
                prepare.decode(data, out, name="photo") if crop is None else prepare.decode_crop(data, crop, out)
            except DataError as error:
                out = str(error)
            found.append(out)
        return found

    return decoded


@pytest.fixture
def fast(monkeypatch):
    """How many images did not need Pillow's decoder."""
    taken = []

    def counted(*arguments):
        pixels = decode_jpeg(*arguments)
        taken.append(pixels is not None)
        return pixels

    monkeypatch.setattr(decode, "decode_jpeg", counted)
    return taken


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("size", [(90, 70), (91, 71), (8, 5), (1, 1)], ids=str)
def test_plain_files_give_pillows_pixels_without_pillow(both, fast, options, mode, channels, size):
    if mode == "L":
        options = {key: value for key, value in options.items() if key not in ("subsampling", "keep_rgb")}
    here, pillow = both(encoded(photo(*size, mode), **options), channels)
    assert fast == [True]
    assert np.array_equal(here, pillow)


@pytest.mark.parametrize("options", (TURNED | ODD).values(), ids=TURNED | ODD)
def test_turned_files_are_left_to_pillow(both, fast, options):
    here, pillow = both(encoded(photo(), **options), 3, (40, 60))
    assert fast == []
    assert np.array_equal(here, pillow)


@pytest.mark.parametrize("channels", [1, 3])
def test_four_colours_are_left_to_pillow(both, fast, channels):
    here, pillow = both(encoded(photo(mode="CMYK")), channels)
    assert fast == []
    assert np.array_equal(here, pillow)


@pytest.mark.parametrize("crop", [None, (0.1, 0.2, 0.7, 0.5), (0.0, 0.0, 1.0, 0.09)], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (32, 24), (100, 130)], ids=str)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
def test_shrinking_and_cropping_start_from_the_same_pixels(both, fast, options, size, crop):
    """On a picture of odd sides, which are rounded when it is decoded at a fraction of its size."""
    here, pillow = both(encoded(photo(403, 301), **options), 3, size, crop)
    assert fast == [True]
    assert np.array_equal(here, pillow)


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("size", [(16, 9), (17, 16), (33, 64), (403, 301)], ids=str)
def test_a_fraction_is_close_to_the_whole_made_small(size, shrink):
    data = encoded(photo(*size), quality=95, subsampling=0)
    pixels = decode_jpeg(data, read_header(data), 3, shrink)
    assert pixels.shape == (-(-size[1] // shrink), -(-size[0] // shrink), 3)
    rows, columns = size[1] // shrink, size[0] // shrink  # whole blocks
    whole = np.asarray(Image.open(io.BytesIO(data)))[: rows * shrink, : columns * shrink]
    means = whole.reshape(rows, shrink, columns, shrink, 3).mean((1, 3))
    assert np.abs(pixels[:rows, :columns] - means).mean() < 4
    too_small = encoded(photo(15, 9))
    assert decode_jpeg(too_small, read_header(too_small), 3, shrink) is None


@pytest.mark.parametrize("kind", [{}, {"progressive": True}, with_exif(1)], ids=["baseline", "progressive", "EXIF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.99])
def test_cut_off_files_are_refused_by_name(both, kind, part):
    data = encoded(photo(200, 150), quality=90, **kind)
    here, pillow = both(data[: int(part * len(data))], 3, (20, 20))
    assert here == pillow
    assert "photo" in here


@pytest.mark.parametrize("kind", ["4:2:0", "progressive", "restart markers", "EXIF upright"])
def test_damage_is_judged_as_pillow_judges_it(both, kind):
    """Bits flipped or bytes replaced in the header and among the pixels: the same pixels, or the same words."""
    data, dice, refused = encoded(photo(64, 48), **PLAIN[kind]), random.Random(0), 0
    header = data.index(b"\xff\xda") + 14
    for number in range(200):
        damaged = bytearray(data)
        at = dice.randrange(header if number % 3 else len(data))
        damaged[at] = dice.randrange(256) if number % 5 == 0 else damaged[at] ^ (1 << dice.randrange(8))
        here, pillow = both(bytes(damaged), 3, (24, 24))
        assert isinstance(here, str) == isinstance(pillow, str)
        assert here == pillow if isinstance(here, str) else np.array_equal(here, pillow)
        refused += isinstance(here, str)
    assert 10 < refused < 190


# --- files and headers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2**16 - 1, 2**16, 2**16 + 1, 300_000])
def test_files_are_read_to_their_end(tmp_path, size):
    path = tmp_path / "large.jpg"
    data = b"\xff\xd8\xff" + random.Random(0).randbytes(size - 3)
    path.write_bytes(data)
    assert read_jpeg(path) == data
    assert read_jpeg(path, 100) == data[:100]


def test_other_files_are_not_read_here(tmp_path):
    path = tmp_path / "other.jpg"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert read_jpeg(path) is read_jpeg(b"GIF89a") is read_jpeg(tmp_path) is read_jpeg(tmp_path / "gone.jpg") is None


def test_a_header_says_size_and_kind():
    assert read_header(encoded(photo(90, 70))) == (90, 70, 3, True)
    assert read_header(encoded(photo(90, 70, "L"))) == (90, 70, 1, True)
    assert read_header(encoded(photo(90, 70), **with_exif(1))) == (90, 70, 3, False)
    assert read_header(encoded(photo(90, 70, "CMYK"))) is None
    assert read_header(encoded(photo(90, 70))[:50]) is None


@pytest.mark.parametrize(
    "options", [{}, with_exif(6), {"icc_profile": bytes(2 * HEADER)}], ids=["bare", "EXIF", "long"]
)
def test_size_is_read_whatever_stands_before_it(tmp_path, options):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo(90, 70), **options))
    assert read_size(path) == ((70, 90) if "exif" in options else (90, 70))


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    data = encoded(photo(16, 16))
    at = data.index(b"\xff\xc0") + 5
    path = tmp_path / "bomb.jpg"
    path.write_bytes(data[:at] + (20_000).to_bytes(2) * 2 + data[at + 4 :])
    with pytest.raises(DataError, match="decompression bomb"):
        Preparation((8, 8)).decode(path, np.empty((3, 8, 8), np.uint8))
    with pytest.raises(DataError, match="decompression bomb"):
        read_size(path)
