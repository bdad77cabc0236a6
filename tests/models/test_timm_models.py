"""timm's classifiers by name: sized for the data, standardised as their weights expect, or a clear answer why not."""

import pickle
import sys

import pytest
import torch
from safetensors.torch import save_file

from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.models.build import build_seeded, fine_tuning
from mlcli.models.config import FineTune, TimmModel
from mlcli.models.layers import last_layer
from mlcli.models.timm_models import TimmMaps

timm = pytest.importorskip("timm")

SMALL = {"test_resnet": 32, "test_efficientnet": 32, "test_convnext": 32, "test_vit": 64}


@pytest.fixture
def weights(tmp_path):
    """A file of weights for a thousand classes, and the model they are of."""
    theirs = timm.create_model("test_resnet", num_classes=1000)
    path = tmp_path / "theirs.safetensors"
    save_file(theirs.state_dict(), path)
    return path, theirs


@pytest.mark.parametrize(("arch", "side"), SMALL.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_families_take_the_datas_shape_and_classes(arch, side, channels, images, build):
    net = build(images(channels, side, side, classes=5), name="timm", arch=arch).train()
    assert net(torch.rand(2, channels, side, side)).shape == (2, 5)
    assert net.notes == ()
    assert last_layer(net)[1].weight.shape[0] == 5


def test_a_new_last_layer_starts_small_whatever_the_number_of_classes(images, build):
    net = build(images(3, 32, 32, classes=2), name="timm", arch="test_efficientnet")
    layer = last_layer(net)[1]
    assert layer.weight.abs().max() <= layer.in_features**-0.5  # timm's own: up to 1 / sqrt(classes)


def test_first_weights_are_a_function_of_the_seed(images):
    config, info = TimmModel(name="timm", arch="test_resnet", init="xavier"), images(3, 32, 32)
    one, same, other = (build_seeded(config, info, seed).net.conv1[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_weights_bring_their_own_mean_and_std(images, weights):
    path, theirs = weights
    model = build_seeded(TimmModel(name="timm", arch="test_resnet", weights=path), images(3, 160, 160), 0).eval()
    config = theirs.pretrained_cfg
    assert model.mean.tolist() == pytest.approx(config["mean"])  # not the data's 0.5
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    theirs_seen = theirs.eval().forward_features((pixels / 255 - mean) / std)
    assert torch.allclose(model.net.forward_features((pixels / 255 - mean) / std), theirs_seen)
    theirs.reset_classifier(4)
    theirs.fc.load_state_dict(model.net.fc.state_dict())
    assert torch.allclose(model(pixels), theirs((pixels / 255 - mean) / std), atol=1e-4)
    scratch = build_seeded(TimmModel(name="timm", arch="test_resnet"), images(3, 160, 160), 0)
    assert scratch.mean.tolist() == [0.5] * 3
    scratch.load_state_dict(model.state_dict())  # as predict does, which builds from no weights
    assert torch.equal(scratch.eval()(pixels), model(pixels))


def test_notes_say_what_was_loaded_and_which_size_fits(images, weights, build):
    notes = build(images(3, 64, 64), name="timm", arch="test_resnet", weights=weights[0]).notes
    assert any("other shape in the file, left as initialised: fc.bias 1000 -> 4" in note for note in notes)
    assert any("learned at 160x160, the data have 64x64: data.image_size=160" in note for note in notes)


def test_a_grey_image_gets_the_answer_of_its_rgb_twin(images, weights, build):
    colour, grey = (
        build(images(c, 32, 32), name="timm", arch="test_resnet", weights=weights[0]).eval() for c in (3, 1)
    )
    pixels = torch.rand(2, 1, 32, 32)
    seen = colour.forward_features(pixels.expand(2, 3, 32, 32))
    assert torch.allclose(grey.forward_features(pixels), seen, rtol=1e-3, atol=1e-4)
    assert len(grey.statistics[0]) == 1


def test_freezing_and_the_heads_own_rate(images, weights):
    model = build_seeded(TimmModel(name="timm", arch="test_resnet", weights=weights[0]), images(3, 32, 32), 0)
    tuning = fine_tuning(model, FineTune(freeze=("conv1*", "layer*"), unfreeze_at=2, trunk_lr=0.1))
    tuning.train_mode(0)
    assert not model.net.conv1[0].weight.requires_grad
    assert model.net.fc.weight.requires_grad
    assert tuning.lr_scale("net.fc.weight") == 1
    assert tuning.lr_scale("net.layer1.0.conv1.weight") == 0.1
    tuning.train_mode(1)
    assert model.net.conv1[0].weight.requires_grad


@pytest.mark.parametrize("arch", ["tes_resnet", "hf-hub:someone/model", "local-dir:/tmp/x"])
def test_unknown_names_are_refused_and_nothing_is_fetched(arch, images, build):
    with pytest.raises(ConfigError, match="timm has no classification model") as caught:
        build(images(3, 32, 32), name="timm", arch=arch)
    assert caught.value.where == "model.arch"
    assert "test_resnet" in caught.value.fix or arch[:3] != "tes"


def test_an_unknown_tag_lists_those_there_are(images, build):
    with pytest.raises(ConfigError, match=r"no weights called 'test_resnet\.nope'") as caught:
        build(images(3, 32, 32), name="timm", arch="test_resnet.nope")
    assert "test_resnet.r160_in1k" in caught.value.fix


def test_images_that_do_not_fit_are_refused(images, build):
    with pytest.raises(ConfigError, match="cannot take images of 3x20x20") as caught:
        build(images(3, 20, 20), name="timm", arch="inception_v3")
    assert "data.image_size to 299" in caught.value.fix


def test_weights_of_another_network_are_refused(images, weights, build):
    with pytest.raises(CheckpointError, match=r"another network|none of the"):
        build(images(3, 32, 32), name="timm", arch="resnet10t", weights=weights[0])


def test_a_file_that_would_run_a_program_is_refused(images, build, tmp_path):
    class Bad:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"fc.weight": Bad()}))
    with pytest.raises(CheckpointError):
        build(images(3, 32, 32), name="timm", arch="test_resnet", weights=tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_default_weights_without_network_say_what_to_do(images, build, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        build(images(3, 32, 32), name="timm", arch="test_resnet", weights="default")
    assert caught.value.where.startswith("https://huggingface.co/timm/test_resnet")
    assert "model.weights" in caught.value.fix


def test_without_timm_the_message_says_what_to_install(images, build, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError) as caught:
        build(images(3, 32, 32), name="timm", arch="test_resnet")
    assert caught.value.fix == "pip install 'mlcli[timm]'"


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_maps_of_all_strides(arch):
    net = TimmMaps(arch, image_size=(64, 96), strides=(4, 8, 16, 32))
    maps = net(torch.rand(1, 3, 64, 96))
    assert [values.shape[1] for values in maps] == list(net.channels)
    assert [values.shape[2:] for values in maps] == [(64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_convnext"])
def test_maps_load_the_weights_of_a_classifier(arch, tmp_path):
    theirs = timm.create_model(arch, num_classes=1000).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    net = TimmMaps(arch, image_size=(64, 64), strides=(4, 8, 16, 32), weights=tmp_path / "w.safetensors").eval()
    assert not net.unloaded
    pixels = torch.rand(1, 3, 64, 64)
    seen = theirs.forward_intermediates(pixels, intermediates_only=True)
    assert torch.allclose(net(pixels)[-1], seen[-1], atol=1e-5)


@pytest.mark.parametrize(("arch", "side", "said"), [("test_vit", 64, "none of"), ("test_convnext", 100, "25x25")])
def test_backbones_without_fitting_maps_are_refused(arch, side, said):
    with pytest.raises(ConfigError, match=said) as caught:
        TimmMaps(arch, image_size=(side, side), strides=(4, 8, 16, 32))
    assert caught.value.where == "model.backbone.arch"
