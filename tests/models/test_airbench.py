"""The network of airbench94: whitened patches, identity convolutions, what stays as it is."""

import pytest
import torch
from PIL import Image

from mlcli.errors import ConfigError, UserError
from mlcli.experiment import Experiment
from mlcli.models.layers import count_parameters


def patches(images: torch.Tensor) -> torch.Tensor:
    """All 2x2 patches in rows."""
    return torch.nn.functional.unfold(images, 2).transpose(1, 2).flatten(0, 1)


def test_it_is_as_large_as_the_papers(images, build):
    net = build(images(3, 32, 32, classes=10), name="airbench")
    weights = 24 * 64 * 9 + 64 * 64 * 9 + 64 * 256 * 9 + 3 * 256 * 256 * 9 + 256 * 10
    assert count_parameters(net)[0] == weights + 24 + 2 * (64 + 256 + 256)  # biases of patches and of norms


def test_patches_vary_by_one_in_every_direction_after_the_first_convolution(images, build):
    net, pictures = build(images(3, 10, 10), name="airbench", width=0.1), torch.rand(700, 3, 10, 10)
    pictures[:, 1] = pictures[:, 0] * 0.9 + pictures[:, 1] * 0.1
    before = [parameter.clone() for parameter in net.parameters()]
    net.learn_patches(pictures)
    assert all(map(torch.equal, before, net.parameters()))
    maps = net.whiten(pictures).transpose(0, 1).flatten(1).double()
    assert torch.equal(net.whiten.weight[:12], -net.whiten.weight[12:])
    seen = patches(pictures).double()
    variances = torch.linalg.eigvalsh(seen.T @ seen / len(seen)).flip(0)
    torch.testing.assert_close(maps[:12] @ maps[:12].T / maps.shape[1], torch.diag(variances / (variances + 5e-4)),
                               atol=1e-4, rtol=0)  # fmt: skip


def test_a_groups_first_filters_hand_on_what_arrives(images, build):
    net = build(images(3, 32, 32), name="airbench", width=0.5)
    maps = torch.rand(2, 24, 6, 6)
    handed_on = net.groups[0].conv1(maps)
    torch.testing.assert_close(handed_on[:, :24], maps)
    assert not handed_on[:, 24:].isclose(torch.zeros(())).all()
    for scheme in ("xavier", "kaiming", "normal"):
        other = build(images(3, 32, 32), name="airbench", width=0.5, init=scheme)
        assert not torch.allclose(other.groups[0].conv1(maps)[:, :24], maps)


@pytest.mark.parametrize("side", [8, 9])
def test_images_of_a_pixel_too_few_are_refused(side, images, build):
    facts = images(1, side, 12)
    if side < 9:
        with pytest.raises(ConfigError, match="8x12 are too small"):
            build(facts, name="airbench")
    else:
        assert build(facts, name="airbench", width=0.05)(torch.rand(3, 1, side, 12)).shape == (3, 4)


@pytest.fixture
def config(tmp_path):
    """config(**model) -> a classification of pictures of 12 x 12 pixels"""
    for name, grey in (("dark", 60), ("light", 190)):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = (torch.rand(12, 12, 3) * 60 + grey).byte().numpy()
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")

    def make(**model):
        data = {"name": "folder", "root": str(tmp_path), "val": 0.2, "test": 0.2}
        plain = {"task": "classification", "data": data, "model": {"name": "airbench", "width": 0.05, **model}}
        return Experiment.from_plain(plain)

    return make


def test_a_training_begins_with_the_patches_of_its_own_pictures(config):
    task = config().build()
    images = task.source.splits["train"].read(torch.arange(12).numpy())
    net, standardised = task.model.net, torch.addcmul(task.model.shift, images, task.model.scale)
    first = net.whiten.weight.clone()
    net.learn_patches(standardised)
    assert torch.equal(first, net.whiten.weight)
    drawn = config(whiten=False).build().model.net.whiten.weight
    assert torch.equal(drawn, config(whiten=False).build().model.net.whiten.weight)
    assert not torch.allclose(drawn, first)
    assert not config().config.from_scratch().model.whiten, "what predicts loads its filters"


def test_scales_and_filters_never_learn_and_biases_only_until_they_are_frozen(config):
    plain = config().plain() | {"finetune": {"freeze": ["whiten.bias"], "freeze_from": 2}}
    task = Experiment.from_plain(plain).build()
    names = {name for name, _ in task.model.named_parameters()}
    assert not names & {"net.whiten.weight", "net.groups.0.norm1.weight", "net.groups.2.norm2.weight"}
    assert {"net.whiten.weight", "net.groups.0.norm1.weight"} <= task.model.state_dict().keys()
    for epoch, learns in ((0, True), (1, False), (5, False), (0, True)):
        task.train_mode(epoch)
        assert task.model.net.whiten.bias.requires_grad == learns
        assert task.model.net.output.weight.requires_grad
        assert task.model.net.groups[0].norm1.training
    assert "1 tensors frozen from epoch 2 on" in [line for _, line in task.describe()]


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"freeze_from": 2}, "freeze_from needs patterns"),
        ({"unfreeze_at": 2}, "unfreeze_at needs patterns"),
        ({"freeze": ["*"], "freeze_from": 3, "unfreeze_at": 3}, "must be later than freeze_from"),
    ],
)
def test_epochs_that_make_no_sense_are_refused(finetune, message, config):
    with pytest.raises(UserError, match=message):
        Experiment.from_plain(config().plain() | {"finetune": finetune})


def test_rows_of_features_are_refused(table, build):
    with pytest.raises(ConfigError, match="works on images"):
        build(table(9), name="airbench")
