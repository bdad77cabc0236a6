"""Survey of new data: content and probable purpose of a folder of images or a CSV file.

The readers are those of training; of images only headers are read, and those of some. No torch.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlcli.data import places
from mlcli.data.decode import is_image_name, opened, upright_size
from mlcli.data.finding import Finding, refuse
from mlcli.data.sources.columns import FEW, read_column
from mlcli.data.sources.csv_file import CsvFile, read_csv
from mlcli.data.sources.image_csv import picture_folder, read_image_csv
from mlcli.data.sources.image_folder import read_folder
from mlcli.data.sources.listing import Listing
from mlcli.data.sources.shards import has_shards, read_shards
from mlcli.data.splits import SPLITS, named_split
from mlcli.errors import DataError
from mlcli.reading import why_absent

LIST_COLUMNS = 4
"""Columns of a list of images: path, label, split and one more; a table that names images has others to learn from."""
HEADERS_READ = 2000
"""Images whose size is looked at, evenly spread over all; a header takes 0.1 ms."""
TARGET_NAMES = ("label", "target", "class", "y", "outcome", "species", "diagnosis", "survived", "price")


@dataclass(frozen=True)
class ImageSurvey:
    """Survey of image files.

    class_counts: images of each class; of the training split where splits are given.
    split_counts: images of each given split; empty if nothing is split yet.
    split_names: folders that are taken for splits by other names: "Testing/: test".
    sizes: (width, height) in pixels of the images looked at, most frequent first.
    grey: whether all of those have no colour.
    unreadable: how many of those could not be opened.
    faults: what training will refuse.
    """

    total: int
    class_counts: dict[str, int]
    split_counts: dict[str, int]
    sizes: Counter[tuple[int, int]]
    grey: bool
    unreadable: int
    faults: tuple[Finding, ...]
    split_names: tuple[str, ...] = ()

    @property
    def looked_at(self) -> int:
        return self.sizes.total() + self.unreadable


@dataclass(frozen=True)
class TableSurvey:
    """Survey of a CSV file: the role of each column.

    target: of one-hot labels the columns' names, joined, as the file's one column in their place is called here.
    indicators: those columns.
    reason: why the target is that column; alternatives: the columns that could be it as well.
    gaps: rows without a value of the target, with `gap_words` in them. distinct: how many different values the others
    have.
    decimal_comma: whether its numbers have one. countable: whether its classes are numbers, and a guess.
    """

    file: CsvFile
    target: str
    split_column: str | None
    path_column: str | None
    """Column of image paths, if it lists images."""
    root: Path | None
    """The folder these are relative to; None for the file's own."""
    regression: bool
    identifiers: tuple[str, ...]
    """Columns with a name, or a text of its own in each row, from which nothing can be learned."""
    reason: str
    alternatives: tuple[str, ...]
    gaps: int
    gap_words: tuple[str, ...]
    distinct: int
    decimal_comma: bool
    countable: bool
    indicators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A folder or file that a person wants to learn from; looked into once, whichever task asks.

    base: folder of the YAML, which relative paths in it start from.
    target: the column of a CSV file to predict; task: which is to be learned. Empty where they are to be guessed.
    minutes: time that the training may take; None where the length is to be guessed.
    pretrained: whether to start from weights learned elsewhere. model: the one to propose; empty for the usual.
    """

    path: Path
    base: Path
    target: str = ""
    task: str = ""
    minutes: float | None = None
    pretrained: bool = False
    model: str = ""

    @cached_property
    def table(self) -> TableSurvey | None:
        """Survey of a CSV file; None for anything else. Raises DataError as `look_into_csv`."""
        is_csv = self.path.is_file() and self.path.suffix.lower() in (".csv", ".tsv", ".txt")
        return look_into_csv(self.path, self.target, self.task) if is_csv else None

    @cached_property
    def has_shards(self) -> bool:
        """Whether it is a folder of tar files, or one of them."""
        return has_shards(self.path)

    @cached_property
    def images(self) -> ImageSurvey | None:
        """The images in the folder, or listed in the CSV file; None of anything else.

        Raises DataError if there are none: neither listed nor in folders that could be classes.
        """
        if self.has_shards:
            return _look_at(read_shards(self.path))
        if self.path.is_dir():
            return _look_at(read_folder(self.path))
        table = self.table
        if table is None or table.path_column is None:
            return None
        listing = read_image_csv(
            self.path,
            root=table.root,
            path_column=table.path_column,
            label_column=table.indicators or table.target,
            split_column=table.split_column,
        )
        return _look_at(listing)


# --- images ----------------------------------------------------------------------------------------------------------


def _look_at(listing: Listing) -> ImageSurvey:
    refuse([found for found in listing.findings if found.kind == "wrapped" or not len(listing)], listing.origin)
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable, modes = 0, set()
    for address in listing.paths[:: max(1, -(-len(listing) // HEADERS_READ))]:
        try:
            with opened(places.source(listing.root, address)) as image:
                sizes[upright_size(image)] += 1
                modes.add(image.mode)
        except DataError:
            unreadable += 1
    if not sizes:
        raise DataError(f"none of the {unreadable:,} images looked at can be read", where=listing.origin)
    train = listing.labels[(listing.split_of == 0) & (listing.labels >= 0)]
    counts = np.bincount(train, minlength=len(listing.class_names)).tolist()
    split_counts = np.bincount(listing.split_of, minlength=len(SPLITS)).tolist()
    return ImageSurvey(
        total=len(listing),
        class_counts=dict(zip(listing.class_names, counts, strict=True)),
        split_counts={split: count for split, count in zip(SPLITS, split_counts, strict=True) if count}
        if len(listing.splits) > 1
        else {},
        sizes=Counter(dict(sizes.most_common())),
        grey=modes <= {"1", "L", "LA", "I", "I;16", "F"},
        unreadable=unreadable,
        faults=tuple(finding for finding in listing.findings if finding.severity == "error"),
        split_names=tuple(name for found in listing.findings if found.kind == "split-folders" for name in found.places),
    )


# --- tables ----------------------------------------------------------------------------------------------------------


def look_into_csv(path: Path, target: str = "", task: str = "") -> TableSurvey:
    """Return the role of each column; the target and whether it is an amount are guessed where they are not given.

    Raises DataError if the file is no CSV with a header and rows, has a single column, or none that could be a target.
    """
    file = read_csv(path)
    refuse(file.faults, str(path))
    if len(file.header) < 2:
        what = f"there is one column only, '{file.header[0]}'"
        raise DataError(what, where=str(path), fix="add a column to predict")
    refuse(file.absent([target] if target else [], "--target"), str(path))
    named = {name: {*map(named_split, set(file.column(name)))} for name in file.header if name != target}
    split_column = next((name for name, splits in named.items() if "train" in splits and "" not in splits), None)
    candidates = [name for name in file.header if name not in (split_column, target)]
    lists = ((name, folder) for name in candidates if (folder := _pictures_of(file, name)))
    path_column, root = next(lists, (None, path.parent))
    inputs = [name for name in file.header if name not in (split_column, path_column, target)]
    identifiers = tuple(name for name in inputs if read_column(name, file.column(name)).names_rows)
    if len(identifiers) == len(inputs) - (not target):
        identifiers = ()  # an x that counts is what a first exercise has
    reason, alternatives = "it was named", tuple[str, ...]()
    if not target:
        target, reason, alternatives = _guessed(file, [name for name in inputs if name not in identifiers])
        if not target:
            raise DataError("no column looks like something to predict", where=str(path), fix="--target COLUMN")
    indicators = file.indicators([name for name in file.header if name not in (split_column, path_column)], target)
    if indicators:
        file, target = file.one_label(indicators)
        reason, alternatives = f"{reason}, and in each row one of these columns is 1", ()
        identifiers = tuple(name for name in identifiers if name not in indicators)
    column = read_column(target, file.column(target))
    numbers = _numbers(file.column(target))
    # Fractions, or more different whole numbers than there are classes in most data.
    amounts = len(np.unique(numbers)) > FEW or bool((numbers % 1 != 0).any())
    regression = path_column is None and (task == "regression" or (not task and amounts))
    return TableSurvey(
        file, target, split_column, path_column, root if root != path.parent else None, regression, identifiers,
        reason, alternatives,
        gaps=int(column.missing.sum()), gap_words=column.gap_words, indicators=indicators,
        distinct=len({cell for cell, is_gap in zip(column.cells, column.missing, strict=True) if not is_gap}),
        decimal_comma=regression and column.form.decimal == "comma" and not column.unclear,
        countable=not task and not regression and len(numbers) > 0,
    )  # fmt: skip


def _guessed(file: CsvFile, names: list[str]) -> tuple[str, str, tuple[str, ...]]:
    """Return the column that is probably to be predicted, why, and the others that could be: neither constant, nor a
    text of its own in most rows, nor a copy of another. Empty if there is none."""
    columns = {name: file.column(name) for name in names}
    contents, fit = Counter(tuple(cells) for cells in columns.values()), []
    for name, cells in columns.items():
        different = len(set(cells))
        if contents[tuple(cells)] > 1 or different < 2:
            continue
        if different <= (len(cells) if len(_numbers(cells)) else max(FEW, len(cells) // 2)):
            fit.append(name)
    if not fit:
        return "", "", ()
    named = [name for wanted in TARGET_NAMES for name in fit if name.lower() == wanted]
    target = (named or fit)[0 if named else -1]
    reason = "of its name" if named else "it is the last that is no id, no name and no copy of another"
    return target, f"guessed because {reason}", tuple(name for name in fit if name != target)


def _pictures_of(file: CsvFile, name: str) -> Path | None:
    """Return the folder of the images that a column lists; None if it lists none.

    Most cells: a list with a few bad rows is still a list of images, and training names those rows. Raises DataError
    if there is little else in the file and they are in no folder near.
    """
    cells = file.column(name)
    named = 2 * sum(map(is_image_name, cells)) > len(cells)
    folder = picture_folder(cells[:50], file.path.parent, 1 if named else 25)
    if folder is None and named and len(file.header) <= LIST_COLUMNS:
        what = f"column '{name}' lists images, but they are not there, such as '{cells[0]}'"
        fix = why_absent(file.path.parent / cells[0]) or "put the CSV file into the folder that the paths start from"
        raise DataError(what, where=str(file.path), fix=fix)
    return folder if named or len(file.header) <= LIST_COLUMNS else None


def _numbers(cells: list[str]) -> np.ndarray:
    """The cells that have a value, as numbers, float64; empty if any of them is something else."""
    column = read_column("", cells)
    assert column.numbers is not None
    return column.numbers[:0] if len(column.wrong) else column.numbers[~column.missing]
