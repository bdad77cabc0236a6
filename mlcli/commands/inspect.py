"""`mlcli inspect`: the model layer by layer, one real batch as a picture, and the first loss against chance."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.common import load_experiment, open_task, write_picture
from mlcli.errors import ExitCode
from mlcli.text import command_line, commands, paragraphs

if TYPE_CHECKING:
    from torch import nn

    from mlcli.engine.contract import Batch, Task
    from mlcli.engine.runtime import Runtime
    from mlcli.models.inspect.anatomy import Anatomy

MEASURED = 2
"""Samples in the pass that measures: batch normalisation refuses one."""
LOSS_FLOPS = 2e11
"""Work that the first loss may take, some seconds of one CPU core; fewer samples of a large model must do."""
FEWEST = 8
"""Samples whose mean loss says something."""
TOLERANCE = 0.2
"""Share by which a first loss may miss that of chance: random first weights alone move it by some percent."""


def run(
    config: Path | None,
    overrides: list[str],
    *,
    depth: int | None = None,
    arithmetic: bool = False,
    as_json: bool = False,
    root: Path = Path("runs"),
) -> ExitCode:
    """Print what the model is made of. Nothing is trained; pictures are written under `<root>/inspect/`.

    Args:
        depth: modules this many names deep as one row; 0 for each single layer, None for what fits a screen.
        arithmetic: show how each output side comes about.

    Raises UserError.
    """
    experiment = load_experiment("inspect", config, overrides)

    from mlcli.engine.contract import DrawsBatches, DrawsUntrained
    from mlcli.engine.optimizer import kept_bytes, size_of
    from mlcli.engine.rehearsal import check_batches
    from mlcli.report import layer_table as pages

    settings = experiment.config
    task, runtime = open_task(experiment, root)
    with contextlib.closing(task.feed(runtime)) as feed:
        batch = next(feed.train_batches(0))
    runtime.place(task.model)
    check_batches(task, runtime, [batch[:MEASURED]])
    anatomy = _take_apart(task, batch, runtime, pixels=task.source.info.kind == "image")
    memory = kept_bytes(task.model, settings, task.lr_scale)
    memory |= {"activations": anatomy.saved_bytes, "batch": size_of([batch.inputs])}
    first_loss = _first_loss(task, batch, runtime, anatomy)
    picture = task.batch_picture(batch) if isinstance(task, DrawsBatches) else None
    drawn = {} if picture is None else {"batch": picture}
    drawn |= task.inspection_pictures(batch) if isinstance(task, DrawsUntrained) else {}
    pictures = {
        title: write_picture(root / "inspect" / f"{experiment.name}-{title.replace(' ', '-')}.png", picture)
        for title, picture in drawn.items()
    }
    if as_json:
        report = {"config": str(config), "overrides": overrides, **anatomy.plain(), "memory_bytes": memory,
                  "first_loss": first_loss, "pictures": pictures}  # fmt: skip
        print(json.dumps(report, indent=2))
        return ExitCode.OK
    print(pages.layer_table(anatomy, depth))
    if arithmetic:
        print("\n" + "\n".join(pages.arithmetic_lines(anatomy)))
    lines = [
        *((subject, text) for subject, text in task.describe() if subject == "data"),
        *pages.cost_lines(anatomy, memory, settings.optimizer.name),
        *pages.collapse_lines(anatomy.collapses),
        *pages.loss_lines(first_loss),
        *(("picture", path) for path in pictures.values()),
    ]
    print("\n" + paragraphs(lines))
    print(commands(command_line("lr-find", config, *overrides), command_line("train", config, *overrides)))
    return ExitCode.OK


def _take_apart(task: "Task", batch: "Batch", runtime: "Runtime", *, pixels: bool) -> "Anatomy":
    """The facts of the model, measured with the first samples of a batch."""
    from mlcli.models.inspect.anatomy import take_apart

    few = batch[:MEASURED]

    def forward(net: "nn.Module") -> None:
        runtime.seed_step(0)
        with runtime.autocast():
            task.losses(net, few)

    return take_apart(task.model, forward, few.inputs, batch_size=len(batch), pixels=pixels)


def _first_loss(task: "Task", batch: "Batch", runtime: "Runtime", anatomy: "Anatomy") -> dict[str, Any]:
    """The loss before training, and what it would be at random where there is a formula for that.

    Returns loss, terms, samples, at_random, formula and verdict ("as expected", "high", "low", or None).
    """
    import copy

    import torch

    from mlcli.engine.contract import HasChanceLevel
    from mlcli.engine.terms import total

    affordable = int(LOSS_FLOPS / max(anatomy.flops, 1))
    part = batch[: max(FEWEST, affordable)]
    runtime.seed_step(0)
    with torch.no_grad(), runtime.autocast():
        terms = task.losses(copy.deepcopy(task.model), part)
    at_random, formula = task.loss_at_chance(part) if isinstance(task, HasChanceLevel) else (None, None)
    loss, verdict = total(terms).item(), None
    if at_random:
        miss = loss / at_random - 1
        verdict = "as expected" if abs(miss) <= TOLERANCE else "high" if miss > 0 else "low"
    return {"loss": loss, "terms": {name: term.mean.item() for name, term in terms.items()}, "samples": len(part),
            "at_random": at_random, "formula": formula, "verdict": verdict}  # fmt: skip
