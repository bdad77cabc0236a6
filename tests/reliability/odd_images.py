"""Image files as they are met in the wild, and what decode.py's policy says of each: these pixels, or this refusal."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

SIDE = 32
"""Of every picture that is not odd by its size; what mlcli is told to bring images to, so that nothing is resized."""
COLOURS = ((200, 30, 20), (10, 180, 40), (30, 40, 210), (220, 210, 30))
JPEG_ERROR = 6  # grey levels, on flat colours at quality 95 without subsampling
EXACT = 0


@dataclass(frozen=True)
class Odd:
    """One kind of file.

    pixels: what it must be decoded to, uint8 [3, 32, 32], within `tolerance` grey levels.
    refused: words of the error, where it must not be decoded.
    Neither, for a file whose damage its format cannot show: pixels or an error, but the same of both everywhere.
    """

    name: str
    content: bytes
    pixels: np.ndarray | None = None
    tolerance: float = EXACT
    refused: str = ""


# --- pictures --------------------------------------------------------------------------------------------------------


def quadrants() -> Image.Image:
    """Red | green above blue | yellow: shows every turn and every mirroring."""
    half = SIDE // 2
    image = Image.new("RGB", (SIDE, SIDE))
    for number, colour in enumerate(COLOURS):
        left, top = number % 2 * half, number // 2 * half
        image.paste(colour, (left, top, left + half, top + half))
    return image


def noise(seed: int = 0, side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(image: Image.Image, **options) -> bytes:
    return encoded(image, "JPEG", quality=95, **({"subsampling": 0} if image.mode != "L" else {}), **options)


def colours(values: np.ndarray) -> np.ndarray:
    """Grey [H, W] or colour [H, W, 3], any numbers, as uint8 [3, H, W]."""
    values = np.rint(values).astype(np.uint8)
    return np.stack([values] * 3) if values.ndim == 2 else values.transpose(2, 0, 1)


def flat(red: int, green: int, blue: int) -> np.ndarray:
    return colours(np.broadcast_to((red, green, blue), (SIDE, SIDE, 3)))


UPRIGHT = np.asarray(quadrants()).astype(float)
LUMA = UPRIGHT @ (0.299, 0.587, 0.114)  # ITU-R 601-2, what Pillow's grey is
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
"""1,024 levels from black to white."""


# --- kinds -----------------------------------------------------------------------------------------------------------


def decoded_kinds() -> Iterator[Odd]:
    """Whatever a camera, a scanner, a drawing program or a microscope may write."""
    picture, upright = quadrants(), colours(UPRIGHT)
    yield Odd("baseline.jpg", jpeg(picture), upright, JPEG_ERROR)
    yield Odd("progressive.jpg", jpeg(picture, progressive=True), upright, JPEG_ERROR)
    yield Odd("grey.jpg", jpeg(picture.convert("L")), colours(LUMA), JPEG_ERROR)
    yield Odd("cmyk.jpg", jpeg(picture.convert("CMYK")), upright, 2 * JPEG_ERROR)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Odd("profile.jpg", jpeg(picture, icc_profile=profile), upright, JPEG_ERROR)
    yield Odd("broken_exif.jpg", jpeg(picture, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9)), upright, JPEG_ERROR)
    yield Odd("bytes_behind.jpg", jpeg(picture) + bytes(500), upright, JPEG_ERROR)
    yield Odd("frames.mpo.jpg", _frames("MPO", quality=95), flat(250, 0, 0), JPEG_ERROR)
    yield Odd("bilevel.png", encoded(Image.fromarray(RAMP > 0.5), "PNG"), colours(255 * (RAMP > 0.5)))
    yield Odd("grey_alpha.png", encoded(_over_alpha("LA"), "PNG"), colours(_on_white(LUMA)), 1)
    yield Odd("colour_alpha.png", encoded(_over_alpha("RGBA"), "PNG"), colours(_on_white(UPRIGHT)), 1)
    yield Odd("palette.png", encoded(picture.quantize(4), "PNG"), upright, 1)
    yield Odd("palette_alpha.png", *_palette_with_clear_red())
    yield Odd("clear_colour.png", encoded(picture, "PNG", transparency=COLOURS[0]), colours(_red_made_white()))
    yield Odd(
        "sixteen_bits.png", encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"), colours(RAMP * 255), 1
    )
    big_endian = Image.fromarray((RAMP * 65535).astype(">u2"))
    yield Odd("sixteen_bits_big_endian.tif", encoded(big_endian, "TIFF"), colours(RAMP * 255), 1)
    yield Odd("floats.tif", encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), colours(RAMP * 255), 1)
    yield Odd("lab.tif", encoded(Image.new("LAB", (SIDE, SIDE), (255, 128, 128)), "TIFF"), flat(255, 255, 255), 5)
    yield Odd("pages.tif", _frames("TIFF"), flat(250, 0, 0))
    yield Odd("frames.gif", _frames("GIF"), flat(250, 0, 0))
    yield Odd("frames.webp", _frames("WEBP", lossless=True), flat(250, 0, 0))
    yield Odd("lossless.webp", encoded(picture, "WEBP", lossless=True), upright)
    yield Odd("bitmap.bmp", encoded(picture, "BMP"), upright)
    yield Odd("wrong_ending.jpg", encoded(picture, "PNG"), upright)
    yield Odd("one_pixel.png", encoded(Image.new("RGB", (1, 1), COLOURS[0]), "PNG"), flat(*COLOURS[0]))
    yield Odd("wide.png", encoded(_one_colour_in_the_middle(65_000, 16), "PNG"), flat(*COLOURS[2]))
    yield Odd("high.jpg", jpeg(_one_colour_in_the_middle(65_000, 16).transpose(Image.Transpose.ROTATE_90)),
              flat(*COLOURS[2]), JPEG_ERROR)  # fmt: skip
    for orientation in range(1, 9):
        yield Odd(f"orientation_{orientation}.jpg", _turned_away(orientation), upright, JPEG_ERROR)


def refused_kinds() -> Iterator[Odd]:
    """What is no image, not all of one, or not one that eight bits can hold."""
    photo, png = jpeg(noise()), encoded(noise(), "PNG")
    yield Odd("empty.jpg", b"", refused="the file is empty")
    yield Odd("page.jpg", b"<!DOCTYPE html><html>404</html>", refused="it is a web page")
    yield Odd("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", refused="git lfs pull")
    yield Odd("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", refused="not one of JPEG")
    yield Odd("half.jpg", photo[: len(photo) // 2], refused="damaged")
    yield Odd("cut_tail.jpg", photo[:-60], refused="damaged")
    yield Odd("half.png", png[: len(png) // 2], refused="damaged")
    yield Odd("half.webp", encoded(noise(), "WEBP")[:-400], refused="damaged")
    yield Odd("half.gif", encoded(noise(), "GIF")[:-400], refused="damaged")
    yield Odd("flipped_bit.png", flipped(png, len(png) // 2), refused="damaged")
    yield Odd("bomb.png", _bomb(), refused="decompression bomb")
    yield Odd("bright_floats.tif", encoded(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
              refused="only 0 to 1 can be scaled")  # fmt: skip
    yield Odd("thirty_two_bits.tif", encoded(Image.fromarray((RAMP * 1e6).astype(np.int32)), "TIFF"),
              refused="only 0 to 65535 can be scaled")  # fmt: skip


def undecided_kinds() -> Iterator[Odd]:
    """Pixels without a checksum: a flipped bit in them is another picture, or the end of one."""
    photo = jpeg(noise())
    yield Odd("flipped_bit.jpg", flipped(photo, len(photo) // 2))
    yield Odd("flipped_bit.bmp", flipped(encoded(noise(), "BMP"), 2_000))


def flipped(content: bytes, byte: int, bit: int = 3) -> bytes:
    damaged = bytearray(content)
    damaged[byte] ^= 1 << bit
    return bytes(damaged)


def _frames(kind: str, **options) -> bytes:
    first, *others = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250)))
    return encoded(first, kind, save_all=True, append_images=others, **options)


def _over_alpha(mode: str) -> Image.Image:
    """The quadrants, the less to be seen the further to the left."""
    image = quadrants().convert(mode)
    image.putalpha(Image.fromarray((RAMP.T * 255).astype(np.uint8)))
    return image


def _on_white(values: np.ndarray) -> np.ndarray:
    alpha = (RAMP.T * 255).astype(np.uint8) / 255
    alpha = alpha if values.ndim == 2 else alpha[..., None]
    return values * alpha + 255 * (1 - alpha)


def _red_made_white() -> np.ndarray:
    values = UPRIGHT.copy()
    values[: SIDE // 2, : SIDE // 2] = 255
    return values


def _palette_with_clear_red() -> tuple[bytes, np.ndarray, float]:
    """Four colours, an alpha for each: red is clear, the others are not."""
    image = quadrants().quantize(4)
    palette = image.getpalette() or []
    red = min(range(4), key=lambda entry: abs(palette[3 * entry] - COLOURS[0][0]) + palette[3 * entry + 1])
    alphas = bytes(0 if entry == red else 255 for entry in range(4))
    return encoded(image, "PNG", transparency=alphas), colours(_red_made_white()), 1


def _one_colour_in_the_middle(width: int, height: int) -> Image.Image:
    """Red, with a blue third: `fit: crop` keeps the middle square and brings it to size."""
    image = Image.new("RGB", (width, height), COLOURS[0])
    image.paste(COLOURS[2], (width // 3, 0, 2 * width // 3, height))
    return image


def _turned_away(orientation: int) -> bytes:
    """Stored as a camera held so would; the orientation says how to bring it back."""
    away = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = quadrants() if orientation == 1 else quadrants().transpose(away[orientation])
    return jpeg(stored, exif=exif)


def _bomb() -> bytes:
    """64 pixels whose header says 400 million."""
    bomb = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    bomb[16:24] = struct.pack(">II", 20_000, 20_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    return bytes(bomb)


KINDS = [*decoded_kinds(), *refused_kinds(), *undecided_kinds()]
