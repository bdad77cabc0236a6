"""Where to look: windows that cover, regions found in the pictures, kept in a file, and measured."""

import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.ops import box_iou

from mlcli.engine.checkpoint import save_checkpoint
from mlcli.engine.terms import total
from mlcli.errors import CheckpointError, ConfigError, OutputError
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import Scenes
from mlcli.tasks.detection.models.build import build_proposer
from mlcli.tasks.detection.models.config import Proposals
from mlcli.tasks.detection.models.proposals import (
    ProposalCache,
    default_path,
    picture_key,
    recall,
    recall_line,
    with_proposals,
)
from mlcli.tasks.detection.models.proposers import sliding_windows

from .overfit import MODEL, detector, facts
from .rectangles import rectangles


@pytest.fixture(scope="module")
def scenes():
    return build_source(Scenes(name="scenes", images=20, image_size=64))


# --- sliding windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(128, 128), (96, 320), (320, 32)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("most", [1, 300, 1000, 5000])
def test_windows_are_in_the_picture_and_few_enough(height, width, most):
    windows = sliding_windows(height, width, most)
    assert windows.dtype == torch.float32
    assert 0 < len(windows) <= most
    assert (windows >= 0).all()
    assert (windows[:, 2] <= width).all()
    assert (windows[:, 3] <= height).all()
    sides = windows[:, 2:] - windows[:, :2]
    assert (sides > 0).all()
    assert len(windows.unique(dim=0)) == len(windows)
    if most >= 300 and height == width:
        assert torch.isclose(sides.min(), torch.tensor(16.0), atol=5)  # an eighth, and less for flat and tall shapes


@pytest.mark.parametrize(
    ("most", "count", "share"),
    [(5000, 4560, 0.995), (3000, 2630, 0.99), (1000, 884, 0.98), (500, 434, 0.88), (300, 274, 0.70)],
)
def test_windows_cover_boxes_of_any_place_and_shape(most, count, share):
    random = torch.Generator().manual_seed(1)
    sizes = 128 * torch.exp(torch.empty(2000).uniform_(np.log(0.1), np.log(0.5), generator=random))
    shapes = torch.exp2(torch.empty(2000).uniform_(-1, 1, generator=random))
    sides = torch.stack([sizes / shapes.sqrt(), sizes * shapes.sqrt()], dim=1)
    corners = torch.rand(2000, 2, generator=random) * (128 - sides)
    windows = sliding_windows(128, 128, most)
    assert len(windows) == count
    covered = box_iou(torch.cat([corners, corners + sides], dim=1), windows).amax(dim=1) >= 0.5
    assert covered.float().mean() >= share


def test_sliding_needs_no_preparation_but_is_measured(scenes, tmp_path):
    same, lines = with_proposals(scenes, Proposals(cache=tmp_path / "kept.npz"))
    assert same is scenes
    assert len(lines) == 1
    assert lines[0].startswith("sliding: 274 regions a picture overlap ")
    assert not (tmp_path / "kept.npz").exists()


def test_recall_against_a_plain_loop(scenes):
    records = scenes.splits["val"]
    windows = sliding_windows(64, 64, 300)
    hits = [
        max(box_iou(torch.from_numpy(box)[None], windows)[0].tolist()) >= 0.5
        for i in range(len(records))
        for box in records.boxes_of(i)
    ]
    share, objects = recall([windows] * len(records), records)
    assert objects == len(hits)
    assert share == pytest.approx(sum(hits) / len(hits))
    assert 0 < share < 1
    assert recall([torch.zeros(0, 4)] * len(records), records) == (0.0, objects)
    assert f"{share:.1%} of {objects:,} objects" in recall_line("sliding", [windows] * len(records), records)


# --- the file they are kept in ---------------------------------------------------------------------------------------


def test_what_is_kept_comes_back(tmp_path):
    path = tmp_path / "new" / "kept.npz"
    cache = ProposalCache(path, "method a")
    boxes = {f"{i:064x}": np.random.default_rng(i).random((i, 4), dtype=np.float32) for i in range(4)}  # one is empty
    for key, value in boxes.items():
        cache[key] = value
    other = ProposalCache(path, "method a")  # another process, which has found something else meanwhile
    other["f" * 64] = np.ones((2, 4), np.float32)
    other.save()
    cache.save()
    again = ProposalCache(path, "method a")
    for key, value in boxes.items():
        np.testing.assert_array_equal(again[key], value)
    assert "f" * 64 in again
    assert [p.name for p in path.parent.iterdir()] == ["kept.npz"]


def test_another_method_and_a_damaged_file_are_as_good_as_none(tmp_path):
    path = tmp_path / "kept.npz"
    cache = ProposalCache(path, "method a")
    cache["0" * 64] = np.ones((1, 4), np.float32)
    cache.save()
    assert "0" * 64 in ProposalCache(path, "method a")
    assert "0" * 64 not in ProposalCache(path, "method b")
    whole = path.read_bytes()
    for damaged in (b"", b"nothing", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        empty = ProposalCache(path, "method a")
        assert "0" * 64 not in empty
    empty["1" * 64] = np.ones((1, 4), np.float32)
    empty.save()
    assert "1" * 64 in ProposalCache(path, "method a")


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        ProposalCache(tmp_path / "file" / "kept.npz", "method a")


def test_pictures_are_known_by_their_pixels():
    pixels = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    changed = pixels.copy()
    changed[2, 3, 3] += 1
    assert picture_key(pixels) == picture_key(pixels.copy())
    assert len({picture_key(pixels), picture_key(changed), picture_key(pixels.reshape(3, 2, 8))}) == 3


def test_the_usual_place_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path("rpn") == tmp_path / "mlcli" / "proposals-rpn.npz"


# --- methods that look at the pictures -------------------------------------------------------------------------------


def test_selective_search_finds_rectangles():
    pytest.importorskip("cv2.ximgproc", reason="needs the extra mlcli[proposals]")
    images, targets = rectangles(64, 96, rows=1)
    look = build_proposer(Proposals(method="selective_search", most=200), facts(64, 96))
    found = look(images)
    for boxes, objects, valid in zip(found, targets.boxes_xyxy, targets.valid, strict=True):
        assert 3 < len(boxes) <= 200
        assert (boxes[:, 0::2] <= 96).all()
        assert (boxes[:, 1::2] <= 64).all()
        assert (box_iou(objects[valid], boxes).amax(dim=1) > 0.6).all()
    again = look(images.flip(0))
    assert all(torch.equal(a, b) for a, b in zip(found, reversed(again), strict=True))
    few = build_proposer(Proposals(method="selective_search", most=3), facts(64, 96))(images[:1])[0]
    assert torch.equal(few, found[0][:3])


def test_selective_search_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="selective search") as caught:
        build_proposer(Proposals(method="selective_search"), facts(64, 64))
    assert "mlcli[proposals]" in caught.value.fix


def trained_run(folder, info, **model):
    """A run folder as the trainer leaves it, with weights that nobody trained."""
    net = detector(info, **model)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "status.json").write_text('{"state": "finished"}')
    config = {"task": "detection", "model": MODEL.validate_python(model).model_dump(mode="json")}
    content = {"config": config, "facts": {"data": info.to_plain()}, "model": net.state_dict()}
    save_checkpoint(folder / "checkpoints" / "best.ckpt", content)
    return net.eval()


def test_regions_of_a_trained_network(scenes, tmp_path):
    info = scenes.info
    net = trained_run(tmp_path / "run", info, name="faster_rcnn", width=4)
    config = Proposals(method="rpn", run=tmp_path / "run", most=40, cache=tmp_path / "kept.npz")
    found, lines = with_proposals(scenes, config)
    records = found.splits["val"]
    assert records.proposals_xyxy.shape == (len(records), 40, 4)
    assert records.proposals_xyxy.dtype == np.float32
    with torch.no_grad():
        expected = net.propose(records.read(np.arange(len(records))), 40)
    for boxes, here in zip(expected, records.proposals_xyxy, strict=True):
        torch.testing.assert_close(torch.from_numpy(here[: len(boxes)]), boxes, rtol=1e-4, atol=1e-3)
        assert (here[len(boxes) :] == 0).all()
    assert "objects by half" in lines[0]
    assert str(tmp_path / "kept.npz") in lines[1]

    # Now the file answers; a picture that it does not know is looked at.
    cache = ProposalCache(tmp_path / "kept.npz", build_proposer(config, info).identity)
    key = picture_key(records.read(np.array([0]))[0].numpy())
    assert key in cache
    cache[key] = np.array([[1, 2, 30, 40]], np.float32)
    cache.save()
    kept = with_proposals(scenes, config)[0].splits["val"].proposals_xyxy
    assert kept[0, 0].tolist() == [1, 2, 30, 40]
    assert (kept[0, 1:] == 0).all()
    np.testing.assert_array_equal(kept[1:], records.proposals_xyxy[1:])
    fewer = with_proposals(scenes, config.model_copy(update={"most": 39}))[0].splits["val"].proposals_xyxy
    np.testing.assert_array_equal(fewer[1], records.proposals_xyxy[1, :39])


def test_networks_that_do_not_fit_are_refused(tmp_path):
    trained_run(tmp_path / "small", facts(64, 64, fit="pad"), name="faster_rcnn", width=4)
    config = Proposals(method="rpn", run=tmp_path / "small")
    with pytest.raises(ConfigError, match="64x64, these have 64x96") as caught:
        build_proposer(config, facts(64, 96, fit="pad"))
    assert "data.image_size" in caught.value.fix
    with pytest.raises(ConfigError, match="fit pad, these have stretch"):
        build_proposer(config, facts(64, 64, fit="stretch"))
    trained_run(tmp_path / "fcos", facts(64, 64), name="fcos", width=4)
    with pytest.raises(CheckpointError, match="fcos has no region proposal network"):
        build_proposer(Proposals(method="rpn", run=tmp_path / "fcos"), facts(64, 64))
    with pytest.raises(ValidationError, match="belong together"):
        Proposals(method="rpn")


def test_new_pictures_are_looked_at_by_the_model_itself(tmp_path):
    info = facts(64, 64)
    regions = trained_run(tmp_path / "run", info, name="faster_rcnn", width=4)
    images, targets = rectangles(64, 64, 2)
    section = {"method": "rpn", "run": tmp_path / "run", "most": 50}
    net = detector(info, name="fast_rcnn", width=4, proposals=section).eval()
    assert not any(name.startswith("_propose") for name in net.state_dict())
    with torch.no_grad():
        _, found = net(images)
        told = torch.stack([torch.nn.functional.pad(b, (0, 0, 0, 50 - len(b))) for b in regions.propose(images, 50)])
        _, expected = net(images, targets.__class__(targets.boxes_xyxy, targets.labels, None, told))
    assert torch.equal(found.boxes_xyxy, expected.boxes_xyxy)
    assert found.labels.any()
    net.train()
    total(net(images.float(), targets)[0]).backward()  # slow, but it learns without proposals in the batch too
