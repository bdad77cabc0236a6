"""Batches made one step ahead: a GPU gathers and augments the next one while it learns from the last."""

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from mlcli.engine.contract import Batch


class Beside(Protocol):
    """A second line of work of a device, beside the one that trains."""

    def at_work(self) -> contextlib.AbstractContextManager[Any]:
        """What the device is asked for within is done on this line, once what it was asked for before is done."""

    def now(self) -> Any:
        """The moment when this line will be done with what it was asked for by now."""

    def await_there(self, moment: Any) -> None:
        """Have the line that trains go on from that moment. The host does not wait."""


class SideStream:
    """A CUDA stream beside the current one."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        # Memory of batches that were dropped is used again here: by then, nobody must be reading it any more.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            yield

    def now(self) -> torch.cuda.Event:
        return self._stream.record_event()

    def await_there(self, moment: torch.cuda.Event) -> None:
        torch.cuda.current_stream().wait_event(moment)


def one_ahead(batches: Iterator[Batch], beside: Beside) -> Iterator[Batch]:
    """The same endless batches, each asked for before the one ahead of it is given out.

    Each has memory of its own, since several are held at once where a step is counted or rehearsed.
    """

    def make() -> tuple[Batch, Any]:
        with beside.at_work():
            return next(batches), beside.now()

    following = make()
    while True:
        (batch, made), following = following, make()
        beside.await_there(made)
        yield batch
