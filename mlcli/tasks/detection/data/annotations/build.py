"""From annotations as written to a data set: judged, cleaned as the YAML says, divided into splits."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlcli.data.files import ImageFilesSamples
from mlcli.data.splits import split_indices
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.judge import Verdict, counted, judge, refuse
from mlcli.tasks.detection.data.annotations.table import Table
from mlcli.tasks.detection.data.records import Records, rarest_labels
from mlcli.tasks.detection.data.source import DetectionSource, detection_source, preparation_of
from mlcli.text import first_few

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import AnnotatedImages

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class Annotated:
    """What the files hold, cleaned: the splits that they name, or everything as "train" where they name none."""

    splits: dict[str, Records]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...]


def build_source(config: "AnnotatedImages", table: Table) -> DetectionSource:
    """Raises DataError for faults if the YAML says so, and for splits with nothing to learn from."""
    found = annotated(config, table)
    splits, notes = dict(found.splits), list(found.notes)
    shares = {"val": config.val, "test": config.test}
    shares = {split: share for split, share in shares.items() if split not in splits and share > 0}
    if shares:
        where = table.root
        notes += [
            f"{split} is {share:g} of the pictures that are not {_others(splits)}"
            for split, share in shares.items()
            if len(splits) > 1
        ]
        splits |= _divided(splits["train"], shares, config.split_seed, where)
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return detection_source(config, ordered, found.class_names, tuple(notes), category_ids=found.category_ids)


def annotated(config: "AnnotatedImages", table: Table) -> Annotated:
    """The files' own splits. Raises DataError for faults if the YAML says so, and if nothing is left to learn from."""
    verdict = judge(table, config.on_invalid)
    if config.on_invalid == "error":
        refuse(verdict.faults, table.root)
    clean = verdict.table
    wanted = np.array([split or "train" for split in clean.splits], dtype=object)
    splits = {split: np.flatnonzero(wanted == split) for split in SPLITS}
    everything = _records(config, clean)
    found = {split: everything.only(rows) for split, rows in splits.items() if len(rows)}
    if "train" not in found or not len(found["train"].labels):
        raise DataError(
            "there is no picture with an object to train on",
            where=f"{table.root}: {len(table)} pictures, {len(table.labels)} objects read, {len(clean.labels)} left",
            fix="check the paths in the data section; `mlcli data check` lists what is wrong",
        )
    return Annotated(found, clean.class_names, clean.category_ids, (*table.notes, *_notes(verdict, found, table)))


def _records(config: "AnnotatedImages", table: Table) -> Records:
    """All pictures of all splits."""
    order = np.argsort(table.picture_of, kind="stable")
    counts = np.bincount(table.picture_of, minlength=len(table))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    boxes, labels = table.boxes_xyxy[order].astype(np.float32), table.labels[order]
    own_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    area = table.area[order].astype(np.float32)
    preparation = preparation_of(config)
    paths = np.array([os.fsencode(path) for path in table.paths], dtype=bytes)
    segmentations = [table.segmentations[t] for t in order.tolist()]
    return Records(
        images=ImageFilesSamples(table.root, paths, rarest_labels(labels, offsets), preparation),
        preparation=preparation,
        ids=table.ids,
        sizes=table.sizes.astype(np.int32),
        offsets=offsets,
        boxes_xyxy=boxes,
        labels=labels,
        crowd=table.crowd[order],
        difficult=table.difficult[order],
        area=np.where(np.isnan(area), own_area, area).astype(np.float32),
        segmentations=segmentations if any(mask is not None for mask in segmentations) else None,
    )


def _divided(records: Records, shares: dict[str, float], seed: int, where: str) -> dict[str, Records]:
    """Stratified by each picture's rarest class; classes too rare to be divided count as one."""
    groups = records.targets.numpy()
    sizes = np.bincount(groups)
    groups = np.where(sizes[groups] > len(shares) + 1, groups, np.argmax(sizes))
    _, strata = np.unique(groups, return_inverse=True)
    smallest = min(max(1, round(share * len(records))) for share in shares.values())
    if smallest < len(np.unique(strata)):
        strata = np.zeros_like(strata)
    names = [str(stratum) for stratum in range(strata.max() + 1)]
    indices = split_indices(len(records), shares, seed, labels=strata, class_names=names, unit="pictures", where=where)
    return {split: records.only(rows) for split, rows in indices.items()}


def _notes(verdict: Verdict, splits: dict[str, Records], table: Table) -> list[str]:
    notes = []
    if verdict.faults:
        boxes, pictures = len(table.labels) - len(verdict.table.labels), len(table) - len(verdict.table)
        notes.append(
            f"{len(verdict.faults)} faults in the annotations ({counted(verdict.faults)}), treated as on_invalid says; "
            f"{pictures} pictures and {boxes} boxes are left out"
        )
    if verdict.clipped:
        notes.append(f"{verdict.clipped} boxes stick out of their picture by a pixel at most; they are cut")
    empty = {split: int((records.counts == 0).sum()) for split, records in splits.items()}
    if any(empty.values()):
        notes.append("pictures without objects: " + ", ".join(f"{n} of {split}" for split, n in empty.items() if n))
    names = table.class_names
    unlearned = sorted(set(range(1, len(names) + 1)) - set(splits["train"].labels.tolist()))
    if unlearned:
        notes.append(f"no training picture shows {first_few([repr(names[label - 1]) for label in unlearned])}")
    return notes


def _others(splits: dict[str, Records]) -> str:
    return " or ".join(split for split in splits if split != "train")
