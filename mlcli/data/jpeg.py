"""Plain JPEGs through libjpeg-turbo's own interface (simplejpeg): Pillow's pixels, to the bit, without its detours.

Plain means: grey or colour, nothing unusual in the header, no fault in the pixels. All else comes back as None, and
Pillow, which has the last word on every file, is asked (see `decode`). A 32x32 JPEG takes 17 us instead of 75.
"""

import os
from typing import NamedTuple

import numpy as np
import simplejpeg

from mlcli.reading import is_handed_over, open_regular

MOST_FILE_BYTES = 2**30
"""Of an image file; the largest pictures that are decoded have a quarter of that as pixels."""
HEADER = 2**12  # bytes: nearly always all that stands before the pixels, unless a camera has put more there
_FIRST_READ = 2**16  # bytes: most files whole, in one call
_MAGIC = b"\xff\xd8\xff"
_FRAME, _SCAN = (0xC0, 0xC1, 0xC2), 0xDA  # baseline, extended and progressive; ITU-T T.81, table B.1
_HARMLESS = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF)  # tables, comments, and what other programs left
_ENOUGH = {0xE0: 16, 0xEE: 14}  # bytes of a whole JFIF and Adobe segment; Pillow refuses what is shorter
_LEAST_SCALED = 16  # pixels of the longer side: below, neighbouring eighths of it round to the same size


class JpegHeader(NamedTuple):
    """width, height in pixels as stored; layers: 1 for grey, 3 for colour.

    is_bare: nothing in it could turn the picture; otherwise Pillow should be asked for its orientation.
    """

    width: int
    height: int
    layers: int
    is_bare: bool


def read_jpeg(source: str | os.PathLike[str] | bytes, most: int | None = None) -> bytes | None:
    """Return a JPEG file's bytes, or the first `most`; None for pipes, other files and those that cannot be read."""
    if isinstance(source, bytes):
        return source if source.startswith(_MAGIC) else None
    if is_handed_over(source):
        return None
    try:
        file = open_regular(source, MOST_FILE_BYTES)  # 6 us to open and read a small file; open() alone takes 11
        try:
            data = os.read(file, most or _FIRST_READ)
            if not data.startswith(_MAGIC):
                return None
            if most is None and len(data) == _FIRST_READ:
                parts = [data]
                while part := os.read(file, max(_FIRST_READ, os.fstat(file).st_size)):
                    parts.append(part)
                data = b"".join(parts)
        finally:
            os.close(file)
    except OSError:
        return None
    return data


def read_header(data: bytes) -> JpegHeader | None:
    """Read the segments before the pixels; return None if one is unusual or reaches beyond the end of `data`."""
    at, is_bare, frame = 2, True, None
    try:
        while True:
            if data[at] != 0xFF:
                return None
            marker, length = data[at + 1], (data[at + 2] << 8) + data[at + 3]
            if marker == _SCAN:
                break
            if marker in _FRAME and frame is None:
                frame = data[at + 4 : at + 10]
            elif marker in (0xE1, 0xE2, 0xED):  # EXIF and XMP, several pictures in one file, Photoshop's resources
                is_bare = is_bare and marker == 0xE2 and data[at + 4 : at + 8] != b"MPF\0"
            elif marker not in _HARMLESS and length < _ENOUGH.get(marker, 2**16):
                return None
            at += 2 + length
    except IndexError:
        return None
    if frame is None or len(frame) < 6:
        return None
    bits, height, width, layers = frame[0], frame[1] * 256 + frame[2], frame[3] * 256 + frame[4], frame[5]
    if bits != 8 or layers not in (1, 3) or width * height == 0:
        return None
    return JpegHeader(width, height, layers, is_bare)


def decode_jpeg(data: bytes, header: JpegHeader, channels: int, shrink: int = 1) -> np.ndarray | None:
    """uint8 [height, width, 3], or [height, width] where the file is grey and one channel is wanted.

    shrink: 1, 2, 4 or 8, what width and height are divided by (rounded up) while decoding.
    """
    height, width = -(-header.height // shrink), -(-header.width // shrink)
    if shrink > 1 and max(header.height, header.width) < _LEAST_SCALED:
        return None
    colours = "GRAY" if (header.layers, channels) == (1, 1) else "RGB"
    try:
        if shrink == 1:
            pixels = simplejpeg.decode_jpeg(data, colours)
        else:
            pixels = simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width)
    except ValueError:  # a warning of the decoder's (`strict`) is enough: it means damage
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return pixels[:, :, 0] if colours == "GRAY" else pixels
