"""`mlcli train`: from a YAML file to a trained and measured model."""

import contextlib
import json
import platform
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli import __version__
from mlcli.commands.common import load_experiment, say
from mlcli.errors import ConfigError, ExitCode, OutOfMemoryError, OutputError, UserError
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.engine.contract import Task
    from mlcli.engine.run import RunFolder
    from mlcli.engine.runtime import Runtime


def run(config: Path | None, overrides: list[str], *, name: str | None, resume: str | None, root: Path) -> ExitCode:
    """Train, measure the best model on the test split, print what came out.

    Everything that can be refused is refused before a run folder is made. Returns OK, or INTERRUPTED / TERMINATED for a
    run that was stopped and can be resumed. Raises UserError.
    """
    _refuse_names(name, resume)
    experiment = _experiment(config, overrides, resume, root)

    from mlcli.engine.board import Board
    from mlcli.engine.check import rehearse
    from mlcli.engine.evaluate import choose_metric
    from mlcli.engine.log import RunLog, Screen
    from mlcli.engine.resume import resume as go_on
    from mlcli.engine.run import check_writable, create_run, open_run
    from mlcli.engine.runtime import decide_compile, decide_runtime, is_out_of_memory
    from mlcli.engine.state import TrainingState
    from mlcli.engine.step import MicroBatches
    from mlcli.engine.stop import StopRequest
    from mlcli.engine.trainer import Training
    from mlcli.files import cannot_write, is_disk_trouble
    from mlcli.text import duration, shown

    folder, offset, feed, stop = (open_run(resume, root) if resume else None), 0, None, StopRequest()
    check_writable(folder.path if folder else root)
    if folder:
        folder.lock()
    try:
        settings = experiment.config
        runtime = decide_runtime(settings)
        task = experiment.build()
        say(task.describe())
        if settings.train.batch_size == "auto":
            experiment = _with_measured_batch_size(experiment, task, runtime)
            settings = experiment.config
            task = experiment.build()  # measuring has trained it
        feed = task.feed(runtime)
        say((what, f"{value}: {why}") for what, value, why in (*runtime.choices, *feed.choices))
        select_by = choose_metric(task, settings.train.watch)
        state = TrainingState.start(task, feed, settings, runtime, select_by)
        if folder:
            offset, lines = go_on(state, folder, experiment.plain(), task.facts, feed.steps_per_epoch)
            say([*lines, *_changed_environment(folder, runtime)])
        micro_batches = MicroBatches(settings.train, state.progress, feed)
        batches, batch_s = rehearse(
            task, feed, runtime, state.progress.step, lambda error: say([("memory", micro_batches.halve(error))])
        )
        left_s = _seconds_left(batch_s * micro_batches.parts, task, feed, state, settings)
        say([("check", f"first batches forward and backward: ok, about {duration(max(1.0, left_s))} to go")])
        if settings.train.compile == "auto":
            compiles = decide_compile(runtime, left_s, is_static=task.is_static)
            say([(compiles.what, f"{compiles.value}: {compiles.why}")])
            runtime = replace(runtime, compile=compiles.value == "yes", choices=(*runtime.choices, compiles))
            state.net = runtime.callable_form(state.model)
        stop.listen()  # from here on there is something to be resumed
        folder = folder or create_run(root, name or experiment.name)
        say([("run", shown(folder.path))])
        _write_documents(folder, experiment, runtime, task)
        log, screen = RunLog(folder, offset, state.progress.step), Screen(feed.steps_per_epoch, select_by.metric)
        board = Board(log.tensorboard, resumed=state.progress.step > 0)
        identity = {"config": experiment.plain(), "facts": task.facts, "versions": _versions()}
        training = Training(task, feed, settings, runtime, select_by, state, folder, log, board, screen, stop, identity)
        return _train(training, _introduced(training, batches, experiment))
    except OSError as error:
        if not is_disk_trouble(error):
            raise
        raise cannot_write(folder.path if folder else root, error) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fix = "a smaller model, data.image_size or train.batch_size"
        raise OutOfMemoryError(f"it does not fit into memory: {error}", where="before training", fix=fix) from error
    finally:
        stop.release()
        if feed:
            feed.close()
        if folder:
            folder.unlock()


def _with_measured_batch_size(experiment: Experiment, task: "Task", runtime: "Runtime") -> Experiment:
    """The experiment with the batch size this machine is fastest with, which is also what the run folder keeps."""
    from mlcli.machine.bench.learner import choose_batch_size

    size, why = choose_batch_size(task, experiment.config, runtime)
    say([("batch size", f"{size}: {why}")])
    train = experiment.config.train.model_copy(update={"batch_size": size})
    return replace(experiment, config=experiment.config.model_copy(update={"train": train}))


def _introduced(t: Any, batches: Any, experiment: Experiment) -> Any:
    """Show in TensorBoard what is about to be trained, on what. Returns all batches, the first one shown included."""
    import itertools

    from mlcli.engine.contract import DrawsBatches

    shown, step = t.settings.train.tensorboard, t.state.progress.step
    first = next(batches)
    t.board.opening(["loss", *t.task.metrics(t.select_by.split).directions], [*t.task.splits], experiment.to_yaml())
    if shown.graph and step == 0:
        t.board.graph(t.task.model, first.inputs)
    picture = t.task.batch_picture(first) if shown.pictures and isinstance(t.task, DrawsBatches) else None
    if picture is not None:
        t.board.pictures("train", {"batch after augmentation": picture}, step)
        t.run.write_picture("train batch after augmentation", picture)
    return itertools.chain([first], batches)


def _train(t: Any, batches: Any) -> ExitCode:
    """Train inside the run folder; whatever happens, status.json says so."""
    from mlcli.engine.check import out_of_memory
    from mlcli.engine.conclude import conclude
    from mlcli.engine.evaluate import Interrupted
    from mlcli.engine.run import utc_now
    from mlcli.engine.runtime import is_out_of_memory
    from mlcli.engine.trainer import fit
    from mlcli.files import cannot_write, is_disk_trouble
    from mlcli.report.baselines import write_baselines
    from mlcli.report.page.write import write_report
    from mlcli.report.summary import closing_lines
    from mlcli.text import shown

    began, before = time.monotonic(), t.run.status_or_empty()
    t.run.update_status(state="running", started=before.get("started", utc_now()), task=t.settings.task,
                        epochs=t.settings.train.epochs, exit_code=None, error=None)  # fmt: skip

    def end(state: str, code: ExitCode, **more: Any) -> None:
        t.screen.clear()
        seconds = round(before.get("seconds", 0.0) + time.monotonic() - began, 1)
        spent = before.get("times", {})
        now = t.times or t.meter.times()
        times = {name: round(value + spent.get(name, 0.0), 3) for name, value in now.items()}
        t.run.update_status(state=state, exit_code=int(code), finished=utc_now(), seconds=seconds, times=times,
                            memory_mb=t.memory_mb, **more)  # fmt: skip

    def fail(state: str, code: ExitCode, error: str) -> None:
        with contextlib.suppress(OutputError):  # of a disk that is full for these as well: the cause is said already
            t.log.close()
        with contextlib.suppress(OutputError):
            end(state, code, error=error)

    try:
        outcome = fit(t, batches)
        t.times = t.meter.times()
        try:
            scores = conclude(t) if outcome != "interrupted" else {}
        except Interrupted:  # it is concluded when the run goes on
            outcome = "interrupted"
        if outcome == "interrupted":
            t.log.close()
            end("interrupted", t.stop.exit_code)
            write_report(t.run)
            print(f"\nstopped after step {t.state.progress.step}; to go on: mlcli train --resume {shown(t.run.path)}")
            return t.stop.exit_code
        t.log.close()
        end("finished", ExitCode.OK, scores=scores)
        t.stop.release()  # the run is complete: a signal ends what is left to do
    except UserError as error:
        fail("diverged" if error.code == ExitCode.DIVERGED else "failed", error.code, error.what)
        if error.code == ExitCode.DIVERGED:
            write_report(t.run)
        raise
    except Exception as error:
        if is_out_of_memory(error):
            fail("failed", ExitCode.OUT_OF_MEMORY, "out of memory")
            raise out_of_memory(t.micro_batches.size, f"step {t.state.progress.step + 1}") from error
        if is_disk_trouble(error):  # TensorBoard's: it writes in a thread of its own
            trouble = cannot_write(t.run.path / "tensorboard", error)
            fail("failed", ExitCode.OUTPUT, trouble.what)
            raise trouble from error
        t.run.write_text("crash.txt", traceback.format_exc())
        fail("failed", ExitCode.BUG, f"bug: {error!r}")
        print(f"the traceback is also in {shown(t.run.path / 'crash.txt')}", file=sys.stderr)
        raise
    # The run is complete; what goes wrong from here on does not take that back.
    if t.settings.train.baselines:
        write_baselines(t.task, t.run, say=lambda text: say([("baselines", text)]))
    write_report(t.run)
    print(closing_lines(t, outcome, scores, time.monotonic() - began))
    return ExitCode.OK


def _experiment(config: Path | None, overrides: list[str], resume: str | None, root: Path) -> Experiment:
    """The YAML given, or with --resume alone the one the run was started with."""
    if config is not None or resume is None:
        return load_experiment("train", config, overrides)
    from mlcli.engine.run import open_run

    return Experiment.of_run(open_run(resume, root).path, overrides)


def _refuse_names(name: str | None, resume: str | None) -> None:
    """Raise ConfigError for a name that is no single folder's, or that would rename a run resumed."""
    if name is not None and resume is not None:
        raise ConfigError("a resumed run keeps its name", where="--name", fix="leave --name out")
    if name is not None and (name in ("", ".", "..") or Path(name).name != name or "\\" in name):
        raise ConfigError(f"'{name}' cannot name a folder of runs", where="--name", fix="a name without slashes")


def _seconds_left(step_s: float, task: Any, feed: Any, state: Any, settings: Any) -> float:
    """About how long the training takes, from the time of one step."""
    steps_left = settings.train.epochs * feed.steps_per_epoch - state.progress.step
    # An evaluation pass is a forward without a backward: about a third of the work per sample.
    judged = task.splits.get("val", task.splits["train"]) / task.splits["train"] / 3 / settings.train.evaluate_every
    return step_s * steps_left * (1 + judged)


def _changed_environment(folder: "RunFolder", runtime: "Runtime") -> list[tuple[str, str]]:
    """A line where a run goes on with other threads, versions or formats than before: the last bits differ then."""
    now = {**_versions(), **_arithmetic(runtime)}
    before = folder.environment_or_empty()
    changed = [f"{key} was {before[key]}, is {value}" for key, value in now.items() if before.get(key, value) != value]
    return [("warning", f"{'; '.join(changed)}: the last bits may differ from here on")] if changed else []


def _arithmetic(runtime: "Runtime") -> dict[str, Any]:
    """What the last bits depend on besides versions."""
    layout = "channels_last" if runtime.channels_last else "channels_first"
    return {"threads": runtime.threads, "precision": runtime.precision, "layout": layout}


def _versions() -> dict[str, str]:
    """What the run is computed with."""
    import torch

    # str: torch's version is an object of its own class, which no checkpoint may hold.
    return {"mlcli": __version__, "torch": str(torch.__version__), "python": platform.python_version(),
            "platform": platform.platform()}  # fmt: skip


def _write_documents(folder: "RunFolder", experiment: Experiment, runtime: "Runtime", task: "Task") -> None:
    """The files that say what this run is: the YAML as given, all of it spelled out, data and model, the machine."""
    from mlcli.models.layers import count_parameters

    folder.write_text("config.yaml", experiment.source_text)
    folder.write_text("resolved.yaml", experiment.to_yaml())
    choices = {what: f"{value}: {why}" for what, value, why in runtime.choices}
    environment = {**_versions(), **_arithmetic(runtime), "choices": choices, "arguments": sys.argv[1:],
                   "overrides": list(experiment.overrides)}  # fmt: skip
    summary = {"describe": task.describe(), "splits": task.splits, "facts": task.facts,
               "parameters": count_parameters(task.model)[0]}  # fmt: skip
    folder.write_text("summary.json", json.dumps(summary, indent=1) + "\n")
    folder.write_text("environment.json", json.dumps(environment, indent=2) + "\n")
