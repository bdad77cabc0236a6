"""The one trainer: three steps, repeated. It knows no task; what is learned comes in as a `Task`."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine.best import Watch
from mlcli.engine.board import Board
from mlcli.engine.budget import Budget
from mlcli.engine.contract import Batch, Feed, Metrics, Task, total
from mlcli.engine.divergence import diverged
from mlcli.engine.evaluate import Interrupted, evaluate_split
from mlcli.engine.guard import Guard, NoGuard
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.meter import Meter
from mlcli.engine.micro_batches import MicroBatches
from mlcli.engine.optimizer import clip_gradients, set_lr
from mlcli.engine.run import RunFolder
from mlcli.engine.runtime import Runtime
from mlcli.engine.saver import CheckpointSaver
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.stop import StopRequest
from mlcli.engine.vitals import Look, Vitals
from mlcli.errors import DivergedError

FIRST_COST_S = {"layers": 0.01, "pictures": 1.0}
"""Seconds, before it is known: importing matplotlib and drawing take about one."""


@dataclass
class Training:
    """What a run is made of, put together once.

    identity: plain data stored in every checkpoint beside the state: config, facts of the task, versions.
    """

    task: Task
    feed: Feed
    settings: TrainerSettings
    runtime: Runtime
    watch: Watch
    state: TrainingState
    run: RunFolder
    log: RunLog
    board: Board
    screen: Screen
    stop: StopRequest
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        shown = self.settings.train.tensorboard
        self.meter = Meter(self.runtime.synchronize)
        self.saver = CheckpointSaver(self.run.checkpoints, self.settings.train.checkpoints.keep_last)
        self.times: dict[str, float] = {}
        """Seconds spent on each part of the training, once `fit` is through."""
        self.memory_mb: dict[str, float] = {}
        """Most memory by phase, as `Runtime.memory_mb` sees it."""
        self.budget = Budget(shown.share, FIRST_COST_S)
        self.vitals = Vitals(self.state.model, self.budget, active=shown.layers)
        self.parameters = list(self.state.model.parameters())
        self.micro_batches = MicroBatches(self.settings.train, self.state.progress, self.feed)
        self.guard: Guard | NoGuard = NoGuard()
        if not self.state.scaler.is_enabled():
            device = self.runtime.device
            is_cheap = device.type == "cpu"  # to read a number; a GPU would have to be waited for
            self.guard = Guard(self.parameters, self.state.optimizer, device, reads_each_step=is_cheap)

    @property
    def steps_per_epoch(self) -> int:
        return self.feed.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.feed.steps_per_epoch * self.settings.train.epochs


def fit(t: Training, batches: Iterator[Batch]) -> str:
    """Train until all epochs are done, the watched metric has stopped improving, or a stop is asked for.

    `batches` are those of step `t.state.progress.step` and all that follow. Returns "finished", "stopped early" or
    "interrupted"; the newest checkpoint then holds the state as it is. Raises DivergedError.
    """
    with t.saver:
        return take_steps(t, batches)


def take_steps(t: Training, batches: Iterator[Batch]) -> str:
    """As `fit`; the last checkpoints may still be on their way."""
    state, progress, runtime = t.state, t.state.progress, t.runtime
    optimizer, scaler, guard, parameters = state.optimizer, state.scaler, t.guard, t.parameters
    meter, prepared_epoch = t.meter, -1
    meter.restart()
    each_step_is_timed = runtime.device.type == "cpu"  # a GPU would have to wait

    while not t.stop():
        epoch, step_in_epoch = divmod(progress.step, t.steps_per_epoch)
        if step_in_epoch == 0 and progress.judged_step < progress.step:
            try:
                finish_epoch(t, epoch - 1)
            except Interrupted:
                break
        if progress.step >= t.total_steps or has_stopped_improving(t):
            return "finished" if progress.step >= t.total_steps else "stopped early"
        if prepared_epoch != epoch:  # evaluations come between epochs only, so training mode lasts for one
            t.task.train_mode(epoch)
            prepared_epoch = epoch

        logs = is_log_point(t, epoch, step_in_epoch)
        look = t.vitals.look(progress.step + 1, is_log_point=logs)  # mostly one that does nothing
        meter.begin_step(timed=logs or each_step_is_timed)
        runtime.seed_step(progress.step)  # dropout and the like: a function of (seed, step)
        lr = state.schedule.lr_at(progress.step - progress.skipped)
        set_lr(optimizer, lr)
        try:
            losses = gradients(t, batches)  # 1. a function from the set  2. how wrong it is
        except (MemoryError, RuntimeError) as error:
            batches = with_smaller_parts(t, error)  # most errors it raises again
            continue
        scaler.unscale_(optimizer)
        look.gradients()
        if not guard.passes(losses):
            raise divergence(t, progress.step)
        clip_gradients(parameters, t.settings.optimizer)
        if take_step(scaler, optimizer):  # 3. a better function
            state.ema.update(progress.step - progress.skipped)
        else:
            skip(t)
        look.updated()
        forget_gradients(parameters)
        meter.mark("optimizer")

        progress.step += 1
        state.window.steps += 1
        t.screen.step(epoch, step_in_epoch + 1)
        if logs:
            log_window(t, epoch, lr)
            show_layers(t, look.result())
        epoch_is_over = step_in_epoch + 1 == t.steps_per_epoch
        every_steps = t.settings.train.checkpoints.every_steps
        if every_steps and progress.step % every_steps == 0 and not epoch_is_over:
            save(t)

    t.screen.clear()
    save(t)
    return "interrupted"


def gradients(t: Training, batches: Iterator[Batch]) -> list[Tensor]:
    """Forward and backward over the micro-batches of a step. Returns their losses, on the device."""
    losses: list[Tensor] = []
    taken: list[tuple[dict[str, Tensor], float]] = []
    meter, net, runtime = t.meter, t.state.net, t.runtime
    for _ in range(t.micro_batches.parts):
        with meter:
            batch = next(batches)  # already on the device
        with runtime.autocast():
            terms = t.task.losses(net, batch)
        loss = total(terms) if batch.share == 1 else total(terms) * batch.share
        meter.mark("forward")
        t.state.scaler.scale(loss).backward()
        meter.mark("backward")
        meter.count(len(batch))
        losses.append(loss)
        taken.append((terms, batch.share))
    for terms, share in taken:  # only once all of the step went well
        t.state.window.add(terms, share)
    return losses


def forget_gradients(parameters: list[nn.Parameter]) -> None:
    """As `Optimizer.zero_grad`, which takes longer to tell the profiler than to do it."""
    for parameter in parameters:
        parameter.grad = None


def with_smaller_parts(t: Training, error: Exception) -> Iterator[Batch]:
    """The batches from this step on, in micro-batches half as large. Raises the error if that is no answer to it."""
    text = t.micro_batches.halve(error)
    forget_gradients(t.parameters)
    note(t, text)
    return t.feed.train_batches(t.state.progress.step)


def skip(t: Training) -> None:
    """Note that loss scaling left a step out. Raises DivergedError once there is no scale left to lower."""
    note(t, t.vitals.overflowed())
    if t.state.scaler.get_scale() < 1:
        raise divergence(t, t.state.progress.step)
    t.state.progress.skipped += 1


def divergence(t: Training, step: int) -> DivergedError:
    """What to end the run with whose step `step` (from 0) was not finite."""
    lr = t.state.schedule.lr_at(step - t.state.progress.skipped)
    return diverged(t.task, t.feed, t.runtime, step, parts=t.micro_batches.parts, lr=lr)


def take_step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> bool:
    """Let the optimizer step, unless fp16 gradients overflowed. Returns whether it did."""
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= scale


def is_log_point(t: Training, epoch: int, step_in_epoch: int) -> bool:
    """Whether the step (both from 0) is followed by an entry in the log: every so often, and before an evaluation."""
    every, epoch_is_over = t.settings.train.log_every, step_in_epoch + 1 == t.steps_per_epoch
    return (t.state.progress.step + 1) % every == 0 or (epoch_is_over and is_judged(t, epoch))


def is_judged(t: Training, epoch: int) -> bool:
    """Whether the model is evaluated after this epoch (from 0); always after the last."""
    return (epoch + 1) % t.settings.train.evaluate_every == 0 or epoch + 1 == t.settings.train.epochs


def has_stopped_improving(t: Training) -> bool:
    early = t.settings.train.early_stopping
    return early is not None and t.state.progress.stale >= early.patience


def log_window(t: Training, epoch: int, lr: float) -> None:
    """Write the mean loss since the last log point. Reading it is the only time the loop waits for the device."""
    means = read_window(t)
    t.saver.raise_if_failed()
    rates, memory_mb = t.meter.lap(), memory_of(t, "training")
    speed = {"samples_per_s": rates.samples_per_s, "wait_share": rates.wait_share, "memory_mb": memory_mb}
    values = {**means, "lr": lr, **speed}
    t.log.scalars("train", t.state.progress.step, epoch + 1, values)
    t.state.window.pour_into(t.state.epoch_loss)


def memory_of(t: Training, phase: str) -> float:
    """Megabytes held since the last call, which belong to this phase."""
    now_mb = t.runtime.memory_mb()
    t.memory_mb[phase] = max(now_mb, t.memory_mb.get(phase, 0.0))
    return now_mb


def show_layers(t: Training, look: Look | None) -> None:
    """Write down how each layer does; what is wrong with one is said on the screen, once."""
    if look is None:
        return
    began = time.perf_counter()
    t.log.look(look)
    t.board.look(look)
    for text in look.notes:
        t.screen.note(text)
    t.budget.spend("layers", time.perf_counter() - began + look.cost_s)


def note(t: Training, text: str) -> None:
    """Say that something is wrong at this step: in the log, and on the screen unless it was said before."""
    t.log.look(Look(t.state.progress.step + 1, [], notes=[text]))
    t.screen.note(text)


def read_window(t: Training) -> dict[str, float]:
    """The mean loss since the last log point. Raises DivergedError if something was not finite: before it is saved."""
    step, means = t.state.progress.step, t.state.window.read()
    if t.guard.is_tripped():
        raise divergence(t, step - 1 - t.guard.steps_since())
    if not all(map(math.isfinite, means.values())):  # by fp16, which the guard leaves to loss scaling
        terms = ", ".join(f"{name} = {value:g}" for name, value in means.items())
        raise DivergedError(
            f"the loss is no longer finite: {terms}",
            where=f"at or shortly before step {step}",
            fix="train.precision=bf16 or fp32, or a lower optimizer.lr; earlier checkpoints are kept",
        )
    return means


def finish_epoch(t: Training, epoch: int) -> None:
    """Judge the model after `epoch` (from 0), keep it if it is the best, save. Raises Interrupted, nothing changed."""
    progress, began = t.state.progress, time.perf_counter()
    if is_judged(t, epoch):
        rates, lr = t.meter.span(), t.state.schedule.lr_at(max(0, progress.step - progress.skipped - 1))
        t.screen.clear()
        with t.state.ema.in_place_of(t.state.model):
            scores, metrics = evaluate_split(t.task, t.state.net, t.feed, t.watch.split, t.runtime, should_stop=t.stop)
            memory_of(t, "evaluation")
            best = is_best(t, scores[t.watch.metric], epoch)
            if best:
                save_best(t, scores, metrics)
            show_answers(t, metrics)
        t.log.scalars(t.watch.split, progress.step, epoch + 1, scores)
        shown = {"train": t.state.epoch_loss.read(), t.watch.split: scores}
        t.screen.epoch(epoch, shown, lr, rates, best)
        t.state.epoch_loss.clear()
        t.run.update_status(epoch=epoch + 1, step=progress.step, best=best_so_far(t))
    progress.judged_step = progress.step
    last = progress.step >= t.total_steps or has_stopped_improving(t)
    if last or (epoch + 1) % t.settings.train.checkpoints.every_epochs == 0:
        save(t)
    t.meter.judged(time.perf_counter() - began)


def save_best(t: Training, scores: dict[str, float], metrics: Metrics) -> None:
    """Keep the model as it is, without what only training needs, and what was learned about using it."""
    about = describe(t)
    about["facts"] = {**about["facts"], **metrics.learned()}
    content = {"model": t.state.model.state_dict(), "scores": scores, **about}
    t.saver.save_best(content)


def show_answers(t: Training, metrics: Metrics) -> None:
    """Draw what the model answers, while it is in evaluation mode, if time allows."""
    if not (t.settings.train.tensorboard.pictures and t.budget.allows("pictures")):
        return
    began, split, step = time.perf_counter(), t.watch.split, t.state.progress.step
    t.board.evaluation(split, metrics.details(), step)
    t.board.pictures(split, t.task.pictures(split, metrics), step)
    t.budget.spend("pictures", time.perf_counter() - began)


def is_best(t: Training, value: float, epoch: int) -> bool:
    """Take note of the watched metric: for the schedule, early stopping, and as the best. Returns whether it is."""
    progress, early = t.state.progress, t.settings.train.early_stopping
    t.state.schedule.observe(value)
    if t.watch.improves(value, progress.reference, early.min_delta if early else 0.0):
        progress.reference, progress.stale = value, 0
    else:
        progress.stale += 1
    best = t.watch.improves(value, progress.best_value)
    if best:
        progress.best_value, progress.best_step, progress.best_epoch = value, progress.step, epoch + 1
    return best


def best_so_far(t: Training) -> dict[str, Any]:
    progress = t.state.progress
    return {"metric": t.watch.metric, "split": t.watch.split, "direction": t.watch.direction,
            "value": progress.best_value, "epoch": progress.best_epoch, "step": progress.best_step}  # fmt: skip


def describe(t: Training) -> dict[str, Any]:
    """What a checkpoint says about itself besides the tensors."""
    progress = t.state.progress
    epoch = progress.step // t.steps_per_epoch
    return {**t.identity, "step": progress.step, "epoch": epoch, "best": best_so_far(t), "metrics_bytes": t.log.offset}


def save(t: Training) -> None:
    """Write the whole state, verify it, and only then delete older ones. Never saves a state that has diverged."""
    read_window(t)
    t.log.flush()
    t.saver.save(t.state.progress.step, {**t.state.state_dict(), **describe(t)})
