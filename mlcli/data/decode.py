"""Image files to 8-bit pixels: the one place that decodes, and its written policy. Nothing here loads torch to look.

torchvision's decoder ended the process by SIGSEGV on 59 of 60 PNGs with a flipped bit; Pillow raised an error on each.

| what the file holds                     | what comes out                                                            |
|-----------------------------------------|---------------------------------------------------------------------------|
| EXIF orientation 1-8 (also from XMP)    | applied once; every size and box below means the upright image            |
| grey (L), bilevel (1), palette (P)      | converted; grey to colour repeats it, colour to grey is ITU-R 601-2 luma  |
| alpha (LA, RGBA), a transparent colour  | laid over white: pictures with alpha are mostly drawn for a white page    |
| CMYK, YCCK                              | converted to RGB without a colour profile; embedded profiles are ignored  |
| LAB                                     | converted to sRGB                                                         |
| 16 bits of grey (I;16, I)               | 0..65535 scaled to 0..255, never clipped; values outside are refused      |
| floats (F)                              | 0..1 scaled to 0..255; all else is refused, its range being unknown       |
| animation, pages (GIF, WebP, TIFF, MPO) | the first frame                                                           |
| truncated, damaged                      | DataError, as far as Pillow can tell (a JPEG's pixels have no checksum);  |
|                                         | half a picture is not data, so LOAD_TRUNCATED_IMAGES stays False          |
| more than 89 million pixels             | DataError: a decompression bomb                                           |
| empty file, web page, other formats     | DataError                                                                 |
| a pipe, a device, a file beyond 1 GiB   | DataError, before a byte of it is read                                    |

Plain JPEGs go through libjpeg-turbo directly (`jpeg`), which gives the same pixels; what it does not take or does not
find flawless is Pillow's to judge, as is everything else.

One short cut keeps large photographs cheap: JPEGs are decoded at 1/2, 1/4 or 1/8 size (by their DCT), while twice the
wanted resolution remains. On a photograph of 640x427 brought to 32x32 that is 0.4 grey levels off on average, and 4 at
most.
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mlcli.data.jpeg import HEADER, MOST_FILE_BYTES, decode_jpeg, read_header, read_jpeg
from mlcli.data.resize import Box, clamped, middle, resize, shrunk, wanted
from mlcli.errors import DataError
from mlcli.reading import is_handed_over, open_regular, read_file
from mlcli.text import as_text

ImageSource = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
"""All formats that are ever opened, and how names of such files end. Pillow knows more formats, but some (EPS) start
another program to be read."""
EXTENSIONS = tuple(ending for endings in ENDINGS.values() for ending in endings)
OTHER_PICTURES = (".heic", ".heif", ".avif", ".jp2", ".tga", ".psd", ".svg", ".dng", ".cr2", ".nef", ".dcm")
"""Endings of pictures as well, but of formats that are not read."""
CONVERT = "convert them to JPEG or PNG, with ImageMagick for example: magick mogrify -format jpg FOLDER/*"
MAX_PIXELS = 2**28 // 3  # a quarter of a GiB as RGB, where Pillow begins to warn
PAD_VALUE = 128  # middle grey, next to zero after normalisation
_ORIENTATION = 0x0112  # EXIF's tag
_RAW_EXIF = "Raw profile type exif"
"""Under this word older programs keep EXIF in a PNG, as text."""
_MOST_CHUNKS = 100_000

# `opened` refuses bombs itself, at the size from which Pillow only warns.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Preparation:
    """Conversion of images of any size to pixels of one shape. `Preparation.from_plain(p.to_plain()) == p`

    image_size: (height, width) in pixels.
    fit: crop (shorter side resized, middle kept), stretch (aspect ratio lost), pad (longer side resized, grey bars).
    channels: 3 for RGB, 1 for grey.
    """

    image_size: tuple[int, int]
    fit: Literal["crop", "stretch", "pad"] = "crop"
    channels: Literal[1, 3] = 3

    def to_plain(self) -> dict[str, Any]:
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Preparation":
        height, width = plain["image_size"]
        return cls((height, width), plain["fit"], plain["channels"])

    def decode(self, source: ImageSource, out: np.ndarray, *, name: str = "", exact: bool = False) -> None:
        """Write the image into `out`, uint8 [C, H, W]. `exact` refuses images that are not of `image_size` already.

        `name` stands for the source in errors. Raises DataError.
        """

        def whole_or_middle(width: int, height: int) -> Box:
            if exact and (height, width) != self.image_size:
                what = f"image is {width}x{height} pixels, but the data set's other images are "
                what += f"{self.image_size[1]}x{self.image_size[0]}"
                fix = f"set data.image_size, for example data.image_size={max(self.image_size)}"
                raise DataError(what, where=_name_of(source, name), fix=fix)
            return middle(width, height, self.image_size) if self.fit == "crop" else (0.0, 0.0, width, height)

        pixels, box = self._decoded(source, whole_or_middle, name)
        height, width = self.image_size
        if self.fit == "pad":
            scale = min(width / (box[2] - box[0]), height / (box[3] - box[1]))
            width = max(1, round((box[2] - box[0]) * scale))
            height = max(1, round((box[3] - box[1]) * scale))
            out[...] = PAD_VALUE
        top, left = (self.image_size[0] - height) // 2, (self.image_size[1] - width) // 2
        resize(pixels, box, out[:, top : top + height, left : left + width])

    def decode_crop(self, source: ImageSource, crop: Sequence[float], out: np.ndarray) -> None:
        """Cut a box out, (top, left, height, width) in shares 0..1 of the upright image, and resize it to fill `out`.

        Raises DataError.
        """
        top, left, height, width = map(float, crop)

        def box_in(w: int, h: int) -> Box:
            return clamped(left * w, top * h, (left + width) * w, (top + height) * h, w, h)

        resize(*self._decoded(source, box_in, ""), out)

    def decode_part(self, source: ImageSource, box: Sequence[float], out: np.ndarray) -> None:
        """Cut a box out, in pixels of the upright image, and resize it to fill `out`. Raises DataError."""
        left, top, right, bottom = map(float, box)
        resize(*self._decoded(source, lambda width, height: clamped(left, top, right, bottom, width, height), ""), out)

    def _decoded(self, source: ImageSource, choose: Callable[[int, int], Box], name: str) -> tuple[np.ndarray, Box]:
        """The pixels, [H, W, 3] or [H, W], perhaps at a fraction of their size, and the chosen box in them."""
        data = read_jpeg(source)
        if data is not None:
            name, source = _name_of(source, name), data  # read once, whoever decodes it
            found = self._decoded_plain(data, choose, name)
            if found is not None:
                return found
        shrink = 1.0
        with opened(source, name) as image:
            if image.format in ("JPEG", "MPO"):
                size = upright_size(image)
                shrink = draft(image, size, choose(*size), self.image_size)
            else:
                size = None  # an orientation may stand behind the pixels (PNG), so it is known only after loading
            upright = _upright(image)
            box = choose(*(size or upright.size))
            pixels = np.array(_in_mode(upright, self.channels))
        return pixels, shrunk(box, shrink, pixels)

    def _decoded_plain(
        self, data: bytes, choose: Callable[[int, int], Box], name: str
    ) -> tuple[np.ndarray, Box] | None:
        """The same for a JPEG that needs neither Pillow's eye nor its mercy; None for any other."""
        header = read_header(data)
        if header is None or header.width * header.height > MAX_PIXELS:
            return None
        if not header.is_bare:
            with opened(data, name) as image:
                if image.size != header[:2] or image.getexif().get(_ORIENTATION, 1) in range(2, 9):
                    return None
        try:
            box = choose(header.width, header.height)
        except DataError as error:
            error.where = error.where or name
            raise
        wanted_width, wanted_height = wanted((header.width, header.height), box, self.image_size)
        scale = min(header.width // wanted_width, header.height // wanted_height)
        shrink = 1 if scale < 2 else 2 if scale < 4 else 4 if scale < 8 else 8  # as Pillow's draft
        pixels = decode_jpeg(data, header, self.channels, shrink)
        if pixels is None:
            return None
        if pixels.ndim == 3 and self.channels == 1:
            pixels = np.array(Image.fromarray(pixels).convert("L"))
        return pixels, shrunk(box, shrink, pixels)


def read_image(source: ImageSource, channels: int, *, name: str = "") -> Image.Image:
    """The whole upright image at its own size, in mode RGB (3 channels) or L (1 channel). Raises DataError."""
    with opened(source, name) as image:
        return _in_mode(_upright(image), channels)


def read_size(source: ImageSource) -> tuple[int, int]:
    """Width and height of the upright image, without decoding its pixels. Raises DataError."""
    data = read_jpeg(source, HEADER)
    header = read_header(data) if data else None
    if header and header.is_bare and header.width * header.height <= MAX_PIXELS:
        return header.width, header.height
    with opened(source) as image:
        return upright_size(image)


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is opened as an image, by its ending."""
    return name.lower().endswith(EXTENSIONS)


@contextmanager
def opened(source: ImageSource, name: str = "") -> Iterator[Image.Image]:
    """Open an image and read its header. Any error of Pillow, here or in the body, becomes a DataError."""
    try:
        with stream(source) as file, Image.open(file, formats=[*ENDINGS]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height}")
            yield image
    except DataError as error:
        error.where = error.where or _name_of(source, name)
        raise
    except Exception as error:  # plugins raise OSError, SyntaxError, struct.error, ... depending on which byte is wrong
        what = f"cannot read image: {_cause(error, source)}"
        fix = "replace or remove the file; data.bad_images=skip leaves unreadable files out"
        raise DataError(what, where=_name_of(source, name), fix=fix) from error


def stream(source: ImageSource) -> BinaryIO:
    """Open a source. Raises OSError, also for what is no regular file and for one that is too large."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if is_handed_over(source):  # Pillow goes back and forth, which a pipe does not
        return io.BytesIO(read_file(source, MOST_FILE_BYTES))
    return open(open_regular(source, MOST_FILE_BYTES), "rb")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied, without loading the pixels."""
    if image.format == "TIFF":  # Pillow has turned it already
        return image.size
    return (image.height, image.width) if orientation(image) in (5, 6, 7, 8) else image.size


def orientation(image: Image.Image) -> int:
    """EXIF's word for how an opened image is turned, 1 to 8 and 1 for upright. Pixels are loaded only where a PNG has
    stored it behind them."""
    if image.format != "PNG" or image.info.keys() & {"exif", _RAW_EXIF}:
        return Image.Image.getexif(image).get(_ORIENTATION, 1)  # that of PngImageFile may load
    file = getattr(image, "fp", None)  # none once it is loaded
    return image.getexif().get(_ORIENTATION, 1) if file is None or _names_exif(file) else 1


def _names_exif(file: BinaryIO) -> bool:
    """Whether one of a PNG's chunks holds EXIF; its place is what it was. https://www.w3.org/TR/png-3/#5Chunk-layout"""
    place = file.tell()
    file.seek(8)
    try:
        for _ in range(_MOST_CHUNKS):
            head = file.read(8)
            if len(head) < 8 or head.endswith(b"IEND"):
                break
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            word = file.read(min(length, len(_RAW_EXIF))) if kind in (b"tEXt", b"zTXt", b"iTXt") else b""
            if kind == b"eXIf" or word == _RAW_EXIF.encode():
                return True
            file.seek(length - len(word) + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def draft(image: Image.Image, upright: tuple[int, int], box: Box, image_size: tuple[int, int]) -> float:
    """Let the JPEG decoder shrink by 2, 4 or 8 if that leaves `GAP` times the wanted resolution; by how much it did."""
    least, full_width = wanted(upright, box, image_size), image.width
    drafted = image.draft(None, least if upright == image.size else least[::-1])
    return full_width / drafted[1][2] if drafted else 1.0


def _in_mode(image: Image.Image, channels: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "LAB":  # Pillow has no way from it to grey
        image = image.convert("RGB")
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, scaled. `convert` would clip it to white: 7 levels were left of a 16-bit ramp."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    top = 1 if image.mode == "F" else 65535
    if not (low >= 0 and high <= top):  # also when NaN
        raise DataError(f"grey values from {low} to {high}; only 0 to {top} can be scaled to 8 bits")
    scaled = np.rint(values * (255 / top)).astype(np.uint8)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return Image.fromarray(scaled)


def _name_of(source: ImageSource, name: str) -> str:
    """The path, with bytes that are no text escaped, so that it can always be printed."""
    return name or ("bytes" if isinstance(source, bytes) else as_text(source))


def _cause(error: Exception, source: ImageSource) -> str:
    match error:
        case FileNotFoundError():
            return "there is no such file"
        case PermissionError():
            return "no permission to read it"
        case OSError() if error.errno is not None:  # the system's; Pillow's own have no number
            return error.strerror or str(error)
        case Image.DecompressionBombError():
            return f"more than {MAX_PIXELS:,} pixels, which looks like a decompression bomb"
        case MemoryError():
            return "not enough memory"
    try:
        with stream(source) as file:
            head = file.read(64).lstrip().lower()
    except OSError as unreadable:
        return unreadable.strerror or str(unreadable)
    if not head:
        return "the file is empty"
    if head.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<svg")):
        return "it is a web page or XML text, not an image"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; the image itself was not fetched (git lfs pull)"
    if head[4:8] == b"ftyp":  # of the container of HEIC and AVIF (ISO/IEC 14496-12)
        kind = "AVIF" if head[8:12] in (b"avif", b"avis") else "HEIC"
        return f"it is a picture in {kind}, as phones write, which is not read; convert it to JPEG or PNG"
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or not one of {', '.join(ENDINGS)}"
    return f"it is damaged or of a rare kind ({error})"
