"""One launch: an experiment in, a run folder with a trained model out. Status and files are kept however it ends."""

import contextlib
import itertools
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import safetensors.torch
import torch

from mlcli.engine.board import Board
from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.contract import Batch, DrawsBatches, Feed, HasEmbeddings, HasMembership, Task
from mlcli.engine.distributed import joined_ranks
from mlcli.engine.evaluate import Interrupted, as_json, choose_metric, evaluation_record
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.membership import KnownData
from mlcli.engine.processes import write_into
from mlcli.engine.ranks import Ranks
from mlcli.engine.rehearsal import out_of_memory, rehearse, step_flops
from mlcli.engine.resume import Resumable, flatten
from mlcli.engine.resume import resume as restore
from mlcli.engine.run import RunFolder, check_writable, create_run, open_run, utc_now
from mlcli.engine.runtime import Runtime, advise_device, decide_compile, decide_runtime, is_out_of_memory
from mlcli.engine.settings import TaskSettings, TrainerSettings
from mlcli.engine.silent import SilentBoard, SilentLog, SilentRun, SilentScreen
from mlcli.engine.state import TrainingState
from mlcli.engine.step import MicroBatches
from mlcli.engine.stop import StopRequest
from mlcli.engine.trainer import Training, evaluate, fit
from mlcli.errors import ExitCode, OutOfMemoryError, OutputError, UserError
from mlcli.files import cannot_write, is_disk_trouble
from mlcli.text import duration, shown
from mlcli.version import __version__

Say = Callable[[Iterable[tuple[str, str]]], None]
"""Shows a person lines of a subject and a text."""
ChooseBatchSize = Callable[[Task, TrainerSettings, Runtime], tuple[int, str]]
"""Returns what `train.batch_size: auto` comes to, and why. The task's model is modified."""


class Plan(Resumable, Protocol):
    """The parts of an experiment that a launch uses; `mlcli.experiment.Experiment` is one."""

    @property
    def config(self) -> TaskSettings: ...
    @property
    def name(self) -> str: ...
    @property
    def source_text(self) -> str: ...
    @property
    def overrides(self) -> tuple[str, ...]: ...
    def build(self, known: KnownData | None = None) -> Task: ...
    def to_yaml(self) -> str: ...
    def with_batch_size(self, size: int) -> Self: ...


@dataclass(frozen=True)
class Ended:
    """Outcome of a training.

    outcome: "finished", "stopped early" or "interrupted"; scores: of the best model by split, none if interrupted.
    """

    outcome: str
    scores: dict[str, dict[str, float]]
    seconds: float


@contextlib.contextmanager
def launch(
    plan: Plan, root: Path, *, name: str | None, resume: str | None, say: Say, choose_batch_size: ChooseBatchSize
) -> Iterator[tuple[Training, Iterator[Batch]]]:
    """Put a training together, with its batches, in a new run folder or in the one that `resume` names.

    All that can be refused is refused before a folder is made. Within the context the folder is locked, the data are
    open, and signals ask the training to stop. Of several processes that train together each launches; the first one
    owns the folder. Raises UserError.
    """
    with joined_ranks(plan.config.train.device) as ranks, contextlib.ExitStack() as ending:
        ending.enter_context(_machine_errors_explained(root))
        run = ranks.from_first(lambda: _run_to_resume(resume, root, name or plan.name))
        if run:
            run = ending.enter_context(_written_by(run, ranks))
        plan, task, runtime = _build_task(plan, run, ranks, say, choose_batch_size)
        settings = plan.config if ranks.is_first else _without_drawings(plan.config)
        feed = ranks.in_turn(lambda: task.feed(runtime))
        ending.callback(feed.close)
        say((what, f"{value}: {why}") for what, value, why in (*runtime.choices, *feed.choices))
        say(_warmup_warnings(settings))
        select_by = choose_metric(task, settings.train.watch)
        state = TrainingState.start(task, feed, settings, runtime, select_by)
        offset = _restore_state(state, run, plan, task, feed, runtime, say) if run else 0
        batches, left_s = _rehearse_steps(state, task, feed, settings, runtime, say)
        if settings.train.sync_batch_norm:
            ranks.synchronise(state.model)
        if settings.train.compile == "auto":
            runtime = _compile_if_worth_it(state, task, settings, runtime, left_s, say)
        stop = ending.enter_context(StopRequest())  # from here on there is something to be resumed
        ranks.follow(stop, settings.loader.timeout)
        if run is None:
            members = task.membership() if isinstance(task, HasMembership) else None
            ranks.same("samples", members.digests() if members else {})
            made = ranks.from_first(lambda: create_run(root, name or plan.name))
            run = ending.enter_context(_written_by(made, ranks, is_new=True))
            if members:
                run.write_membership(members)
        if ranks.is_first:
            log = RunLog(run, offset, state.progress.step)
            board = Board(log.tensorboard, resumed=state.progress.step > 0)
            screen = Screen(feed.steps_per_epoch, select_by.metric, settings.train.epochs)
        else:
            log, board, screen = SilentLog(), SilentBoard(), SilentScreen()
            write_into(run.path / "ranks" / f"{ranks.rank}.log")
        say([("run", shown(run.path))])
        _write_documents(run, plan, runtime, task)
        identity = {"config": plan.plain(), "facts": task.facts, "versions": _versions()}
        training = Training(task, feed, settings, runtime, select_by, state, run, log, board, screen, stop, identity)
        yield training, _with_first_shown(training, batches, plan.to_yaml())


def _compile_if_worth_it(
    state: TrainingState, task: Task, settings: TrainerSettings, runtime: Runtime, left_s: float, say: Say
) -> Runtime:
    """Decide, now that it is known how long the training takes, whether the model is compiled. left_s: without that."""
    by_graphs = settings.train.cuda_graphs
    choice = runtime.ranks.from_first(
        lambda: decide_compile(runtime, left_s, is_static=task.is_static, by_graphs=by_graphs)
    )
    say([(choice.what, f"{choice.value}: {choice.why}")])
    runtime = replace(runtime, compile=choice.value == "yes", choices=(*runtime.choices, choice))
    state.net = runtime.callable_form(state.model)
    return runtime


@contextlib.contextmanager
def _machine_errors_explained(place: Path) -> Iterator[None]:
    """Raise errors of the machine, a full disk or memory, as what a person can do about them. place: written to."""
    try:
        yield
    except OSError as error:
        if not is_disk_trouble(error) or error.filename is not None:  # of a file that has a name of its own
            raise
        raise cannot_write(place, error) from error
    except (MemoryError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"it does not fit into memory: {str(error) or type(error).__name__}"
        fix = "a smaller model, data.image_size or train.batch_size"
        raise OutOfMemoryError(what, where="before training", fix=fix) from error


@contextlib.contextmanager
def _written_by(run: RunFolder, ranks: Ranks, *, is_new: bool = False) -> Iterator[RunFolder]:
    """The run as this rank may write it; unlocked at the end, and discarded if it is new and not made whole."""
    run = run if ranks.is_first else SilentRun(run.path)
    try:
        with _machine_errors_explained(run.path):
            yield run
    finally:
        if is_new and not (run.path / "status.json").exists():
            run.discard()
        run.unlock()


def _run_to_resume(resume: str | None, root: Path, name: str) -> RunFolder | None:
    """Return the run to go on with, locked; None for a new one. Raises UserError where it cannot be written."""
    if resume is None:
        check_writable(root, name)
        return None
    run = open_run(resume, root)
    check_writable(run.path)
    run.lock()
    return run


def _build_task(
    plan: Plan, run: RunFolder | None, ranks: Ranks, say: Say, choose_batch_size: ChooseBatchSize
) -> tuple[Plan, Task, Runtime]:
    """Make the task, for which the batch size may have to be found first, and decide where it computes."""
    ranks.same("config", plan.plain())
    runtime = decide_runtime(plan.config, ranks)
    ranks.same("arithmetic", {"precision": runtime.precision, "torch": _versions()["torch"]})
    members = ranks.from_first(lambda: run.membership() if run else None)
    known = KnownData("resume", members) if run else None
    task = ranks.in_turn(lambda: plan.build(known))
    ranks.same("data", {"samples": task.splits, **task.facts["data"]})
    say(task.describe())
    if run and not members and isinstance(task, HasMembership):
        say([("warning", "the run has not kept its splits: that the samples are the same cannot be checked")])
    if plan.config.train.batch_size == "auto":
        size, why = ranks.from_first(lambda: choose_batch_size(task, plan.config, runtime))
        say([("batch size", f"{size}: {why}")])
        plan = plan.with_batch_size(size)  # which is also what the run folder keeps
        task = plan.build(known)  # measuring has trained it
    return plan, task, runtime.for_model(task.model)


def _restore_state(
    state: TrainingState, run: RunFolder, plan: Plan, task: Task, feed: Feed, runtime: Runtime, say: Say
) -> int:
    """Bring the state to where the run was. Returns the length of metrics.jsonl at that time."""

    def of_first() -> tuple[int, list[tuple[str, str]], dict[str, Any]]:
        return *restore(state, run, plan, task.facts, feed.steps_per_epoch), state.state_dict()

    offset, lines, saved = runtime.ranks.from_first(of_first)
    if not runtime.ranks.is_first:
        state.load_state_dict(saved)
    say([*lines, *_changed_environment(run, runtime)])
    return offset


def _without_drawings(settings: TaskSettings) -> TaskSettings:
    """Return the settings of a rank whose layers and pictures nobody looks at."""
    nothing = {"layers": False, "pictures": False, "graph": False, "embeddings": False}
    board = settings.train.tensorboard.model_copy(update=nothing)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"tensorboard": board})})


def _warmup_warnings(settings: TrainerSettings) -> list[tuple[str, str]]:
    """Return a line where the learning rate never reaches its height."""
    warmup, epochs = settings.schedule.warmup_epochs, settings.train.epochs
    if warmup < epochs:
        return []
    what = f"the warm-up ({warmup:g} epochs) takes the whole training ({epochs})"
    fix = f"a shorter one: schedule.warmup_epochs={min(1, epochs / 10):g}"
    return [("warning", f"{what}: the learning rate only climbs; {fix}")]


def _rehearse_steps(
    state: TrainingState, task: Task, feed: Feed, settings: TrainerSettings, runtime: Runtime, say: Say
) -> tuple[Iterator[Batch], float]:
    """Try whether steps work, in smaller parts where memory wants it.

    Returns the batches from the state's step on, and about how many seconds all steps that are left take.
    """
    ranks = runtime.ranks
    parts = MicroBatches(settings.train, state.progress, feed, ranks)
    if ranks.size > 1:
        taken = f"each takes {parts.parts} of a step's {parts.whole} parts, of up to {parts.size} samples"
        say([("processes", f"{ranks.size}: {taken}")])
    batches, part_s = rehearse(
        task, feed, runtime, state.progress.step, lambda error: say([("memory", parts.halve(error))])
    )
    steps_left = settings.train.epochs * feed.steps_per_epoch - state.progress.step
    # An evaluation pass is a forward without a backward: about a third of the work per sample.
    share = task.splits.get("val", task.splits["train"]) / task.splits["train"] + settings.train.measure_train
    left_s = part_s * parts.parts * steps_left * (1 + share / 3 / settings.train.evaluate_every)
    trained = sum(one.numel() for one in task.model.parameters() if one.requires_grad)
    # Counting takes a pass on the CPU: only for a model whose weights alone do not rule the advice out.
    if settings.train.device == "auto" and task.is_static and advise_device(runtime, 0, trained):
        batch = next(batches)
        batches = itertools.chain([batch], batches)
        say(advise_device(runtime, step_flops(task, batch, settings.train.samples_per_step), trained))
    say([("check", f"first batches forward and backward: ok, about {duration(max(1.0, left_s))} to go")])
    return batches, left_s


def train(training: Training, batches: Iterator[Batch]) -> Ended:
    """Train, and conclude unless a stop was asked for. However it ends, status.json says so.

    Raises UserError. Any other error is a bug: its traceback is kept in crash.txt.
    """
    run, began, before = training.run, time.monotonic(), training.run.status_or_empty()
    task = training.identity["config"]["task"]
    run.update_status(state="running", started=before.get("started", utc_now()), task=task,
                      epochs=training.settings.train.epochs, exit_code=None, error=None)  # fmt: skip

    def end(state: str, code: ExitCode, **more: Any) -> None:
        training.screen.clear()
        seconds = round(before.get("seconds", 0.0) + time.monotonic() - began, 1)
        spent, now = before.get("times", {}), training.times or training.meter.times()
        times = {name: round(value + spent.get(name, 0.0), 3) for name, value in now.items()}
        run.update_status(state=state, exit_code=int(code), finished=utc_now(), seconds=seconds, times=times,
                          memory_mb=training.memory_mb, **more)  # fmt: skip

    def fail(state: str, code: ExitCode, error: str) -> None:
        with contextlib.suppress(OutputError):  # of a disk that is full for these as well: the cause is said already
            training.log.close()
        with contextlib.suppress(OutputError):
            end(state, code, error=error)

    try:
        outcome = fit(training, batches)
        training.times = training.meter.times()
        scores: dict[str, dict[str, float]] = {}
        if outcome != "interrupted":
            try:
                scores = conclude(training)
            except Interrupted:  # it is concluded when the run goes on
                outcome = "interrupted"
        training.log.close()
        if outcome == "interrupted":
            end("interrupted", training.stop.exit_code)
        else:
            end("finished", ExitCode.OK, scores={split: as_json(values) for split, values in scores.items()})
            training.stop.release()  # the run is complete: a signal ends what is left to do
    except UserError as error:
        fail("diverged" if error.code == ExitCode.DIVERGED else "failed", error.code, error.what)
        raise
    except Exception as error:
        if is_out_of_memory(error):
            fail("failed", ExitCode.OUT_OF_MEMORY, "out of memory")
            where = f"step {training.state.progress.step + 1}"
            raise out_of_memory(training.micro_batches.size, where) from error
        if is_disk_trouble(error):  # TensorBoard's: it writes in a thread of its own
            trouble = cannot_write(run.path / "train", error)
            fail("failed", ExitCode.OUTPUT, trouble.what)
            raise trouble from error
        run.write_text("crash.txt", traceback.format_exc())
        fail("failed", ExitCode.BUG, f"bug: {error!r}")
        error.add_note(f"the traceback is also in {shown(run.path / 'crash.txt')}")
        raise
    return Ended(outcome, scores, time.monotonic() - began)


def conclude(training: Training) -> dict[str, dict[str, float]]:
    """Finish a training after its last step: measure the best model, draw it, write it for other programs.

    Loads the best weights into the model, writes them as model.safetensors, measures every split there is. The splits
    it was not trained on get an evaluation-<split>.json and pictures/. Returns the best model's scores by split. Raises
    Interrupted if a stop is asked for; all of it is done when the run goes on.
    """
    task, run, board = training.task, training.run, training.board
    shown_there = training.settings.train.tensorboard
    best = training.runtime.ranks.from_first(lambda: load_checkpoint(run.checkpoint("best")))
    weights = model_weights(best)
    training.state.model.load_state_dict(weights)
    plain = {name: tensor.contiguous() for name, tensor in weights.items()}
    metadata = {"config": json.dumps(best["config"]), "facts": json.dumps(best["facts"])}
    run.write_bytes("model.safetensors", safetensors.torch.save(plain, metadata))
    step = training.state.progress.step + 1  # TensorBoard forgets it when the run goes on, as it does all later steps
    scores = {}
    for split in task.splits:
        scores[split], metrics = evaluate(training, split)
        if split == "train":
            continue
        record = evaluation_record(run.name, "best.ckpt", best, task, split, training.runtime, scores[split], metrics)
        run.write_text(f"evaluation-{split}.json", json.dumps(record, indent=1) + "\n")
        if shown_there.pictures:
            training.state.model.eval()
            pictures = task.pictures(split, metrics)
            for title, picture in pictures.items():
                run.write_picture(f"{split} {title}", picture)
            board.evaluation(f"{split} best", record, step)
            board.pictures(f"{split} best", pictures, step)
    if "test" in scores:
        training.log.scalars("test", best["step"], best["epoch"], scores["test"], shown_at=step)
    final = {f"{name}/{split}": value for split, values in scores.items() for name, value in values.items()}
    board.hparams(flatten(best["config"]), final, step)
    if shown_there.embeddings and isinstance(task, HasEmbeddings):
        split = "test" if "test" in scores else training.select_by.split
        board.embeddings(split, *task.embeddings(split), step)
    return scores


def _with_first_shown(training: Training, batches: Iterator[Batch], config_text: str) -> Iterator[Batch]:
    """Show in TensorBoard what is about to be trained, on what. Returns all batches, the first one shown included."""
    task, board, step = training.task, training.board, training.state.progress.step
    shown_there, first = training.settings.train.tensorboard, next(batches)
    board.opening(config_text)
    if shown_there.graph and step == 0:
        board.graph(task.model, first.inputs)
    picture = task.batch_picture(first) if shown_there.pictures and isinstance(task, DrawsBatches) else None
    if picture is not None:
        board.pictures("train", {"batch after augmentation": picture}, step)
        training.run.write_picture("train batch after augmentation", picture)
    training.runtime.ranks.together(lambda: None)  # not in a step, where nobody waits for long
    return itertools.chain([first], batches)


def _changed_environment(run: RunFolder, runtime: Runtime) -> list[tuple[str, str]]:
    """A line where a run goes on with other threads, versions or formats than before: the last bits differ then."""
    now, before = {**_versions(), **_arithmetic(runtime)}, run.environment_or_empty()
    changed = [f"{key} was {before[key]}, is {value}" for key, value in now.items() if before.get(key, value) != value]
    return [("warning", f"{'; '.join(changed)}: the last bits may differ from here on")] if changed else []


def _arithmetic(runtime: Runtime) -> dict[str, Any]:
    """Return the settings that the last bits of the numbers depend on, in addition to versions."""
    layout = "channels_last" if runtime.channels_last else "channels_first"
    return {"threads": runtime.threads, "precision": runtime.precision, "layout": layout}


def _versions() -> dict[str, str]:
    """Return the versions of the software, and the platform."""
    # str: torch's version is an object of its own class, which no checkpoint may hold.
    return {"mlcli": __version__, "torch": str(torch.__version__), "python": platform.python_version(),
            "platform": platform.platform()}  # fmt: skip


def _write_documents(run: RunFolder, plan: Plan, runtime: Runtime, task: Task) -> None:
    """The files that say what this run is: the YAML as given, all of it spelled out, data and model, the machine."""
    run.write_text("config.yaml", plan.source_text)
    run.write_text("resolved.yaml", plan.to_yaml())
    choices = {what: f"{value}: {why}" for what, value, why in runtime.choices}
    environment = {**_versions(), **_arithmetic(runtime), "choices": choices, "arguments": sys.argv[1:],
                   "overrides": list(plan.overrides)}  # fmt: skip
    summary = {"describe": task.describe(), "splits": task.splits, "facts": task.facts,
               "parameters": sum(parameter.numel() for parameter in task.model.parameters())}  # fmt: skip
    run.write_text("summary.json", json.dumps(summary, indent=1) + "\n")
    run.write_text("environment.json", json.dumps(environment, indent=2) + "\n")
