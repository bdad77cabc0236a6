"""The one trainer: three steps, repeated. It knows no task; what is learned comes in as a `Task`."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlcli.engine.board import Board
from mlcli.engine.contract import Batch, Feed, Metrics, Task
from mlcli.engine.divergence import diverged
from mlcli.engine.documents import TRAIN_MEASURED
from mlcli.engine.evaluate import Interrupted, SelectBy, evaluate_split
from mlcli.engine.layer_stats import LayerMonitor, LayerStats
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.meter import Budget, Meter
from mlcli.engine.optimizer import give_momentum
from mlcli.engine.run import RunFolder
from mlcli.engine.runtime import Runtime
from mlcli.engine.saver import CheckpointSaver
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.silent import SilentSaver
from mlcli.engine.state import TrainingState
from mlcli.engine.step import MicroBatches, Stepper
from mlcli.engine.stop import StopRequest
from mlcli.errors import ConfigError, DivergedError, OutOfMemoryError

FEWEST_MEASURED = 100
"""Training samples, where a share of them is measured: fewer would say little. No more than are validated by."""
FIRST_COST_S = {"layers": 0.01, "pictures": 1.0}
"""Seconds, before it is known: importing matplotlib and drawing take about one."""


@dataclass
class Training:
    """The parts of a run, assembled once.

    select_by: the metric that decides which weights are the best.
    identity: plain data stored in every checkpoint with the state: config, facts of the task, versions.
    """

    task: Task
    feed: Feed
    settings: TrainerSettings
    runtime: Runtime
    select_by: SelectBy
    state: TrainingState
    run: RunFolder
    log: RunLog
    board: Board
    screen: Screen
    stop: StopRequest
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        shown, by_events = self.settings.train.tensorboard, self.settings.train.time_on_device
        self.meter = Meter(self.runtime.synchronize, self.runtime.event if by_events else None)
        self.stepper = Stepper(self.task, self.state, self.settings, self.runtime, self.meter)
        self.micro_batches = MicroBatches(self.settings.train, self.state.progress, self.feed, self.runtime.ranks)
        self.saver: CheckpointSaver = SilentSaver()
        if self.runtime.ranks.is_first:
            self.saver = CheckpointSaver(self.run.checkpoints, self.settings.train.checkpoints.keep_last)
        self.budget = Budget(shown.share, FIRST_COST_S)
        self.layers = LayerMonitor(self.state.model, self.budget, active=shown.layers)
        self.times: dict[str, float] = {}
        """Seconds spent on each part of the training, once `fit` is through."""
        self.memory_mb: dict[str, float] = {}
        """Most memory by phase, as `Runtime.memory_mb` sees it."""

    @property
    def steps_per_epoch(self) -> int:
        return self.feed.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.feed.steps_per_epoch * self.settings.train.epochs


def fit(training: Training, batches: Iterator[Batch]) -> str:
    """Train until all epochs are done, the watched metric has stopped improving, or a stop is asked for.

    `batches` are those of step `training.state.progress.step` and all that follow. Returns "finished", "stopped early"
    or "interrupted"; the newest checkpoint then holds the state as it is. Raises DivergedError.
    """
    with training.saver:
        return take_steps(training, batches)


def take_steps(training: Training, batches: Iterator[Batch]) -> str:
    """Train like `fit`, without waiting for the last checkpoints to be written."""
    state, progress, stepper = training.state, training.state.progress, training.stepper
    meter, prepared_epoch = training.meter, -1
    meter.restart()
    each_step_is_timed = training.runtime.device.type == "cpu"  # a GPU would have to wait

    while not training.stop():
        epoch, step_in_epoch = divmod(progress.step, training.steps_per_epoch)
        if step_in_epoch == 0 and progress.judged_step < progress.step:
            try:
                finish_epoch(training, epoch - 1)
            except Interrupted:
                break
            training.runtime.ranks.together(lambda: None)  # until the first has drawn; in a step nobody waits for long
        if progress.step >= training.total_steps or has_stopped_improving(training):
            return "finished" if progress.step >= training.total_steps else "stopped early"
        if prepared_epoch != epoch:  # evaluations come between epochs only, so training mode lasts for one
            training.task.train_mode(epoch)
            give_momentum(state.optimizer)
            prepared_epoch = epoch

        logs = is_log_point(training, epoch, step_in_epoch)
        layers = training.layers.measure(progress.step + 1, is_log_point=logs)  # mostly one that does nothing
        meter.begin_step(timed=logs or each_step_is_timed)
        lr = state.schedule.lr_at(progress.step - progress.skipped)
        try:
            losses = stepper.gradients(batches, training.micro_batches.parts)  # 1. a function  2. how wrong it is
        except (MemoryError, RuntimeError, OutOfMemoryError) as error:  # the last: of another rank
            batches = with_smaller_parts(training, error)  # most errors it raises again
            continue
        layers.gradients()
        if not stepper.guard.passes(losses):
            raise divergence(training, progress.step)
        if not stepper.update(lr):  # 3. a better function
            skip(training)
        layers.updated()
        stepper.forget_gradients()

        progress.step += 1
        training.screen.step(epoch, step_in_epoch + 1)
        if logs:
            log_window(training, epoch, lr)
            show_layers(training, layers.result())
        epoch_is_over = step_in_epoch + 1 == training.steps_per_epoch
        every_steps = training.settings.train.checkpoints.every_steps
        if every_steps and progress.step % every_steps == 0 and not epoch_is_over:
            save(training)

    training.screen.clear()
    save(training)
    return "interrupted"


def with_smaller_parts(training: Training, error: Exception) -> Iterator[Batch]:
    """The batches from this step on, in micro-batches half as large. Raises the error if that cannot help."""
    text = training.micro_batches.halve(error)
    training.stepper.forget_gradients()
    note(training, text)
    return training.feed.train_batches(training.state.progress.step)


def skip(training: Training) -> None:
    """Note that loss scaling left a step out. Raises DivergedError once there is no scale left to lower."""
    note(training, training.layers.overflowed())
    if training.state.scaler.get_scale() < 1:
        raise divergence(training, training.state.progress.step)
    training.state.progress.skipped += 1


def divergence(training: Training, step: int) -> DivergedError:
    """The error to end the run with whose step `step` (from 0) was not finite."""
    lr = training.state.schedule.lr_at(step - training.state.progress.skipped)
    parts = training.micro_batches.parts
    return diverged(training.task, training.feed, training.runtime, step, parts=parts, lr=lr)


def is_log_point(training: Training, epoch: int, step_in_epoch: int) -> bool:
    """Whether the step (both from 0) is followed by an entry in the log: every so often, and before an evaluation."""
    every, epoch_is_over = training.settings.train.log_every, step_in_epoch + 1 == training.steps_per_epoch
    return (training.state.progress.step + 1) % every == 0 or (epoch_is_over and is_judged(training, epoch))


def is_judged(training: Training, epoch: int) -> bool:
    """Whether the model is evaluated after this epoch (from 0); always after the last."""
    return (epoch + 1) % training.settings.train.evaluate_every == 0 or epoch + 1 == training.settings.train.epochs


def has_stopped_improving(training: Training) -> bool:
    early = training.settings.train.early_stopping
    return early is not None and training.state.progress.stale >= early.patience


def log_window(training: Training, epoch: int, lr: float) -> None:
    """Write the mean loss since the last log point. Reading it is the only time the loop waits for the device."""
    means = read_window(training)
    training.saver.raise_if_failed()
    rates, memory_mb = training.meter.lap(), memory_of(training, "training")
    speed = {"samples_per_s": rates.samples_per_s, "wait_share": rates.wait_share, "memory_mb": memory_mb}
    values = {**means, "lr": lr, **speed}
    training.log.scalars("train", training.state.progress.step, epoch + 1, values)
    training.state.window.pour_into(training.state.epoch_loss)


def memory_of(training: Training, phase: str) -> float:
    """Megabytes held since the last call, which belong to this phase."""
    now_mb = training.runtime.memory_mb()
    training.memory_mb[phase] = max(now_mb, training.memory_mb.get(phase, 0.0))
    return now_mb


def show_layers(training: Training, stats: LayerStats | None) -> None:
    """Write down how each layer does; what is wrong with one is said on the screen, once."""
    if stats is None:
        return
    began = time.perf_counter()
    training.log.layers(stats)
    training.board.layers(stats)
    for text in stats.notes:
        training.screen.note(text)
    training.budget.spend("layers", time.perf_counter() - began + stats.cost_s)


def note(training: Training, text: str) -> None:
    """Say that something is wrong at this step: in the log, and on the screen unless it was said before."""
    training.log.layers(LayerStats(training.state.progress.step + 1, [], notes=[text]))
    training.screen.note(text)


def read_window(training: Training) -> dict[str, float]:
    """The mean loss since the last log point. Raises DivergedError if something was not finite: before it is saved."""
    step, means = training.state.progress.step, training.state.window.read()
    if training.stepper.guard.is_tripped():
        raise divergence(training, step - 1 - training.stepper.guard.steps_since())
    if not all(map(math.isfinite, means.values())):  # by fp16, which the guard leaves to loss scaling
        terms = ", ".join(f"{name} = {value:g}" for name, value in means.items())
        what = f"the loss is no longer finite: {terms}"
        fix = "train.precision=bf16 or fp32, or a lower optimizer.lr; earlier checkpoints are kept"
        raise DivergedError(what, where=f"at or shortly before step {step}", fix=fix)
    return means


def finish_epoch(training: Training, epoch: int) -> None:
    """Judge the model after `epoch` (from 0), keep it if it is the best, save. Raises Interrupted, nothing changed."""
    progress, began = training.state.progress, time.perf_counter()
    if is_judged(training, epoch):
        rates, lr = training.meter.span(), training.state.schedule.lr_at(max(0, progress.step - progress.skipped - 1))
        training.screen.clear()
        with training.state.ema.in_place_of(training.state.model):
            scores, metrics = evaluate(training, training.select_by.split)
            memory_of(training, "evaluation")
            if (metric := training.select_by.metric) not in scores:  # some models have no loss but in training
                fix = f"train.watch: one of {', '.join(scores)}"
                raise ConfigError(f"measuring this model gives no '{metric}'", where="train.watch", fix=fix)
            learned = score_of_training_samples(training)
            best = is_best(training, scores[metric], scores.get("loss"), epoch)
            if best:
                save_best(training, scores, metrics)
            show_answers(training, metrics)
        training.log.scalars(training.select_by.split, progress.step, epoch + 1, scores)
        if learned:
            training.log.scalars(TRAIN_MEASURED, progress.step, epoch + 1, learned)
        shown = {"train": learned | training.state.epoch_loss.read(), training.select_by.split: scores}
        training.screen.epoch(epoch, shown, lr, rates, best)
        training.state.epoch_loss.clear()
        training.run.update_status(epoch=epoch + 1, step=progress.step, best=best_so_far(training))
    progress.judged_step = progress.step
    last = progress.step >= training.total_steps or has_stopped_improving(training)
    if last or (epoch + 1) % training.settings.train.checkpoints.every_epochs == 0:
        save(training)
    training.meter.judged(time.perf_counter() - began)


def evaluate(training: Training, split: str, samples: int | None = None) -> tuple[dict[str, float], Metrics]:
    """Scores and metrics of the model as it is on one split, or on `samples` of it. Raises Interrupted if stopped."""
    task, net, feed = training.task, training.state.net, training.feed
    return evaluate_split(task, net, feed, split, training.runtime, training.stop, samples=samples)


def score_of_training_samples(training: Training) -> dict[str, float]:
    """Return the watched metric on a share of what was learned from; empty where it is not asked for, or is the loss.

    The loss of the training steps is known already, and is another one: of augmented samples, with dropout.
    """
    share, splits, by = training.settings.train.measure_train, training.task.splits, training.select_by
    if share == 0 or by.split == "train" or by.metric == "loss":
        return {}
    fewest = min(FEWEST_MEASURED, splits[by.split], splits["train"])
    samples = max(fewest, round(share * splits["train"]))
    scores, _ = evaluate(training, "train", samples)
    return {by.metric: scores[by.metric]} if by.metric in scores else {}


def save_best(training: Training, scores: dict[str, float], metrics: Metrics) -> None:
    """Keep the model as it is, without what only training needs, and what was learned about using it."""
    about = describe(training)
    about["facts"] = {**about["facts"], **metrics.learned()}
    content = {"model": training.state.model.state_dict(), "scores": scores, **about}
    training.saver.save_best(content)


def show_answers(training: Training, metrics: Metrics) -> None:
    """Draw what the model answers, while it is in evaluation mode, if time allows."""
    if not (training.settings.train.tensorboard.pictures and training.budget.allows("pictures")):
        return
    began, split, step = time.perf_counter(), training.select_by.split, training.state.progress.step
    training.board.evaluation(split, metrics.details(), step)
    training.board.pictures(split, training.task.pictures(split, metrics), step)
    training.budget.spend("pictures", time.perf_counter() - began)


def is_best(training: Training, value: float, loss: float | None, epoch: int) -> bool:
    """Take note of the watched metric: for the schedule, early stopping, and as the best. Returns whether it is.

    Small splits are full of ties in metrics that count, such as accuracy: there the loss decides.
    """
    progress, early = training.state.progress, training.settings.train.early_stopping
    loss = math.inf if loss is not None and math.isnan(loss) else loss
    training.state.schedule.observe(value)
    is_lower = loss is not None and progress.reference_loss is not None and loss < progress.reference_loss
    improves = training.select_by.improves(value, progress.reference, early.min_delta if early else 0.0)
    if improves or (value == progress.reference and is_lower):
        progress.reference, progress.reference_loss, progress.stale = value, loss, 0
    else:
        progress.stale += 1
    best = training.select_by.is_best(value, loss, progress.best_value, progress.best_loss)
    if best:
        progress.best_value, progress.best_loss = value, loss
        progress.best_step, progress.best_epoch = progress.step, epoch + 1
    return best


def best_so_far(training: Training) -> dict[str, Any]:
    progress, by = training.state.progress, training.select_by
    return {"metric": by.metric, "split": by.split, "direction": by.direction,
            "value": progress.best_value, "epoch": progress.best_epoch, "step": progress.best_step}  # fmt: skip


def describe(training: Training) -> dict[str, Any]:
    """Return the metadata of a checkpoint."""
    progress = training.state.progress
    epoch = progress.step // training.steps_per_epoch
    return {**training.identity, "step": progress.step, "epoch": epoch, "best": best_so_far(training),
            "metrics_bytes": training.log.offset}  # fmt: skip


def save(training: Training) -> None:
    """Write the whole state, verify it, and only then delete older ones. Never saves a state that has diverged."""

    def write() -> None:
        read_window(training)
        training.log.flush()
        training.saver.save(training.state.progress.step, {**training.state.state_dict(), **describe(training)})

    training.runtime.ranks.together(write)
