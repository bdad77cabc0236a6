"""The one trainer: three steps, repeated. It knows no task; what is learned comes in as a `Task`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from mlcli.engine.best import Watch
from mlcli.engine.checkpoint import checkpoint_path, prune, save_checkpoint
from mlcli.engine.contract import Batch, Feed, Task, total
from mlcli.engine.evaluate import Interrupted, evaluate_split
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.meter import Meter
from mlcli.engine.optimizer import clip_gradients, set_lr
from mlcli.engine.run import RunFolder
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.stop import StopRequest
from mlcli.errors import DivergedError


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
    screen: Screen
    stop: StopRequest
    identity: dict[str, Any]

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
    state, progress, runtime = t.state, t.state.progress, t.runtime
    model, net, optimizer, scaler = state.model, state.net, state.optimizer, state.scaler
    parameters, meter, prepared_epoch = list(model.parameters()), Meter(), -1

    while not t.stop():
        epoch, step_in_epoch = divmod(progress.step, t.steps_per_epoch)
        if step_in_epoch == 0 and progress.judged_step < progress.step:
            try:
                finish_epoch(t, epoch - 1, meter)
            except Interrupted:
                break
        if progress.step >= t.total_steps or has_stopped_improving(t):
            return "finished" if progress.step >= t.total_steps else "stopped early"
        if prepared_epoch != epoch:  # evaluations come between epochs only, so training mode lasts for one
            t.task.train_mode(epoch)
            prepared_epoch = epoch

        runtime.seed_step(progress.step)  # dropout and the like: a function of (seed, step)
        lr = state.schedule.lr_at(progress.step - progress.skipped)
        set_lr(optimizer, lr)
        for _ in range(t.settings.train.accumulate):
            with meter:
                batch = next(batches)  # already on the device
            with runtime.autocast():
                terms = t.task.losses(net, batch)  # 1. a function from the set  2. how wrong it is
            loss = total(terms) if batch.share == 1 else total(terms) * batch.share
            scaler.scale(loss).backward()
            state.window.add(terms, batch.share)
            meter.count(len(batch))
        scaler.unscale_(optimizer)
        clip_gradients(parameters, t.settings.optimizer)
        if take_step(scaler, optimizer):  # 3. a better function
            state.ema.update(progress.step)
        else:
            progress.skipped += 1
        optimizer.zero_grad(set_to_none=True)

        progress.step += 1
        state.window.steps += 1
        t.screen.step(epoch, step_in_epoch + 1)
        epoch_is_over = step_in_epoch + 1 == t.steps_per_epoch
        if progress.step % t.settings.train.log_every == 0 or (epoch_is_over and is_judged(t, epoch)):
            log_window(t, epoch, lr, meter)
        every_steps = t.settings.train.checkpoints.every_steps
        if every_steps and progress.step % every_steps == 0 and not epoch_is_over:
            save(t)

    t.screen.clear()
    save(t)
    return "interrupted"


def take_step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> bool:
    """Let the optimizer step, unless fp16 gradients overflowed. Returns whether it did."""
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= scale


def is_judged(t: Training, epoch: int) -> bool:
    """Whether the model is evaluated after this epoch (from 0); always after the last."""
    return (epoch + 1) % t.settings.train.evaluate_every == 0 or epoch + 1 == t.settings.train.epochs


def has_stopped_improving(t: Training) -> bool:
    early = t.settings.train.early_stopping
    return early is not None and t.state.progress.stale >= early.patience


def log_window(t: Training, epoch: int, lr: float, meter: Meter) -> None:
    """Write the mean loss since the last log point. Reading it is the only time the loop waits for the device."""
    means = t.state.window.read()
    refuse_to_diverge(means, t.state.progress.step)
    rates = meter.lap()
    values = {**means, "lr": lr, "samples_per_s": rates.samples_per_s, "wait_share": rates.wait_share}
    t.log.scalars("train", t.state.progress.step, epoch + 1, values)
    t.state.window.pour_into(t.state.epoch_loss)


def refuse_to_diverge(means: dict[str, float], step: int) -> None:
    """Raise DivergedError if a loss is not finite, before anything of it is saved."""
    if all(map(math.isfinite, means.values())):
        return
    terms = ", ".join(f"{name} = {value:g}" for name, value in means.items())
    raise DivergedError(
        f"the loss is no longer finite: {terms}",
        where=f"at or shortly before step {step}",
        fix="a lower optimizer.lr, schedule.warmup_epochs=1 or optimizer.clip_norm=1; earlier checkpoints are kept",
    )


def finish_epoch(t: Training, epoch: int, meter: Meter) -> None:
    """Judge the model after `epoch` (from 0), keep it if it is the best, save. Raises Interrupted, nothing changed."""
    progress = t.state.progress
    if is_judged(t, epoch):
        rates, lr = meter.span(), t.state.schedule.lr_at(progress.step - progress.skipped - 1)
        t.screen.clear()
        with t.state.ema.in_place_of(t.state.model):
            batches = t.feed.eval_batches(t.watch.split)
            scores, _ = evaluate_split(t.task, t.state.net, batches, t.runtime, should_stop=t.stop)
            best = is_best(t, scores[t.watch.metric], epoch)
            if best:
                weights = t.state.model.state_dict()
                save_checkpoint(t.run.checkpoints / "best.ckpt", {"model": weights, "scores": scores, **describe(t)})
        t.log.scalars(t.watch.split, progress.step, epoch + 1, scores)
        shown = {"train": t.state.epoch_loss.read(), t.watch.split: scores}
        t.screen.epoch(epoch, shown, lr, rates, best)
        t.state.epoch_loss.clear()
        t.run.update_status(epoch=epoch + 1, step=progress.step, best=best_so_far(t))
        meter.restart()
    progress.judged_step = progress.step
    last = progress.step >= t.total_steps or has_stopped_improving(t)
    if last or (epoch + 1) % t.settings.train.checkpoints.every_epochs == 0:
        save(t)


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
    refuse_to_diverge(t.state.window.read(), t.state.progress.step)
    path = checkpoint_path(t.run.checkpoints, t.state.progress.step)
    save_checkpoint(path, {**t.state.state_dict(), **describe(t)})
    prune(t.run.checkpoints, t.settings.train.checkpoints.keep_last)
