"""Mixup and CutMix against naive loops."""

import numpy as np
import pytest
import torch
from scipy import stats

from mlcli.data.augment import mix
from mlcli.data.augment.mix import Mix, Mixing
from mlcli.data.randomness import sample_keys

MIXUP, CUTMIX = Mixing("mixup"), Mixing("cutmix")
BATCH, CLASSES = 8, 5


def batch(epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    images = torch.arange(BATCH * 10, BATCH * 10 + BATCH, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 9, 6)
    return images, torch.arange(BATCH) % CLASSES, sample_keys(0, epoch, torch.arange(BATCH))


@pytest.mark.parametrize("choices", [(MIXUP,), (CUTMIX,), (MIXUP, CUTMIX)], ids=["mixup", "cutmix", "both"])
def test_labels_are_mixed_as_the_pixels_are(choices):
    shares = []
    for epoch in range(30):
        images, _, keys = batch(epoch)
        mixed, targets = Mix(choices, BATCH, 0)(images, torch.arange(BATCH), keys)  # a class for each sample
        assert targets.dtype == torch.float32
        assert targets.shape == (BATCH, BATCH)
        torch.testing.assert_close(targets.sum(1), torch.ones(BATCH))
        torch.testing.assert_close(mixed.float().mean((1, 2, 3)), targets @ images[:, 0, 0, 0].float())
        shares += targets.diagonal()[targets.diagonal() < 1][:1].tolist()
    assert len(set(shares)) > 8
    assert max(shares) - min(shares) > 0.3


def test_blend_as_a_loop():
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    partners = torch.tensor([2, 0, 3, 1])
    expected = [0.3 * images[row].float() + 0.7 * images[partner].float() for row, partner in enumerate([2, 0, 3, 1])]
    torch.testing.assert_close(mix.blend(images, partners, 0.3), torch.stack(expected))


@pytest.mark.parametrize(
    ("share", "row", "column"), [(0.5, 0.5, 0.5), (0.1, 0.0, 0.99), (1.0, 0.3, 0.3), (0.0, 0.5, 0.5)]
)
def test_paste_as_a_loop(share, row, column):
    images, _, _ = batch()
    partners = torch.arange(BATCH).flip(0)
    pasted, left_over = mix.paste(images, partners, share, row, column)
    side = np.sqrt(1 - share)
    tall, wide, y, x = int(9 * side), int(6 * side), int(row * 9), int(column * 6)
    expected, kept = images.clone(), 0
    for i in range(9):
        for j in range(6):
            if y - tall // 2 <= i < y + tall // 2 and x - wide // 2 <= j < x + wide // 2:
                expected[:, :, i, j] = images.flip(0)[:, :, i, j]
            else:
                kept += 1
    assert torch.equal(pasted, expected)
    assert pasted.dtype == torch.uint8
    assert left_over == pytest.approx(kept / 54)


def test_share_is_beta_distributed_over_batches():
    shares = []
    for epoch in range(400):
        images, _labels, keys = batch(epoch)
        _, targets = Mix((Mixing("mixup", alpha=0.4),), BATCH, 0)(images, torch.arange(BATCH), keys)
        own = targets.diagonal()
        shares += own[own < 1][:1].tolist()
    assert stats.kstest(shares, "beta", (0.4, 0.4)).pvalue > 1e-3


@pytest.mark.parametrize(("p", "often"), [(0.0, 0), (0.5, 100), (1.0, 200)])
def test_probability_is_per_batch_and_targets_keep_their_type(p, often):
    count = 0
    for epoch in range(200):
        images, labels, keys = batch(epoch)
        mixed, targets = Mix((Mixing("mixup", alpha=0.2, p=p),), CLASSES, 0)(images, labels, keys)
        assert targets.dtype == torch.float32
        count += mixed is not images
    assert abs(count - often) <= 30 * (0 < p < 1)


def test_partners_differ_from_batch_to_batch():
    first, second = (Mix((MIXUP,), CLASSES, 0)(*batch(epoch))[0] for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, Mix((MIXUP,), CLASSES, 0)(*batch(0))[0])


def test_nothing_asked_for_returns_what_came_in():
    images, labels, keys = batch()
    assert all(a is b for a, b in zip(Mix((), CLASSES, 0)(images, labels, keys), (images, labels), strict=True))
