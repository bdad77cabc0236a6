"""A guard between backward and optimizer: gradients or losses that are not finite never reach the weights.

One kernel looks at all gradients of a step, the one that loss scaling uses (Micikevicius et al. 2018, section 3.2). On
the CPU its answer is read at once. A GPU is not waited for: there the flag stays up once it is up, the fused optimizers
read it themselves and leave the weights as they were before the bad step, and the trainer reads it at log points.
RMSprop has no fused form: on a GPU it takes bad steps until the next log point, before which nothing is saved.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Guard:
    """Watches the steps of one training.

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
            # As torch.amp.GradScaler tells fused optimizers: a step with found_inf = 1 changes nothing.
            optimizer.grad_scale, optimizer.found_inf = None, self._is_bad  # type: ignore[attr-defined]

    def passes(self, losses: Sequence[Tensor]) -> bool:
        """Whether the optimizer may step, as far as is known.

        Looks at all gradients and at the losses [] of the step's micro-batches, which are left as they are.
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
