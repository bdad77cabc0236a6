"""An Experiment is what its YAML says, survives being written out, and its JSON schema accepts what it accepts."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from mlcli.engine.settings import Train
from mlcli.errors import CheckpointError, ConfigError, ExitCode
from mlcli.experiment import TASKS, Experiment, config_type, json_schema, section_order
from mlcli.schema import LEAST
from mlcli.schema.reference import field_docs
from mlcli.schema.words import Slot, slots, walk
from mlcli.schema.yaml12 import parse
from tests.reliability.soak import LONG

SHIPPED = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
CLASSIFICATION = "task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n"
REGRESSION = "task: regression\ndata: {name: diabetes}\nmodel: {name: linear}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "x.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return write


def test_load_keeps_what_was_given(write):
    experiment = Experiment.load(write(CLASSIFICATION, "first.try.yaml"), ["train.epochs=3"])
    assert (experiment.name, experiment.source_text) == ("first.try", CLASSIFICATION)
    assert (experiment.path, experiment.overrides) == (Path("first.try.yaml"), ("train.epochs=3",))
    assert (experiment.config.task, experiment.config.train.epochs) == ("classification", 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.config = None  # type: ignore[misc, assignment]


def test_task_chooses_the_type(write):
    assert type(Experiment.load(write(REGRESSION)).config) is config_type("regression")
    with pytest.raises(ConfigError, match="'hinge' is not one of mse, l1, smooth_l1"):
        Experiment.load(write(REGRESSION + "loss: {name: hinge}"))


def test_standard_input(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = "task: classification\ndata: {name: folder, root: pictures}\nmodel: {name: mlp}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    experiment = Experiment.load(Path("-"))
    assert (experiment.path, experiment.name) == (None, "folder-mlp")
    assert experiment.config.data.root == tmp_path / "pictures"


# --- out and in again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [CLASSIFICATION, REGRESSION], ids=["classification", "regression"])
def test_written_out_it_is_complete_and_in_order(write, text):
    experiment = Experiment.load(write(text))
    plain = json.loads(json.dumps(experiment.plain()))
    order = section_order(config_type(task) for task in TASKS)
    assert order[:7] == ["task", "data", "augment", "min_visibility", "multi_scale", "model", "loss"]
    assert list(plain) == [key for key in order if key in plain]
    assert set(plain) == set(type(experiment.config).model_fields)
    assert all(next(iter(plain[key])) == "name" for key in ("data", "model", "loss", "optimizer", "schedule"))
    assert parse(experiment.to_yaml(), None).data == plain  # type: ignore[arg-type]


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


def _some_value(slot: Slot) -> st.SearchStrategy[Any]:
    """Any value that fits, in the types a YAML has; sections are drawn like the root."""
    return st.one_of([_some_member(member) for member in slot.members])


def _some_member(slot: Slot) -> st.SearchStrategy[Any]:
    low, high = slot.limits.get("gt", slot.limits.get("ge", 0)), slot.limits.get("lt", slot.limits.get("le", 100))
    outside = {"exclude_min": "gt" in slot.limits, "exclude_max": "lt" in slot.limits}
    if slot.choices:
        return st.sampled_from(slot.choices)
    if slot.sections:
        return st.one_of([_some_section(kind, tag) for tag, kind in slot.sections.items()])
    if slot.is_list:
        return st.lists(_some_value(slot.element), min_size=2, max_size=2)
    if slot.is_mapping:
        return st.dictionaries(st.sampled_from(["train", "test"]), _some_value(slot.element))
    if slot.type is int:
        step = slot.limits.get("multiple_of", 1)
        return st.integers(int(low) // step + 1, max(int(high) // step - 1, int(low) // step + 1)).map(
            lambda n: n * step
        )
    plain = {
        bool: st.booleans(),
        float: st.floats(low, high, **outside).filter(lambda number: number == 0 or abs(number) >= LEAST),
        str: TEXT,
        Path: TEXT.filter(lambda t: t[:1] != "~"),
    }
    return plain.get(slot.type, st.none())


def _some_section(kind: type[BaseModel], tag: str) -> st.SearchStrategy[dict[str, Any]]:
    required = {key: _some_value(slot) for key, slot in slots(kind).items() if kind.model_fields[key].is_required()}
    others = {key: _some_value(slot) for key, slot in slots(kind).items() if key not in required}
    if tag:
        required["name"] = st.just(tag)
    return st.fixed_dictionaries(required, optional=others)


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=60 if LONG else 25, deadline=None)
@given(data=st.data())
def test_every_experiment_loads_back_equal(tmp_path_factory, task, data):
    plain = data.draw(_some_section(config_type(task), "")) | {"task": task}
    plain.pop("finetune", None)  # its checks across keys refuse most of what is drawn
    plain["data"].pop("rectangular", None)  # as do those of this one
    try:
        experiment = Experiment.from_plain(plain)
    except CheckpointError as error:  # keys that do not fit together
        assume("must be" in error.where)
        raise
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(experiment.to_yaml(), encoding="utf-8", newline="")
    assert Experiment.load(path).config == experiment.config
    assert Experiment.from_plain(experiment.plain()).config == experiment.config


BROKEN_PLAIN: dict[str, Any] = {
    "no mapping": [1],
    "nothing": None,
    "no task": {},
    "unknown task": {"task": "segmentation"},
    "unknown key": {"task": "classification", "data": {"name": "digits"}, "model": {"name": "mlp"}, "new": 1},
    "no plain data": {"task": "classification", "data": object()},
    "bytes as keys": {b"task": "classification"},
}


@pytest.mark.parametrize("plain", BROKEN_PLAIN.values(), ids=list(BROKEN_PLAIN))
def test_broken_config_in_a_checkpoint_is_refused(plain):
    with pytest.raises(CheckpointError) as caught:
        Experiment.from_plain(plain)
    assert caught.value.code == ExitCode.CHECKPOINT


# --- the schema for editors ------------------------------------------------------------------------------------------

ACCEPTED = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "blocks": CLASSIFICATION.replace("mlp", "cnn, blocks: [{name: conv, channels: 3}, {name: flatten}]"),
    "unions": CLASSIFICATION + "loader: {workers: auto}\ntrain: {channels_last: false, ema: null}",
    "weights": CLASSIFICATION + "loss: {name: hinge, class_weights: [1, 2]}",
    "pairs": CLASSIFICATION + "augment: [{name: affine, scale: [0.5, 2]}]",
}
REFUSED = {
    "unknown key": CLASSIFICATION + "trian: {}",
    "unknown inner key": CLASSIFICATION + "train: {epocs: 1}",
    "wrong variant": CLASSIFICATION + "optimizer: {name: adamW}",
    "key of another variant": CLASSIFICATION + "optimizer: {name: adam, nesterov: true}",
    "out of range": CLASSIFICATION + "train: {epochs: 0}",
    "text for a number": CLASSIFICATION + "train: {epochs: many}",
    "missing section": "task: classification\ndata: {name: digits}",
    "missing task": CLASSIFICATION.split("\n", 1)[1],
    "unknown task": CLASSIFICATION.replace("classification", "segmentation"),
    "loss of another task": REGRESSION + "loss: {name: hinge}",
    "missing key": CLASSIFICATION.replace("{name: mlp}", "{name: cnn, blocks: [{name: conv}]}"),
}


@pytest.fixture(scope="module")
def validator():
    return pytest.importorskip("jsonschema").Draft202012Validator(json_schema())


def _agree(validator, path: Path, accepted: bool) -> None:
    text = path.read_text()
    assert validator.is_valid(parse(text, None).data) == accepted  # type: ignore[arg-type]
    if accepted:
        Experiment.load(path)
    else:
        with pytest.raises(ConfigError):
            Experiment.load(path)


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=list(ACCEPTED))
def test_schema_accepts_what_is_right(validator, write, text):
    _agree(validator, write(text), True)


@pytest.mark.parametrize("text", REFUSED.values(), ids=list(REFUSED))
def test_schema_refuses_what_is_wrong(validator, write, text):
    _agree(validator, write(text), False)


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_schema_accepts_every_shipped_config(validator, path):
    _agree(validator, path, True)


def test_schema_is_a_schema_and_chooses_by_task(validator):
    schema = json_schema()
    validator.check_schema(schema)
    assert set(schema["discriminator"]["mapping"]) == set(TASKS)
    assert json.loads(json.dumps(schema)) == schema


def test_every_key_is_explained():
    """In the schema and in docs/config.md; a section's own docstring will do for a key that holds one."""
    checked, silent = 0, []
    for task in TASKS:
        for path, section in walk(config_type(task)):
            for key, slot in slots(section).items():
                by_section = [kind.__doc__ for value in slot.values for kind in value.sections.values()]
                explained = key in field_docs(section) or any(by_section)
                silent += [] if explained or key in ("name", "task") else [".".join((*path, key))]
                checked += 1
    assert checked > 200
    assert not silent


def test_docs_reach_the_schema():
    epochs = json_schema()["$defs"]["Train"]["properties"]["epochs"]
    assert epochs["description"] == field_docs(Train)["epochs"] == "Passes over the training split."


def test_a_section_with_a_default_may_leave_its_name_out(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("task: classification\ndata: {name: xor}\nmodel: {name: linear}\noptimizer: {momentum: 0.5}\n")
    config = Experiment.load(path, ["optimizer.lr=0.25", "schedule.final=0.5", "loss.label_smoothing=0.1"]).config
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("sgd", 0.25, 0.5)
    assert (config.schedule.name, config.schedule.final) == ("cosine", 0.5)
    assert config.loss.label_smoothing == 0.1


def test_paths_of_a_run_start_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/resolved.yaml").write_text(
        "task: classification\ndata: {name: folder, root: /data}\nmodel: {name: linear}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert Experiment.of_run(tmp_path / "run", ["data.root=moved"]).config.data.root == tmp_path / "moved"
