"""Build a data set from the data section of a YAML: read, check, clean as configured, divide into splits."""

import contextlib
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np

from mlcli.data.decode import Preparation
from mlcli.data.fingerprints import of_files
from mlcli.data.info import DataInfo
from mlcli.data.inspection import MAX_COUNTED, count_pixels, imagenet_statistics, pixel_counts, pixel_statistics
from mlcli.data.source import ImageFilesSamples
from mlcli.data.sources.shards import has_shards
from mlcli.data.splits import SPLITS, Divisible, split_indices, told_alike, told_several
from mlcli.engine.membership import NEW, Fingerprints, KnownData, OtherData
from mlcli.errors import ConfigError, DataError
from mlcli.outputs import refuse_unfinished
from mlcli.reading import why_absent
from mlcli.tasks.detection.data.annotations.box_csv import read_box_csv
from mlcli.tasks.detection.data.annotations.coco import read_coco
from mlcli.tasks.detection.data.annotations.contents import Annotations
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations, counted, refuse, told
from mlcli.tasks.detection.data.annotations.shards import read_shards
from mlcli.tasks.detection.data.annotations.voc import read_voc
from mlcli.tasks.detection.data.annotations.yolo_txt import read_yolo_txt
from mlcli.tasks.detection.data.config import (
    AnnotatedImages,
    AnnotatedShards,
    AnnotationFiles,
    BoxCsv,
    Coco,
    DetectionData,
    Scenes,
    Voc,
    YoloTxt,
)
from mlcli.tasks.detection.data.records import DetectionSource, Records, rarest_labels
from mlcli.tasks.detection.data.scenes import make_scenes
from mlcli.text import first_few, listed, plural, without_secrets

FEW_BOXES, MANY_WRONG = 5, 0.3
"""Boxes below which nothing is said about all of them; share of wrong ones from which they may be written otherwise."""
UNMEASURABLE = (
    "give it pictures with objects, or name none for it: data.val and data.test then hold some of train out. Without a "
    "val that can be measured, train says which epoch is best"
)
"""What to do about a split without objects."""


def build_source(config: DetectionData, known: KnownData | None = None) -> DetectionSource:
    """Return the data set of a data section, divided as a run divided it if that is known.

    Raises DataError or ConfigError for annotations that cannot be read, for faults if the YAML says so, and for splits
    with nothing to learn from.
    """
    if known and known.is_of_old_version:
        known = None
    if isinstance(config, Scenes):
        splits = make_scenes(preparation_of(config), config.images, config.most_digits, config.scene_seed)
        source = _source(config, splits, tuple("0123456789"))
        return _scenes_as(known, source) if known else source
    annotations = read_annotations(config)
    if known and known.info:
        _name_classes(annotations, known)
    return checked_source(config, CheckedAnnotations(annotations), known)


def new_data(config: DetectionData, path: Path) -> AnnotationFiles:
    """Return the section of all annotated pictures that a file or folder holds: COCO's .json, YOLO's .yaml, a .csv, or
    a folder with YOLO's data.yaml, VOC's files or shards; read as the run's where those are of the same kind.

    Raises ConfigError for anything else.
    """
    kinds = {".json": "coco", ".yaml": "yolo_txt", ".yml": "yolo_txt", ".csv": "box_csv"}
    if path.is_dir() and (path / "data.yaml").is_file():
        path /= "data.yaml"
    kind = "shards" if has_shards(path) else "voc" if path.is_dir() else kinds.get(path.suffix.lower())
    shared = config.model_dump(include={*AnnotatedImages.model_fields}) | {"val": 0.0, "test": 0.0}
    # Pictures lie beside their annotations, or where those of the run lie.
    root = path.parent
    if config.name == kind and isinstance(config, Coco | BoxCsv) and config.root and not _lists_pictures_of(root, path):
        root = config.root
    match kind:
        case "shards":
            return AnnotatedShards(name="shards", root=path, **shared)
        case "voc":
            own = config.model_dump(include={"images", "annotations", "one_based", "difficult"})
            return Voc(name="voc", root=path, splits=None, **shared, **(own if isinstance(config, Voc) else {}))
        case "coco":
            return Coco(name="coco", root=root, train_file=path, **shared)
        case "yolo_txt":
            return YoloTxt(name="yolo_txt", file=path, **shared)
        case "box_csv":
            return BoxCsv(name="box_csv", file=path, root=root, **shared)
    fix = "give COCO's .json, YOLO's data.yaml, a .csv of boxes or a folder of VOC's files"
    raise ConfigError("these are no annotations", where=f"--on {path}", fix=fix)


def _lists_pictures_of(root: Path, file: Path) -> bool:
    """Whether some picture that an annotation file of COCO or a CSV file of boxes names lies below a folder."""
    annotations = (
        read_coco(root=root, train_file=file) if file.suffix == ".json" else read_box_csv(file=file, root=root)
    )
    return any((root / picture.path).is_file() for picture in annotations.pictures[:100])


def _scenes_as(known: KnownData, source: DetectionSource) -> DetectionSource:
    """The scenes of each split that were in it in a run, too. They are made from a seed: others are other data."""
    prints = source.membership().splits
    ends = np.cumsum([len(part) for part in prints.values()])
    now = dict(zip(prints, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    everything = Fingerprints(
        np.concatenate([part.keys for part in prints.values()]),
        np.concatenate([part.targets for part in prints.values()]),
    )
    chosen = known.divide(everything, now, (), "scenes")
    splits = {split: source.splits[split].only(np.intersect1d(rows, now[split]) - now[split][0])
              for split, rows in chosen.items()}  # fmt: skip
    return replace(source, splits=splits)


def _name_classes(annotations: Annotations, known: KnownData) -> None:
    """Give labels as a saved model knows the classes. Objects of other classes are left out of new data, and counted;
    raises OtherData where the data are the run's."""
    assert known.info is not None
    names = known.info["class_names"]
    others = sorted(set(annotations.known_names()) - set(names))
    if others and known.purpose != "measure":
        raise OtherData(f"the model does not know {first_few(map(repr, others))}", where=annotations.root)
    annotations.class_names = tuple(names)
    annotations.category_ids = tuple(known.info["preparation"].get("category_ids", ()))
    left = [thing for thing in annotations.objects if thing.name in names]
    if known.purpose == "measure":
        annotations.pictures = [picture._replace(split="") for picture in annotations.pictures]
    if len(left) < len(annotations.objects):
        number = len(annotations.objects) - len(left)
        known.notes.append(
            f"{plural(number, 'object is', 'objects are')} of classes that the model does not know, and left out: "
            f"{first_few(map(repr, others))}"
        )
        annotations.objects = left


def read_annotations(config: AnnotationFiles) -> Annotations:
    """Read annotations as they are written. Raises DataError or ConfigError if a folder, file or column is missing."""
    keywords = config.model_dump(exclude={"name", *AnnotatedImages.model_fields})  # of the readers, by the same names
    for place in keywords.values():
        if isinstance(place, Path):
            refuse_unfinished(place)
    match config:
        case Voc():
            annotations = read_voc(**keywords)
        case Coco():
            annotations = read_coco(**keywords)
        case YoloTxt():
            annotations = read_yolo_txt(**keywords)
        case BoxCsv():
            annotations = read_box_csv(**keywords)
        case AnnotatedShards():
            annotations = read_shards(**keywords)
        case _:
            assert_never(config)
    _refuse_absent(annotations)
    _refuse_equal_splits(annotations)
    _refuse_shares(annotations)
    return annotations


def _refuse_absent(annotations: Annotations) -> None:
    """Raise DataError if none of the pictures is there, saying where the first is instead, if near."""
    if annotations.shards is not None:
        return
    root = Path(annotations.root)
    paths = [os.path.join(root, picture.path) for picture in annotations.pictures]
    if not paths or any(map(os.path.lexists, paths)):
        return
    first = annotations.pictures[0]
    below = sorted(os.listdir(root)) if os.path.isdir(root) else []
    near = [place for place in (root.parent, *(root / name for name in below)) if os.path.lexists(place / first.path)]
    name = os.path.basename(first.path)
    held = [place for place in (root, *(root / name for name in below)) if os.path.lexists(place / name)]
    if near:
        fix = f"the pictures lie below {near[0]}: set data.root to it (in a data.yaml: path)"
    elif held:
        fix = f"the pictures lie in {held[0]}: set data.root to it and write '{name}' instead of '{first.path}'"
    else:
        fix = why_absent(Path(paths[0])) or "set data.root to the folder that the names are relative to"
    what = f"none of the {plural(len(paths), 'picture')} is there, such as {first.path}"
    raise DataError(what, where=f"{first.where}, looked for in {root}", fix=fix)


def _refuse_equal_splits(annotations: Annotations) -> None:
    """Raise DataError if two splits are the same pictures: one folder or list that is named twice."""
    paths: dict[str, set[str]] = {}
    for picture in annotations.pictures:
        paths.setdefault(picture.split, set()).add(os.path.normpath(picture.path))
    for first, second in itertools.combinations(paths, 2):
        if paths[first] == paths[second]:
            number = f"{len(paths[first]):,}"
            raise DataError(
                f"{first} and {second} are the same pictures ({number}): one folder or list is named for both",
                where=annotations.root,
                fix=f"name other pictures for {second}, or none: data.val and data.test hold some of train out",
            )


def _refuse_shares(annotations: Annotations) -> None:
    """Raise DataError if boxes that should be in pixels are all in shares of the picture, 0 to 1."""
    if annotations.relative or not annotations.objects:
        return
    boxes = np.array([thing.box_xyxy for thing in annotations.objects], dtype=np.float64)
    # A corner of -1 to 0 is a share from which 1 was taken, as one_based says.
    if (abs(boxes) <= 1).all() and (boxes[:, 2:] > 0).all() and (boxes % 1 != 0).any():
        raise DataError(
            "all boxes lie between 0 and 1: they are in shares of the picture, not in pixels",
            where=annotations.objects[0].where,
            fix="multiply x by the width of the picture and y by its height; `yolo_txt` is the format that has shares",
        )


def _refuse_other_corners(config: AnnotationFiles, checked: CheckedAnnotations) -> None:
    """Raise DataError if many boxes are wrong as corners but all are right as left, top, width and height, or for COCO
    the other way round: mending each would teach wrong boxes."""
    things, sides = checked.annotations.objects, checked.sizes[checked.picture_of]
    boxes = np.array([thing.box_xyxy for thing in things], dtype=np.float64).reshape(-1, 4)
    known = (sides > 0).all(axis=1) & np.isfinite(boxes).all(axis=1)
    if checked.annotations.relative or known.sum() < FEW_BOXES:
        return
    left, top, right, bottom = boxes[known].T
    width, height = sides[known].T
    if isinstance(config, Coco | AnnotatedShards):
        right, bottom = right - left, bottom - top  # as written
        wrong, given, other = (left + right > width + 1) | (top + bottom > height + 1), "width, height", "right, bottom"
        fits = (right > left) & (bottom > top) & (right <= width + 1) & (bottom <= height + 1)
    else:
        wrong, given, other = (right < left) | (bottom < top), "right, bottom", "width, height"
        fits = (right > 0) & (bottom > 0) & (left + right <= width + 1) & (top + bottom <= height + 1)
    if wrong.mean() >= MANY_WRONG and fits.all():
        raise DataError(
            f"{wrong.sum():,} of {len(wrong):,} boxes are wrong as left, top, {given}, but all are right as left, top, "
            f"{other}",
            where=things[int(np.flatnonzero(known)[np.argmax(wrong)])].where,
            fix=f"write left, top, {given}, which this format has",
        )


def checked_source(
    config: AnnotationFiles, checked: CheckedAnnotations, known: KnownData | None = None
) -> DetectionSource:
    """Divide what the files do not divide, and measure the pixels. Raises DataError as `given_splits`."""
    everything, given, notes = _given(config, checked)
    shares = {"val": config.val, "test": config.test}
    shares = {split: share for split, share in shares.items() if split not in given and share > 0}
    positions, root = dict(given), checked.annotations.root
    if shares:
        others = " or ".join(split for split in given if split != "train")
        if others:
            notes += [f"{split} is {share:g} of the pictures that are not {others}" for split, share in shares.items()]
        # As the run divided them: drawing anew is for comparison only.
        with contextlib.suppress(DataError) if known else contextlib.nullcontext():
            drawn = _divided(everything.only(given["train"]), shares, config.split_seed, root)
            positions |= {split: given["train"][rows] for split, rows in drawn.items()}
    if known:
        images = everything.images
        assert isinstance(images, ImageFilesSamples)
        keys, sees = of_files(images.root, images.paths, known.sees)
        prints = Fingerprints(keys, everything.target_hashes(checked.class_names), sees)
        positions = known.divide(prints, positions, [split for split in SPLITS if split not in given], root)
    splits = {split: everything.only(rows) for split, rows in positions.items()}
    ordered = {split: splits[split] for split in (*SPLITS, NEW) if split in splits}
    notes += [
        f"{split} has no object that counts (none, or only crowds and difficult ones): not measurable; {UNMEASURABLE}"
        for split, records in ordered.items()
        if records.ignored.all()
    ]
    return _source(config, ordered, checked.class_names, tuple(notes), checked.category_ids, known)


def given_splits(config: AnnotationFiles, checked: CheckedAnnotations) -> tuple[dict[str, Records], list[str]]:
    """Return the splits that the files name, or everything as "train" where they name none; and notes for people.

    Raises DataError for faults if the YAML says so, and if there is nothing to train on.
    """
    everything, positions, notes = _given(config, checked)
    return {split: everything.only(rows) for split, rows in positions.items()}, notes


def _given(config: AnnotationFiles, checked: CheckedAnnotations) -> tuple[Records, dict[str, np.ndarray], list[str]]:
    """All pictures that are kept, their positions in each split that the files name, int64 [n], and notes."""
    root, annotations = checked.annotations.root, checked.annotations
    _refuse_other_corners(config, checked)
    if config.on_invalid == "error":
        refuse(checked.faults, root)
    pictures, objects = checked.kept(config.on_invalid)
    everything = _records(checked, preparation_of(config), pictures, objects)
    split_of = np.array([picture.split or "train" for picture in annotations.pictures], dtype=object)[pictures]
    positions = {split: np.flatnonzero(split_of == split) for split in SPLITS}
    positions = {split: rows for split, rows in positions.items() if len(rows)}
    splits = {split: everything.only(rows) for split, rows in positions.items()}
    if "train" not in splits or splits["train"].ignored.all():
        left = f"{root}: {len(pictures)} pictures, {len(objects)} objects read, {objects.sum()} left"
        left += f"; {told(checked.faults)}" if checked.faults else ""
        if "train" in splits and (train := splits["train"]).ignored.any():
            left += f"; {train.crowd.sum()} crowds and {train.difficult.sum()} difficult ones do not count"
        raise DataError(
            "there is no picture with an object to train on",
            where="; ".join([left, *annotations.notes]),
            fix="check the paths in the data section; `mlcli data check` lists what is wrong",
        )
    notes = list(annotations.notes)
    if checked.faults:
        entries = sum(not fault.fixable for fault in annotations.faults)
        lost = {"picture": (~pictures).sum(), "box": (~objects).sum(), "entry that cannot be read": entries}
        many = {"box": "boxes", "entry that cannot be read": "entries that cannot be read"}
        notes.append(
            f"{plural(len(checked.faults), 'fault')} in the annotations ({counted(checked.faults)}): data.on_invalid="
            f"{config.on_invalid} leaves out {listed(plural(n, what, many.get(what, '')) for what, n in lost.items())}"
        )
    if checked.clipped:
        boxes = plural(checked.clipped, "box sticks", "boxes stick")
        notes.append(f"{boxes} out of the picture by a pixel at most: cut")
    empty = {split: int((records.counts == 0).sum()) for split, records in splits.items()}
    if any(empty.values()):
        notes.append("pictures without objects: " + ", ".join(f"{n} of {split}" for split, n in empty.items() if n))
    learned = set(splits["train"].labels.tolist())
    unlearned = [repr(name) for label, name in enumerate(checked.class_names, 1) if label not in learned]
    if unlearned:
        notes.append(f"no training picture shows {first_few(unlearned)}")
    notes += told_alike(checked.class_names) + told_several(checked.class_names)
    return everything, positions, notes


def preparation_of(config: AnnotatedImages) -> Preparation:
    """Return the preparation of pictures of any size that the data section asks for."""
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Preparation((height, width), config.fit, 3)


def _records(
    checked: CheckedAnnotations, preparation: Preparation, pictures: np.ndarray, objects: np.ndarray
) -> Records:
    """The pictures, bool [N], and objects, bool [T], that are kept, of all splits."""
    kept = np.flatnonzero(pictures).tolist()
    position = np.cumsum(pictures) - 1
    picture_of = position[checked.picture_of[objects]]
    order = np.flatnonzero(objects)[np.argsort(picture_of, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(picture_of, minlength=len(kept)))])
    rows = [checked.annotations.pictures[i] for i in kept]
    things = [checked.annotations.objects[t] for t in order.tolist()]
    boxes, labels = checked.boxes_xyxy[order].astype(np.float32), checked.labels[order]
    own_area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    area = checked.area[order].astype(np.float32)
    paths = checked.annotations.addresses[kept]
    segmentations = [checked.segmentations[t] for t in order.tolist()]
    return Records(
        images=ImageFilesSamples(checked.annotations.place, paths, rarest_labels(labels, offsets), preparation),
        preparation=preparation,
        ids=np.array([row.id for row in rows], dtype=np.int64),
        sizes=checked.sizes[pictures].astype(np.int32),
        offsets=offsets,
        boxes_xyxy=boxes,
        labels=labels,
        crowd=np.array([thing.crowd for thing in things], dtype=bool),
        difficult=np.array([thing.difficult for thing in things], dtype=bool),
        area=np.where(np.isnan(area), own_area, area).astype(np.float32),
        segmentations=segmentations if any(mask is not None for mask in segmentations) else None,
    )


def _divided(records: Records, shares: dict[str, float], seed: int, where: str) -> dict[str, np.ndarray]:
    """The positions of each split, by each picture's rarest class; classes too rare to be divided count as one."""
    groups = records.targets.numpy()
    sizes = np.bincount(groups)
    groups = np.where(sizes[groups] > len(shares) + 1, groups, np.argmax(sizes))
    _, strata = np.unique(groups, return_inverse=True)
    smallest = min(max(1, round(share * len(records))) for share in shares.values())
    if smallest < len(np.unique(strata)):
        strata = np.zeros_like(strata)
    names = [str(stratum) for stratum in range(strata.max() + 1)]
    return split_indices(Divisible(len(records), strata, names, unit="pictures", where=where), shares, seed)


def _source(
    config: AnnotatedImages,
    splits: dict[str, Records],
    class_names: tuple[str, ...],
    notes: tuple[str, ...] = (),
    category_ids: tuple[int, ...] = (),
    known: KnownData | None = None,
) -> DetectionSource:
    """Measure the training pictures and put everything together.

    category_ids: what the data set itself calls the classes by, in label order; 1..K unless given.
    """
    images, preparation = splits["train"].images, splits["train"].preparation
    if known and known.info:
        mean, std = (tuple(known.info[key]) for key in ("mean", "std"))
    elif config.normalize == "imagenet":
        mean, std = imagenet_statistics(3)
    elif isinstance(images, ImageFilesSamples):
        mean, std = pixel_statistics(count_pixels(images, seed=0)[0])
    else:
        step = -(-len(images) // MAX_COUNTED)
        mean, std = pixel_statistics(pixel_counts(np.asarray(images.inputs[::step])))
    plain = preparation.to_plain() | {"category_ids": list(category_ids or range(1, len(class_names) + 1))}
    info = DataInfo(
        kind="image",
        input_shape=(3, *preparation.image_size),
        class_names=class_names,
        target="boxes",
        mean=mean,
        std=std,
        preparation=plain,
    )
    return DetectionSource(info, splits, notes)


def describe_source(config: DetectionData, source: DetectionSource, sides_wh: np.ndarray) -> list[str]:
    """`scenes (included)  1,000 train · 200 val · 10 classes · 128x128, pad`, then what is in the pictures.

    sides_wh: [n, 2], in pixels of the input, of the objects that are learned from.
    """
    origin = getattr(config, "file", None) or without_secrets(str(getattr(config, "root", None) or "included"))
    counts = " · ".join(f"{len(records):,} {split}" for split, records in source.splits.items())
    height, width = source.info.input_shape[1:]
    named = plural(source.info.num_classes, "class", "classes")
    return [
        f"{config.name} ({origin})  {counts} · {named} · {height}x{width}, {config.fit}",
        _objects(source, sides_wh),
    ]


def _objects(source: DetectionSource, sides_wh: np.ndarray) -> str:
    """`3,041 objects to train on, 0 to 5 a picture, sides 14 to 58 pixels of the input (median 31)`"""
    records = source.splits["train"]
    sides = np.sqrt(sides_wh.prod(axis=1).clip(min=0))
    per_picture = records.learned_counts
    text = f"{len(sides):,} objects to train on, {per_picture.min()} to {per_picture.max()} a picture"
    if not len(sides):
        return text
    low, middle, high = np.percentile(sides, [5, 50, 95])
    return f"{text}, sides of {low:.0f} to {high:.0f} pixels of the input (median {middle:.0f})"
