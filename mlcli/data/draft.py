"""A YAML to start from, as `mlcli init` writes it: a task's proposal for the user's data. No torch or numpy in here."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.schema.yaml12 import as_scalar
from mlcli.text import first_few

if TYPE_CHECKING:
    from mlcli.data.survey import Place

STEPS = 2000
"""Optimizer steps that a proposed training takes, within 10 to 50 epochs: enough for a first impression."""


@dataclass(frozen=True)
class Draft:
    """The text of a YAML.

    facts: lines of comment on top; those that begin with "WARNING: " are said on the screen too.
    sections: the YAML below; a tab sets off a comment, which is moved to the column of all comments.
    is_timed: whether the training is as long as `Place.minutes` says.
    pretrained: whether it starts from weights learned elsewhere. model: what `Place.model` asked for, if there is a
    choice.
    """

    facts: Sequence[str]
    sections: str
    is_timed: bool = False
    pretrained: bool = False
    model: str = ""


def in_yaml(place: "Place", path: Path | None = None) -> str:
    """Return a path, or the place's own, as a scalar of the YAML: relative to it unless it is absolute."""
    path = path or place.path
    return as_scalar(str(path) if path.is_absolute() else os.path.relpath(path, place.base))


def as_columns(names: Sequence[str]) -> str:
    """Return the YAML of a key that takes a column or several."""
    return as_scalar(names[0]) if len(names) == 1 else f"[{', '.join(map(as_scalar, names))}]"


def as_comment(text: str) -> str:
    """Return a person's file or column name on one line of comment."""
    return "".join(c if c.isprintable() else "?" for c in text)


def training_length(train_count: int) -> tuple[int, int]:
    """Return batch size and epochs: at least ten batches an epoch if there are enough samples, about STEPS in all."""
    batch_size = 64
    while batch_size > 8 and train_count < 10 * batch_size:
        batch_size //= 2
    batch_size = max(1, min(batch_size, train_count))
    return batch_size, min(50, max(10, STEPS * batch_size // max(1, train_count)))


def table_draft(place: "Place", *, task: str, loss: str) -> Draft | None:
    """Return a task's YAML for a CSV file of features; None if it is none, or its target is not what is learned.

    Raises DataError for a CSV that cannot be used.
    """
    table = place.table
    if table is None or table.path_column is not None or table.regression != (task == "regression"):
        return None
    answer = f"{table.distinct:,} different numbers" if table.regression else f"{table.distinct} classes"
    inputs = [c for c in table.file.header if c not in (table.target, table.split_column, *table.identifiers)]
    facts = [
        f"{as_comment(str(place.path))}: {len(table.file.rows):,} rows, {len(inputs)} columns to learn from.",
        f"Column to predict: {as_comment(table.target)} ({answer}), {table.reason}; so this is a {task}.",
    ]
    if table.gap_words and not table.regression:
        words = as_comment(first_few(table.gap_words))
        facts.append(f"WARNING: {words} is taken for no value: {table.gaps:,} rows are left out. A class needs a name.")
    if table.alternatives:
        others = first_few([as_comment(name) for name in reversed(table.alternatives)])
        facts[-1] += f" Others: --target {others}"
    if table.countable:
        facts.append("Its classes are numbers; to predict an amount instead: --task regression")
    if table.identifiers:
        facts.append(f"Left out, as names of rows: {first_few(map(as_comment, table.identifiers))}.")
    facts += [f"WARNING: {as_comment(str(fault))}." for fault in table.file.faults]
    data = f"  name: csv\n  file: {in_yaml(place)}\n  target: {as_columns(table.indicators or (table.target,))}\n"
    if table.identifiers:
        data += f"  drop: [{', '.join(map(as_scalar, table.identifiers))}]\t# names of rows carry no information\n"
    if table.decimal_comma:
        data += "  decimal: comma\t# 3,1 is 3.1\n"
    if table.gaps:
        data += f"  missing_target: drop\t# {table.gaps:,} rows have no {as_comment(table.target)}\n"
    if table.split_column:
        data += f"  split_column: {as_scalar(table.split_column)}\n"
    else:
        data += "  val: 0.15\t# share of the rows held out, the same ones each time\n  test: 0.15\n"
    batch_size, epochs = training_length(round(0.7 * len(table.file.rows)))
    return Draft(facts, f"""\
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
loss: {{name: {loss}}}

# Step 3: how the best function is found
optimizer: {{name: adamw, lr: 1e-3, weight_decay: 0.01}}
schedule: {{name: cosine, warmup_epochs: 1}}
train: {{epochs: {epochs}, batch_size: {batch_size}, seed: 0}}
""")  # fmt: skip
