"""The same as training without gradients: how good is the model on one split?"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from mlcli.engine.contract import Batch, Metrics, Task, total
from mlcli.engine.runtime import Runtime


class Interrupted(Exception):
    """A stop was asked for in the middle of an evaluation."""


def evaluate_split(
    task: Task,
    net: nn.Module,
    batches: Iterable[Batch],
    runtime: Runtime,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], Metrics]:
    """Run over all batches in evaluation mode.

    Returns the scores (`loss`, the mean over samples, then the task's metrics) and the metrics object they came from.
    Nothing waits for the device until the end. Raises Interrupted.
    """
    task.model.eval()
    metrics, samples = task.metrics(), 0
    loss_sum = torch.zeros((), device=runtime.device)
    with torch.inference_mode(), runtime.autocast():
        for batch in batches:
            if should_stop():
                raise Interrupted
            terms, predictions = task.evaluate(net, batch)
            loss_sum += total(terms).float() * len(batch)
            samples += len(batch)
            metrics.update(predictions, batch)
    return {"loss": (loss_sum / max(1, samples)).item(), **metrics.compute()}, metrics
