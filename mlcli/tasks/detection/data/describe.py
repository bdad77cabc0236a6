"""A detection data set in a few words, for people: where it is from, how many pictures and objects, of what size."""

from pathlib import Path

import numpy as np
import torch

from mlcli.tasks.detection.data.config import DetectionData
from mlcli.tasks.detection.data.source import DetectionSource
from mlcli.text import plural


def describe_source(config: DetectionData, source: DetectionSource) -> list[str]:
    """`scenes (included)  1,000 train · 200 val · 10 classes · 128x128, pad`, then what is in the pictures."""
    origin: Path | str = getattr(config, "file", None) or getattr(config, "root", None) or "included"
    counts = " · ".join(f"{len(records):,} {split}" for split, records in source.splits.items())
    height, width = source.info.input_shape[1:]
    classes = source.info.num_classes
    named = plural(classes, "class", "classes")
    return [f"{config.name} ({origin})  {counts} · {named} · {height}x{width}, {config.fit}", _objects(source)]


def _objects(source: DetectionSource) -> str:
    """`3,041 objects to train on, 0 to 5 a picture, sides 14 to 58 pixels of the input (median 31)`"""
    records = source.splits["train"]
    chosen = np.flatnonzero(~records.ignored)
    boxes = records.to_input(torch.from_numpy(records.boxes_xyxy[chosen]), torch.from_numpy(records.picture_of[chosen]))
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).clamp(min=0).sqrt().numpy()
    per_picture = np.bincount(records.picture_of[chosen], minlength=len(records))
    text = f"{len(chosen):,} objects to train on, {per_picture.min()} to {per_picture.max()} a picture"
    if not len(chosen):
        return text
    low, middle, high = np.percentile(sides, [5, 50, 95])
    return f"{text}, sides of {low:.0f} to {high:.0f} pixels of the input (median {middle:.0f})"
