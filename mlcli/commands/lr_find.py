"""`mlcli lr-find`: which learning rate to begin with, from a short training of a copy over all magnitudes."""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.engine.lr_range import Suggestion, Sweep

BUDGET_S = 60.0
"""About how long it may take; a slow model gets fewer steps."""


def run(
    config: Path | None,
    overrides: list[str],
    *,
    apply: bool = False,
    as_json: bool = False,
    root: Path = Path("runs"),
    budget_s: float = BUDGET_S,
) -> ExitCode:
    """Print the curve and the suggestion, and write the picture `<root>/lr-find/<name>.png`. No run folder is made.

    apply: write the suggestion into the YAML. Raises UserError.
    """
    if config is None:
        raise ConfigError("which YAML?", where="mlcli lr-find", fix="mlcli lr-find config.yaml")
    experiment = Experiment.load(config, overrides)

    from mlcli.engine.lr_range import suggest, sweep
    from mlcli.engine.run import check_writable
    from mlcli.engine.runtime import decide_runtime
    from mlcli.report.lr_range import picture
    from mlcli.schema.edit import refuse_to_apply

    if apply:
        refuse_to_apply(config)
        _refuse_overrides(overrides)
    check_writable(root)
    settings = experiment.config
    runtime = decide_runtime(settings)
    task = settings.build()
    model = dict(task.describe())["model"]
    feed = task.feed(runtime)
    _say("measuring ...")
    try:
        seen = sweep(task, feed, settings, runtime, budget_s=budget_s)
    finally:
        feed.close()
        _say("")
    suggestion = suggest(seen)
    title = f"{experiment.name}: {model.split('  ')[0]}, {settings.optimizer.name}"
    path = _save(root / "lr-find" / f"{experiment.name}.png", picture(seen, suggestion, title))
    applied = _apply(config, settings.optimizer.name, suggestion) if apply else None
    if as_json:
        best = {key: value if isinstance(value, str) else _rounded(value) for key, value in asdict(suggestion).items()}
        report = {"config": str(config), "overrides": overrides, "suggestion": best, "override": _override(suggestion),
                  **asdict(seen), "smooth": seen.smooth, "picture": path, "applied": bool(applied)}  # fmt: skip
        print(json.dumps(report, indent=2))
        return ExitCode.OK
    device = f"{runtime.precision} on {runtime.device.type}"
    tried = f"{settings.optimizer.name}, batches of {settings.train.samples_per_step}, {device}; {_ending(seen)}"
    lines = [("model", model), ("tried", tried), ("picture", path)]
    print(_page(seen, suggestion, lines, applied or [("now", f"optimizer.lr={settings.optimizer.lr:g}")]))
    print(_next(config, overrides, suggestion, applied=apply))
    return ExitCode.OK


def _page(seen: "Sweep", suggestion: "Suggestion", lines: list[tuple[str, str]], last: list[tuple[str, str]]) -> str:
    from mlcli.report.lr_range import curve, rules_table
    from mlcli.text import paragraphs

    verdict = suggestion.why if suggestion.best is None else f"optimizer.lr={suggestion.best:.2g}   {suggestion.why}"
    parts = [paragraphs(lines, 100), curve(seen, suggestion)]
    if suggestion.best is not None:
        parts.append(rules_table(seen, suggestion))
    return "\n\n".join([*parts, paragraphs([("SUGGESTED" if suggestion.best else "VERDICT", verdict), *last], 100)])


def _next(config: Path, overrides: list[str], suggestion: "Suggestion", *, applied: bool) -> str:
    """What to type."""
    from mlcli.text import commands

    if suggestion.best is None:
        return commands(f"mlcli inspect {shlex.join([str(config), *overrides])}")
    others = [text for text in overrides if not text.startswith("optimizer.lr=")]
    if applied:
        return commands(f"mlcli train {shlex.join([str(config), *others])}")
    train = f"mlcli train {shlex.join([str(config), *others, _override(suggestion) or ''])}"
    if any(text.startswith("optimizer") for text in others):
        return commands(train)
    keep = f"mlcli lr-find {shlex.join([str(config), *others])} --apply   # writes it into the YAML, keeps comments"
    return commands(train, keep)


def _ending(seen: "Sweep") -> str:
    from mlcli.report.lr_range import ending
    from mlcli.report.tables import duration

    return f"{ending(seen)}; {duration(seen.seconds)}"


def _override(suggestion: "Suggestion") -> str | None:
    return None if suggestion.best is None else f"optimizer.lr={suggestion.best:.2g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")


def _refuse_overrides(overrides: list[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key == "optimizer" or key.startswith("optimizer."):
            raise ConfigError("with --apply, optimizer keys cannot be overridden: the file is what is judged",
                              where=override, fix="drop the override or the --apply")  # fmt: skip


def _apply(config: Path, optimizer: str, suggestion: "Suggestion") -> list[tuple[str, str]]:
    """Write the suggestion. Returns what to say about it."""
    from mlcli.schema import edit as yaml

    if suggestion.best is None:
        return [("apply", f"nothing to write: {config} stays as it is")]
    changes: dict[str, Any] = {"lr": _rounded(suggestion.best), "name": optimizer}  # a section needs its name
    yaml.apply(config, "optimizer", changes)
    Experiment.load(config)
    return [("apply", f"wrote optimizer.lr: {suggestion.best:.2g} into {config}")]


def _save(path: Path, content: bytes) -> str:
    """Write the picture whole or not at all. Returns its path as a person here would type it."""
    from mlcli.files import cannot_write, write_atomically
    from mlcli.report.summary import shown

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    write_atomically(path, content)
    return shown(path.absolute())


def _say(what: str) -> None:
    """One line that is overwritten; only for people who look."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)
