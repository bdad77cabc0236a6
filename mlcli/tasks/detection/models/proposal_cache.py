"""Proposals that were computed before, in one file: minutes of work for every picture set, the same in every run.

An entry belongs to the pixels of a picture as the model gets it, the whole file to one method with its parameters; so
another picture under the old name is looked at anew, and so is everything when the method changes.
"""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from mlcli.files import cannot_write, write_atomically


def default_path(method: str) -> Path:
    """Where proposals are kept unless the YAML says so: the user's folder for caches."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "mlcli" / f"proposals-{method}.npz"


def picture_key(pixels: np.ndarray) -> str:
    """SHA-256 of a picture's pixels (uint8, any shape) and their shape."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


class ProposalCache:
    """Boxes (float32 [p, 4], corners in input pixels) by picture key.

    A file that is damaged, or belongs to another method, is as good as none, and will be replaced.

    Args:
        path: the .npz file. Raises OutputError at once if its folder cannot be made, not after the work is done.
        identity: of the method and its parameters.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self._identity = path, identity
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(path.parent, error) from error
        self._boxes = self._read()
        self._new: dict[str, np.ndarray] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._boxes

    def __getitem__(self, key: str) -> np.ndarray:
        return self._boxes[key]

    def __setitem__(self, key: str, boxes_xyxy: np.ndarray) -> None:
        self._boxes[key] = self._new[key] = boxes_xyxy

    def save(self) -> None:
        """Add what is new to the file, and to what other processes have put there meanwhile."""
        if not self._new:
            return
        self._boxes = self._read() | self._boxes
        self._new = {}
        counts = [len(boxes) for boxes in self._boxes.values()]
        content = io.BytesIO()
        np.savez_compressed(
            content,
            identity=np.array(self._identity),
            keys=np.array(list(self._boxes), dtype="S64"),
            offsets=np.cumsum([0, *counts]),
            boxes_xyxy=np.concatenate([np.zeros((0, 4), np.float32), *self._boxes.values()]),
        )
        write_atomically(self.path, content.getvalue())

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if file["identity"] != self._identity:
                    return {}
                keys, boxes = file["keys"].astype(str).tolist(), np.split(file["boxes_xyxy"], file["offsets"][1:-1])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        return dict(zip(keys, boxes, strict=True)) if keys else {}
