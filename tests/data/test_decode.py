"""Every kind of image file is decoded to what the policy says, or refused in words; never a signal, never silence."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms.v2 import functional

from mlcli.data import decode
from mlcli.data.decode import Preparation, read_image, read_size
from mlcli.data.inputs import ImageInputs
from mlcli.errors import DataError

COLOURS = {"red": (200, 30, 20), "green": (10, 180, 40), "blue": (30, 40, 210), "yellow": (220, 210, 30)}


def quadrants(size: int = 32) -> Image.Image:
    """Red | green above blue | yellow: shows every turn and mirroring."""
    half = size // 2
    image = Image.new("RGB", (size, size))
    for colour, corner in zip(COLOURS.values(), [(0, 0), (half, 0), (0, half), (half, half)], strict=True):
        image.paste(colour, (*corner, corner[0] + half, corner[1] + half))
    return image


def wide() -> Image.Image:
    """48 x 24: red | green."""
    image = Image.new("RGB", (48, 24), COLOURS["red"])
    image.paste(COLOURS["green"], (24, 0, 48, 24))
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(data, channels: int = 3) -> np.ndarray:
    return np.asarray(read_image(data, channels)).astype(int)


def ramp16() -> np.ndarray:
    return np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("GIF", {}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
    ],
)
def test_formats_give_the_same_picture(kind, options, tolerance):
    found = pixels(encoded(quadrants(), kind, **options))
    assert np.abs(found - np.asarray(quadrants())).max() <= tolerance


def test_cmyk_jpeg_is_not_inverted():
    found = pixels(encoded(quadrants().convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert np.abs(found - np.asarray(quadrants())).max() <= 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.new("L", (4, 4), 77), (77, 77, 77), id="L"),
        pytest.param(Image.new("1", (4, 4), 1), (255, 255, 255), id="1 white"),
        pytest.param(Image.new("1", (4, 4), 0), (0, 0, 0), id="1 black"),
        pytest.param(Image.new("RGB", (4, 4), (200, 30, 20)).quantize(4), (200, 30, 20), id="P"),
        pytest.param(Image.new("LA", (4, 4), (0, 0)), (255, 255, 255), id="LA transparent"),
        pytest.param(Image.new("LA", (4, 4), (100, 255)), (100, 100, 100), id="LA opaque"),
        pytest.param(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255), id="RGBA transparent"),
        pytest.param(Image.new("RGBA", (4, 4), (200, 0, 0, 127)), (228, 128, 128), id="RGBA half"),
    ],
)
def test_modes(image, expected, channels):
    found = pixels(encoded(image, "PNG"), channels)
    if channels == 1:
        red, green, blue = expected
        assert found.shape == (4, 4)
        assert np.abs(found - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1
    else:
        assert np.abs(found - np.array(expected)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "colour", "key"),
    [
        ("RGB", (9, 8, 7), (9, 8, 7)),
        ("L", 9, 9),
        ("P", 3, 3),
        ("P", 3, b"\xff\xff\xff\x00"),
        ("1", 0, 0),
        ("I;16", 9, 9),
    ],
)
def test_transparent_colour_is_white(mode, colour, key):
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    assert (pixels(encoded(image, "PNG", transparency=key)) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind):
    image = Image.fromarray(ramp16())
    found = pixels(encoded(image, kind), channels=1)
    assert len(np.unique(found)) >= 200
    assert np.abs(found - ramp16() / 257).max() <= 1  # PPM files are rounded once more by Pillow


def test_sixteen_bits_big_endian():
    data = b"II*\0"  # only to see that the two byte orders differ in the header
    assert not encoded(Image.fromarray(ramp16().astype(">u2")), "TIFF").startswith(data)
    found = pixels(encoded(Image.fromarray(ramp16().astype(">u2")), "TIFF"), channels=1)
    assert np.abs(found - ramp16() / 257).max() <= 1


def test_floats_from_0_to_1_are_scaled_and_others_refused(tmp_path):
    ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    found = pixels(encoded(Image.fromarray(ramp), "TIFF"), channels=1)
    assert np.abs(found - ramp * 255).max() <= 0.5
    for bad in (ramp * 255, ramp - 0.5, np.full_like(ramp, np.nan)):
        path = tmp_path / "floats.tif"
        path.write_bytes(encoded(Image.fromarray(bad), "TIFF"))
        with pytest.raises(DataError, match="only 0 to 1 can be scaled") as caught:
            read_image(path, 3)
        assert caught.value.where == str(path)


def test_32_bit_values_beyond_16_bits_are_refused():
    image = Image.fromarray(np.array([[0, 70_000]], dtype=np.int32))
    with pytest.raises(DataError, match="0 to 70000"):
        read_image(encoded(image, "TIFF"), 1)


def test_lab_is_converted():
    grey = encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")  # L* 100, no colour
    assert (pixels(grey) >= 250).all()
    assert (pixels(grey, channels=1) >= 250).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_first_frame_of_many(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(pixels(data) - [250, 0, 0]).max() <= 4


# --- orientation -----------------------------------------------------------------------------------------------------


def with_exif_elsewhere(png: bytes, where: str) -> bytes:
    """The same PNG with its EXIF behind the pixels, or as the text that older programs write, before or behind them."""
    chunks, at = [], 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    (exif,) = [content for kind, content in chunks if kind == b"eXIf"]
    moved = (b"eXIf", exif)
    if "text" in where:
        moved = (b"tEXt", b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode()))
    kept = [chunk for chunk in chunks if chunk[0] != b"eXIf"]
    kept.insert(-1 if "behind" in where else 1, moved)
    parts = [struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
             for kind, content in kept]  # fmt: skip
    return png[:8] + b"".join(parts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG, behind", "PNG, text", "PNG, text behind", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(kind, orientation, tmp_path):
    """The upright picture is turned away as each orientation says; reading must bring it back."""
    away = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.new("RGB", (48, 32))
    upright.paste(quadrants().resize((48, 32), Image.Resampling.NEAREST))
    stored = upright.transpose(away[orientation]) if orientation in away else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    kind, _, where = kind.partition(", ")
    data = encoded(stored, kind, exif=exif, **options)
    path = tmp_path / f"turned.{kind}"
    path.write_bytes(with_exif_elsewhere(data, where) if where else data)
    assert np.abs(pixels(path) - np.asarray(upright)).max() <= 6
    assert read_size(path) == (48, 32)
    with decode.opened(path) as image:
        found = decode.orientation(image)
    assert found == orientation
    out = np.empty((3, 32, 48), np.uint8)
    Preparation((32, 48)).decode(path, out, exact=True)
    assert np.abs(out.transpose(1, 2, 0).astype(int) - np.asarray(upright)).max() <= 6


def test_orientation_and_shrunk_decoding_together(tmp_path):
    """A turned photograph large enough to be decoded at 1/8, cut to one quarter, shows that quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    stored = quadrants(1024).crop((0, 0, 1024, 900)).transpose(Image.Transpose.ROTATE_90)
    path.write_bytes(encoded(stored, "JPEG", exif=exif))
    for corner, colour in zip([(0, 0), (0.6, 0), (0, 0.6), (0.6, 0.6)], COLOURS.values(), strict=True):
        out = np.empty((3, 16, 16), np.uint8)
        Preparation((16, 16)).decode_crop(path, (corner[1], corner[0], 0.4, 0.4), out)
        assert np.abs(out.reshape(3, -1).T - np.array(colour)).max() <= 8


# --- damage ----------------------------------------------------------------------------------------------------------

KINDS = [("JPEG", {}), ("PNG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}), ("PPM", {})]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_files_are_refused(kind, options, part, tmp_path):
    data = encoded(noise(), kind, **options)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * part)])
    out = np.empty((3, 8, 8), np.uint8)
    for read in (lambda: read_image(path, 3), lambda: Preparation((8, 8)).decode(path, out)):
        with pytest.raises(DataError, match="damaged") as caught:
            read()
        assert str(path) in caught.value.where
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_tail_cut_off_a_jpeg_that_is_decoded_small():
    data = encoded(noise(640, 480), "JPEG")
    with pytest.raises(DataError, match="truncated"):
        Preparation((16, 16)).decode(data[:-2000], np.empty((3, 16, 16), np.uint8), name="photo")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"  \n<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"just some text", "damaged or not one of JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of"),
        (bytes(1000), "damaged or not one of"),
    ],
)
def test_what_is_no_image_is_named(content, says, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_image(path, 3)
    assert caught.value.where == str(path)
    assert caught.value.code == 4
    with pytest.raises(DataError, match=says):
        read_image(content, 3, name="upload 1")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "gone.png", 3)
    with pytest.raises(DataError, match="folder"):
        read_image(tmp_path, 3)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_decompression_bombs_are_refused_without_a_warning(side):
    """100 and 400 million pixels: Pillow warns of the first and refuses the second."""
    bomb = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # as decode sets it when imported
        with pytest.raises(DataError, match="decompression bomb"):
            read_image(bytes(bomb), 3)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_flipped_bits_give_pixels_or_a_data_error(kind, options):
    """Where this module crashed, the whole test run would end by its signal."""
    data = bytearray(encoded(noise(24, 24), kind, **options))
    flips = random.Random(0)
    refused = 0
    for _ in range(120):
        damaged = bytearray(data)
        damaged[flips.randrange(len(data))] ^= 1 << flips.randrange(8)
        try:
            assert read_image(bytes(damaged), 3).mode == "RGB"
        except DataError:
            refused += 1
    assert refused >= (100 if kind == "PNG" else 0)  # only PNG carries check sums


# --- size and shape --------------------------------------------------------------------------------------------------


def test_crop_keeps_the_middle_and_the_aspect_ratio():
    out = np.empty((3, 24, 24), np.uint8)
    Preparation((24, 24), "crop").decode(encoded(wide(), "PNG"), out)
    assert (out.transpose(1, 2, 0) == np.asarray(wide())[:, 12:36]).all()


def test_stretch_keeps_everything():
    out = np.empty((3, 24, 24), np.uint8)
    Preparation((24, 24), "stretch").decode(encoded(wide(), "PNG"), out)
    assert (out[:, :, :11] == np.array(COLOURS["red"]).reshape(3, 1, 1)).all()
    assert (out[:, :, 13:] == np.array(COLOURS["green"]).reshape(3, 1, 1)).all()


def test_pad_adds_grey_bars():
    out = np.empty((3, 24, 24), np.uint8)
    Preparation((24, 24), "pad").decode(encoded(wide(), "PNG"), out)
    assert (out[:, :6] == 128).all()
    assert (out[:, 18:] == 128).all()
    assert (out[:, 6:18, :11] == np.array(COLOURS["red"]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize("size", [(32, 32), (48, 20), (200, 100)])
def test_resizing_agrees_with_torchvision(size):
    """Resize of the shorter side with antialiasing and centre crop, where no short cut is taken."""
    image = Image.fromarray(np.asarray(noise(90, 60).resize((180, 120), Image.Resampling.BICUBIC)))
    out = np.empty((3, *size), np.uint8)
    Preparation(size).decode(encoded(image, "PNG"), out)
    scale = max(size[0] / 120, size[1] / 180)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    resized = functional.resize(tensor, [round(120 * scale), round(180 * scale)], antialias=True)
    expected = functional.center_crop(resized, list(size))
    assert np.abs(out.astype(int) - expected.numpy()).mean() < 3


def test_short_cuts_stay_faithful():
    """Decoded at a fraction and averaged, a smooth picture differs by a few grey levels from the full computation."""
    image = noise(20, 15).resize((800, 600), Image.Resampling.BICUBIC)
    data = encoded(image, "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).resize((40, 30), Image.Resampling.BILINEAR)
    out = np.empty((3, 30, 40), np.uint8)
    Preparation((30, 40)).decode(data, out)
    assert np.abs(out.transpose(1, 2, 0).astype(int) - np.asarray(full)).max() <= 6


def test_short_cut_is_taken(tmp_path):
    with decode.opened(encoded(noise(800, 600), "JPEG")) as image:
        shrink = decode.draft(image, (800, 600), (0, 0, 800, 600), (30, 40))
        assert shrink == 8
        assert image.size == (100, 75)


def test_short_cut_knows_which_side_is_which_in_a_turned_image():
    """Stored 1600 x 400, upright 400 x 1600, wanted 100 x 400: half the resolution is twice what is wanted."""
    exif = Image.Exif()
    exif[0x0112] = 6
    with decode.opened(encoded(noise(1600, 400), "JPEG", exif=exif)) as image:
        assert decode.draft(image, decode.upright_size(image), (0, 0, 400, 1600), (400, 100)) == 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_region_is_the_cut_out_part(kind):
    image = quadrants(64)
    out = np.empty((3, 8, 8), np.uint8)
    data = encoded(image, kind, **({"subsampling": 0, "quality": 95} if kind == "JPEG" else {}))
    Preparation((8, 8)).decode_crop(data, np.array([2, 34, 28, 28.5]) / 64, out)
    assert np.abs(out.reshape(3, -1).T - np.array(COLOURS["green"])).max() <= 4
    Preparation((8, 8)).decode_crop(data, np.array([0.55, 0.05, 0.4, 0.4], np.float32), out)
    assert np.abs(out.reshape(3, -1).T - np.array(COLOURS["blue"])).max() <= 4


def test_region_reaching_over_the_edge_is_cut_and_one_outside_refused():
    out = np.empty((3, 8, 8), np.uint8)
    data = encoded(quadrants(), "PNG")
    Preparation((8, 8)).decode_crop(data, np.array([20, 20, 40, 40]) / 32, out)
    assert (out == np.array(COLOURS["yellow"]).reshape(3, 1, 1)).all()
    with pytest.raises(DataError, match="outside of 32x32"):
        Preparation((8, 8)).decode_crop(data, np.array([0, 40, 4, 4]) / 32, out)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (65_500, 1), (1, 65_500), (3, 1000)])
def test_extreme_shapes(width, height, fit):
    for kind in ("PNG", "JPEG"):
        out = np.zeros((3, 32, 24), np.uint8)
        Preparation((32, 24), fit).decode(encoded(Image.new("RGB", (width, height), (90, 90, 90)), kind), out)
        assert (out == 90).any()
        assert np.isin(out, (90, 128)).all()


def test_exact_refuses_other_sizes(tmp_path):
    path = tmp_path / "wide.png"
    path.write_bytes(encoded(wide(), "PNG"))
    with pytest.raises(DataError, match=r"48x24 pixels.*other images are 32x32") as caught:
        Preparation((32, 32)).decode(path, np.empty((3, 32, 32), np.uint8), exact=True)
    assert caught.value.where == str(path)
    assert "data.image_size=32" in caught.value.fix


def test_plain_data_round_trip_and_prediction(tmp_path):
    preparation = Preparation((16, 12), "pad", 1)
    assert Preparation.from_plain(preparation.to_plain()) == preparation
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded(noise(seed=number), "PNG"))
    _, batch, _ = ImageInputs(paths, Preparation.from_plain(preparation.to_plain())).read(range(3))
    assert batch.shape == (3, 1, 16, 12)
    out = np.empty((1, 16, 12), np.uint8)
    preparation.decode(paths[2], out)
    assert (batch[2] == out).all()
