"""A first look at somebody's data: what is in a folder of images or a CSV file, and what it seems to be meant for.

Only headers and cells are read. The data sources judge strictly, with every file; this has to guess well. No torch.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlcli.data.decode import EXTENSIONS, opened, upright_size
from mlcli.data.sources.csv_file import SPLIT_WORDS, CsvFile, read_csv
from mlcli.errors import DataError

HEADERS_READ = 2000
"""Images whose size is looked at, evenly spread over all; a header takes 0.1 ms."""
MOST_CLASSES = 20
"""Different whole numbers in a column up to which they are taken for classes rather than amounts."""
TARGET_NAMES = ("label", "target", "class", "y")
_NO_VALUE = ("", "na", "n/a", "null", "none", "?")
_SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Images:
    """What a look at image files found.

    class_counts: images of each class; of the training split where splits are given.
    split_counts: images of each given split; empty if nothing is split yet.
    sizes: (width, height) in pixels of the images looked at, most frequent first.
    grey: whether all of those have no colour.
    unreadable: how many of those could not be opened.
    """

    class_counts: dict[str, int]
    split_counts: dict[str, int]
    sizes: Counter[tuple[int, int]]
    grey: bool
    unreadable: int

    @property
    def looked_at(self) -> int:
        return self.sizes.total() + self.unreadable

    @property
    def total(self) -> int:
        return sum(self.split_counts.values()) or sum(self.class_counts.values())


@dataclass(frozen=True)
class Table:
    """What a look at a CSV file found: which column is what."""

    file: CsvFile
    target: str
    split_column: str | None
    path_column: str | None
    """Column of image paths, if it lists images."""
    regression: bool
    identifiers: tuple[str, ...]
    """Columns with a name, or a text of its own in each row, from which nothing can be learned."""


def look_into_folder(root: Path) -> Images:
    """Raises DataError if there are no images in folders that could be classes."""
    folders = {path.name: path for path in _folders(root)}
    splits = {_SPLIT_FOLDERS[name]: path for name, path in folders.items() if name in _SPLIT_FOLDERS}
    if "train" not in splits or not _folders(splits["train"]):
        splits = {}
    classes = {path.name: list(_images_below(path)) for path in _folders(splits.get("train", root))}
    held_out = {split: list(_images_below(path)) for split, path in splits.items() if split != "train"}
    paths = [path for found in classes.values() for path in found]
    if not paths:
        loose = sum(name.lower().endswith(EXTENSIONS) for name in os.listdir(root))
        raise DataError(
            f"{root} has {loose:,} images but no folder for each class" if loose else f"there are no images in {root}",
            fix=f"lay them out as {root}/CLASS/*.jpg, or list them in a CSV with a column of paths and one of labels",
        )
    counts = {name: len(found) for name, found in classes.items()}
    split_counts = {"train": len(paths)} | {split: len(found) for split, found in held_out.items()} if splits else {}
    return _look_at(paths + [path for found in held_out.values() for path in found], counts, split_counts)


def look_into_listed(table: Table) -> Images:
    """The images that a CSV file lists. Raises DataError as `read_csv`."""
    assert table.path_column is not None
    file = table.file
    rows = list(zip(file.column(table.path_column), file.column(table.target), strict=True))
    words = file.column(table.split_column) if table.split_column else [""] * len(rows)
    splits = Counter(SPLIT_WORDS.get(word.lower(), "") for word in words)
    counts = Counter(label for (_, label), word in zip(rows, words, strict=True) if word in ("", "train"))
    paths = [os.path.join(file.path.parent, path) for path, _ in rows]
    return _look_at(paths, dict(sorted(counts.items())), dict(splits) if table.split_column else {})


def look_into_csv(path: Path) -> Table:
    """Raises DataError if the file is no CSV with a header and rows, or has a single column."""
    file = read_csv(path)
    if len(file.header) < 2:
        raise DataError(
            f"there is one column only, '{file.header[0]}'",
            where=str(path),
            fix="a column to predict must stand beside it",
        )
    split_column = next((name for name in file.header if _says_splits(file.column(name))), None)
    path_column = next((name for name in file.header if _lists_images(file.column(name), path.parent)), None)
    candidates = [name for name in file.header if name not in (split_column, path_column)]
    named = [name for wanted in TARGET_NAMES for name in candidates if name.lower() == wanted]
    target = (named or candidates)[0 if named else -1]
    features = [name for name in candidates if name != target]
    identifiers = tuple(name for name in features if _is_identifier(name, file.column(name)))
    regression = path_column is None and _is_amount(file.column(target))
    return Table(file, target, split_column, path_column, regression, identifiers)


# --- images ----------------------------------------------------------------------------------------------------------


def _look_at(paths: Sequence[str], class_counts: dict[str, int], split_counts: dict[str, int]) -> Images:
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable, modes = 0, set()
    for path in paths[:: max(1, -(-len(paths) // HEADERS_READ))]:
        try:
            with opened(path) as image:
                sizes[upright_size(image)] += 1
                modes.add(image.mode)
        except DataError:
            unreadable += 1
    if not sizes:
        raise DataError(f"none of the {unreadable:,} images looked at can be read", where=os.path.dirname(paths[0]))
    most_frequent_first: Counter[tuple[int, int]] = Counter(dict(sizes.most_common()))
    grey = modes <= {"1", "L", "LA", "I", "I;16", "F"}
    return Images(class_counts, split_counts, most_frequent_first, grey, unreadable)


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot look into {root}: {error.strerror}") from None


def _images_below(folder: Path) -> Iterable[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(here, name)


# --- columns ---------------------------------------------------------------------------------------------------------


def _says_splits(cells: list[str]) -> bool:
    words = {cell.lower() for cell in cells}
    return "train" in {SPLIT_WORDS.get(word) for word in words} and words <= set(SPLIT_WORDS)


def _lists_images(cells: list[str], root: Path) -> bool:
    """Most cells: a list with a few bad rows is still a list of images, and training names those rows."""
    named = sum(cell.lower().endswith(EXTENSIONS) for cell in cells)
    return 2 * named > len(cells) and any((root / cell).is_file() for cell in cells[:50])


def _is_amount(cells: list[str]) -> bool:
    """Numbers rather than classes: fractions, or more different whole numbers than there are classes in most data."""
    numbers = _numbers(cells)
    if not numbers:
        return False
    return len(set(numbers)) > MOST_CLASSES or any(not number.is_integer() for number in numbers)


def _is_identifier(name: str, cells: list[str]) -> bool:
    all_different = len(cells) > MOST_CLASSES and len(set(cells)) == len(cells)
    named_so = name.lower() in ("id", "index", "uuid") or name.lower().endswith("_id")
    return all_different and (named_so or not _numbers(cells))


def _numbers(cells: list[str]) -> list[float]:
    """The cells as numbers; empty if any is something else."""
    try:
        return [float(cell) for cell in cells if cell.lower() not in _NO_VALUE]
    except ValueError:
        return []
