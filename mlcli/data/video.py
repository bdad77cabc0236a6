"""Moving pictures frame by frame: animated GIF and WebP by Pillow, videos by PyAV. One frame is in memory at a time."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from PIL import GifImagePlugin, Image

from mlcli.data.decode import MAX_PIXELS, opened
from mlcli.errors import ConfigError, DataError, OutputError
from mlcli.files import move
from mlcli.reading import open_regular

ANIMATIONS = (".gif", ".webp")
VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""Endings of videos, and the one format that each is read and written as: others (playlists) name further files."""
DRAWN = {".webp": ".gif"}
"""Ending of what is drawn where it is another: Pillow writes an animated WebP from all of its frames at once."""
CODECS = {"webm": ("libvpx-vp9", "libvpx")}
USUAL_CODECS = ("libx264", "mpeg4")
MOST_BYTES = 2**42
PIP = "pip install 'mlcli[video]'"
DEFAULT_MS = 100
"""Of an animation's frame that says no duration, or none to speak of, as browsers show it."""


@dataclass(frozen=True)
class Frame:
    """number: from 0. seconds: when it is shown, and for how long, None where that is not known. image: upright RGB."""

    number: int
    seconds: float
    lasts: float | None
    image: Image.Image


class Writer(Protocol):
    """Takes frames one by one; the first decides the size."""

    def add(self, image: Image.Image, frame: Frame) -> None: ...
    def close(self) -> None: ...


def is_moving(path: Path) -> bool:
    """Return whether a file is a video by its ending, or an animation of several frames that can be opened."""
    ending = path.suffix.lower()
    if ending not in ANIMATIONS or not path.is_file():
        return ending in VIDEOS
    try:
        with opened(path) as image:
            return getattr(image, "n_frames", 1) > 1
    except DataError:  # as of any other image that cannot be read, its record will say so
        return False


def frames(path: Path) -> Iterator[Frame]:
    """Return the frames in order. Raises DataError at the first that cannot be read, ConfigError without PyAV."""
    return _of_video(path) if path.suffix.lower() in VIDEOS else _of_animation(path)


def _of_animation(path: Path) -> Iterator[Frame]:
    start = 0
    with opened(path) as image:
        for count in range(getattr(image, "n_frames", 1)):
            try:
                image.seek(count)
                shown = image.convert("RGBA")
            except Exception as error:  # plugins raise OSError, SyntaxError, EOFError ... depending on the byte
                raise _damaged(path, count, error) from error
            duration = image.info.get("duration") or 0
            lasts = duration if duration > 10 else DEFAULT_MS
            page = Image.new("RGBA", shown.size, "white")
            yield Frame(count, start / 1000, lasts / 1000, Image.alpha_composite(page, shown).convert("RGB"))
            start += lasts


def _of_video(path: Path) -> Iterator[Frame]:
    av, count = _av(path), 0
    try:
        descriptor = open_regular(path, MOST_BYTES)
    except OSError as error:
        raise DataError(f"cannot read video: {error.strerror or error}", where=str(path)) from error
    with open(descriptor, "rb") as file, contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(av.open(file, format=VIDEOS[path.suffix.lower()]))
            if not container.streams.video:
                raise DataError("this file has no pictures in it, only sound", where=str(path))
            stream = container.streams.video[0]
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"its frames have {stream.width}x{stream.height} pixels", where=str(path))
            for count, frame in enumerate(container.decode(stream)):
                lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else None
                yield Frame(count, float(frame.time or 0.0), lasts, _upright(frame))
                count += 1
        except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
            raise _damaged(path, count, error) from error
    if not count:
        raise DataError("this video has no frame", where=str(path))


def _upright(frame: Any) -> Image.Image:
    """The picture as it is to be shown: phones store what the sensor saw, and beside it how the phone was held."""
    image, angle = frame.to_image(), frame.rotation  # degrees counterclockwise
    for each in frame.side_data:
        if each.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(each))
            if a * d < b * c:  # mirrored as well, as by some front cameras
                image, angle = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), angle + 180
    return image.rotate(angle, expand=True) if angle % 360 else image


def _damaged(path: Path, count: int, error: Exception) -> DataError:
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines() or [type(error).__name__]
    what = f"cannot read {'on' if count else 'it'} from frame {count}: it is damaged or of a kind that is not known"
    return DataError(f"{what} ({lines[0][:120]})", where=str(path), fix="its earlier frames are answered" * (count > 0))


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError("videos need PyAV, which is not installed", where=str(path), fix=PIP) from error
    av.logging.set_level(av.logging.PANIC)
    return av


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write a video or an animation by its ending, under another name until it is closed, whatever ends it.

    Raises OutputError, ConfigError without PyAV.
    """
    ending = path.suffix.lower()
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        if ending in VIDEOS:
            writer: Writer = _VideoWriter(unfinished, VIDEOS[ending], _av(path))
        else:
            writer = _GifWriter(unfinished)
        try:
            yield writer
        finally:
            writer.close()
            if unfinished.exists():
                move(unfinished, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", fix="check the folder") from error
    finally:
        unfinished.unlink(missing_ok=True)


class _VideoWriter:
    """By the container's usual codec; sides are made even, as these codecs want them."""

    def __init__(self, path: Path, kind: str, av: Any) -> None:
        self._path, self._kind, self._av = path, kind, av
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def add(self, image: Image.Image, frame: Frame) -> None:
        if self._container is None:
            self._container = self._av.open(str(self._path), "w", format=self._kind)
            known = self._av.codecs_available
            codec = next(name for name in CODECS.get(self._kind, USUAL_CODECS) if name in known)
            self._stream = self._container.add_stream(codec, rate=1000)
            self._stream.width, self._stream.height = image.width + image.width % 2, image.height + image.height % 2
            self._stream.pix_fmt, self._stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        size = (self._stream.width, self._stream.height)
        picture = self._av.VideoFrame.from_image(image.crop((0, 0, *size)))
        picture.pts, picture.time_base = round(1000 * frame.seconds), self._stream.codec_context.time_base
        if picture.pts > self._last:  # frames that are shown at once are one
            self._last = picture.pts
            self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()


class _GifWriter:
    """Block by block, each frame with colours of its own; Pillow's `save_all` would hold all frames in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._size = (0, 0)

    def add(self, image: Image.Image, frame: Frame) -> None:
        colours = image.quantize(256)
        if self._file is None:
            self._file, self._size = self._path.open("wb"), image.size
            self._file.writelines(GifImagePlugin.getheader(colours, info={"loop": 0})[0])
        if image.size != self._size:
            colours = image.crop((0, 0, *self._size)).quantize(256)
        lasts = round(1000 * (frame.lasts or DEFAULT_MS / 1000))
        self._file.writelines(GifImagePlugin.getdata(colours, (0, 0), duration=lasts, include_color_table=True))

    def close(self) -> None:
        if self._file is not None:
            with self._file:
                self._file.write(b";")
