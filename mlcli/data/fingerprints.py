"""What samples are known again by (`mlcli.engine.membership`): hashes of what they are and of what is to be answered.

A row of a table is known by its cells, whatever their order in the file; numbers by their values, so that 1 and 1.0 are
the same. Arrays are known by their bytes. Image files are known by contents and path below the root, of at most 20,000
files with 256 MB together; of more, by size instead of contents, so that a million need no more than their names and
sizes. Classes are known by their names, boxes by their corners, classes and marks.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from torch import Tensor

from mlcli.data import places
from mlcli.data.sources.columns import Column
from mlcli.engine.membership import Fingerprints, Sees, mixed

MOST_FILES, MOST_BYTES = 20_000, 256 * 2**20
MISSING = np.uint64(1)


def hashed(parts: Iterable[bytes | memoryview]) -> np.ndarray:
    """A hash of each: uint64 [N]."""
    digests = b"".join(hashlib.blake2b(part, digest_size=8).digest() for part in parts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def of_classes(labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Hashes of labels, int64 [N], by the names of their classes; -1 is a label that is missing."""
    return np.append(hashed(name.encode(errors="surrogatepass") for name in class_names), MISSING)[labels]


def of_numbers(values: np.ndarray) -> np.ndarray:
    """Hashes of numbers, float [N]."""
    return mixed((values.astype(np.float64) + 0.0).view(np.uint64))  # adding 0 makes -0 and 0 the same


def of_columns(columns: Sequence[Column]) -> np.ndarray:
    """Hashes of the rows of a table, uint64 [N]; the order of the columns does not matter."""
    total = np.zeros(len(columns[0].cells) if columns else 0, dtype=np.uint64)
    for column in columns:
        (name,) = hashed([column.name.encode(errors="surrogatepass")])
        total += mixed(_cells(column) ^ name)
    return total


def _cells(column: Column) -> np.ndarray:
    """Hashes of a column's cells; the same whether it is read as numbers or as categories."""
    if column.numbers is not None:
        values = of_numbers(column.numbers)
        texts = column.wrong
    else:
        values = np.zeros(len(column.cells), dtype=np.uint64)
        texts = np.flatnonzero(~column.missing)
    different = list({column.cells[row]: None for row in texts.tolist()})
    numbers = np.array([column.form.read(cell) for cell in different], dtype=np.float64)
    hashes = np.where(
        np.isnan(numbers), hashed(cell.encode(errors="surrogatepass") for cell in different), of_numbers(numbers)
    )
    of_cell = dict(zip(different, hashes.tolist(), strict=True))
    values[texts] = [of_cell[column.cells[row]] for row in texts.tolist()]
    values[column.missing] = MISSING
    return values


def of_array(inputs: Tensor | np.ndarray) -> np.ndarray:
    """Hashes of the samples of an array [N, ...] by their bytes: uint64 [N, 1]."""
    array = np.ascontiguousarray(inputs)
    return hashed(row.data.cast("B") for row in array.reshape(len(array), -1))[:, None]


def of_files(root: places.Root, addresses: np.ndarray, sees: Sees | None = None) -> tuple[np.ndarray, Sees]:
    """Hashes of files, uint64 [N, 3]: contents and place, contents wherever they lie, place; and what they see.

    sees: None to take contents where they are few and small.
    """
    sizes, paths = places.sizes(root, addresses), partial(places.paths, root, addresses)
    if sees is None:
        sees = "contents" if len(sizes) <= MOST_FILES and sizes.sum() <= MOST_BYTES else "sizes"
    lies = hashed(os.path.normpath(path) if b"." in path[:1] or b"/." in path else path for path in paths())
    if sees == "contents":
        contents = anywhere = hashed(places.content_or_nothing(root, address) for address in addresses)
    else:
        contents = mixed(sizes.astype(np.uint64))
        anywhere = mixed(contents ^ hashed(path.rpartition(b"/")[2] for path in paths()))
    return np.stack([mixed(contents ^ mixed(lies)), anywhere, lies], axis=1), sees


def of_samples(keys: np.ndarray, targets: np.ndarray, class_names: Sequence[str]) -> Fingerprints:
    """Fingerprints of samples with labels int64 [N] of these classes, or with numbers where there are none."""
    return Fingerprints(keys, of_classes(targets, class_names) if class_names else of_numbers(targets))
