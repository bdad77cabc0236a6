"""Going on with a run: from its newest whole checkpoint, as the same experiment, on the same data."""

from typing import Any, Protocol

from mlcli.engine.checkpoint import load_newest, set_aside
from mlcli.engine.documents import Saved, refuse_unlike
from mlcli.engine.run import RunFolder
from mlcli.engine.state import TrainingState
from mlcli.errors import CheckpointError, ConfigError
from mlcli.text import command_line, plural, shown, truncated

MAY_CHANGE = (
    "train.epochs",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoints",
    "train.early_stopping",
    "train.device",
    "train.threads",
    "loader",
    "data.root",
    "data.file",
    "data.download",
)
"""Keys that leave the meaning of the steps already taken as it is. `loader.sampler` is the exception, refused below."""


class Resumable(Protocol):
    """The parts of an experiment that resuming uses; `mlcli.experiment.Experiment` is one."""

    @property
    def overrides(self) -> tuple[str, ...]: ...
    def plain(self) -> dict[str, Any]: ...
    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Resumable": ...


def resume(
    state: TrainingState, run: RunFolder, plan: Resumable, facts: dict[str, Any], steps_per_epoch: int
) -> tuple[int, list[tuple[str, str]]]:
    """Bring a fresh state to where the run's newest whole checkpoint was.

    Args:
        plan: the experiment as it is now.
        facts: of its task, as plain data.
    Returns the length of metrics.jsonl at that time, and lines (subject, text) a person should see.
    Raises CheckpointError, or ConfigError if the run is complete or would become another experiment.
    """
    saved, path, problems = load_newest(run.checkpoints)
    refuse_unlike(saved, Saved, "the checkpoint", path)
    config = plan.plain()
    saved["config"] = plan.from_plain(saved["config"]).plain()  # keys that its version did not know have their defaults
    _refuse_other_experiment(saved["config"], config, run)
    was, now = saved["facts"]["data"], facts["data"]
    for key in was.keys() | now.keys():  # statistics as well: other samples to train on would make another experiment
        if was.get(key) != now.get(key):
            before, after = truncated(str(was.get(key)), 80), truncated(str(now.get(key)), 80)
            what = f"the data have changed since the run began: {key} was {before}, is {after}"
            raise CheckpointError(what, where="data", fix="restore the data, or start a new run")
    state.load_state_dict(saved)
    lines: list[tuple[str, str]] = []
    done, epochs, before = state.progress.step, config["train"]["epochs"], saved["config"]["train"]["epochs"]
    finished = run.status_or_empty().get("state") == "finished"  # killed after its last step, it has to be concluded
    if finished and done >= steps_per_epoch * epochs:
        been = done // steps_per_epoch
        fewer = f", more than train.epochs={epochs}" if been > epochs else ""
        raise ConfigError(f"the run is complete: {plural(been, 'epoch is', 'epochs are')} done{fewer}", where=run.name,
                          fix=f"train.epochs={2 * been} to go on")  # fmt: skip
    asked = any(override.partition("=")[0].strip() == "train.epochs" for override in plan.overrides)
    if done > steps_per_epoch * epochs or (epochs < before and not asked):
        what = (
            f"train.epochs={epochs} would cut the run short: it is {done / steps_per_epoch:.4g} of {before} epochs in"
        )
        raise ConfigError(what, where="--resume", fix=f"{_going_on(run)} goes on as the run was started")
    early = config["train"]["early_stopping"]
    if finished and early and state.progress.stale >= early["patience"]:
        stale = state.progress.stale
        raise ConfigError(f"the run had stopped: {stale} evaluations brought no improvement", where=run.name,
                          fix=f"train.early_stopping.patience={2 * stale}, or train.early_stopping=null")  # fmt: skip
    for bad, what in problems.items():
        aside = set_aside(bad)
        lines.append(("warning", f"{bad.name}: {what}; resuming from {path.name}; the file is renamed to {aside.name}"))
    lines.append(("resume", f"{run.name} from step {done}, epoch {done / steps_per_epoch:.4g} of {epochs}"))
    if before != epochs:
        was, now = saved["optimizer"]["param_groups"][0]["lr"], state.schedule.lr_at(done)
        text = f"{epochs} epochs instead of {before}: the schedule is stretched, the learning rate is now {now:.3g}"
        lines.append(("schedule", f"{text} (it was {was:.3g})"))
    return saved.get("metrics_bytes", 0), lines


def flatten(plain: Any, prefix: str = "") -> dict[str, Any]:
    """A nested config as {"optimizer.lr": 0.1, ...}; lists are values."""
    if not isinstance(plain, dict):
        return {prefix: plain}
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{"optimizer.lr": (old, new)} for every key that differs; a key one side lacks is None there."""
    a, b = flatten(old), flatten(new)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def _going_on(run: RunFolder) -> str:
    """The command that goes on with a run as it was started, whatever a YAML says by now."""
    return command_line("train", "--resume", shown(run.path))


def _refuse_other_experiment(old: dict[str, Any], new: dict[str, Any], run: RunFolder) -> None:
    changed = {
        key: values
        for key, values in differences(old, new).items()
        if not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE) or key == "loader.sampler"
    }
    if changed:
        changed = {key: changed[key] for key in sorted(changed, key=lambda key: key != "task")}
        listed = "; ".join(f"{key} was {was!r}, is {now!r}" for key, (was, now) in list(changed.items())[:4])
        raise ConfigError(f"the config differs from the run's: {listed}", where="--resume",
                          fix=f"restore these keys ({_going_on(run)}), or start a new run")  # fmt: skip
