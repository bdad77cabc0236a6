"""Loss terms: of a part of a step, of several parts together, and their means over steps.

A term is a sum over what is learned from, divided by how many that are: samples, objects, regions. A step that is cut
into parts is divided by the count of all of them, and so it is the same step however it is cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Term(NamedTuple):
    """A loss term of some samples.

    mean: [], the sum divided by the count; by 1 where the count is less.
    count: how many the sum is over: a number, or [] on the device where the host would have to wait for it.
    """

    mean: Tensor
    count: Tensor | int  # type: ignore[assignment]  # nobody counts a term's entries

    @classmethod
    def of(cls, summed: Tensor, count: Tensor | int) -> "Term":
        """The term of a sum [] over `count`."""
        return cls(summed / _at_least_one(count), count)

    @property
    def divisor(self) -> Tensor | int:
        """The count, at least 1."""
        return _at_least_one(self.count)


Terms = Mapping[str, Term]
"""Loss terms by name."""
Divisors = Mapping[str, Tensor | int] | int
"""What to divide the sum of each term by: by name, or one number for all."""


def total(terms: Terms, divisors: Divisors | None = None) -> Tensor:
    """The loss that is minimised: the sum of its named terms, [].

    divisors: instead of their own counts, for terms of a part of a step.
    """
    if divisors is None:
        first, *others = (term.mean for term in terms.values())
    else:
        by_name = divisors if isinstance(divisors, Mapping) else dict.fromkeys(terms, divisors)
        first, *others = (term.mean * ratio(term.divisor, by_name[name]) for name, term in terms.items())
    return sum(others, start=first)


def ratio(count: Tensor | int, whole: Tensor | int) -> Tensor | float:
    """count / whole, rounded once: a number by a tensor is, in torch, the number times the tensor's reciprocal."""
    if isinstance(whole, Tensor) and not isinstance(count, Tensor):
        return torch.full_like(whole, count) / whole
    return count / whole


def joined(parts: Sequence[Terms]) -> Terms:
    """The terms of all parts together: the sums of all over the counts of all. Those of several have no gradients."""
    if len(parts) == 1:
        return parts[0]
    return {name: Term.of(*_sum_and_count(parts, name)) for name in parts[0]}


def mean_loss(parts: Sequence[Terms]) -> float:
    """The loss of all parts together. Waits for the device."""
    sums = [_sum_and_count(parts, name) for name in parts[0]]
    return sum(summed.item() / max(1, float(count)) for summed, count in sums)


def _sum_and_count(parts: Sequence[Terms], name: str) -> tuple[Tensor, Tensor | int]:
    """Of a term over all parts, both [], without gradients."""
    terms = [part[name] for part in parts]
    return torch.stack([term.mean.detach().float() * term.divisor for term in terms]).sum(), sum(t.count for t in terms)


def _at_least_one(count: Tensor | int) -> Tensor | int:
    return count.clamp(min=1) if isinstance(count, Tensor) else max(1, count)


class MeanTerms:
    """Means of named loss terms over steps, kept on the device until read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, terms: Mapping[str, Term]) -> None:
        """Take in the terms of a whole step."""
        for name, term in terms.items():
            value = term.mean.detach()
            if name in self.sums:
                self.sums[name].add_(value)
            else:
                self.sums[name] = value.float().clone()  # memory of its own
        self.steps += 1

    def pour_into(self, other: "MeanTerms") -> None:
        """Add everything to `other` and be empty again."""
        for name, value in self.sums.items():
            other.sums[name] = other.sums[name] + value if name in other.sums else value
        other.steps += self.steps
        self.clear()

    def clear(self) -> None:
        self.sums, self.steps = {}, 0

    def read(self) -> dict[str, float]:
        """{"loss": the sum of the means, and each term by name where there are several}. Waits for the device."""
        means = {name: value.item() / max(1, self.steps) for name, value in self.sums.items()}
        return {"loss": sum(means.values()), **(means if len(means) > 1 else {})}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take over what `state_dict` returned. Raises ValueError for sums that are of another kind."""
        for name, value in state["sums"].items():
            if value.shape or value.dtype != torch.float32:
                raise ValueError(f"its sum of '{name}' is not as it should be")
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.steps = state["steps"]
