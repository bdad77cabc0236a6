"""A YAML for annotated pictures in any format that is read, as `mlcli init` writes it."""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlcli.data.decode import Preparation
from mlcli.data.draft import Draft, as_comment, in_yaml
from mlcli.engine.limits import usable_threads
from mlcli.errors import ConfigError, DataError
from mlcli.schema.yaml12 import as_scalar
from mlcli.tasks.detection.data.config import AnnotationFiles
from mlcli.tasks.detection.data.recognise import recognise
from mlcli.tasks.detection.data.strides import fitting_strides
from mlcli.text import command_line, duration, first_few, listed, plural

if TYPE_CHECKING:
    from mlcli.data.survey import Place
    from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
    from mlcli.tasks.detection.data.records import Records

MINUTES = 10.0
PIXELS_PER_S = {"yolo": 1.4e6, "ssd": 1.4e6, "retinanet": 0.75e6, "fcos": 0.9e6, "faster_rcnn": 0.4e6}
"""Input pixels that a core trains each model on in a second (EPYC, fp32); the first epoch says the truth."""
LOOKED_AT = 200
"""Objects that the scales of SSD are fitted to, drawn at random from a fixed seed."""
SMALLEST = 16.0
"""Pixels that the shorter side of nine objects in ten should have in the input: two cells of the finest map."""
SIDES = (224, 640)
"""Least and largest longer side of the input."""
FEW = 3
"""Objects of a picture up to which parts of it, and the whole made smaller, are pictures to learn from as well."""
SIDED = re.compile(r"\b(left|right|arrows?|digits?|letters?|numbers?|texts?|signs?|plates?)\b")
"""Words in the names of classes that are other classes in a mirror."""


def proposal(place: "Place") -> Draft | None:
    """Return a YAML for annotated pictures; None for anything else.

    Raises DataError if they cannot be read, or nothing can be learned from them.
    """
    if place.target or not (found := recognise(place.path)):
        return None
    # With torch, which takes seconds to load, only for what is annotated.
    from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
    from mlcli.tasks.detection.data.build import given_splits, read_annotations

    config, name = found[0], place.model or "yolo"
    if name not in PIXELS_PER_S:
        what = f"there is no model '{name}' to propose"
        raise ConfigError(what, where="--model", fix=f"give {listed([*PIXELS_PER_S], 'or')}; others in the YAML")
    annotations, mended, trouble = read_annotations(config), config.model_copy(update={"on_invalid": "fix"}), ""
    checked = CheckedAnnotations(annotations)
    try:
        splits, _ = given_splits(mended, checked)
    except DataError as error:  # perhaps all of train is in val as well: the YAML is what `data check` needs to say so
        trouble = error.what
        pooled = replace(annotations, pictures=[picture._replace(split="") for picture in annotations.pictures])
        splits, _ = given_splits(mended, CheckedAnnotations(pooled))
    train = splits["train"]
    height, width = _input_size(train)
    train = replace(train, preparation=Preparation((height, width), "pad", 3))
    names, sizes = checked.class_names, train.sizes
    is_sided = any(len(name) == 1 or name.isdecimal() or SIDED.search(name.lower().replace("_", " ")) for name in names)
    shares = [split for split in ("val", "test") if split not in {*splits, *annotations.splits()}]
    count = round(len(train) * (1 - 0.15 * len(shares)))
    batch_size = 16 if count >= 160 else max(1, min(8, count))
    cores = usable_threads()[0]
    minutes = MINUTES if place.minutes is None else place.minutes
    speed = PIXELS_PER_S[name]
    epoch_s = max(1, count) * height * width / (speed * cores)
    epochs = int(min(1000, max(1, minutes * 60 / epoch_s)))
    every, minutes = max(1, epochs // 30), epochs * epoch_s / 60
    takes = plural(round(minutes), "minute") if minutes >= 2 else duration(60 * minutes)

    facts = _facts(place, found, checked, splits)
    if trouble:
        facts.append(f"WARNING: training will refuse this: {trouble}.")

    data = _data_section(config, place)
    size = str(height) if height == width else f"[{height}, {width}]"
    low, high = np.percentile(sizes.max(axis=1), [5, 95])
    sides = f"{low:.0f} to {high:.0f}" if round(low) < round(high) else f"{high:.0f}"
    data += f"  image_size: {size}\t# pixels; the pictures' longer sides have {sides}\n"
    if checked.faults:
        data += "  on_invalid: fix\t# what cannot be fixed is left out\n"
    data += "".join(f"  {split}: 0.15\t# share of the pictures held out, the same ones each time\n" for split in shares)
    crowded = (~train.ignored).sum() > FEW * len(train)
    augment = "" if crowded else "  - {name: iou_crop, p: 0.5}\n  - {name: zoom_out, p: 0.3, most: 2}\n"
    augment += "  - {name: affine, translate: 0.1, scale: [0.8, 1.2]}\n"
    augment += "" if is_sided else "  - {name: horizontal_flip}\t# remove it if left and right differ\n"
    return Draft(facts, f"""\
task: detection

data:
{data}
augment:\t# random changes to training pictures; boxes go along
  - {{name: photometric}}
{augment}
# Step 1: the set of functions that is searched
model:
  name: {name}\t# others by init --model: {', '.join(other for other in PIXELS_PER_S if other != name)}
{_fitted(name, train)}
# Step 2: how wrong a function is: the model's own terms, by name
loss: {{weights: {{box: 1.0, class: 1.0}}}}

# Step 3: how the best function is found
optimizer: {{name: adamw, lr: 2e-3, weight_decay: 0.05}}
schedule: {{name: one_cycle}}
train:
  epochs: {epochs}\t# about {takes} on {plural(cores, 'core')} at {speed / 1e6:g} million pixels a second each
  evaluate_every: {every}
  batch_size: {batch_size}
  ema: {{decay: {0.998 if epochs * count > 2000 * batch_size else 0.99}}}
  seed: 0
""", is_timed=True, model=name)  # fmt: skip


def _fitted(name: str, train: "Records") -> str:
    """Return the lines of what a model has to know of the objects' sizes."""
    if name == "yolo":
        return f"  strides: {[*fitting_strides(train.input_sides())]}\t# of the maps that predict, in pixels\n"
    if name != "ssd":
        return ""
    import torch

    from mlcli.tasks.detection.models.ssd import fitting_scales

    objects = np.random.default_rng(0).permutation(np.flatnonzero(~train.ignored))[:LOOKED_AT]
    boxes, pictures = train.boxes_xyxy[objects], train.picture_of[objects]
    input_xyxy = train.to_input(torch.from_numpy(boxes), torch.from_numpy(pictures))
    scales = fitting_scales(input_xyxy, train.preparation.image_size)
    return f"  scales: {[*scales]}\t# of the smallest and largest default boxes, shares of the picture\n"


def _facts(
    place: "Place", found: Sequence[AnnotationFiles], checked: "CheckedAnnotations", splits: Mapping[str, "Records"]
) -> list[str]:
    """Return what was found, as comments. found: the sections that could read it, of which the first does."""
    from mlcli.tasks.detection.data.annotations.faults import counted

    train, names = splits["train"], checked.class_names
    counts = Counter(names[label - 1] for label in train.labels[~train.ignored].tolist())
    named = first_few([f"{as_comment(name)} ({number:,})" for name, number in counts.most_common()])
    facts = [
        f"{as_comment(str(place.path))}: {plural(len(train), 'picture')} to train on, "
        f"{plural(counts.total(), 'object')}, read as {found[0].name}.",
        f"{plural(len(names), 'class', 'classes')}, as the data name them: {named}.",
    ]
    if len(splits) > 1:
        facts.append("Splits: " + ", ".join(f"{len(part):,} {split}" for split, part in splits.items()) + ".")
    facts += [f"WARNING: {as_comment(note)}." for note in checked.annotations.notes]
    for split, part in splits.items():
        if part.ignored.all():
            facts.append(f"WARNING: {split} has no object that counts: nothing can be measured on it.")
    if checked.faults:
        faults = plural(len(checked.faults), "fault")
        told = f"{faults} in the annotations ({counted(checked.faults)}); mlcli data check lists them"
        facts.append(f"WARNING: {told}.")
    for other in found[1:]:
        if path := getattr(other, "file", None) or getattr(other, "train_file", None):
            path = path if place.path.is_absolute() else Path(os.path.relpath(path))
            facts.append(f"Also there, as {other.name}: {as_comment(command_line('init', path))}")
    return facts


def _data_section(config: AnnotationFiles, place: "Place") -> str:
    """The lines of the keys that are not the defaults."""
    lines = ["  name: " + config.name]
    defaults = type(config).model_fields
    for key in defaults:
        value = getattr(config, key)
        if key == "name" or key not in config.model_fields_set:
            continue
        if isinstance(value, dict):
            listed = ", ".join(f"{split}: {_scalar(path, place)}" for split, path in value.items())
            lines.append(f"  {key}: {{{listed}}}")
        elif value != defaults[key].default:
            lines.append(f"  {key}: {_scalar(value, place)}")
    return "\n".join(lines) + "\n"


def _scalar(value: object, place: "Place") -> str:
    """A text as it is, a path as relative as the place was named."""
    if not isinstance(value, Path):
        return as_scalar(str(value))
    return in_yaml(place, value if place.path.is_absolute() else Path(os.path.relpath(value)))


def _input_size(records: "Records") -> tuple[int, int]:
    """Height and width of the input, multiples of 32: as large as small objects need, of the pictures' usual shape."""
    objects = np.flatnonzero(~records.ignored)
    longer = records.sizes.max(axis=1)
    sides = (records.boxes_xyxy[objects, 2:] - records.boxes_xyxy[objects, :2]).min(axis=1)
    shares = np.maximum(sides / longer[records.picture_of[objects]], 1e-6)
    needed = SMALLEST / float(np.percentile(shares, 10))
    largest = min(SIDES[1], max(32, _by_32(float(np.median(longer)))))  # more than the picture has shows nothing new
    side = max(min(SIDES[0], largest), min(largest, _by_32(needed)))
    low, middle, high = np.percentile(records.sizes[:, 1] / records.sizes[:, 0], [10, 50, 90])
    if low < 1 < high or 0.8 < middle < 1.25:
        return side, side
    shape = min(middle, 1 / middle)
    shorter, longer = min(
        ((_by_32(longer * shape), longer) for longer in (side, min(side + 32, largest))),
        key=lambda sides: sides[0] / sides[1],  # nearest to the shape: the least bars
    )
    return (shorter, longer) if middle < 1 else (longer, shorter)


def _by_32(side: float) -> int:
    return 32 * math.ceil(side / 32 - 1e-6)
