"""The operations of RandAugment and TrivialAugment against the ones torchvision applies at the same strength."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from mlcli.data.augment import policy
from mlcli.data.randomness import KeyedRandom, sample_keys

NAMES = list(policy.OPERATIONS)
THEIR_NAMES = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"]
THEIR_NAMES += ["Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize"]
PEERS = {
    "rand": (v2.RandAugment(interpolation=InterpolationMode.BILINEAR), policy.RAND_AUGMENT),
    "trivial": (v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR), policy.TRIVIAL_AUGMENT),
}


def pixels(channels: int = 3, batch: int = 1, height: int = 24, width: int = 31) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 200, (batch, channels, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0, 9, 17, 30])
@pytest.mark.parametrize(("name", "their_name"), list(zip(NAMES, THEIR_NAMES, strict=True)))
@pytest.mark.parametrize("peer", PEERS)
def test_operation_as_torchvision(peer, name, their_name, level, channels):
    theirs, limits = PEERS[peer]
    images = pixels(channels)
    magnitudes, signed = theirs._AUGMENTATION_SPACE[their_name]
    magnitudes = magnitudes(31, *images.shape[-2:])
    magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
    for sign in (1, -1) if signed else (1,):
        expected = theirs._apply_image_or_video_transform(
            images, their_name, sign * magnitude, theirs.interpolation, theirs._fill
        )
        ours = policy.apply(images, torch.tensor([NAMES.index(name)]), torch.tensor([sign * level / 30]), limits)
        assert ours.dtype == torch.uint8
        cuts = 2 if name == "color" else 1  # torchvision cuts decimals off where we round, in grey and in the blend
        assert (ours.int() - expected.int()).abs().max() <= cuts


def test_operations_are_all_of_torchvisions():
    assert set(THEIR_NAMES) == set(PEERS["rand"][0]._AUGMENTATION_SPACE)
    assert set(THEIR_NAMES) == set(PEERS["trivial"][0]._AUGMENTATION_SPACE)


def test_each_sample_gets_its_own_operation():
    images = pixels(batch=1).expand(len(NAMES), -1, -1, -1)
    operation, strength = torch.arange(len(NAMES)), torch.full((len(NAMES),), 0.5)
    together = policy.apply(images, operation, strength, policy.RAND_AUGMENT)
    for row in range(len(NAMES)):
        alone = policy.apply(images[[row]], operation[[row]], strength[[row]], policy.RAND_AUGMENT)
        assert torch.equal(together[[row]], alone)
    assert torch.equal(together[0], images[0])
    assert len({sample.numpy().tobytes() for sample in together}) == len(NAMES)


def test_rand_augment_composes_its_operations():
    images, keys = pixels(batch=40), sample_keys(0, 0, torch.arange(40))
    random = KeyedRandom(keys)
    expected = policy.rand_augment(policy.rand_augment(images, random, num_ops=1), random, num_ops=1)
    assert torch.equal(policy.rand_augment(images, KeyedRandom(keys), num_ops=2, magnitude=9), expected)


def test_trivial_augment_draws_operations_evenly_at_all_strengths():
    keys = sample_keys(0, 0, torch.arange(2000))
    level = KeyedRandom(keys).integers(policy.LEVELS + 1)
    assert stats.chisquare(torch.bincount(level, minlength=31).numpy()).pvalue > 1e-3
    images = pixels(batch=1, height=8, width=8).expand(2000, -1, -1, -1)
    changed = policy.trivial_augment(images, KeyedRandom(keys))
    unchanged = (changed == images).flatten(1).all(1).float().mean()
    assert 1 / 14 < unchanged < 4 / 14  # identity, and the weakest strengths of others
