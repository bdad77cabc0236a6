"""Folders that mlcli fills: marked, so that no reader takes them for data, and whole, or named as not whole."""

import contextlib
import io
import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.errors import DataError, OutputError
from mlcli.files import cannot_write, make_folder, remove, write_atomically
from mlcli.reading import ANY_SIZE, open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MARK = ".mlcli"
"""A file of this name says that its folder holds what mlcli wrote (as CACHEDIR.TAG does of caches)."""
UNFINISHED = ".unfinished"
"""A file of this name says that its folder is not whole."""
OWN_PICTURE = re.compile(r"\d{5,}-.+-.+\.png")
"""Names of the pictures of predictions."""
SOFTWARE = "mlcli"
"""In the header of each PNG file that mlcli writes, under the keyword of this name."""


def cache_folder(kind: str = "") -> Path:
    """Return the folder of what can be made again, of one kind or of all: not among data, to be read as such.

    Raises OutputError where the user has no home directory, as in a container that knows nobody of that number.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if caches.startswith("~"):
        what = "there is no home directory, in which files that are read again are kept"
        raise OutputError(what, fix="export XDG_CACHE_HOME=/some/folder")
    return Path(caches) / "mlcli" / kind


def make_output_folder(folder: Path, *, marked: bool = True) -> None:
    """Make a folder for what mlcli writes, with all above it, and mark each that it makes or finds empty, so that no
    reader of data looks into it. Raises OutputError.

    marked: without it this folder, not those above, is for pictures alone: they are known one by one.
    """
    if not folder.is_dir():
        make_output_folder(folder.parent)
        make_folder(folder)
    if not marked:
        return
    try:
        is_ours = not os.listdir(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if is_ours:
        write_atomically(folder / MARK, b"This folder holds what mlcli wrote; mlcli never reads it as data.\n")


def holds_output(names: Collection[str]) -> bool:
    """Whether a folder with files of these names holds what mlcli wrote: it is marked, or the folder of a run."""
    return MARK in names or ("status.json" in names and "resolved.yaml" in names)


def png(picture: "Image") -> bytes:
    """Return a picture as the bytes of a PNG file that says who wrote it."""
    from PIL.PngImagePlugin import PngInfo

    target, info = io.BytesIO(), PngInfo()
    info.add_text("Software", SOFTWARE)
    # 6, the usual level, takes twice as long for 3 % less.
    picture.save(target, "PNG", compress_level=4, pnginfo=info)
    return target.getvalue()


def is_own_picture(folder: str, name: str) -> bool:
    """Whether a file is a picture of a prediction, wherever it was put; only one named like those is opened."""
    if not OWN_PICTURE.fullmatch(name):
        return False
    try:
        with os.fdopen(open_regular(os.path.join(folder, name), ANY_SIZE), "rb") as file:
            return b"Software\0" + SOFTWARE.encode() in file.read(128)
    except OSError:  # reading it as data will name it
        return False


@contextlib.contextmanager
def filled_folder(folder: Path) -> Iterator[None]:
    """Make a folder that is filled meanwhile, and has a mark in it until it is whole; where that fails it is emptied.

    Raises OutputError, also if the folder is there and not empty.
    """
    refuse_filled(folder)
    make_folder(folder)
    write_atomically(folder / UNFINISHED, b"This folder is not whole. The file goes away when it is.\n")
    try:
        yield
        remove(folder / UNFINISHED)
    except BaseException as error:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise cannot_write(Path(error.filename or folder), error) from error
        raise


def refuse_filled(folder: Path) -> None:
    """Raise OutputError if something is in a folder that is to be filled."""
    fix = "name a folder that does not exist yet"
    try:
        there = os.listdir(folder) if os.path.lexists(folder) else []
    except OSError as error:
        raise cannot_write(folder, error) from error
    if UNFINISHED in there:
        what = "this folder is not whole: what filled it was ended before its end"
        raise OutputError(what, where=str(folder), fix=f"delete it, and begin again: rm -r {shlex.quote(str(folder))}")
    if there:
        raise OutputError("the folder is not empty", where=str(folder), fix=fix)


def refuse_unfinished(path: Path) -> None:
    """Raise DataError if a file or folder lies in one that was not filled to its end (`filled_folder`)."""
    for folder in (path, *path.absolute().parents[:2]):
        if os.path.lexists(folder / UNFINISHED):
            what = "this folder is not whole: what filled it was ended before its end, or is still at work"
            raise DataError(what, where=str(folder), fix="begin again in a new folder: mlcli data convert X.yaml DIR")
