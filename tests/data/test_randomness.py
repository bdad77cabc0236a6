"""Keyed draws against SplitMix64's reference values, scipy's tests of distribution, and the promises of purity."""

import numpy as np
import pytest
import torch
from scipy import stats

from mlcli.data import randomness
from mlcli.data.randomness import KeyedRandom, balanced_draw, permutation, sample_keys

KEYS = sample_keys(seed=7, epoch=3, indices=torch.arange(4000))
PLAUSIBLE = 1e-3  # fixed seeds: a test of distribution either always passes or never does


def test_scramble_is_splitmix64():
    states = [(i + 1) * randomness._GOLDEN & randomness._MASK for i in range(3)]
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # first outputs of SplitMix64 for seed 0
    assert [randomness._scramble_int(state) for state in states] == published
    tensor = torch.tensor([randomness._signed(state) for state in states])
    assert randomness._scramble(tensor).tolist() == [randomness._signed(value) for value in published]


@pytest.mark.parametrize("bits", [1, 30, 63])
def test_shift_right_is_logical(bits):
    z = torch.tensor([-1, -(2**63), 5, 2**62])
    assert randomness._shift_right(z, bits).tolist() == [(value % 2**64) >> bits for value in z.tolist()]


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["over keys", "over draws"])
def test_uniform_is_uniform(axis):
    keys = KEYS if axis == "over keys" else KEYS[:1]
    draws = KeyedRandom(keys).uniform(-1, 3, (16_000 // len(keys),)).flatten().numpy()
    assert draws.dtype == np.float32
    assert draws.min() >= -1
    assert draws.max() < 3
    assert stats.kstest(draws, "uniform", (-1, 4)).pvalue > PLAUSIBLE


@pytest.mark.parametrize("high", [2, 7, 81])
def test_integers_are_equally_frequent(high):
    draws = KeyedRandom(KEYS).integers(high, (5,)).flatten().numpy()
    counts = np.bincount(draws, minlength=high)
    assert len(counts) == high
    assert stats.chisquare(counts).pvalue > PLAUSIBLE


def test_integers_take_one_bound_per_sample():
    bounds = torch.arange(1, len(KEYS) + 1)
    draws = KeyedRandom(KEYS).integers(bounds)
    assert (draws >= 0).all()
    assert (draws < bounds).all()
    assert draws[:1] == 0
    assert stats.kstest((draws / bounds)[100:].numpy(), "uniform").pvalue > PLAUSIBLE


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_bernoulli_has_its_probability(p):
    heads = int(KeyedRandom(KEYS).bernoulli(p).sum())
    assert stats.binomtest(heads, len(KEYS), p).pvalue > PLAUSIBLE
    assert 0 < p < 1 or heads == p * len(KEYS)


def test_normal_is_normal():
    draws = KeyedRandom(KEYS).normal((4,))
    assert draws.dtype == torch.float32
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > PLAUSIBLE


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_beta_is_beta(alpha):
    draws = KeyedRandom(KEYS).beta(alpha, (2,)).flatten().numpy()
    assert draws.dtype == np.float32
    assert stats.kstest(draws, "beta", (alpha, alpha)).pvalue > PLAUSIBLE


def neighbours(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    indices = torch.arange(4000)
    first = KeyedRandom(KEYS)
    second = {
        "samples": lambda: KeyedRandom(sample_keys(7, 3, indices + 1)),
        "epochs": lambda: KeyedRandom(sample_keys(7, 4, indices)),
        "seeds": lambda: KeyedRandom(sample_keys(8, 3, indices)),
        "streams": lambda: KeyedRandom(KEYS, stream=1),
        "draws": lambda: first,
    }[kind]()
    return first.uniform(), second.uniform()


@pytest.mark.parametrize("kind", ["samples", "epochs", "seeds", "streams", "draws"])
def test_neighbours_are_independent(kind):
    a, b = neighbours(kind)
    cells = torch.bincount((a * 8).long() * 8 + (b * 8).long(), minlength=64)
    assert stats.chisquare(cells.numpy()).pvalue > PLAUSIBLE
    assert abs(stats.pearsonr(a.numpy(), b.numpy()).statistic) < 0.06


# --- purity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.uniform(-2, 5, (3,)),
        lambda random: random.integers(9),
        lambda random: random.normal((3,)),
        lambda random: random.beta(0.2),
    ],
    ids=["uniform", "integers", "normal", "beta"],
)
def test_a_sample_does_not_depend_on_its_neighbours(draw):
    together = draw(KeyedRandom(KEYS[:37]))
    assert torch.equal(together[[20]], draw(KeyedRandom(KEYS[[20]])))
    assert torch.equal(together.flip(0), draw(KeyedRandom(KEYS[:37].flip(0))))
    assert together.flatten().unique().numel() > 1


def test_draws_do_not_depend_on_how_they_are_grouped():
    one, many = KeyedRandom(KEYS), KeyedRandom(KEYS)
    assert torch.equal(one.uniform(shape=(6,)), torch.cat([many.uniform(shape=(2,)), many.uniform(shape=(4,))], dim=1))


def test_permutation_visits_each_sample_once_in_a_new_order_each_epoch():
    orders = [permutation(1000, seed, epoch) for seed in (0, 1, 2**64 - 1) for epoch in (0, 1)]
    assert all(order.dtype == np.int64 and (np.sort(order) == np.arange(1000)).all() for order in orders)
    assert len({order.tobytes() for order in orders}) == len(orders)
    assert (permutation(1000, 0, 1) == orders[1]).all()


def test_every_position_of_a_permutation_is_equally_likely():
    places = np.stack([permutation(6, 0, epoch) for epoch in range(1200)])
    for column in places.T:
        assert stats.chisquare(np.bincount(column, minlength=6)).pvalue > PLAUSIBLE


def test_balanced_draw_takes_classes_equally_often_and_members_evenly():
    targets = torch.tensor([0] * 900 + [1] * 90 + [3] * 10)  # class 2 has no sample
    draw = balanced_draw(targets, 0, 0)
    counts = np.bincount(targets.numpy()[draw])
    assert draw.dtype == np.int64
    assert len(draw) == 1000
    assert counts[2] == 0
    assert sorted(counts[[0, 1, 3]]) == [333, 333, 334]
    rare = np.concatenate([balanced_draw(targets, 0, epoch) for epoch in range(10)])
    assert stats.chisquare(np.bincount(rare[rare >= 990] - 990, minlength=10)).pvalue > PLAUSIBLE
    assert (balanced_draw(targets, 0, 0) == draw).all()
    assert (balanced_draw(targets, 0, 1) != draw).any()
    assert stats.kstest(np.flatnonzero(targets.numpy()[draw] == 3), "uniform", (0, 1000)).pvalue > PLAUSIBLE


# --- the same numbers everywhere -------------------------------------------------------------------------------------


def by_numpy(keys: np.ndarray, stream: int, draws: int) -> np.ndarray:
    """All 64 bits of the first draws of each key, by NumPy's unsigned integers: uint64 [B, draws]."""

    def scramble(z: np.ndarray) -> np.ndarray:
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        start = scramble(keys.view(np.uint64) + scramble(np.array([stream], dtype=np.uint64)))
        steps = np.arange(1, draws + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return scramble(start[:, None] + steps)


@pytest.mark.parametrize("stream", [0, 3])
def test_draws_are_those_of_plain_integer_arithmetic(stream):
    bits = by_numpy(KEYS.numpy(), stream, 9)
    uniform = ((bits >> np.uint64(40)).astype(np.float32) * np.float32(3 / 2**24)) + np.float32(-1)
    integers = ((bits >> np.uint64(32)) * np.uint64(81)) >> np.uint64(32)
    assert np.array_equal(KeyedRandom(KEYS, stream).bits((9,)).numpy().view(np.uint64), bits)
    assert np.array_equal(KeyedRandom(KEYS, stream).uniform(-1, 2, (9,)).numpy(), uniform)
    assert np.array_equal(KeyedRandom(KEYS, stream).integers(81, (9,)).numpy(), integers.astype(np.int64))


def test_no_stream_at_all_gives_nothing():
    assert KeyedRandom.of_streams(KEYS[:7], 0) == []


@pytest.mark.parametrize("shapes", [[(), (2,), ()], [(3,), (4,), ()], [(9,)]], ids=str)
def test_draws_made_together_are_those_made_one_by_one(shapes):
    assert KeyedRandom.of_streams(KEYS[:7], 0) == []  # as of data that nothing changes
    together = KeyedRandom.of_streams(KEYS[:7], 3)
    assert len(together) == 3
    for stream, random in enumerate(together):
        alone = KeyedRandom(KEYS[:7], stream)
        assert len(random) == 7
        for shape in shapes:
            assert torch.equal(random.bits(shape), alone.bits(shape))
