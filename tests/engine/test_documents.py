"""The JSON files of a run folder: what mlcli writes is read back equal, anything else is refused in words."""

import json
from pathlib import Path

import pytest

from mlcli.engine.documents import (
    Entry,
    Environment,
    EvaluationFile,
    LayerLook,
    Saved,
    Status,
    Summary,
    read_document,
    read_entries,
    refuse_unlike,
)
from mlcli.errors import CheckpointError

OLD = sorted((Path(__file__).parents[1] / "fixtures/v0.1.0").iterdir())


@pytest.mark.parametrize("run", OLD, ids=lambda run: run.name)
def test_documents_of_version_0_1_0_are_read_whole(run):
    for name, kind in (("status.json", Status), ("environment.json", Environment), ("summary.json", Summary)):
        found = json.loads(json.dumps(read_document(run / name, kind)))
        assert found == json.loads((run / name).read_text())
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert read_entries(run / "metrics.jsonl", Entry) == [json.loads(line) for line in lines]


def test_entries_of_a_later_version_are_kept(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "finished", "mood": {"good": [1, 2]}}')
    assert read_document(tmp_path / "status.json", Status) == {"state": "finished", "mood": {"good": [1, 2]}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON: recursion limit"),
        ("[]", "object"),
        ("{}", "state: Field required"),
        ('{"state": 3}', "state: Input should be a valid string"),
        ('{"state": "x", "epoch": -1}', "epoch: Input should be greater"),
        ('{"state": "x", "epoch": 1' + "0" * 400 + "}", "epoch: Input should be less"),
        ('{"state": "x", "seconds": NaN}', "seconds: Input"),
        ('{"state": "x", "times": {"data": "long"}}', "times.data: Input should be a valid number"),
        ('{"state": "x", "started": "0001-01-01T00:00:00"}', "started: the year 1"),
        ('{"state": "x", "started": "yesterday"}', "started: Invalid isoformat"),
        ('{"state": "x", "best": []}', "best: Input"),
        ('{"state": "\\ud800"}', "Invalid JSON"),
    ],
)
def test_a_status_that_nobody_could_use_is_refused(tmp_path, text, says):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(CheckpointError, match="not a run folder: status\\.json is damaged") as caught:
        read_document(tmp_path / "status.json", Status)
    assert says in caught.value.what
    assert len(str(caught.value).splitlines()) <= 5


def test_a_document_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "evaluation-test.json").mkdir()
    for name in ("evaluation-test.json", "nothing.json"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_document(tmp_path / name, EvaluationFile)


def test_lines_end_where_one_is_no_json_and_others_of_another_kind_are_left_out(tmp_path):
    path = tmp_path / "layers.jsonl"
    good = {"step": 1, "layers": [{"name": "a"}], "notes": []}
    lines = [good, {"step": -1, "layers": []}, ["no mapping"], {**good, "step": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "lay\n' + json.dumps(good))
    assert [look["step"] for look in read_entries(path, LayerLook)] == [1, 2]
    assert read_entries(tmp_path / "none.jsonl", LayerLook) == []


def test_a_checkpoint_without_its_step_or_with_an_object_is_refused(tmp_path):
    whole = {"config": {"a": [1, None]}, "facts": {"data": {}, "more": object()}, "step": 1, "epoch": 1}
    refuse_unlike(whole, Saved, "the checkpoint", tmp_path)
    for wrong in ({"step": "1"}, {"config": {"a": object()}}, {"facts": {}}, {"versions": {"mlcli": 3}}):
        with pytest.raises(CheckpointError, match="the checkpoint is not as mlcli writes it"):
            refuse_unlike({**whole, **wrong}, Saved, "the checkpoint", tmp_path)
