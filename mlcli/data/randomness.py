"""Keyed randomness: every draw is a function of (seed, epoch, sample, draw number), nothing is streamed.

So neither the number of workers, nor an evaluation in between, nor a resumed run can change a draw, and nothing has to
be replayed. The numbers come from the output function of SplitMix64 (Steele, Lea & Flood, "Fast Splittable
Pseudorandom Number Generators", OOPSLA 2014, figure 16): draw n of a key is `scramble(key + n * GOLDEN)`. It is integer
arithmetic modulo 2^64 only (seeds too), hence the same bits on every CPU and GPU.
"""

import functools
import math
from typing import cast

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, made odd: SplitMix64's increment
_MULTIPLIER_1, _MULTIPLIER_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # Stafford's variant 13, as in the paper
_MASK = 2**64 - 1
_MADE = 5
"""Draws that `of_streams` makes at once for each sample: as many as most augmentations take."""
_ORDER, _SLOTS, _MEMBERS, _SAMPLES, _REPEATS = range(5)  # one independent family of keys for each purpose


def permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits `num` samples: int64 [num], each of 0 .. num - 1 once."""
    return np.argsort(_hashes(num, seed, epoch, _ORDER).numpy())  # the hash is a bijection, so there are no ties


def balanced_draw(targets: np.ndarray | Tensor, seed: int, epoch: int) -> np.ndarray:
    """Draw as many samples as there are, with replacement, so that classes come equally often (give or take one).

    targets: int64 [N] labels; classes without a sample are left out. Returns indices, int64 [N], in random order.
    """
    labels = np.asarray(targets)
    by_class = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    chosen = np.argsort(_hashes(len(labels), seed, epoch, _SLOTS).numpy()) % len(counts)
    members = KeyedRandom(_hashes(len(labels), seed, epoch, _MEMBERS)).integers(torch.from_numpy(counts[chosen]))
    return by_class[first[chosen] + members.numpy()]


def repeat_factors(samples: np.ndarray, classes: np.ndarray, num: int, rare_below: float) -> np.ndarray:
    """Return how often each of `num` samples is to come in an epoch on average: float64 [num], 1 or more.

    Repeat factor sampling (Gupta et al. 2019, LVIS, arXiv:1908.03195): max(1, sqrt(rare_below / f)) for a class that a
    share f of the samples holds; of a sample, that of its rarest class.

    samples, classes: int64 [T], which sample holds which class; one that holds several of a class is one all the same.
    """
    factors = np.ones(num)
    if len(samples):
        samples, classes = np.unique(np.stack([samples, classes]), axis=1)
        of_class = np.maximum(1.0, np.sqrt(rare_below * num / np.maximum(np.bincount(classes), 1)))
        np.maximum.at(factors, samples, of_class[classes])
    return factors


def repeated_draw(factors: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draw each sample as often as its factor says on average, rounded up or down: int64 [N] indices in random order.

    N is the sum of the factors, rounded down, in every epoch: the samples lie in random order on a line, each as long
    as its factor, and those at every whole number from a random start are drawn (systematic sampling).
    """
    order, length = permutation(len(factors), seed, epoch), int(factors.sum() + 1e-6)
    ends = np.cumsum(factors[order])
    start = float(KeyedRandom(_hashes(1, seed, epoch, _SLOTS)).uniform())
    passed = np.ceil(ends * (length / ends[-1]) - start).astype(np.int64)
    passed[-1] = length
    drawn = np.repeat(order, np.diff(passed, prepend=0))
    return drawn[np.argsort(_hashes(length, seed, epoch, _REPEATS).numpy())]


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """One key for each sample of an epoch: int64 [B] of any value, on the device of `indices` (int64 [B])."""
    return _scramble(_start(seed, epoch, _SAMPLES) + indices * _signed(_GOLDEN))


class KeyedRandom:
    """Random numbers for B samples, each from its own key: what one sample gets does not depend on its neighbours.

    Args:
        keys: int64 [B], from `sample_keys`.
        stream: draws of different streams are independent; each augmentation takes its own.

    Each call draws new numbers. Methods take the shape of what is drawn for one sample and return [B, *shape] on the
    device of the keys. Uniform numbers, integers and coins are the same bits on every device; normal and beta numbers
    are the same up to rounding.
    """

    def __init__(self, keys: Tensor, stream: int = 0) -> None:
        self._keys = _scramble(keys + _signed(_scramble_int(stream)))
        self._drawn, self._made = 0, self._keys[:, None][:, :0]

    @classmethod
    def of_streams(cls, keys: Tensor, streams: int) -> "list[KeyedRandom]":
        """Return those of streams 0, 1, ..., whose first draws are made together: a few operations for all of them."""
        starts, steps = _constants(streams, keys.device)
        ready = _scramble(keys + starts)  # [streams, B]
        made = _scramble(ready[:, :, None] + steps)  # [streams, B, _MADE]
        found = []
        for of_stream, bits in zip(ready.unbind(), made.unbind(), strict=True):
            random = cls.__new__(cls)
            random._keys, random._drawn, random._made = of_stream, 0, bits
            found.append(random)
        return found

    def __len__(self) -> int:
        return len(self._keys)

    def bits(self, shape: tuple[int, ...]) -> Tensor:
        """int64 [B, *shape], all 64 bits random."""
        first, self._drawn = self._drawn, self._drawn + math.prod(shape)
        if self._drawn <= self._made.shape[1]:
            return self._made[:, first : self._drawn].reshape(-1, *shape)
        steps = torch.arange(first + 1, self._drawn + 1, device=self._keys.device) * _signed(_GOLDEN)
        return _scramble(self._keys[:, None] + steps).view(-1, *shape)

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Tensor:
        """float32 in [low, high), of 2^24 equally likely values."""
        scaled = _shift_right(self.bits(shape), 40).float() * ((high - low) / 2**24)
        return scaled + low if low else scaled

    def integers(self, high: int | Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """int64 in 0 .. high - 1; `high` (at most 2^31) is one bound or broadcasts against [B, *shape].

        Scales 32 bits up by `high` (Lemire 2019, arXiv:1805.10941, without rejection): off by less than high / 2^32.
        """
        return _shift_right(_shift_right(self.bits(shape), 32) * high, 32)

    def bernoulli(self, p: float) -> Tensor:
        """bool, true with probability p; always for p = 1, never for p = 0."""
        return self.uniform() < p

    def normal(self, shape: tuple[int, ...] = ()) -> Tensor:
        """float32 of mean 0 and variance 1, by Box & Muller (1958). Needs a device with float64."""
        radius, angle = (_shift_right(self.bits((*shape, 2)), 11).double() / 2**53).unbind(-1)
        return ((-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)).float()

    def beta(self, alpha: float, shape: tuple[int, ...] = ()) -> Tensor:
        """float32 in [0, 1] from Beta(alpha, alpha), by inverting its distribution function.

        Rejection samplers (Jöhnk, Cheng) would use up a varying number of draws. Computed on the host: a GPU waits.
        """
        from scipy.special import betaincinv

        u = _shift_right(self.bits(shape), 11).cpu().double().numpy() / 2**53
        return torch.from_numpy(np.asarray(betaincinv(alpha, alpha, u))).float().to(self._keys.device)


def _hashes(num: int, seed: int, epoch: int, purpose: int) -> Tensor:
    return _scramble(_start(seed, epoch, purpose) + torch.arange(num) * _signed(_GOLDEN))


@functools.cache
def _constants(streams: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What is added to keys for each stream, int64 [streams, 1], and to those for each draw, int64 [_MADE].

    Copied to the device once: it would have to be waited for each time.
    """
    starts = torch.tensor([_signed(_scramble_int(n)) for n in range(streams)], dtype=torch.int64, device=device)
    return starts[:, None], torch.arange(1, _MADE + 1, device=device) * _signed(_GOLDEN)


def _start(seed: int, epoch: int, purpose: int) -> int:
    state = _scramble_int(seed)
    for word in (epoch, purpose):
        state = _scramble_int(state + (word + 1) * _GOLDEN)
    return _signed(state)


def _scramble(z: Tensor) -> Tensor:
    """SplitMix64's output function on int64 tensors; products wrap around as they do modulo 2^64."""
    z = (z ^ _shift_right(z, 30)) * _signed(_MULTIPLIER_1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MULTIPLIER_2)
    return z ^ _shift_right(z, 31)


def _scramble_int(z: int) -> int:
    """The same on one Python number, taken modulo 2^64."""
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MULTIPLIER_1) & _MASK
    z = ((z ^ (z >> 27)) * _MULTIPLIER_2) & _MASK
    return z ^ (z >> 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's own is arithmetic, so the sign bits it drags in are masked off."""
    return cast(Tensor, (z >> bits) & (_MASK >> bits))


def _signed(z: int) -> int:
    """The int64 with the same 64 bits."""
    return z - 2**64 if z >= 2**63 else z
