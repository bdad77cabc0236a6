"""Starting from other weights: what fits is loaded, the rest reported, nothing foreign is run, frozen means still."""

import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mlcli.engine.checkpoint import save_checkpoint
from mlcli.engine.run import create_run
from mlcli.errors import CheckpointError, ConfigError, ExitCode
from mlcli.models.layers import Normalized
from mlcli.models.weights import FineTuning, LoadReport, copy_matching, read_weights

RESNET = {"name": "resnet", "width": 0.0625, "zero_init_residual": False}


@pytest.fixture
def model(images, build):
    """model(classes) -> Normalized resnet on 3x8x8 images"""

    def make(classes: int = 4) -> Normalized:
        info = images(3, 8, 8, classes)
        return Normalized(build(info, **RESNET), mean=info.mean, std=info.std, image=True)

    return make


def load_matching(model, path) -> LoadReport:
    return copy_matching(model, read_weights(path), path)


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def write(kind: str, path, state):
    match kind:
        case "pth":
            torch.save(state, path / "w.pth")
        case "nested":
            torch.save({"epoch": 3, "state_dict": state}, path / "w.pth")
        case "model key":
            torch.save({"model": state, "args": {"lr": 0.1}}, path / "w.pt")
        case "legacy format":
            torch.save(state, path / "w.pth", _use_new_zipfile_serialization=False)
        case "data parallel, compiled":
            torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, path / "w.pth")
        case "half precision":
            torch.save({n: t.bfloat16() if t.is_floating_point() else t for n, t in state.items()}, path / "w.pth")
        case "safetensors":
            save_file(dict(state), path / "w.safetensors")
        case "ckpt":
            save_checkpoint(path / "w.ckpt", {"model": state, "step": 7})
    return next(path.iterdir())


KINDS = ["pth", "nested", "model key", "legacy format", "data parallel, compiled", "safetensors", "ckpt"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", [False, True], ids=["with net.", "without net."])
def test_every_kind_of_file_loads_whole(kind, inner, model, tmp_path):
    source, target = model(), model()
    file = write(kind, tmp_path, (source.net if inner else source).state_dict())
    report = load_matching(target, file)
    assert states_equal(source, target)
    assert not report.missing
    assert not report.unexpected
    assert not report.mismatched
    assert set(report.loaded) == {name for name in target.state_dict() if name.startswith("net.")}
    bare = model().net
    load_matching(bare, file)
    assert states_equal(bare, source.net)


def test_half_precision_weights_become_those_of_the_model(model, tmp_path):
    target = model()
    load_matching(target, write("half precision", tmp_path, model().state_dict()))
    assert target.net.fc.weight.dtype == torch.float32


def test_the_rest_is_reported(model, tmp_path):
    source, target = model(classes=7), model(classes=4)
    state = dict(source.state_dict())
    del state["net.bn1.weight"]
    state["net.extra"] = torch.zeros(2)
    untouched = target.net.fc.weight.clone()
    report = load_matching(target, write("pth", tmp_path, state))
    assert report.missing == ("net.bn1.weight",)
    assert report.unexpected == ("net.extra",)
    assert report.mismatched == {"net.fc.weight": ((7, 32), (4, 32)), "net.fc.bias": ((7,), (4,))}
    assert len(report.loaded) == len(target.state_dict()) - 2 - 3
    assert torch.equal(target.net.fc.weight, untouched)
    assert torch.equal(target.net.conv1.weight, source.net.conv1.weight)
    text = "\n".join(report.lines())
    for part in (f"loaded {len(report.loaded)} of", "net.fc.weight 7x32 -> 4x32", "net.bn1.weight", "net.extra"):
        assert part in text


def test_statistics_of_the_new_data_stay(model, tmp_path):
    source, target = model(), model()
    source.mean += 0.25
    load_matching(target, write("ckpt", tmp_path, source.state_dict()))
    assert torch.equal(target.mean, torch.full((3,), 0.5))
    assert torch.equal(target.net.conv1.weight, source.net.conv1.weight)


def test_old_files_without_batch_counts_miss_nothing(model, tmp_path):
    state = {n: t for n, t in model().state_dict().items() if not n.endswith("num_batches_tracked")}
    assert not load_matching(model(), write("pth", tmp_path, state)).missing


def test_a_run_folder_gives_its_best_weights_or_its_newest(model, tmp_path):
    run = create_run(tmp_path, "earlier")
    run.update_status(state="finished")
    folder, old, new, best = run.checkpoints, model(), model(), model()
    save_checkpoint(folder / "step-00000009.ckpt", {"model": old.state_dict()})
    save_checkpoint(folder / "step-00000100.ckpt", {"model": new.state_dict()})
    target = model()
    load_matching(target, run.path)
    assert states_equal(target, new)
    save_checkpoint(folder / "best.ckpt", {"model": best.state_dict()})
    load_matching(target, run.path.parent)  # a folder of runs stands for its newest
    assert states_equal(target, best)


def test_averaged_weights_of_a_checkpoint_are_preferred(model, tmp_path):
    live, average, target = model(), model(), model()
    floats = {name: tensor for name, tensor in average.state_dict().items() if tensor.is_floating_point()}
    save_checkpoint(tmp_path / "w.ckpt", {"model": live.state_dict(), "ema": floats})
    load_matching(target, tmp_path / "w.ckpt")
    assert torch.equal(target.net.fc.weight, average.net.fc.weight)


class Canary:
    """Would make a folder when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("new_format", [False, True])
def test_a_file_that_would_run_a_program_is_refused_and_does_not(nest, new_format, model, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / "w.pth"
    content = {"net.fc.weight": torch.zeros(4, 32), "evil": Canary(canary)}
    torch.save({"state_dict": content} if nest else content, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"mkdir") as caught:
        load_matching(model(), file)
    assert not canary.exists()
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "state_dict()" in caught.value.fix


def test_a_whole_pickled_model_is_refused_by_the_name_of_its_class(model, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_matching(model(), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors", "w.ckpt"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + bytes(64)], ids=["empty", "text", "zip head"])
def test_damaged_files_are_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_weights(tmp_path / name)
    assert str(caught.value).count("\n") <= 4


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(keep, model, tmp_path):
    file = write("pth", tmp_path, model().state_dict())
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        load_matching(model(), file)


def test_what_is_no_weight_file_is_refused(model, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    cases = {
        "missing.pth": "no weights at",
        "notes.txt": "is not a run folder, .ckpt",
        "list.pth": "no named tensors",
        "other.pth": "none of the 1 tensors",
        ".": "not a run folder",
    }
    for name, problem in cases.items():
        with pytest.raises(CheckpointError, match=problem):
            load_matching(model(), tmp_path / name)


def trained(model: nn.Module) -> set[str]:
    return {name.removeprefix("net.") for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_frozen_parameters_and_batch_norms_stay_still_until_their_epoch(model):
    net = model()
    tuning = FineTuning(net, freeze=("conv1.*", "bn1.*", "layer[12].*"), unfreeze_at=3)
    everything = {name for name, _ in net.net.named_parameters()}
    kept = {name for name in everything if name.startswith(("layer3", "layer4", "fc"))}
    assert tuning.frozen == everything - kept
    for epoch in (0, 1, 2, 5, 1, 0):  # in any order: nothing is remembered from the epoch before
        tuning.train_mode(epoch)
        frozen = epoch < 2  # unfreeze_at counts epochs from 1
        assert trained(net) == (kept if frozen else everything)
        assert net.net.bn1.training != frozen
        assert net.net.layer2[0].bn2.training != frozen
        assert net.net.layer4[0].bn2.training
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        net(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)).sum().backward()
        moved = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
        assert any(name.startswith("net.layer4") for name in moved)
        assert any(name.startswith(("net.bn1", "net.layer1", "net.layer2")) for name in moved) != frozen


def test_batch_norms_that_still_learn_go_on_adapting(model):
    net = model()
    FineTuning(net, freeze=("*.weight",)).train_mode(0)
    assert trained(net) == {name for name, _ in net.net.named_parameters() if name.endswith("bias")}
    assert net.net.bn1.training


def test_without_patterns_nothing_is_frozen(model):
    net = model().eval()
    tuning = FineTuning(net)
    tuning.train_mode(0)
    assert net.training
    assert trained(net) == {name for name, _ in net.net.named_parameters()}
    assert not tuning.frozen


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("layer1", "layer1.*"), ("layr2.*", "layer2.*"), ("conv1.wieght", "conv1.weight"), ("backbone.*", "")],
)
def test_a_pattern_that_matches_nothing_is_answered_with_names(pattern, near, model):
    with pytest.raises(ConfigError, match="matches no parameter") as caught:
        FineTuning(model(), freeze=("fc.*", pattern))
    assert f"'{pattern}'" in caught.value.what
    assert near in caught.value.fix
    assert caught.value.fix
    assert caught.value.where == "finetune.freeze"


def test_freezing_everything_is_refused(model):
    with pytest.raises(ConfigError, match="all 62 parameters are frozen"):
        FineTuning(model(), freeze=("*",), unfreeze_at=5)


HEADS = {
    "linear": ({"name": "linear"}, {"net.output.weight", "net.output.bias"}),
    "mlp": ({"name": "mlp"}, {"net.output.weight", "net.output.bias"}),
    "cnn": ({"name": "cnn"}, {"net.output.weight", "net.output.bias"}),
    "vgg gap": ({"name": "vgg", "depth": 11, "width": 0.05}, {"net.classifier.weight", "net.classifier.bias"}),
    "vgg classic": (
        {"name": "vgg", "depth": 11, "width": 0.05, "head": "classic"},
        {"net.classifier.6.weight", "net.classifier.6.bias"},
    ),
    "resnet": (RESNET, {"net.fc.weight", "net.fc.bias"}),
    "squeezenet": (
        {"name": "torchvision", "arch": "squeezenet1_1"},
        {"net.classifier.1.weight", "net.classifier.1.bias"},
    ),
}


@pytest.mark.parametrize(("section", "names"), HEADS.values(), ids=HEADS.keys())
def test_the_head_is_the_last_layer_with_weights(section, names, images, build):
    info = images(3, 32, 32)
    net = Normalized(build(info, **section), mean=info.mean, std=info.std, image=True)
    assert FineTuning(net).head == names
    assert names < {name for name, _ in net.named_parameters()} or section["name"] == "linear"


def test_the_head_of_a_bare_layer():
    assert FineTuning(nn.Linear(2, 2)).head == {"weight", "bias"}


def test_what_no_file_had_belongs_to_the_head_and_is_never_frozen(model, tmp_path):
    state = dict(model(classes=7).state_dict())
    del state["net.layer4.0.conv2.weight"]
    tuning = FineTuning(
        model(classes=4), weights=write("pth", tmp_path, state), freeze=("layer4.*", "conv1.*"), trunk_lr=0.1
    )
    assert tuning.head == {"net.fc.weight", "net.fc.bias", "net.layer4.0.conv2.weight"}
    assert tuning.lr_scale("net.layer4.0.conv2.weight") == 1.0
    assert tuning.lr_scale("net.layer4.0.conv1.weight") == 0.1
    assert "layer4.0.conv2.weight" not in tuning.frozen
    assert {"layer4.0.conv1.weight", "conv1.weight"} <= tuning.frozen
    told = "\n".join(tuning.describe())
    assert "1 tensors that finetune.freeze names are in no file, and learn" in told
    assert "all but the head (3 tensors) learn at 0.1" in told
