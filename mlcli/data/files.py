"""Samples that stay in image files until they are read, each decoded straight into its place in the batch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlcli.data.decode import Preparation, read_size


@dataclass(frozen=True, eq=False)
class ImageFilesSamples:
    """One split of image files.

    root: folder the paths are relative to.
    paths: bytes [N], as numpy's fixed-width strings: a list of Python strings would be copied page by page into every
        worker process, because counting references writes to them.
    targets: int64 [N] labels.
    preparation: how an image becomes [C, H, W].
    same_size: refuse images that are not of that size already, instead of resizing them.
    """

    root: str
    paths: np.ndarray
    targets: Tensor
    preparation: Preparation
    same_size: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(bytes(self.paths[index])))

    def name(self, index: int) -> str:
        """The path, with bytes that are no text escaped, so that it can always be printed."""
        return os.fsencode(self.path(index)).decode(errors="backslashreplace")

    def read(self, indices: np.ndarray) -> Tensor:
        """uint8 [B, C, H, W]. Raises DataError, naming the file."""
        batch = self._empty(len(indices))
        for index, out in zip(indices, batch, strict=True):
            self.preparation.decode(self.path(index), out, exact=self.same_size)
        return torch.from_numpy(batch)

    def read_crops(self, indices: np.ndarray, crops: np.ndarray) -> Tensor:
        """Parts of the original images, resized: uint8 [B, C, H, W].

        crops: float [B, 4], (top, left, height, width) in shares 0..1 of each upright original.
        """
        batch = self._empty(len(indices))
        for index, crop, out in zip(indices, crops, batch, strict=True):
            self.preparation.decode_crop(self.path(index), crop, out)
        return torch.from_numpy(batch)

    def sizes(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Width and height of each upright original: int32 [B, 2], from the headers alone."""
        return np.array([read_size(self.path(index)) for index in indices], dtype=np.int32).reshape(-1, 2)

    def aspect_ratios(self, indices: np.ndarray | Sequence[int]) -> np.ndarray:
        """Width / height of each upright original: float32 [B], from the headers alone."""
        width, height = self.sizes(indices).T
        return (width / height).astype(np.float32)

    def _empty(self, count: int) -> np.ndarray:
        return np.empty((count, self.preparation.channels, *self.preparation.image_size), dtype=np.uint8)
