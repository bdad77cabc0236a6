"""What TensorBoard finds in a run, read back from the event files by TensorBoard's own readers."""

import errno
import io
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_score, recall_score
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util import tensor_util
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from mlcli.engine import log
from mlcli.engine.board import LAYER_CHARTS, Board
from mlcli.engine.layer_stats import Activation, LayerMeasurement, LayerStats

KINDS = ("scalars", "histograms", "images", "tensors")


class Session:
    """A writer of one process of a run, and the board on it; the first, too, says that a session starts."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.folder = folder
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
        self.board = Board(self.writer, resumed=step > 0)

    def read(self) -> EventAccumulator:
        self.writer.close()
        return read(self.folder)


def read(folder: Path) -> EventAccumulator:
    everything = dict.fromkeys((*KINDS, "compressedHistograms", "audio"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def some_stats(step: int) -> LayerStats:
    layers = [
        LayerMeasurement(
            name=name,
            size=64,
            is_matrix=True,
            gradient_norm=0.5 * step,
            update_ratio=1e-3,
            weight_l1=9.0,
            weight_l2=3.0,
            weight_max=1.5,
            weight_histogram=([1.0, 5.0, 2.0], [-1.5, -0.5, 0.5, 1.5]),
            gradient_histogram=([8.0], [0.0, 1e-12]),
            activation=Activation(0.1, 1.0, 0.0) if name == "net.hidden1" else None,
        )
        for name in ("net.hidden1", "net.output")
    ]
    notes = ["vanishing gradients: net.hidden1", "dead activations: net.activation1"] if step == 20 else []
    return LayerStats(step, layers, {"net.activation1": Activation(0.4, 0.6, 0.5)}, notes)


def details(step: int) -> dict:
    p = np.random.default_rng(step).random(50).round(2)
    truth = np.random.default_rng(7).random(50) < p
    thresholds = [t / 10 for t in range(11)]
    answers = [p >= t for t in thresholds]
    curve = {"threshold": thresholds}
    curve |= {"precision": [precision_score(truth, a, zero_division=1) for a in answers]}
    curve |= {"recall": [recall_score(truth, a) for a in answers]}
    curve |= {"tp": [int((a & truth).sum()) for a in answers], "fp": [int((a & ~truth).sum()) for a in answers]}
    curve |= {"tn": [int((~a & ~truth).sum()) for a in answers], "fn": [int((~a & truth).sum()) for a in answers]}
    return {"pr_curves": {f"class {c}": curve for c in range(22)}}


def test_layers_are_read_back_as_they_were(tmp_path):
    session = Session(tmp_path)
    session.board.layers(some_stats(10))
    session.board.layers(some_stats(20))
    found = session.read()
    points = found.Scalars("layer_gradient_norm/net.hidden1")
    assert [(point.step, point.value) for point in points] == [(10, 5.0), (20, 10.0)]
    assert found.Scalars("layer_activation_zeros/net.activation1")[0].value == 0.5
    assert "layer_activation_mean/net.output" not in found.Tags()["scalars"]
    histogram = found.Histograms("weights/net.output")[1]
    assert histogram.step == 20
    assert histogram.histogram_value.bucket == [1, 5, 2]
    assert histogram.histogram_value.bucket_limit == [-0.5, 0.5, 1.5]
    assert (histogram.histogram_value.min, histogram.histogram_value.num) == (-1.5, 8)
    assert histogram.histogram_value.sum == 1.0  # -1 once, 0 five times, 1 twice
    assert len(found.Histograms("gradients/net.hidden1")) == 2
    notes = found.Tensors("notes/text_summary")
    assert [event.step for event in notes] == [20]
    assert b"* vanishing gradients: net.hidden1\n* dead" in notes[0].tensor_proto.string_val[0]


def test_the_layout_puts_layers_side_by_side_and_names_tags_that_exist(tmp_path):
    session = Session(tmp_path)
    session.board.opening("train:\n  epochs: 3\n")
    session.board.layers(some_stats(1))
    found = session.read()
    layout = layout_pb2.Layout.FromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {category.title: {c.title: list(c.multiline.tag) for c in category.chart} for category in layout.category}
    assert list(charts) == ["layers"]
    tags = found.Tags()["scalars"]
    assert charts["layers"].keys() == LAYER_CHARTS.keys()
    for patterns in charts["layers"].values():
        assert [tag for tag in tags if re.match(patterns[0], tag)], patterns
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    train:\n      epochs: 3"


def test_pictures_come_back_pixel_by_pixel(tmp_path):
    session = Session(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    session.board.pictures("val", {"feature maps": Image.fromarray(pixels), "grey": Image.new("L", (5, 4), 7)}, 3)
    found = session.read()
    assert sorted(found.Tags()["images"]) == ["feature_maps/val", "grey/val"]
    event = found.Images("feature_maps/val")[0]
    assert (event.step, event.width, event.height) == (3, 30, 20)
    assert (np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) == pixels).all()


def test_curves_are_the_numbers_given_for_at_most_20_classes(tmp_path):
    session, given = Session(tmp_path), details(1)
    session.board.evaluation("val", given, 5)
    session.board.evaluation("val", {"residuals": {}}, 5)
    found = session.read()
    assert len([tag for tag in found.Tags()["tensors"] if tag.startswith("pr_curve_val/")]) == 20
    event = found.Tensors("pr_curve_val/class_3")[0]
    rows = tensor_util.make_ndarray(event.tensor_proto)
    curve = given["pr_curves"]["class 3"]
    expected = [curve[key] for key in ("tp", "fp", "tn", "fn", "precision", "recall")]
    np.testing.assert_allclose(rows, np.array(expected), rtol=1e-6)


# --- graph -----------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return inputs


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), Counting(), nn.ReLU(), nn.Linear(3, 2))


def test_the_graph_shows_the_layers_and_leaves_the_model_as_it_was(tmp_path, capfd):
    session, model = Session(tmp_path), small().train()
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert session.board.graph(model, torch.randn(5, 4, generator=torch.Generator())) == ""
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    graph = GraphDef.FromString(session.read()._graph)
    assert any("Linear" in node.name for node in graph.node)
    assert capfd.readouterr().out == ""


class OnlyWithTargets(nn.Module):
    def forward(self, images, targets):
        return images.sum() + targets.sum()


def test_a_model_that_cannot_be_traced_gives_a_note(tmp_path, capfd):
    session = Session(tmp_path)
    note = session.board.graph(OnlyWithTargets(), torch.zeros(2, 3))
    assert note.startswith("the model's graph cannot be drawn: ")
    assert "targets" in note
    assert not session.read().Tags()["graph"]
    assert capfd.readouterr().out == ""


# --- runs compared ---------------------------------------------------------------------------------------------------


def hparams_tab(root: Path) -> tuple[api_pb2.Experiment, list[api_pb2.SessionGroup]]:
    """What the HPARAMS tab asks its backend for."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(root))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    ctx = RequestContext()
    metadata, listed = context.hparams_metadata(ctx, "e"), context.hparams_from_data_provider(ctx, "e", 0)
    experiment = context.experiment_from_metadata(ctx, "e", True, metadata, listed)
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=10, include_metrics=True
    )
    groups = list_session_groups.Handler(ctx, context, "e", request).run()
    return experiment, list(groups.session_groups)


def test_the_hparams_tab_compares_runs_by_settings_and_final_scores(tmp_path):
    for name, lr, accuracy in (("a", 0.1, 0.9), ("b", 0.01, 0.8)):
        session = Session(tmp_path / name / "train")
        config = {"optimizer.lr": lr, "model.name": "mlp", "model.hidden": [128, 64], "optimizer.nesterov": True}
        config |= {"train.epochs": 3, "train.ema": None, "augment": [{"name": "cutout", "size": 3}, {"name": "mixup"}]}
        session.board.hparams(config, {"loss/train": 0.0, "accuracy/val": accuracy, "loss/val": 1 - accuracy}, step=30)
        found = session.read()
        assert [(p.step, p.value) for p in found.Scalars("final/accuracy/val")] == [(30, pytest.approx(accuracy))]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_dir()) == ["a", "b", "train", "train"]
    experiment, groups = hparams_tab(tmp_path)
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert kinds == {
        "optimizer.lr": api_pb2.DATA_TYPE_FLOAT64,
        "model.name": api_pb2.DATA_TYPE_STRING,
        "model.hidden": api_pb2.DATA_TYPE_STRING,
        "optimizer.nesterov": api_pb2.DATA_TYPE_BOOL,
        "train.epochs": api_pb2.DATA_TYPE_FLOAT64,
        "augment": api_pb2.DATA_TYPE_STRING,
    }
    shown_first = [info.name for info in experiment.hparam_infos][:3]
    assert shown_first == ["model.name", "optimizer.lr", "train.epochs"]
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == ["final/accuracy/val", "final/loss/val", "final/loss/train"]
    rows = {group.name: group for group in groups}
    assert rows["a/train"].hparams["optimizer.lr"].number_value == 0.1
    assert rows["b/train"].hparams["optimizer.lr"].number_value == 0.01
    assert rows["a/train"].hparams["model.hidden"].string_value == "128, 64"
    assert rows["a/train"].hparams["augment"].string_value == "cutout, mixup"
    assert rows["a/train"].hparams["optimizer.nesterov"].bool_value is True
    scores = {value.name.tag: value.value for value in rows["b/train"].metric_values}
    assert [scores[tag] for tag in metrics] == pytest.approx([0.8, 0.2, 0.0])
    assert rows["b/train"].sessions[0].status == api_pb2.STATUS_SUCCESS


# --- projector -------------------------------------------------------------------------------------------------------


def test_points_for_the_projector_come_with_labels_and_pictures(tmp_path, capfd):
    from google.protobuf import text_format

    session = Session(tmp_path)
    features, sprites = torch.randn(5, 3), torch.full((5, 3, 8, 8), 200, dtype=torch.uint8)
    for _ in range(2):  # once more, as after a resume
        session.board.embeddings("val", features, list("abcab"), sprites, 12)
    config = ProjectorConfig()
    text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), config)
    entry = config.embeddings[0]
    rows = np.loadtxt(tmp_path / entry.tensor_path)
    np.testing.assert_allclose(rows, features, rtol=1e-6)
    assert (tmp_path / entry.metadata_path).read_text().split() == list("abcab")
    sprite = Image.open(tmp_path / entry.sprite.image_path)
    assert (np.asarray(sprite)[:8, :8] == 200).all()
    assert list(entry.sprite.single_image_dim) == [8, 8]
    assert capfd.readouterr().out == ""


# --- resuming --------------------------------------------------------------------------------------------------------


def written(folder: Path, first: int, last: int, resumed_at: int = 0) -> None:
    session = Session(folder, resumed_at)
    session.board.opening("epochs: 3")
    session.board.graph(small(), torch.zeros(2, 4))
    for step in range(first, last + 1):
        session.board.layers(some_stats(step))
        session.board.evaluation("val", details(step), step)
        session.board.pictures("val", {"mistakes": Image.new("RGB", (8, 6), (step, resumed_at, 0))}, step)
    session.board.hparams({"lr": 0.1}, {"accuracy/val": last / 10}, last)
    session.writer.close()


def as_served(folder: Path) -> PluginAccumulator:
    """As TensorBoard's server reads a run: every summary is a tensor there."""
    return PluginAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def points(found: PluginAccumulator) -> dict[str, list[int]]:
    """Steps by tag, of every kind of summary."""
    return {tag: [event.step for event in found.Tensors(tag)] for tag in found.Tags()["tensors"]}


def test_a_resumed_run_has_every_tag_and_step_once(tmp_path):
    written(tmp_path / "killed", 1, 6)
    (events,) = (tmp_path / "killed").iterdir()
    _, _, _, second, *rest = events.name.split(".")  # files are read in the order of their seconds
    events.rename(events.with_name(".".join(["events", "out", "tfevents", f"{int(second) - 60}", *rest])))
    written(tmp_path / "killed", 4, 8, resumed_at=3)  # died after step 6, its checkpoint was of step 3
    written(tmp_path / "whole", 1, 8)
    killed, whole = as_served(tmp_path / "killed"), as_served(tmp_path / "whole")
    assert points(killed) == points(whole)
    assert all(len(set(steps)) == len(steps) for steps in points(killed).values())
    assert points(killed)["pr_curve_val/class_3"] == points(killed)["weights/net.output"] == list(range(1, 9))
    pictures = [tensor_util.make_ndarray(event.tensor_proto)[2] for event in killed.Tensors("mistakes/val")]
    colours = [Image.open(io.BytesIO(picture)).getpixel((0, 0)) for picture in pictures]
    assert colours == [(1, 0, 0), (2, 0, 0), (3, 0, 0), *((step, 3, 0) for step in range(4, 9))]


@pytest.mark.parametrize(("module", "error", "shown"), [
    ("tensorboard.summary.writer.event_file_writer", OSError(errno.ELOOP, "loop"), False),
    ("tensorboard.summary.writer.event_file_writer", KeyError("x"), True),
    ("threading", OSError(errno.ELOOP, "loop"), True),
])  # fmt: skip
def test_a_file_error_in_the_writers_thread_is_left_to_its_next_call(capsys, module, error, shown):
    thread = type("Thread", (threading.Thread,), {"__module__": module})()
    log._unless_said_anyway(threading.ExceptHookArgs([type(error), error, None, thread]))
    assert bool(capsys.readouterr().err) is shown
