"""`mlcli train`: from a YAML file to a trained and measured model."""

import itertools
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlcli import __version__
from mlcli.errors import ConfigError, ExitCode, UserError
from mlcli.experiment import Experiment

CHECKED_BATCHES = 3
"""Batches run through a copy of the model before anything is written; the first is slow, so two would tell no speed."""


def run(config: Path | None, overrides: list[str], *, name: str | None, resume: str | None, root: Path) -> ExitCode:
    """Train, evaluate the best model on the test split, print what came out.

    Returns OK, or INTERRUPTED / TERMINATED for a run that was stopped and can be resumed. Raises UserError.
    """
    experiment = _load_experiment(config, overrides, resume, root)

    from mlcli.engine.run import check_writable, create_run, open_run
    from mlcli.engine.runtime import decide_runtime

    check_writable(root)
    folder = open_run(resume, root) if resume else None
    if folder:
        folder.lock()
    settings = experiment.config
    runtime = decide_runtime(settings.train)
    task = settings.build()
    for label, text in [*task.describe(), *((c.what, f"{c.value}: {c.why}") for c in runtime.choices)]:
        _say(label, text)
    feed = task.feed(runtime)
    try:
        for what, value, why in feed.choices:
            _say(what, f"{value}: {why}")
        identity = {"config": experiment.plain(), "facts": task.facts, "versions": versions()}
        state, watch, offset = _prepare(experiment, task, feed, runtime, folder)
        batches = _checked(task, feed, runtime, settings, state.progress.step)
        folder = folder or create_run(root, name or experiment.name)
        _say("run", str(folder.path))
        return _train(experiment, task, feed, runtime, state, watch, folder, offset, identity, batches)
    finally:
        feed.close()


def _say(label: str, text: str) -> None:
    print(f"{label:<10} {text}", flush=True)


def _load_experiment(config: Path | None, overrides: list[str], resume: str | None, root: Path) -> Experiment:
    if config is not None:
        return Experiment.load(config, overrides)
    if resume is None:
        raise ConfigError("which YAML?", where="mlcli train", fix="mlcli init digits && mlcli train config.yaml")
    from mlcli.engine.run import open_run

    return Experiment.load(open_run(resume, root).path / "resolved.yaml", overrides)


def versions() -> dict[str, str]:
    """What the run was computed with."""
    import platform

    import torch

    return {"mlcli": __version__, "torch": torch.__version__, "python": platform.python_version(),
            "platform": platform.platform()}  # fmt: skip


def _prepare(experiment, task, feed, runtime, folder):
    """The state to begin with: fresh, or the newest whole checkpoint of the run resumed."""
    from mlcli.engine.best import choose_watch
    from mlcli.engine.checkpoint import load_newest
    from mlcli.engine.resume import refuse_other_data, refuse_other_experiment
    from mlcli.engine.state import TrainingState

    settings = experiment.config
    watch = choose_watch(settings.train.watch, task.primary, task.metrics().directions, "val" in task.splits)
    state = TrainingState.start(task, feed, settings, runtime, watch)
    if folder is None:
        return state, watch, 0
    saved, path, problems = load_newest(folder.checkpoints)
    for problem in problems:
        _say("warning", f"{problem}; going back to {path.name}")
    refuse_other_experiment(saved["config"], experiment.plain())
    refuse_other_data(saved["facts"], task.facts)
    state.load_state_dict(saved)
    done, epochs = state.progress.step, settings.train.epochs
    if done >= feed.steps_per_epoch * epochs:
        raise ConfigError(f"the run is complete: {done // feed.steps_per_epoch} of {epochs} epochs", where=folder.name,
                          fix=f"train.epochs={2 * epochs} to go on")  # fmt: skip
    _say("resume", f"{folder.name} from step {done}, epoch {done / feed.steps_per_epoch:.4g} of {epochs}")
    before = saved["config"]["train"]["epochs"]
    if before != epochs:
        was = saved["optimizer"]["param_groups"][0]["lr"]
        now = state.schedule.lr_at(done)
        _say("schedule", f"{epochs} epochs instead of {before}: the curve is stretched, "
                         f"the learning rate goes on at {now:.3g} (it was {was:.3g})")  # fmt: skip
    return state, watch, saved["metrics_bytes"]


def _checked(task, feed, runtime, settings, start_step: int) -> Iterator[Any]:
    """The batches from `start_step` on, after the first of them went through a copy of the model."""
    from mlcli.engine.check import check_batches

    batches = feed.train_batches(start_step)
    first = list(itertools.islice(batches, CHECKED_BATCHES))
    batch_s = check_batches(task, runtime, first)
    left = settings.train.epochs * feed.steps_per_epoch - start_step
    # An evaluation pass is a forward without a backward: about a third of the work per sample.
    judged = task.splits.get("val", 0) / task.splits["train"] / 3 / settings.train.evaluate_every
    estimate_s = batch_s * settings.train.accumulate * left * (1 + judged)
    _say("check", f"{len(first)} batches forward and backward: ok, about {_duration(estimate_s)} to go")
    return itertools.chain(first, batches)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _train(experiment, task, feed, runtime, state, watch, folder, offset, identity, batches) -> ExitCode:
    """Train inside the run folder; whatever happens, its status says so."""
    from mlcli.engine.log import RunLog, Screen
    from mlcli.engine.run import utc_now
    from mlcli.engine.stop import StopRequest
    from mlcli.engine.trainer import Training, fit

    began = time.monotonic()
    seconds_before = folder.status().get("seconds", 0.0) if offset else 0.0
    started = folder.status()["started"] if offset else utc_now()
    _write_documents(folder, experiment, runtime, identity)
    folder.update_status(state="running", started=started, task=experiment.config.task,
                         epochs=experiment.config.train.epochs, exit_code=None)  # fmt: skip
    log = RunLog(folder, offset, state.progress.step)
    screen = Screen(feed.steps_per_epoch, watch.metric)

    def conclude(outcome: str, code: ExitCode, **more: Any) -> None:
        seconds = round(seconds_before + time.monotonic() - began, 1)
        folder.update_status(state=outcome, exit_code=int(code), finished=utc_now(), seconds=seconds, **more)

    try:
        with StopRequest() as stop:
            training = Training(
                task, feed, experiment.config, runtime, watch, state, folder, log, screen, stop, identity
            )
            outcome = fit(training, batches)
            if outcome == "interrupted":
                conclude("interrupted", stop.exit_code)
                print(f"stopped at step {state.progress.step}; to go on: mlcli train --resume {folder.path}")
                return stop.exit_code
        scores = _final_scores(training)
        conclude(outcome, ExitCode.OK, scores=scores)
        _print_summary(training, outcome, scores, time.monotonic() - began)
        return ExitCode.OK
    except UserError as error:
        screen.clear()
        conclude("diverged" if error.code == ExitCode.DIVERGED else "failed", error.code, error=error.what)
        raise
    except Exception:
        screen.clear()
        folder.write_text("crash.txt", traceback.format_exc())
        conclude("failed", ExitCode.BUG, error=f"a bug: {traceback.format_exc(limit=0).strip()}")
        print(f"The traceback is also in {folder.path / 'crash.txt'}", file=sys.stderr)
        raise
    finally:
        log.close()


def _write_documents(folder, experiment, runtime, identity) -> None:
    """The files that say what this run is."""
    folder.write_text("config.yaml", experiment.source_text)
    folder.write_text("resolved.yaml", experiment.to_yaml())
    choices = {choice.what: f"{choice.value}: {choice.why}" for choice in runtime.choices}
    environment = {**identity["versions"], "threads": runtime.threads, "choices": choices, "argv": sys.argv[1:],
                   "overrides": list(experiment.overrides)}  # fmt: skip
    folder.write_text("environment.json", json.dumps(environment, indent=2) + "\n")


def _final_scores(t) -> dict[str, dict[str, float]]:
    """Measure the best model on the test split, and put its weights beside the checkpoints for other programs."""
    import safetensors.torch

    from mlcli.engine.checkpoint import load_checkpoint, model_weights
    from mlcli.engine.evaluate import evaluate_split
    from mlcli.engine.files import write_atomically

    best = load_checkpoint(t.run.checkpoint("best"))
    weights = model_weights(best)
    t.state.model.load_state_dict(weights)
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_atomically(t.run.path / "model.safetensors", safetensors.torch.save(plain, {"config": json.dumps(best["config"])}))
    scores = {t.watch.split: best["scores"]} if "scores" in best else {}
    if "test" in t.task.splits:
        scores["test"], _ = evaluate_split(t.task, t.state.net, t.feed.eval_batches("test"), t.runtime)
        t.log.scalars("test", best["step"], best["epoch"], scores["test"])
    return scores


def _print_summary(t, outcome: str, scores: dict[str, dict[str, float]], seconds: float) -> None:
    progress, run = t.state.progress, t.run
    metric, shown = t.watch.metric, _shown(run.path)
    ended = f"{outcome} after {seconds:.1f} s" if outcome != "finished" else f"done in {seconds:.1f} s"
    print(f"\n{ended}; best epoch {progress.best_epoch} by {t.watch.split} {metric}")
    for split, values in scores.items():
        print(f"  {split:<6}" + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    print(f"""
  model        {shown}/model.safetensors, checkpoints/best.ckpt
  numbers      {shown}/metrics.jsonl
  tensorboard  tensorboard --logdir {_shown(run.path.parent.parent)}

  next         mlcli evaluate {run.name} --split {"test" if "test" in scores else t.watch.split}
               mlcli predict {run.name} FILES
               mlcli runs compare {run.path.parent.name}""")


def _shown(path: Path) -> str:
    """A path relative to here where it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
