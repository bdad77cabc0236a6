"""Image files as they were found, with their labels: what every reader of images returns, and how it is divided.

No image is opened here. Readers are lenient: what is wrong is listed as well, and training refuses it (`refuse`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from mlcli.data.finding import Finding
from mlcli.data.places import Root
from mlcli.data.splits import SPLITS, Divisible, hold_out

UNLABELLED = -1


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files as found, in arrays: a Python object for each of a million files would be slow to make and to copy.

    origin: the folder, CSV file or address they were found by.
    root: the folder that paths are relative to, or the shards.
    paths: bytes [N], of shards rows of their index, int64 [N]. labels: int64 [N], UNLABELLED where there is none.
    split_of: int8 [N], positions in SPLITS.
    held_out: the splits still to be divided off `train`, with their shares.
    findings: what is wrong with the layout or the list, and what is not used.
    """

    origin: str
    root: Root
    class_names: tuple[str, ...]
    paths: np.ndarray
    labels: np.ndarray
    split_of: np.ndarray
    held_out: dict[str, float]
    findings: tuple[Finding, ...] = ()
    copies: np.ndarray | None = None
    """int64 [N], equal for images that are to be in one split together; None if each may be in any."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have files."""
        return tuple(split for code, split in enumerate(SPLITS) if (self.split_of == code).any())

    def only(self, chosen: np.ndarray) -> "Listing":
        """The files at these positions."""
        copies = None if self.copies is None else self.copies[chosen]
        labels, split_of = self.labels[chosen], self.split_of[chosen]
        return replace(self, paths=self.paths[chosen], labels=labels, split_of=split_of, copies=copies)

    def divided(self, seed: int) -> np.ndarray:
        """The split of each file, int8 [N], once those to be held out are taken from train. Raises DataError if it is
        too small for that."""
        files = Divisible(len(self), self.labels, self.class_names, self.copies, where=self.origin)
        return hold_out(files, self.split_of, self.held_out, seed)


def nothing(origin: object, findings: Iterable[Finding]) -> Listing:
    """A listing without files, and why it has none."""
    none = np.zeros(0, dtype=np.int64)
    return Listing(str(origin), str(origin), (), none.astype(bytes), none, none.astype(np.int8), {}, tuple(findings))
