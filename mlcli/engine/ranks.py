"""Ranks: the processes that train one model together, each on its micro-batches of every step.

The number of ranks changes the speed of a training and nothing else: the parts of a step are a function of (seed,
step), their gradients are summed, what is measured is gathered in the order of the samples.
`mlcli.engine.distributed` has the ranks of which there are several.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlcli.engine.stop import StopRequest
    from mlcli.engine.terms import Terms

T = TypeVar("T")


class Ranks:
    """A process that trains alone, which nobody has to be asked about; base of those that do not.

    rank: from 0; the first one owns files and the screen. size: how many there are.
    """

    rank, size = 0, 1
    syncs_norms = False
    """Whether ranks meet within the forward pass as well (`mlcli.engine.sync_norm`)."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> T:
        """Return what the work of this rank comes to, once that of all went well; otherwise all raise.

        Raises its own error, OutOfMemoryError where another ran out of memory, RankError where another failed.
        """
        return work()

    def summed(
        self, work: "Callable[[], Terms]", parameters: "Sequence[nn.Parameter]" = (), averaged: "Sequence[Tensor]" = ()
    ) -> "Terms":
        """Return loss terms over the samples of all ranks. Raises as `together`.

        The gradients of `parameters` become their sums, and the tensors `averaged` their means.
        """
        return work()

    def gathered(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        return [value]

    def from_first(self, work: Callable[[], T]) -> T:
        """Return what the first rank's work comes to; the others do none. Raises as `together`."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """Have the first rank do its work before the others, who then find files it has written. Raises as
        `together`."""
        return work()

    def synchronise(self, model: "nn.Module") -> None:
        """Have the batch normalisations of the model see the samples of all ranks."""

    def follow(self, stop: "StopRequest", batch_s: float) -> None:
        """Have a stop that any rank is asked for be that of all. batch_s: `loader.timeout`."""

    def same(self, what: str, value: dict[str, Any]) -> None:
        """Raise RankError, naming the keys, where `value`, as JSON's types, is not the same on all ranks."""

    def leave(self, error: BaseException | None) -> None:
        """Part from the others. error: why this rank ends early, if it does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Layers refer to it, and a copied layer belongs to the same ranks."""
        return self


ALONE = Ranks()
