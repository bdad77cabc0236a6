"""The same as training without gradients: how good is the model on one split?"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mlcli.engine.contract import Feed, Metrics, Task, total
from mlcli.engine.runtime import Runtime


class Interrupted(Exception):
    """A stop was asked for in the middle of an evaluation."""


def evaluate_split(
    task: Task,
    net: nn.Module,
    feed: Feed,
    split: str,
    runtime: Runtime,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], Metrics]:
    """Run over a whole split in evaluation mode.

    Returns the scores (`loss`, the mean over samples, where the task has loss terms for it, then the task's metrics)
    and the metrics object they came from. Nothing waits for the device until the end. Raises Interrupted.
    """
    task.model.eval()
    metrics, samples = task.metrics(split), 0
    losses: list[Tensor] = []
    with torch.inference_mode(), runtime.autocast():
        for batch in feed.eval_batches(split):
            if should_stop():
                raise Interrupted
            terms, predictions = task.evaluate(net, batch)
            if terms:
                losses.append(total(terms).float() * len(batch))
            samples += len(batch)
            metrics.update(predictions, batch)
    loss = {"loss": torch.stack(losses).sum().item() / max(1, samples)} if losses else {}
    return {**loss, **metrics.compute()}, metrics
