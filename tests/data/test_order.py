"""The order of training: complete, repeatable, and the same from any step on."""

from itertools import islice

import numpy as np
import pytest
import torch

from mlcli.data.batches import TrainOrder, in_order
from mlcli.data.randomness import repeat_factors, repeated_draw
from mlcli.engine.settings import Train
from mlcli.errors import ConfigError

TARGETS = torch.tensor([0] * 20 + [1] * 5 + [2] * 2)


def take(count: int, *, start: int = 0, sampler: str = "shuffle", **train) -> list:
    return list(islice(TrainOrder(TARGETS, Train(**train), sampler, 0.5).parts(start), count))


def test_an_epoch_visits_every_sample_once():
    parts = take(6, batch_size=9)
    for epoch in (parts[:3], parts[3:]):
        assert sorted(torch.cat([part.indices for part in epoch]).tolist()) == list(range(27))
    assert parts[0].indices.tolist() != parts[3].indices.tolist()


def test_what_fills_no_batch_is_left_out():
    order = TrainOrder(TARGETS, Train(batch_size=10), "shuffle")
    assert order.steps_per_epoch == 2
    indices = torch.cat([part.indices for part in islice(order.parts(0), 2)])
    assert len(indices.unique()) == 20


@pytest.mark.parametrize("sampler", ["shuffle", "balanced", "repeat_factor"])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("start", [1, 2, 3, 7])
def test_starting_later_equals_skipping(start, accumulate, sampler):
    options = {"batch_size": 10, "accumulate": accumulate, "sampler": sampler}
    whole, later = take((start + 4) * accumulate, **options), take(4 * accumulate, start=start, **options)
    for expected, part in zip(whole[start * accumulate :], later, strict=True):
        assert torch.equal(part.indices, expected.indices)
        assert torch.equal(part.keys, expected.keys)


@pytest.mark.parametrize(("batch_size", "accumulate", "sizes"), [(10, 3, [3, 3, 4]), (5, 5, [1] * 5), (8, 2, [4, 4])])
def test_parts_of_a_step_are_nearly_equal_and_make_up_the_whole(batch_size, accumulate, sizes):
    parts, whole = take(accumulate, batch_size=batch_size, accumulate=accumulate), take(1, batch_size=batch_size)[0]
    assert [len(part) for part in parts] == sizes
    assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
    assert torch.equal(torch.cat([part.keys for part in parts]), whole.keys)


FILLED = np.array([(32, 96)] * 7 + [(64, 96)] * 11 + [(96, 32)] * 9)[np.random.default_rng(0).permutation(27)]


def alike(count: int, start: int = 0, filled: np.ndarray | None = FILLED, **train) -> list:
    order = TrainOrder(TARGETS, Train(batch_size=4, **train), "shuffle", filled=filled)
    return list(islice(order.parts(start), count))


def test_samples_of_a_step_are_of_like_shape_and_the_same_as_ever_wait():
    found, usual = alike(12), alike(12, filled=None)
    for epoch in (slice(0, 6), slice(6, 12)):
        indices, plain = (torch.cat([part.indices for part in parts[epoch]]) for parts in (found, usual))
        keys, theirs = (torch.cat([part.keys for part in parts[epoch]]) for parts in (found, usual))
        assert dict(zip(indices.tolist(), keys.tolist(), strict=True)) == dict(
            zip(plain.tolist(), theirs.tolist(), strict=True)
        )
        shapes = [{*map(tuple, FILLED[part.indices.numpy()].tolist())} for part in found[epoch]]
        assert sum(len(some) > 1 for some in shapes) <= 2, "where one shape ends and the next begins"
        assert not any({(32, 96), (96, 32)} <= some for some in shapes)
        assert [part.size for part in found[epoch]] == [
            (max(height for height, _ in some), max(width for _, width in some)) for some in shapes
        ]
    shapes = [[FILLED[part.indices[0]].tolist() for part in found[epoch]] for epoch in (slice(0, 6), slice(6, 12))]
    ordered = [sorted(steps, key=lambda size: size[1] / size[0]) for steps in shapes]
    assert shapes[0] != ordered[0], "steps are in no order of shape"
    assert shapes != [shapes[0]] * 2, "each epoch in another"
    assert {part.size for part in usual} == {None}


def test_steps_of_like_shape_are_cut_and_resumed_as_any():
    whole, parts, later = alike(9), alike(18, accumulate=2), alike(4, start=5)
    for step, (first, second) in zip(whole, zip(parts[::2], parts[1::2], strict=True), strict=True):
        assert torch.equal(torch.cat([first.indices, second.indices]), step.indices)
        assert first.size == second.size == step.size
    for ours, theirs in zip(later, whole[5:], strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert ours.size == theirs.size


def test_keys_follow_the_sample_not_its_place():
    large, small = take(1, batch_size=27)[0], take(3, batch_size=9)
    assert torch.equal(large.keys, torch.cat([part.keys for part in small]))
    by_sample = dict(zip(large.indices.tolist(), large.keys.tolist(), strict=True))
    _, later = take(2, batch_size=27)
    assert all(by_sample[index] != key for index, key in zip(later.indices.tolist(), later.keys.tolist(), strict=True))


def test_balanced_repeats_samples_with_new_keys():
    part = take(1, batch_size=27, sampler="balanced")[0]
    assert torch.bincount(TARGETS[part.indices]).tolist() == [9, 9, 9]
    assert len(part.keys.unique()) == 27


def test_in_order_has_a_smaller_last_part():
    parts = list(in_order(7, 3))
    assert [part.indices.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_some_samples_are_taken_from_all_over_a_split():
    def taken(samples, rank=0, ranks=1):
        return [part.indices.tolist() for part in in_order(10, 2, rank, ranks, samples)]

    assert taken(5) == [[0, 2], [4, 6], [8]]
    assert taken(4) == [[0, 2], [5, 7]]
    assert taken(99) == taken(10) == taken(None) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert taken(5, 0, 2) + taken(5, 1, 2) == taken(5)


def test_batch_larger_than_the_split_is_refused():
    with pytest.raises(ConfigError, match="batch_size 28 is more than the 27 samples") as error:
        TrainOrder(TARGETS, Train(batch_size=28), "shuffle")
    assert error.value.fix == "train.batch_size=27"


def test_balanced_needs_classes():
    with pytest.raises(ConfigError, match="needs classes"):
        TrainOrder(torch.rand(9), Train(batch_size=3), "balanced")


def test_repeat_factors_are_those_of_the_paper():
    """Four samples; class 1 is in all of them, class 3 in one, twice; the fourth sample's rarest class decides."""
    samples, classes = np.array([0, 1, 2, 3, 3, 3]), np.array([1, 1, 1, 1, 3, 3])
    assert repeat_factors(samples, classes, 4, 0.001).tolist() == [1, 1, 1, 1]
    assert repeat_factors(samples, classes, 4, 1.0).tolist() == [1, 1, 1, 2]  # sqrt(1 / (1 / 4))
    assert repeat_factors(samples[:0], classes[:0], 2, 1.0).tolist() == [1, 1]


@pytest.mark.parametrize("seed", [0, 5])
def test_samples_come_as_often_as_their_factors_say(seed):
    factors = np.concatenate([np.ones(40), np.full(7, 1.6), np.full(3, 3.3)])
    counts = np.stack([np.bincount(repeated_draw(factors, seed, epoch), minlength=50) for epoch in range(400)])
    assert (counts.sum(axis=1) == int(factors.sum())).all()
    assert np.isin(counts, [np.floor(factors * 61 / 61.1), np.ceil(factors)]).all()
    np.testing.assert_allclose(counts.mean(axis=0), factors * 61 / 61.1, atol=0.12)
    one, other = repeated_draw(factors, seed, 3), repeated_draw(factors, seed, 4)
    assert one.tolist() == repeated_draw(factors, seed, 3).tolist() != other.tolist()
    assert sorted(repeated_draw(np.ones(9), seed, 0).tolist()) == list(range(9))


def test_repeated_samples_have_new_keys_and_lengthen_the_epoch():
    order = TrainOrder(TARGETS, Train(batch_size=5), "repeat_factor", 0.5)
    factors = [1.0] * 20 + [(0.5 * 27 / 5) ** 0.5] * 5 + [(0.5 * 27 / 2) ** 0.5] * 2
    assert order.repeats.tolist() == pytest.approx(factors)
    assert order.samples == int(sum(factors)) == 33
    assert order.steps_per_epoch == 6
    parts = list(islice(order.parts(0), 6))
    assert len(torch.cat([part.keys for part in parts]).unique()) == 30
