"""What every augmentation promises: an amount of its own for each sample, range, type and shape, for any size."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mlcli.data import augmentations as c
from mlcli.data.augment.build import Augment, cut_of
from mlcli.data.batches import TrainOrder
from mlcli.data.info import DataInfo
from mlcli.data.randomness import KeyedRandom, sample_keys
from mlcli.engine.settings import Train
from mlcli.errors import ConfigError

BATCH = 24
ALL: dict[str, c.Augmentation] = {
    "crop": c.RandomCrop(name="random_crop", padding=3),
    "crop reflect": c.RandomCrop(name="random_crop", padding=3, fill="reflect"),
    "crop edge": c.RandomCrop(name="random_crop", padding=9, fill="edge"),
    "resized crop": c.RandomResizedCrop(name="random_resized_crop"),
    "horizontal flip": c.HorizontalFlip(name="horizontal_flip"),
    "alternating flip": c.HorizontalFlip(name="horizontal_flip", alternate=True),
    "vertical flip": c.VerticalFlip(name="vertical_flip"),
    "rotation": c.Rotation(name="rotation"),
    "affine": c.Affine(name="affine", shear=10.0),
    "color jitter": c.ColorJitter(name="color_jitter", hue=0.2),
    "grayscale": c.Grayscale(name="grayscale", p=0.5),
    "cutout": c.Cutout(name="cutout", size=5),
    "rand augment": c.RandAugment(name="rand_augment"),
    "trivial augment": c.TrivialAugment(name="trivial_augment"),
    "mixup": c.Mixup(name="mixup"),
    "cutmix": c.CutMix(name="cutmix"),
}
PER_SAMPLE = [name for name in ALL if name not in ("mixup", "cutmix")]


def info(channels: int, height: int, width: int) -> DataInfo:
    return DataInfo("image", (channels, height, width), ("a", "b", "c"), "label", (0.5,) * channels, (0.2,) * channels)


def pixels(batch: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    shape = (batch, channels, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def run(augment: tuple, images: torch.Tensor, epoch: int = 0, rows: slice = slice(None)):
    apply = Augment(augment, info(*images.shape[1:]))
    keys = sample_keys(0, epoch, torch.arange(len(images)))
    return apply(images[rows], (torch.arange(len(images)) % 3)[rows], keys[rows])


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 9, 9), (3, 8, 13), (1, 13, 8)], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ALL)
def test_shape_type_and_range_are_kept(name, batch, shape):
    images = pixels(batch, *shape)
    before = images.clone()
    inputs, targets = run((ALL[name],), images)
    assert inputs.shape == images.shape
    assert len(targets) == batch
    assert inputs.dtype in (torch.uint8, torch.float32)
    assert inputs.isfinite().all()
    assert inputs.min() >= 0
    assert inputs.max() <= 255
    assert torch.equal(images, before), "the held images were changed in place"


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_each_sample_has_its_own_amount(name):
    images = pixels(1, 3, 12, 12).expand(BATCH, -1, -1, -1)
    inputs, targets = run((ALL[name],), images)
    kinds = len({sample.numpy().tobytes() for sample in inputs})
    assert kinds == 2 if "flip" in name or name == "grayscale" else kinds > BATCH // 2
    assert targets.dtype == torch.int64
    again, _ = run((ALL[name],), images)
    later, _ = run((ALL[name],), images, epoch=1)
    assert torch.equal(inputs, again)
    assert not torch.equal(inputs, later)


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(name):
    images = pixels(BATCH, 3, 12, 12)
    together, _ = run((ALL[name],), images)
    for rows in (slice(0, 1), slice(5, 12)):
        alone, _ = run((ALL[name],), images, rows=rows)
        torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-3 if alone.is_floating_point() else 0)


@pytest.mark.parametrize("name", ["rotation", "color jitter", "cutout", "crop"])
def test_floats_from_an_earlier_augmentation_are_taken(name):
    images = pixels(6, 3, 12, 12)
    whole, _ = run((ALL[name],), images)
    apply = Augment((ALL[name],), info(3, 12, 12))
    from_float, _ = apply(images.float(), torch.zeros(6, dtype=torch.int64), sample_keys(0, 0, torch.arange(6)))
    assert from_float.dtype == torch.float32
    assert torch.allclose(from_float, whole.float(), atol=0.51 if name == "cutout" else 1e-3)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_an_alternating_flip_mirrors_every_image_in_every_other_epoch(p):
    images, indices = pixels(BATCH, 3, 8, 8), torch.arange(BATCH)
    apply = Augment((c.HorizontalFlip(name="horizontal_flip", p=p, alternate=True),), info(3, 8, 8))
    order = TrainOrder(torch.zeros(BATCH, dtype=torch.int64), Train(batch_size=BATCH, seed=3), "shuffle")
    seen = []
    for part in itertools.islice(order.parts(0), 4):
        changed, _ = apply(images[part.indices], part.indices, part.keys, part.first_keys(), part.epoch)
        mirrored = (changed != images[part.indices]).flatten(1).any(1)
        seen.append(mirrored[part.indices.argsort()])
    begin = KeyedRandom(sample_keys(3, 0, indices)).bernoulli(p)
    assert [flips.tolist() for flips in seen] == [begin.tolist(), (~begin).tolist()] * 2
    assert 0 < begin.sum() < BATCH or p != 0.5
    assert apply.alternates
    assert not Augment((ALL["horizontal flip"],), info(3, 8, 8)).alternates


def test_nothing_asked_for_returns_what_came_in():
    images, targets = pixels(4, 3, 8, 8), torch.arange(4)
    inputs, same_targets = Augment((), info(3, 8, 8))(images, targets, torch.arange(4))
    assert inputs is images
    assert same_targets is targets


def test_the_same_augmentation_twice_draws_twice():
    flip = ALL["horizontal flip"]
    images = pixels(BATCH, 3, 8, 8)
    once, twice = run((flip,), images)[0], run((flip, flip), images)[0]
    restored = (twice == images).flatten(1).all(1)
    flipped_first = (once != images).flatten(1).any(1)
    assert 0 < restored.sum() < BATCH
    assert (flipped_first & restored).any()
    assert (flipped_first & ~restored).any()


def test_order_is_that_of_the_yaml():
    black = c.ColorJitter(name="color_jitter", brightness=0, contrast=0, saturation=0)
    grey, cut = c.Grayscale(name="grayscale", p=1.0), c.Cutout(name="cutout", size=40)
    facts = DataInfo("image", (3, 8, 8), ("a",), "label", (0.2, 0.4, 0.6), (1.0,) * 3)
    images, keys = pixels(2, 3, 8, 8), torch.arange(2)
    cut_last, _ = Augment((black, grey, cut), facts)(images, keys, keys)
    cut_first, _ = Augment((black, cut, grey), facts)(images, keys, keys)
    assert cut_last[0, :, 4, 4].tolist() == [51, 102, 153]
    assert len(set(cut_first[0, :, 4, 4].tolist())) == 1


def test_resized_crop_is_left_to_the_reader_and_the_rest_draws_as_before():
    augment = (ALL["resized crop"], ALL["horizontal flip"])
    images, keys = pixels(BATCH, 3, 8, 8), sample_keys(0, 0, torch.arange(BATCH))
    read, _ = Augment(augment, info(3, 8, 8), already_cropped=True)(images, keys, keys)
    assert read.dtype == torch.uint8
    assert cut_of(augment) == (augment[0], 0)
    assert cut_of(augment[1:]) is None
    whole, _ = Augment(augment, info(3, 8, 8))(images, keys, keys)
    cropped, _ = Augment(augment[:1], info(3, 8, 8))(images, keys, keys)
    flipped = (read != images).flatten(1).any(1)
    assert torch.equal(whole, torch.where(flipped.view(-1, 1, 1, 1), cropped.flip(3), cropped))


def test_reflection_wider_than_the_image_is_refused():
    with pytest.raises(ConfigError, match="cannot reflect 8 pixels"):
        Augment((c.RandomCrop(name="random_crop", padding=8, fill="reflect"),), info(3, 8, 20))


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("rand augment", "trivial augment")])
def test_everything_happens_where_the_images_are(name):
    """On torch's meta device, which stands for a GPU: a tensor made on the CPU by mistake does not mix with it."""
    images, targets = pixels(4, 3, 12, 12).to("meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    inputs, mixed = Augment((ALL[name],), info(3, 12, 12))(images, targets, torch.arange(4))
    assert inputs.is_meta
    assert mixed.is_meta


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (c.RandomResizedCrop, {"area": (0.5, 0.2)}, "smaller bound comes first"),
        (c.RandomResizedCrop, {"area": (0.5, 1.2)}, "less than or equal to 1"),
        (c.RandomResizedCrop, {"ratio": (2.0, 0.5)}, "smaller bound comes first"),
        (c.Affine, {"scale": (1.1, 0.9)}, "smaller bound comes first"),
    ],
)
def test_impossible_ranges_are_refused(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(name=config.model_fields["name"].annotation.__args__[0], **values)


def test_a_list_is_few_operations_on_a_batch():
    """Each is a kernel that a GPU must be handed: 164 while every augmentation made its own random numbers."""
    changes = (ALL["crop"], ALL["horizontal flip"], ALL["cutout"])
    apply, images, keys = Augment(changes, info(3, 32, 32)), pixels(512, 3, 32, 32), torch.arange(512)
    with Counted() as counted:
        apply(images, keys, keys)
    assert 0 < counted.operations <= 80


class Counted(TorchDispatchMode):
    """Counts operations that compute, not those that only look at memory in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += not function.is_view
        return function(*args, **(kwargs or {}))
