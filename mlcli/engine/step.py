"""One training step: the gradients of its parts, the guard, clipping, the optimizer. Everything that trains takes it.

A step's batch may be cut into parts (micro-batches). Each loss term is divided by what the whole step counts, so the
gradients of the parts add up to those of the whole batch. Two things depend on the cut: batch normalisation sees
smaller batches, and what a model draws from torch's generators, as dropout does, it draws anew for each part. Several
ranks (`mlcli.engine.ranks`) each take some of the parts.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mlcli.engine.contract import Batch, Feed, Task
from mlcli.engine.graphs import StepGraphs, kernel_by_kernel
from mlcli.engine.meter import Meter
from mlcli.engine.optimizer import clip_gradients, set_lr
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.runtime import Runtime, is_out_of_memory
from mlcli.engine.settings import Train, TrainerSettings
from mlcli.engine.state import Progress, TrainingState
from mlcli.engine.terms import Divisors, Terms, joined, ratio, total
from mlcli.errors import ConfigError


def forward_backward(
    task: Task, net: nn.Module, batch: Batch, runtime: Runtime, scaler: torch.amp.GradScaler, meter: Meter,
    divisors: Divisors | None = None,
) -> Terms:  # fmt: skip
    """Add the gradients of one part to those that the parameters hold. Returns its loss terms, on the device.

    divisors: of the step's loss terms; None to divide by what this part counts.
    """
    with runtime.autocast():
        terms = task.losses(net, batch)
    loss = total(terms, divisors)
    meter.mark("forward")
    scaler.scale(loss).backward()
    meter.mark("backward")
    return terms


class Guard:
    """Stands between backward and optimizer: gradients or losses that are not finite never reach the weights.

    One kernel looks at all gradients of a step, the one that loss scaling uses (Micikevicius et al. 2018, section 3.2).
    On the CPU its answer is read at once. A GPU is not waited for: there the flag stays up once it is up, the fused
    optimizers read it themselves and leave the weights as they were before the bad step, and the trainer reads it at
    log points. RMSprop has no fused form: on a GPU it takes bad steps until the next log point, before which nothing is
    saved.

    Args:
        parameters: of the model.
        optimizer: which is to leave the weights alone once something was not finite.
        device: of the parameters.
        reads_each_step: whether to read the answer after every step; right where that costs no waiting.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        reads_each_step: bool,
    ) -> None:
        self._parameters, self._reads_each_step = parameters, reads_each_step
        self._is_bad, self._one = torch.zeros((), device=device), torch.ones((), device=device)
        self._num_bad = torch.zeros((), device=device)
        if not reads_each_step and optimizer.param_groups[0].get("fused"):
            # As torch.amp.GradScaler does with fused optimizers: a step with found_inf = 1 changes nothing.
            optimizer.grad_scale, optimizer.found_inf = None, self._is_bad  # type: ignore[attr-defined]

    def passes(self, losses: Sequence[Tensor]) -> bool:
        """Whether the optimizer may step, as far as is known.

        Looks at all gradients and at the loss terms [] of the step, which are left as they are.
        """
        watched = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        watched += [loss.detach().float() for loss in losses]
        torch._amp_foreach_non_finite_check_and_unscale_(watched, self._is_bad, self._one)
        if self._reads_each_step:
            return not self.is_tripped()
        self._num_bad.add_(self._is_bad)
        return True

    def is_tripped(self) -> bool:
        """Whether a step was bad. Waits for the device."""
        return bool(self._is_bad.item())

    def steps_since(self) -> int:
        """Steps after the first bad one, which changed nothing either. Waits for the device."""
        return max(0, int(self._num_bad.item()) - 1)


class NoGuard:
    """Loss scaling looks at the gradients itself, and skips a step whose gradients overflowed."""

    def passes(self, losses: Sequence[Tensor]) -> bool:
        return True

    def is_tripped(self) -> bool:
        return False

    def steps_since(self) -> int:
        return 0


class Stepper:
    """Takes steps on one training state.

    Args:
        state: whose weights are trained; `progress.step` seeds the dropout of a step, and is advanced by the caller.
        meter: gets the samples, the waiting for batches, and the phases.
        guarded: whether to look for gradients and losses that are not finite; loss scaling does so by itself.
    """

    def __init__(
        self, task: Task, state: TrainingState, settings: TrainerSettings, runtime: Runtime, meter: Meter,
        *, guarded: bool = True,
    ) -> None:  # fmt: skip
        self.task, self.state, self.runtime, self.meter = task, state, runtime, meter
        self.clipping, self.samples_per_step = settings.optimizer, settings.train.samples_per_step
        self.parameters = list(state.model.parameters())
        self.launch = StepGraphs(state.model) if settings.train.cuda_graphs else kernel_by_kernel
        self.guard: Guard | NoGuard = NoGuard()
        if guarded and not state.scaler.is_enabled():
            is_cheap = runtime.device.type == "cpu"  # to read a number; a GPU would have to be waited for
            self.guard = Guard(self.parameters, state.optimizer, runtime.device, reads_each_step=is_cheap)

    def gradients(self, batches: Iterator[Batch], parts: int) -> list[Tensor]:
        """Forward and backward over the next `parts` batches. Returns the loss terms of the step, on the device.

        The parameters then hold the gradients of the whole step, of all ranks, neither scaled nor clipped.
        """
        task, state, runtime, meter, ranks = self.task, self.state, self.runtime, self.meter, self.runtime.ranks
        batches, divisors = self._divisors(batches, parts)

        samples = 0

        def compute(batch: Batch, by: Meter) -> Terms:
            return forward_backward(task, state.net, batch, runtime, state.scaler, by, divisors)

        def own_parts() -> Terms:
            nonlocal samples
            taken: list[Terms] = []
            for part in range(parts):
                with meter:
                    batch = next(batches)  # already on the device
                self._seed(part)
                samples += len(batch)
                taken.append(self.launch(compute, batch, meter, divisors))
            return joined(taken)

        terms = ranks.summed(own_parts, self.parameters, self._statistics())
        meter.mark("backward")
        meter.count(samples if ranks.size == 1 else self.samples_per_step)
        if isinstance(divisors, int):
            self._divide_instead(divisors, terms)
        state.scaler.unscale_(state.optimizer)
        state.window.add(terms)  # only once all of the step went well
        return [term.mean for term in terms.values()]

    def _divisors(self, batches: Iterator[Batch], parts: int) -> tuple[Iterator[Batch], Divisors | None]:
        """Return what the loss terms of the next step's parts are divided by, and the batches once more.

        None for a step in one part, whose terms are divided by their own counts. What several parts count, they only
        say one after the other. Where that is one number for all terms, any number will do meanwhile
        (`_divide_instead`): the samples. Where it is not, the parts are counted first, by a pass without gradients.
        """
        ranks = self.runtime.ranks
        if parts * ranks.size == 1:
            return batches, None
        if self.task.counts_alike:
            return batches, self.samples_per_step
        step: list[Batch] = []

        def count() -> Terms:
            with self.meter:
                step.extend(itertools.islice(batches, parts))
            statistics = [(buffer, buffer.clone()) for buffer in self.state.model.buffers()]  # batch norms move theirs
            counted: list[Terms] = []
            with torch.no_grad():
                for part, batch in enumerate(step):
                    self._seed(part)
                    with self.runtime.autocast():
                        counted.append(self.task.losses(self.state.net, batch))
                for statistic, before in statistics:
                    statistic.copy_(before)
            return joined(counted)

        divisors = {name: term.divisor for name, term in ranks.summed(count).items()}
        return itertools.chain(step, batches), divisors

    def _statistics(self) -> list[Tensor]:
        """The running statistics of batch normalisation that each rank has moved by samples of its own."""
        if self.runtime.ranks.size == 1 or self.runtime.ranks.syncs_norms:
            return []
        norms = [layer for layer in self.state.model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        statistics = [value for layer in norms if layer.training for value in (layer.running_mean, layer.running_var)]
        return [value for value in statistics if value is not None]

    def _seed(self, part: int) -> None:
        """Make dropout and the like a function of (seed, step, part). part: among those of this rank."""
        ranks = self.runtime.ranks
        self.runtime.seed_step(self.state.progress.step, ranks.rank + part * ranks.size)

    def _divide_instead(self, divisor: int, terms: Terms) -> None:
        """Have the gradients divided by what the whole step counts, and no longer by `divisor`."""
        count = next(iter(terms.values())).divisor
        is_known = not isinstance(count, Tensor) or count.device.type == "cpu"  # a GPU would have to be waited for
        if not (is_known and count == divisor):
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
            torch._foreach_mul_(gradients, ratio(divisor, count))

    def update(self, lr: float) -> bool:
        """Clip the gradients and move the weights. Returns False if fp16 gradients overflowed, and nothing moved."""
        state, scaler, optimizer = self.state, self.state.scaler, self.state.optimizer
        set_lr(optimizer, lr)
        clip_gradients(self.parameters, self.clipping)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < scale:
            return False
        state.slow.update(state.progress.step)
        state.ema.update(state.progress.step - state.progress.skipped)
        return True

    def forget_gradients(self) -> None:
        """Clear gradients like `Optimizer.zero_grad`, which spends longer on the profiler than on the work."""
        for parameter in self.parameters:
            parameter.grad = None
        self.meter.mark("optimizer")

    def take(self, batches: Iterator[Batch], parts: int, lr: float) -> list[Tensor]:
        """A whole step, which goes on even if something is not finite. Returns as `gradients`."""
        losses = self.gradients(batches, parts)
        self.guard.passes(losses)
        self.update(lr)
        self.forget_gradients()
        return losses


def parts_of_step(train: Train, processes: int, halvings: int = 0) -> int:
    """Return the micro-batches of a step, as many for each process. Raises ConfigError for fewer samples than that."""
    samples = train.samples_per_step
    if samples < processes:
        raise ConfigError(f"a batch of {samples} is too small for {processes} processes", where="train.batch_size",
                          fix=f"train.batch_size={processes} or more")  # fmt: skip
    wanted = max(train.accumulate, processes) << halvings
    return min(-(-wanted // processes), samples // processes) * processes


class MicroBatches:
    """Number of parts each batch is cut into; raised when memory runs out, also after resuming.

    Every rank takes as many: the parts whose number, divided by that of the ranks, leaves its own.
    """

    def __init__(self, train: Train, progress: Progress, feed: Feed, ranks: Ranks = ALONE) -> None:
        self._train, self._progress, self._feed, self._ranks = train, progress, feed, ranks
        if progress.halvings or ranks.size > 1:
            self._cut()

    @property
    def whole(self) -> int:
        """Micro-batches of a step, of all ranks."""
        return parts_of_step(self._train, self._ranks.size, self._progress.halvings)

    @property
    def parts(self) -> int:
        """Micro-batches of a step that this rank takes."""
        return self.whole // self._ranks.size

    @property
    def size(self) -> int:
        """Samples of the largest micro-batch."""
        return -(-self._train.samples_per_step // self.whole)

    def _cut(self) -> None:
        self._feed.cut(self.whole, slice(self._ranks.rank, None, self._ranks.size))

    def halve(self, error: Exception) -> str:
        """Cut twice as fine from the next batches on; what was done, in words.

        Raises the error itself if it is not about memory, if train.auto_microbatch is off, or at a size of 1.
        """
        if not is_out_of_memory(error) or not self._train.auto_microbatch or self.size == 1:
            raise error
        error.__traceback__ = None  # whose frames hold the activations that did not fit
        self._progress.halvings += 1
        self._cut()
        return f"memory ran out: micro-batches of {self.size} from here on, {self.whole} to a step"
