"""`mlcli init`: a commented YAML to start from, for a built-in data set, a folder of images or a CSV file."""

import difflib
import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli import experiment
from mlcli.errors import ConfigError, OutputError
from mlcli.schema.yaml12 import scalar

if TYPE_CHECKING:
    from mlcli.data.survey import ImageSurvey, TableSurvey

SCHEMA_FILE = "mlcli.schema.json"
"""Lies next to the YAML, shared by all YAMLs of the folder; a web address would need a network and fit one version."""
STEPS = 2000
"""Optimizer steps that a proposed training takes, within 10 to 50 epochs: enough for a first impression."""
TEMPLATES = Path(__file__).with_name("templates")
BUILT_IN = sorted(template.stem for template in TEMPLATES.glob("*.yaml"))
"""The data sets that need no files, each with a YAML of its own; its first line describes it."""
COMMENT_COLUMN = 24
UNBALANCED = 2
"""How many times as many images the largest class may have as the smallest before classes are weighed."""


def run(what: str = "digits", output: Path = Path("config.yaml"), force: bool = False) -> None:
    """Write a YAML for `what` (a built-in data set, a folder of images or a CSV file), and the editors' schema.

    Raises ConfigError if there is nothing of that name or the file exists, DataError if nothing can be learned from the
    data, OutputError if the files cannot be written.
    """
    if output.exists() and not force:
        raise ConfigError(f"{output} exists already", fix="--force overwrites it, --output NAME writes another file")
    text = _configuration(what, output)
    schema = output.parent / SCHEMA_FILE
    try:
        schema.write_text(json.dumps(experiment.json_schema(), indent=1) + "\n", encoding="utf-8")
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or output}: {error.strerror}") from None
    print(f"wrote {output} ({len(text.splitlines())} lines) and {schema}, with which editors complete and check it")
    for line in text.splitlines():
        if line.startswith("# WARNING: "):
            print(f"warning: {line.removeprefix('# WARNING: ')}")
    print(f"next: mlcli train {shlex.quote(str(output))}")


def _configuration(what: str, output: Path) -> str:
    path = Path(what).expanduser()
    if what in BUILT_IN:
        fact, _, sections = (TEMPLATES / f"{what}.yaml").read_text(encoding="utf-8").partition("\n")
        return _document([fact.removeprefix("# ")], sections, output)
    if path.is_dir():
        from mlcli.data.survey import look_into_folder

        images = look_into_folder(path)
        data = f"data:\n  name: folder\n  root: {_from_yaml(path, output)}\n"
        return _images_yaml(images, data, _image_facts(images, str(path)), output)
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"):
        from mlcli.data.survey import look_into_csv, look_into_listed

        table = look_into_csv(path)
        if table.path_column is None:
            return _table_yaml(table, path, output)
        images = look_into_listed(table)
        return _images_yaml(images, _listed_data(table, path, output), _image_facts(images, str(path)), output)
    if path.exists():
        raise ConfigError(f"{what} is neither a folder nor a CSV file", fix="give a folder of images or a .csv file")
    near = difflib.get_close_matches(what, BUILT_IN, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give {', '.join(BUILT_IN)}, a folder of images or a .csv file"
    raise ConfigError(f"there is no data set, folder or file called {what}", fix=hint)


def _document(facts: Sequence[str], sections: str, output: Path) -> str:
    head = [f"# yaml-language-server: $schema=./{SCHEMA_FILE}", *(f"# {fact}" for fact in facts)]
    train = f"mlcli train {_printable(shlex.quote(str(output)))}"
    head.append(f"# Train with: {train}   Try another value: {train} optimizer.lr=0.01")
    return "\n".join([*head, *map(_aligned, sections.splitlines())]) + "\n"


def _aligned(line: str) -> str:
    """A line with its comment, which a tab sets off, where all comments begin."""
    code, tab, comment = line.partition("\t")
    return f"{code:<{COMMENT_COLUMN - 2}}  {comment}" if tab else code


# --- images ----------------------------------------------------------------------------------------------------------


def _image_facts(images: "ImageSurvey", place: str) -> list[str]:
    """What the look found, as comments."""
    (width, height), count = next(iter(images.sizes.items()))
    share = "all" if len(images.sizes) == 1 else f"{count / images.sizes.total():.0%} of them"
    classes = images.class_counts
    look = f"{share} {width}x{height} pixels{', grey' if images.grey else ''}"
    facts = [f"{_printable(place)}: {len(classes)} classes, {images.total:,} images, {look}."]
    if images.split_counts:
        facts.append("Splits: " + ", ".join(f"{count:,} {split}" for split, count in images.split_counts.items()) + ".")
    if images.looked_at < images.total:
        facts.append(f"(Sizes and colours of {images.looked_at:,} images were looked at.)")
    few, many = min(classes, key=classes.__getitem__), max(classes, key=classes.__getitem__)
    if classes[many] > UNBALANCED * classes[few]:
        facts.append(
            f"Unbalanced: {_printable(many)} has {classes[many]:,} images, {_printable(few)} {classes[few]:,}; "
            "hence the class weights."
        )
    if len(classes) < 2:
        facts.append("WARNING: one class only; there is nothing to distinguish.")
    if classes[few] < 10:
        facts.append(f"WARNING: {_printable(few)} has {classes[few]} images: too few to learn from and be judged by.")
    facts += [f"WARNING: training will refuse this: {_printable(str(fault))}." for fault in images.faults]
    if images.unreadable:
        facts.append(f"WARNING: {images.unreadable:,} of {images.looked_at:,} images cannot be read and are skipped.")
    return facts


def _listed_data(table: "TableSurvey", path: Path, output: Path) -> str:
    text = f"data:\n  name: image_csv\n  file: {_from_yaml(path, output)}\n"
    text += f"  path_column: {_text(table.path_column or '')}\n  label_column: {_text(table.target)}\n"
    return text + (f"  split_column: {_text(table.split_column)}\n" if table.split_column else "")


def _images_yaml(images: "ImageSurvey", data: str, facts: list[str], output: Path) -> str:
    side = _side(images)
    one_size = len(images.sizes) == 1 and max(next(iter(images.sizes))) <= 256
    size = "null\t# all have one size already" if one_size else f"{side}\t# pixels; the middle square is kept"
    data += f"  image_size: {size}\n  channels: {1 if images.grey else 3}\t# 3 colour, 1 grey\n"
    for split in ("val", "test"):
        if split not in images.split_counts and "split_column" not in data:
            data += f"  {split}: 0.15\t# share of the images held out, the same ones each time\n"
    if images.unreadable:
        share = min(0.99, max(0.01, 2 * images.unreadable / images.looked_at))
        data += f"  bad_images: skip\n  max_bad_share: {share:.2g}\t# more than this is an error all the same\n"
    counts = images.class_counts.values()
    weights = "balanced" if max(counts) > UNBALANCED * min(counts) else "none"
    train_count = images.split_counts.get("train") or round(0.7 * images.total)
    batch_size, epochs = _length(train_count)
    return _document(facts, f"""\
task: classification

{data}
augment:\t# random changes to training images; remove what changes their meaning
{_augmentation(side, images.grey)}
# Step 1: the set of functions that is searched
model:
{_image_model(side)}
# Step 2: how wrong a function is
loss: {{name: cross_entropy, label_smoothing: 0.0, class_weights: {weights}}}

# Step 3: how the best function is found
optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.01}}
schedule: {{name: cosine, warmup_epochs: 1}}
train: {{epochs: {epochs}, batch_size: {batch_size}, seed: 0}}
""", output)  # fmt: skip


def _side(images: "ImageSurvey") -> int:
    """Side in pixels to bring the images to: the size of well-known data sets next below their usual shorter side."""
    shorter = min(next(iter(images.sizes)))
    return next((side for side in (224, 128, 64, 32) if shorter >= side), shorter)


def _augmentation(side: int, grey: bool) -> str:
    if grey:  # letters, digits and medical pictures, which rarely mean the same mirrored
        return f"  - {{name: random_crop, padding: {max(1, side // 16)}}}\n"
    crop = f"random_crop, padding: {max(1, side // 8)}" if side <= 64 else "random_resized_crop, area: [0.3, 1.0]"
    return f"  - {{name: {crop}}}\n  - {{name: horizontal_flip}}\n"


def _image_model(side: int) -> str:
    if side > 64:
        return "  name: resnet\n  depth: 18\t# 18, 34 or 50\n  stem: imagenet\t# for images above 64 pixels\n"
    if side < 8:
        return "  name: mlp\n  hidden: [128, 64]\t# neurons of each hidden layer\n"
    pools = min(2, int(math.log2(side)) - 2)
    conv = "    - {{name: conv, channels: {}, kernel: 3, batch_norm: true}}"
    blocks = "\n    - {name: pool}\n".join(conv.format(32 * 2**i) for i in range(pools + 1))
    return f"  name: cnn\t# or mlp, vgg, resnet\n  blocks:\n{blocks}\n    - {{name: global_pool}}\n"


def _length(train_count: int) -> tuple[int, int]:
    """Batch size and epochs: at least ten batches an epoch if there are enough samples, and about STEPS in all."""
    batch_size = 64
    while batch_size > 8 and train_count < 10 * batch_size:
        batch_size //= 2
    batch_size = max(1, min(batch_size, train_count))
    return batch_size, min(50, max(10, STEPS * batch_size // max(1, train_count)))


# --- tables ----------------------------------------------------------------------------------------------------------


def _table_yaml(table: "TableSurvey", path: Path, output: Path) -> str:
    file = table.file
    distinct = len(set(file.column(table.target)))
    task = "regression" if table.regression else "classification"
    answer = f"{distinct:,} different numbers" if table.regression else f"{distinct} classes"
    inputs = [c for c in file.header if c not in (table.target, table.split_column, *table.identifiers)]
    facts = [
        f"{_printable(str(path))}: {len(file.rows):,} rows, {len(inputs)} columns to learn from.",
        f"Column to predict: {_printable(table.target)} ({answer}), so this is a {task}; change both if that is wrong.",
    ]
    data = f"  name: csv\n  file: {_from_yaml(path, output)}\n  target: {_text(table.target)}\n"
    if table.identifiers:
        data += f"  drop: [{', '.join(map(_text, table.identifiers))}]\t# names of rows carry no information\n"
    if table.split_column:
        data += f"  split_column: {_text(table.split_column)}\n"
    else:
        data += "  val: 0.15\t# share of the rows held out, the same ones each time\n  test: 0.15\n"
    loss = "{name: mse}" if table.regression else "{name: cross_entropy}"
    batch_size, epochs = _length(round(0.7 * len(file.rows)))
    return _document(facts, f"""\
task: {task}

data:
{data}
# Step 1: the set of functions that is searched
model:
  name: mlp\t# or linear
  hidden: [64, 32]\t# neurons of each hidden layer
  activation: relu\t# relu, leaky_relu, gelu, sigmoid, tanh, none
  dropout: 0.0

# Step 2: how wrong a function is
loss: {loss}

# Step 3: how the best function is found
optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.01}}
schedule: {{name: cosine, warmup_epochs: 1}}
train: {{epochs: {epochs}, batch_size: {batch_size}, seed: 0}}
""", output)  # fmt: skip


# --- text ------------------------------------------------------------------------------------------------------------


def _from_yaml(path: Path, output: Path) -> str:
    """A path as the YAML has to say it: absolute if it was given so, else relative to the YAML's folder."""
    return _text(str(path) if path.is_absolute() else os.path.relpath(path, output.parent))


def _text(value: str) -> str:
    """A YAML scalar that is read as this text."""
    if re.fullmatch(r"[A-Za-z_./][\w./-]*", value, re.ASCII) and isinstance(scalar(value), str):
        return value
    return json.dumps(value, ensure_ascii=not value.isprintable())


def _printable(text: str) -> str:
    """A person's file or column name on one line of comment."""
    return "".join(c if c.isprintable() else "?" for c in text)
