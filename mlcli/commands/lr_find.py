"""`mlcli lr-find`: which learning rate to begin with, from a short training of a copy over all magnitudes."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.common import (
    apply_advice,
    load_experiment,
    open_task,
    refuse_apply,
    show_progress,
    write_picture,
)
from mlcli.errors import ExitCode
from mlcli.experiment import is_override_of
from mlcli.text import command_line, commands, duration

if TYPE_CHECKING:
    from mlcli.engine.lr_range import Suggestion

BUDGET_S = 60.0
"""About how long it may take; a slow model gets fewer steps."""


def run(
    config: Path | None,
    overrides: Sequence[str],
    *,
    apply: bool = False,
    as_json: bool = False,
    root: Path = Path("runs"),
    budget_s: float = BUDGET_S,
) -> ExitCode:
    """Print the curve and the suggestion, and write the picture `<root>/lr-find/<name>.png`. No run folder is made.

    apply: write the suggestion into the YAML. Raises UserError.
    """
    experiment = load_experiment("lr-find", config, overrides)
    assert config is not None

    from mlcli.engine.lr_range import suggest, sweep
    from mlcli.report.lr_curve import chart, ending, page
    from mlcli.show.figure import image

    if apply:
        refuse_apply(config, overrides, "optimizer")
    settings = experiment.config
    task, runtime = open_task(experiment, root)
    model, optimizer = dict(task.describe())["model"], settings.optimizer
    feed = task.feed(runtime)
    show_progress("measuring ...")
    try:
        seen = sweep(task, feed, settings, runtime, budget_s=budget_s)
    finally:
        feed.close()
        show_progress("")
    suggestion = suggest(seen)
    title = f"{experiment.name}: {model.split('  ')[0]}, {optimizer.name}"
    path = write_picture(root / "lr-find" / f"{experiment.name}.png", image(chart(seen, suggestion, title)))
    override = None if suggestion.best is None else f"optimizer.lr={suggestion.best:.2g}"
    last = [("now", f"optimizer.lr={optimizer.lr:g}")]
    if apply:
        lr = _two_digits(suggestion.best)
        changes: dict[str, Any] = {} if lr is None else {"lr": lr, "name": optimizer.name}  # a section needs its name
        last = apply_advice(config, "optimizer", changes, f"optimizer.lr: {lr}")
    if as_json:
        best = {k: v if isinstance(v, str) else _two_digits(v) for k, v in asdict(suggestion).items()}
        report = {"config": str(config), "overrides": overrides, "suggestion": best, "override": override,
                  **asdict(seen), "smooth": seen.smooth, "picture": path, "applied": apply}  # fmt: skip
        print(json.dumps(report, indent=2))
        return ExitCode.OK
    device = f"{runtime.precision} on {runtime.device.type}"
    tried = f"{optimizer.name}, batches of {settings.train.samples_per_step}, {device}"
    lines = [("model", model), ("tried", f"{tried}; {ending(seen)}; {duration(seen.seconds)}"), ("picture", path)]
    print(page(seen, suggestion, lines, last))
    print(_next(config, overrides, suggestion, applied=apply))
    return ExitCode.OK


def _next(config: Path, overrides: Sequence[str], suggestion: "Suggestion", *, applied: bool) -> str:
    """Return the commands to type next."""
    if suggestion.best is None:
        return commands(command_line("inspect", config, *overrides))
    others = [text for text in overrides if not text.startswith("optimizer.lr=")]
    if applied:
        return commands(command_line("train", config, *others))
    train = command_line("train", config, *others, f"optimizer.lr={suggestion.best:.2g}")
    if any(is_override_of("optimizer", text) for text in others):
        return commands(train)
    return commands(
        train, f"{command_line('lr-find', config, *others)} --apply   # writes it into the YAML, keeps comments"
    )


def _two_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")
