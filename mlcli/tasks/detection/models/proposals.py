"""Regions for R-CNN and Fast R-CNN, found before training: once for each picture, kept in one file, and measured.

Finding them takes minutes for every data set, and gives the same in every run. An entry of the file belongs to the
pixels of a picture as the model gets it, the whole file to one method with its parameters; so another picture under the
old name is looked at anew, and so is everything when the method changes.

What no region overlaps cannot be found, so the share of objects that regions do overlap is shown before training.
"""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlcli.files import cannot_write, write_atomically
from mlcli.outputs import cache_folder
from mlcli.reading import ANY_SIZE, open_regular
from mlcli.show.terminal import bar
from mlcli.tasks.detection.boxes import clip, iou_matrix
from mlcli.tasks.detection.data.records import DetectionSource, Records
from mlcli.tasks.detection.models.build import build_proposer
from mlcli.tasks.detection.models.config import Proposals
from mlcli.tasks.detection.models.proposers import Proposer, sliding_windows
from mlcli.tasks.detection.targets import padded

CHUNK = 32  # pictures read and looked at together
SAVE_EVERY = 256  # pictures after which what was found is safe on disk; selective search takes minutes for them

OVERLAPPED = 0.5
"""Least IoU of a region and an object for the object to be found, as for average precision at 0.5."""


def default_path(method: str) -> Path:
    """Return the file of proposals unless the YAML names one, in the user's folder for caches."""
    return cache_folder() / f"proposals-{method}.npz"


def picture_key(pixels: np.ndarray) -> str:
    """SHA-256 of a picture's pixels (uint8, any shape) and their shape."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


class ProposalCache(dict[str, np.ndarray]):
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
        super().__init__(self._read())

    def save(self) -> None:
        """Write the file, with what other processes have put there meanwhile."""
        self.update(self._read() | self)
        counts = [len(boxes) for boxes in self.values()]
        content = io.BytesIO()
        np.savez_compressed(
            content,
            identity=np.array(self._identity),
            keys=np.array(list(self), dtype="S64"),
            offsets=np.cumsum([0, *counts]),
            boxes_xyxy=np.concatenate([np.zeros((0, 4), np.float32), *self.values()]),
        )
        write_atomically(self.path, content.getvalue())

    def _read(self) -> dict[str, np.ndarray]:
        try:
            with (
                open(open_regular(self.path, ANY_SIZE), "rb") as opened,
                np.load(opened, allow_pickle=False) as file,
            ):
                if file["identity"] != self._identity:
                    return {}
                keys, boxes = file["keys"].astype(str).tolist(), np.split(file["boxes_xyxy"], file["offsets"][1:-1])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return {}
        return dict(zip(keys, boxes, strict=True)) if keys else {}


def with_proposals(source: DetectionSource, config: Proposals) -> tuple[DetectionSource, list[str]]:
    """Return the source with the regions of all its pictures, and lines about them for people.

    Sliding windows depend on nothing but the input's size: models make them themselves, and the source stays as it is.
    """
    if config.method == "sliding":
        height, width = source.info.input_shape[1:]
        windows = sliding_windows(height, width, config.most)
        return source, [recall_line(config.method, [windows] * len(source.splits["train"]), source.splits["train"])]
    look = build_proposer(config, source.info)
    cache = ProposalCache(config.cache or default_path(config.method), look.identity)
    found = {split: _found(look, cache, records, split) for split, records in source.splits.items()}
    splits = {
        split: replace(records, proposals_xyxy=_in_originals(found[split], records, config.most))
        for split, records in source.splits.items()
    }
    line = recall_line(config.method, found["train"], splits["train"])
    return replace(source, splits=splits), [line, f"kept in {cache.path}"]


def recall_line(method: str, regions: list[Tensor], records: Records) -> str:
    """`sliding: 434 regions a picture overlap 91.2% of 2,143 objects by half`"""
    share, objects = recall(regions, records)
    each = sum(map(len, regions)) / max(1, len(regions))
    overlapped = f"overlap {share:.1%} of {objects:,} objects by half" if objects else "and no objects to overlap"
    return f"{method}: {each:.0f} regions a picture {overlapped}; objects that none overlaps cannot be found"


def recall(regions: list[Tensor], records: Records, iou: float = OVERLAPPED) -> tuple[float, int]:
    """Return the share of a split's objects that some region overlaps by `iou` or more, and how many objects there are.

    regions: for each picture float32 [p, 4] in pixels of the input. Objects that are ignored do not count.
    """
    hit = total = 0
    for picture, boxes in enumerate(regions):
        there = records.objects_of(picture)
        objects = torch.from_numpy(records.boxes_xyxy[there][~records.ignored[there]])
        placed = records.to_input(objects[None], torch.tensor([picture]))[0]
        hit += int((iou_matrix(placed, boxes) >= iou).any(dim=1).sum())
        total += len(objects)
    return hit / max(1, total), total


def _found(look: Proposer, cache: ProposalCache, records: Records, title: str) -> list[Tensor]:
    """For each picture float32 [p, 4] in pixels of the input; those already looked at come from the cache."""
    keys: list[str] = []
    unsaved = 0
    with bar(f"proposals, {title}", len(records), "image") as shown:
        for start in range(0, len(records), CHUNK):
            images = records.read(np.arange(start, min(start + CHUNK, len(records))))
            here = [picture_key(pixels) for pixels in images.numpy()]
            new = [row for row, key in enumerate(here) if key not in cache]
            for row, boxes in zip(new, look(images[new]) if new else [], strict=True):
                cache[here[row]] = boxes.numpy()
            keys += here
            unsaved += len(new)
            if unsaved >= SAVE_EVERY:
                cache.save()
                unsaved = 0
            shown.update(len(images))
    if unsaved:
        cache.save()
    return [torch.from_numpy(cache[key]) for key in keys]


def _in_originals(found: list[Tensor], records: Records, most: int) -> np.ndarray:
    """In pixels of the originals, float32 [N, most, 4]; what lies in the bars of a letterbox is left out."""
    kept = []
    for picture, boxes in enumerate(found):
        width, height = records.sizes[picture].tolist()
        boxes = clip(records.to_original(boxes[None], torch.tensor([picture]))[0], height, width)
        kept.append(boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)])
    return padded(kept, most).numpy()
