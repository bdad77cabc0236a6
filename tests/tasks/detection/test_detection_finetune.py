"""Fine-tuning a detector from a run with other classes: those of the same name keep what was learned of them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.engine.checkpoint import load_checkpoint
from mlcli.errors import ExitCode
from mlcli.models.build import seeded
from mlcli.tasks.detection.models.build import build, class_rows
from mlcli.tasks.detection.models.config import DetectionModel
from tests.commands.test_init_boxes import rows as box_csv
from tests.tasks.detection.narrow import NARROW
from tests.tasks.detection.overfit import facts

MODEL = TypeAdapter(DetectionModel)
ANTS, BEES = ("ant", "bee", "cat"), ("cat", "ant", "bee")


def made(section, names: tuple[str, ...], seed: int):
    info = replace(facts(64, 64), class_names=names)
    config = MODEL.validate_python({"score_threshold": 1e-4, "max_detections": 1000, **section})
    with seeded(seed):
        detector = build(config, info).eval()
        for parameter in detector.parameters():  # those that begin with zeros too
            parameter.data += 0.02 * torch.randn_like(parameter)
    return detector, class_rows(config, info)


@pytest.mark.parametrize("section", NARROW[:7], ids=lambda section: "-".join(map(str, section.values())))
def test_classes_in_another_order_are_found_where_they_were(section):
    learned, _ = made(section, ANTS, 0)
    other, places = made(section, BEES, 1)
    other.load_state_dict(learned.state_dict() | places.moved(learned.state_dict(), ANTS, other))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (_, ours), (_, theirs) = learned(images), other(images)
    assert (ours.labels > 0).any()
    assert len(ours.labels[ours.labels > 0].unique()) == 3, "several classes, or the order shows nothing"
    for label, name in enumerate(ANTS, start=1):
        best, same = ours.scores[ours.labels == label], theirs.scores[theirs.labels == 1 + BEES.index(name)]
        assert best.max().item() == pytest.approx(same.max().item(), rel=1e-4)
        assert len(best) == pytest.approx(len(same), abs=2)


@pytest.mark.parametrize("section", NARROW[:4], ids=lambda section: "-".join(map(str, section.values())))
def test_what_is_new_begins_as_it_was_drawn(section):
    learned, before = made(section, ANTS, 0)
    other, places = made(section, ("dog", "bee"), 1)
    moved = places.moved(learned.state_dict(), ANTS, other)
    assert {*moved} == {*learned.state_dict()}
    for name, each in places.each.items():
        own, theirs, now = other.get_parameter(name), learned.get_parameter(name), moved[name]
        assert now.shape == own.shape
        grids = [rows._grid(name, one, rows.names) for rows, one in ((places, own), (before, theirs), (places, now))]
        drawn, old, new = (grid.flatten(2) if grid.ndim > 2 else grid for grid in grids)
        assert new.shape[0] == each
        assert torch.equal(new[:, -2], drawn[:, -2]), "dog"
        assert torch.equal(new[:, -1], old[:, -2]), "bee"
        assert torch.equal(new[:, :-2], old[:, :-3]), "background, objectness"


def test_a_run_with_other_classes_is_taken_over_by_name(mlcli):
    box_csv(Path("."), "first.csv", range(20))  # ants and bees
    Path("second.csv").write_text(Path("first.csv").read_text().replace(",ant,", ",wasp,"))
    data = "data: {name: box_csv, file: %s.csv, image_size: [64, 96]}\nmodel: {name: yolo, width: 4}\n"
    rest = "optimizer: {name: adamw, lr: 1e-9}\ntrain: {epochs: 1, batch_size: 8, device: cpu, baselines: false}\n"
    for name in ("first", "second"):
        text = "task: detection\n" + data % name + rest + "loader: {workers: 0}\n"
        Path(f"{name}.yaml").write_text(text)
    assert mlcli("train", "first.yaml", "train.tensorboard.pictures=false").code == ExitCode.OK
    tune = "finetune={weights: runs/first, freeze: ['head.*'], trunk_lr: 0.1}"
    done = mlcli("train", "second.yaml", tune, "train.tensorboard.pictures=false")
    assert done.code == ExitCode.OK, done.err
    assert "classes taken over by name: bee (1 of 2)" in " ".join(done.out.split())
    first, second = (
        load_checkpoint(next(Path("runs", name).glob("*/checkpoints/best.ckpt")))["model"]
        for name in ("first", "second")
    )
    weights = "head.what.0.1.weight"  # of bee in the second place, of ant and wasp in the first and the last
    assert torch.allclose(second[weights][0], first[weights][1], atol=1e-4)
    assert not torch.allclose(second[weights][1], first[weights][0], atol=1e-4)
