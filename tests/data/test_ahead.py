"""Batches made one step ahead: the same ones, in order, and none given out before it is made."""

import contextlib
from itertools import islice

import torch

from mlcli.data.ahead import one_ahead
from mlcli.engine.contract import Batch


class Line:
    """A second line of work that notes what it was asked for."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.made = 0

    @contextlib.contextmanager
    def at_work(self):
        self.told.append("begins")
        yield

    def now(self) -> int:
        self.made += 1
        return self.made

    def await_there(self, moment: int) -> None:
        self.told.append(f"waited for {moment}")


def numbered(line: Line):
    number = 0
    while True:
        number += 1
        line.told.append(f"asked for {number}")
        yield Batch(torch.full((2,), number), torch.full((2,), -number), torch.arange(2))


def test_each_batch_is_asked_for_one_ahead_and_waited_for_on_the_device():
    line = Line()
    batches = one_ahead(numbered(line), line)
    assert line.told == []
    held = list(islice(batches, 3))
    assert [batch.inputs.tolist() for batch in held] == [[1, 1], [2, 2], [3, 3]], "none takes the memory of another"
    assert line.told == [
        "begins", "asked for 1", "begins", "asked for 2", "waited for 1", "begins", "asked for 3", "waited for 2",
        "begins", "asked for 4", "waited for 3",
    ]  # fmt: skip
