"""`mlcli init` for classification: built-in data sets, and a YAML for images or for a table of classes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.data.draft import Draft, as_columns, as_comment, in_yaml, table_draft, training_length
from mlcli.schema.yaml12 import as_scalar
from mlcli.text import command_line

if TYPE_CHECKING:
    from mlcli.data.survey import ImageSurvey, Place

TEMPLATES: Mapping[str, Path] = {path.stem: path for path in Path(__file__).with_name("templates").glob("*.yaml")}
IMAGENET_SIDE = 224
WEIGHTS = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
FINE_TUNING = """\
  name: torchvision
  arch: resnet18\t# or another of torchvision.models
  weights: default\t# ImageNet's; or the path of a .pth file
finetune:\t# the new last layer learns first, then all, ten times slower
  freeze: ["conv1*", "bn1*", "layer*"]
  unfreeze_at: 4
  trunk_lr: 0.1
"""
UNBALANCED = 2
"""Largest ratio between the sizes of the largest and smallest class before classes are weighed."""


def propose(place: "Place") -> Draft | None:
    """Return a YAML for images in folders or a list, or a CSV file of features and a class; None for anything else.

    Raises DataError if nothing can be learned from what is there.
    """
    images, table = place.images, place.table
    if images is None:
        return table_draft(place, task="classification", loss="cross_entropy")
    if table is None:
        data = f"  name: {'shards' if place.has_shards else 'folder'}\n  root: {in_yaml(place)}\n"
    else:
        data = f"  name: image_csv\n  file: {in_yaml(place)}\n"
        data += f"  root: {in_yaml(place, table.root)}\n" if table.root else ""
        data += f"  path_column: {as_scalar(table.path_column or '')}\n"
        data += f"  label_column: {as_columns(table.indicators or (table.target,))}\n"
        data += f"  split_column: {as_scalar(table.split_column)}\n" if table.split_column else ""
    # The size of well-known data sets next below the images' usual shorter side.
    shorter = min(next(iter(images.sizes)))
    side = next((side for side in (224, 128, 64, 32) if shorter >= side), shorter)
    one_size = len(images.sizes) == 1 and max(next(iter(images.sizes))) <= 256
    side = IMAGENET_SIDE if place.pretrained else side
    one_size = one_size and not place.pretrained
    size = "null\t# all have one size already" if one_size else f"{side}\t# pixels; the middle square is kept"
    data += f"  image_size: {size}\n  channels: {1 if images.grey else 3}\t# 3 colour, 1 grey\n"
    data += "  normalize: imagenet\t# as the weights expect\n" if place.pretrained else ""
    for split in ("val", "test"):
        if split not in images.split_counts and "split_column" not in data:
            data += f"  {split}: 0.15\t# share of the images held out, the same ones each time\n"
    if images.unreadable:
        share = min(0.99, max(0.01, 2 * images.unreadable / images.looked_at))
        data += f"  bad_images: skip\n  max_bad_share: {share:.2g}\t# more than this is an error all the same\n"
    if images.grey:  # letters, digits and medical pictures, which rarely mean the same mirrored
        augment = f"  - {{name: random_crop, padding: {max(1, side // 16)}}}\n"
    else:
        crop = f"random_crop, padding: {max(1, side // 8)}" if side <= 64 else "random_resized_crop, area: [0.3, 1.0]"
        augment = f"  - {{name: {crop}}}\n  - {{name: horizontal_flip}}\n"
    counts = images.class_counts.values()
    weights = "balanced" if max(counts) > UNBALANCED * min(counts) else "none"
    batch_size, epochs = training_length(images.split_counts.get("train") or round(0.7 * images.total))
    facts, name = _facts(images, as_comment(str(place.path))), as_comment(str(place.path))
    if place.pretrained:
        batch_size, epochs = min(32, batch_size), 10
        facts.append(f"ImageNet's weights are fetched once, {WEIGHTS} (45 MB). Without a network, bring that file "
                     "along and name it as model.weights.")  # fmt: skip
    elif side > 64 and not images.grey:
        again = command_line("init", name, "--pretrained")
        facts.append(f"Photographs: fine-tuning ImageNet's weights mostly learns more from as few: {again}")
    return Draft(facts, f"""\
task: classification

data:
{data}
augment:\t# random changes to training images; remove what changes their meaning
{augment}
# Step 1: the set of functions that is searched
model:
{FINE_TUNING if place.pretrained else _model(side)}
# Step 2: how wrong a function is
loss: {{name: cross_entropy, label_smoothing: 0.0, class_weights: {weights}}}

# Step 3: how the best function is found
optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.01}}
schedule: {{name: cosine, warmup_epochs: 1}}
train: {{epochs: {epochs}, batch_size: {batch_size}, seed: 0}}
""", pretrained=place.pretrained)  # fmt: skip


def _facts(images: "ImageSurvey", place: str) -> list[str]:
    """Return the findings of the survey, as comments."""
    (width, height), count = next(iter(images.sizes.items()))
    share = "all" if len(images.sizes) == 1 else f"{count / images.sizes.total():.0%} of them"
    classes = images.class_counts
    look = f"{share} {width}x{height} pixels{', grey' if images.grey else ''}"
    facts = [f"{place}: {len(classes)} classes, {images.total:,} images, {look}."]
    if images.split_counts:
        facts.append("Splits: " + ", ".join(f"{count:,} {split}" for split, count in images.split_counts.items()) + ".")
    if images.split_names:
        facts.append(f"Folders taken for splits by their names: {as_comment(', '.join(images.split_names))}.")
    if images.looked_at < images.total:
        facts.append(f"(Sizes and colours of {images.looked_at:,} images were looked at.)")
    few, many = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    if classes[many] > UNBALANCED * classes[few]:
        facts.append(
            f"Unbalanced: {as_comment(many)} has {classes[many]:,} images, {as_comment(few)} {classes[few]:,}; "
            "hence the class weights."
        )
    if len(classes) < 2:
        facts.append("WARNING: one class only; there is nothing to distinguish.")
    if classes[few] < 10:
        facts.append(f"WARNING: {as_comment(few)} has {classes[few]} images: too few to train and test on.")
    facts += [f"WARNING: training will refuse this: {as_comment(str(fault))}." for fault in images.faults]
    if images.unreadable:
        facts.append(f"WARNING: {images.unreadable:,} of {images.looked_at:,} images cannot be read and are skipped.")
    return facts


def _model(side: int) -> str:
    if side > 64:
        return "  name: resnet\n  depth: 18\t# 18, 34 or 50\n  stem: imagenet\t# for images above 64 pixels\n"
    if side < 8:
        return "  name: mlp\n  hidden: [128, 64]\t# neurons of each hidden layer\n"
    pools = min(2, int(math.log2(side)) - 2)
    conv = "    - {{name: conv, channels: {}, kernel: 3, batch_norm: true}}"
    blocks = "\n    - {name: pool}\n".join(conv.format(32 * 2**i) for i in range(pools + 1))
    return f"  name: cnn\t# or mlp, vgg, resnet\n  blocks:\n{blocks}\n    - {{name: global_pool}}\n"
