"""Files that a saved model is asked about: found, named and prepared exactly as its training data were.

One that cannot be read does not keep the others from being answered: its error is handed back in its place. No torch in
here, so that an exported model can be asked without it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlcli.data.decode import Preparation, read_image
from mlcli.data.finding import refuse
from mlcli.data.info import DataInfo
from mlcli.data.sources.columns import MISSING, without
from mlcli.data.sources.csv_file import read_csv
from mlcli.data.sources.image_folder import find_images
from mlcli.data.sources.rows import prepare_rows
from mlcli.engine.limits import usable_cpus
from mlcli.engine.predicting import Inputs, LooksInTiles
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.text import as_text, listed

Errors = dict[int, str]
"""Errors of inputs, by their position."""


@dataclass(frozen=True)
class ImageInputs:
    """Image files.

    invert: swap dark and bright first: data sets of handwriting are white on black, most paper is not.
    """

    paths: list[Path]
    preparation: Preparation
    invert: bool = False

    @property
    def names(self) -> list[str]:
        """The paths, with bytes that are no text escaped, so that they can always be written."""
        return [as_text(path) for path in self.paths]

    def alike(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """All of them: they are brought to one size."""
        return [positions]

    def read(self, positions: Sequence[int]) -> tuple[list[int], np.ndarray, Errors]:
        """uint8 [B, C, H, W]; files are decoded in threads, as Pillow lets go of the interpreter meanwhile."""
        prepare = self.preparation
        pixels = np.empty((len(positions), prepare.channels, *prepare.image_size), dtype=np.uint8)

        def decode(slot: int) -> str:
            try:
                prepare.decode(self.paths[positions[slot]], pixels[slot])
            except DataError as error:
                return error.what
            return ""

        pool = ThreadPoolExecutor(usable_cpus())
        try:
            faults = list(pool.map(decode, range(len(positions))))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # nobody waits for a disk that does not answer
        good = [slot for slot, fault in enumerate(faults) if not fault]
        inputs = pixels[good]
        errors = {positions[slot]: fault for slot, fault in enumerate(faults) if fault}
        return [positions[slot] for slot in good], 255 - inputs if self.invert else inputs, errors


@dataclass(frozen=True)
class WholeImages:
    """The same image files at their own sizes, to be cut into parts."""

    inputs: ImageInputs

    @property
    def names(self) -> list[str]:
        return self.inputs.names

    @property
    def paths(self) -> list[Path]:
        return self.inputs.paths

    def alike(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """All of them: each is handed on by itself."""
        return [positions]

    def read(self, positions: Sequence[int]) -> tuple[list[int], list[np.ndarray], Errors]:
        """uint8 [H, W, C] each"""
        found: dict[int, np.ndarray] = {}
        errors: Errors = {}
        for position in positions:
            try:
                pixels = np.array(read_image(self.paths[position], self.inputs.preparation.channels))
                found[position] = 255 - pixels if self.inputs.invert else pixels
            except DataError as error:
                errors[position] = error.what
        return list(found), list(found.values()), errors


@dataclass(frozen=True)
class RowInputs:
    """Rows of a table, each a dict of cells by column."""

    names: list[str]
    rows: list[dict[str, str]]
    preparation: dict
    paths: None = None

    def alike(self, positions: Sequence[int]) -> list[Sequence[int]]:
        """All of them."""
        return [positions]

    def unknown(self, position: int) -> str:
        """The categories of a row that training never saw, `colour=mauve; size=XL`: their features are all zeros."""
        found = []
        for encoding in self.preparation["columns"]:
            cell = (self.rows[position].get(encoding["name"]) or "").strip()
            (cell,) = without([cell], encoding.get("missing_values", ()))
            if encoding["kind"] == "category" and cell.lower() not in MISSING and cell not in encoding["values"]:
                found.append(f"{encoding['name']}={cell}")
        return "; ".join(found)

    def read(self, positions: Sequence[int]) -> tuple[list[int], np.ndarray, Errors]:
        """float32 [B, F]"""
        try:
            return list(positions), prepare_rows(self.preparation, [self.rows[p] for p in positions]), {}
        except DataError as error:
            if len(positions) == 1:
                nothing = np.empty((0, len(self.preparation["features"])), dtype=np.float32)
                return [], nothing, {positions[0]: error.what}
        parts = [self.read([position]) for position in positions]  # one of them is bad: find out which
        good = [position for found, _, _ in parts for position in found]
        errors = {position: fault for _, _, faults in parts for position, fault in faults.items()}
        return good, np.concatenate([rows for _, rows, _ in parts]), errors


def find_inputs(paths: Sequence[Path], info: DataInfo, *, path_column: str = "path", invert: bool = False) -> Inputs:
    """The inputs named on the command line, in that order, each once.

    Args:
        paths: for images, files, folders (searched recursively) and CSV files with a column of paths, relative to the
            CSV's folder; for tables, one CSV file.
        info: of the saved model.

    Raises DataError for what does not exist or holds nothing, ConfigError for what the model cannot take.
    """
    missing = [str(path) for path in paths if not os.path.lexists(path)]  # a link to nowhere is one bad input of many
    if missing:
        raise DataError(f"no such file or folder: {', '.join(missing[:5])}", fix="check the spelling")
    needed = ("columns", "features") if info.kind == "features" else ("image_size", "fit", "channels")
    if lacking := [name for name in needed if info.preparation.get(name) is None]:
        what = f"the model does not say how an input is to be prepared: its facts have no {listed(lacking)}"
        raise CheckpointError(what, fix="train it anew")
    if info.kind == "features":
        if invert:
            raise ConfigError("only images can be inverted; this model takes rows of a table", where="--invert")
        if len(paths) != 1 or paths[0].is_dir():
            one = f"a CSV file, and {paths[0]} is a folder"
            given = f"one CSV file, got {len(paths)} paths" if len(paths) > 1 else one
            raise ConfigError(f"this model takes rows of {given}", fix="mlcli predict RUN FILE.csv")
        file = read_csv(paths[0])
        refuse(file.faults, str(paths[0]))
        prepare_rows(info.preparation, [dict.fromkeys(file.header, "")])  # raises DataError if a column is missing
        rows = [dict(zip(file.header, cells, strict=True)) for cells in file.rows]
        return RowInputs([f"{paths[0]}:{line}" for line in file.lines], rows, info.preparation)
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found |= dict.fromkeys(find_images(path))
        elif path.suffix.lower() == ".csv":
            found |= dict.fromkeys(_listed_in(path, path_column))
        else:
            found[path] = None
    return ImageInputs(list(found), Preparation.from_plain(info.preparation), invert)


def in_tiles(predictor: object, compute: Callable[[Any], Any], tiles: tuple[int, float]) -> Callable[[Any], Any]:
    """Have a predictor look at large images in tiles; see `mlcli.engine.predicting.LooksInTiles`.

    tiles: side and overlap. Raises ConfigError for a predictor that answers about whole images.
    """
    if not isinstance(predictor, LooksInTiles):
        what, fix = "this model says what an input is as a whole", "leave it out: it is for models that find objects"
        raise ConfigError(what, where="--tiles", fix=fix)
    return predictor.in_tiles(compute, *tiles)


def _listed_in(path: Path, column: str) -> list[Path]:
    file = read_csv(path)
    refuse(file.faults, str(path))
    if column not in file.header:
        what = f"no column '{column}' with the images' paths"
        fix = f"name the column of paths '{column}'"
        raise DataError(what, where=f"columns of {path}: {', '.join(file.header[:20])}", fix=fix)
    return [path.parent / cell for cell in file.column(column)]
