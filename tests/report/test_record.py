"""A run folder as it is found: whole, in parts, and damaged."""

from mlcli.report.record import Record
from tests.report import crafted


def test_everything_there_is(tmp_path):
    record = Record.read(crafted.classifier(tmp_path, ["cat", "dog"]))
    assert (record.task, record.metric, record.direction, record.split) == ("classification", "accuracy", "max", "test")
    assert record.scores["val"]["accuracy"] == 0.80
    assert len(record.entries) == 60
    assert record.config["model"]["hidden"] == [64]
    assert record.samples("val") == 400
    assert record.baselines.entries[1].name == "random forest"
    assert record.detail["split"] == "test"
    assert len(record.layers) == 12
    assert [path.name for path in record.pictures] == ["test-filters.png", "test-mistakes.png"]


def test_nothing_there(tmp_path):
    record = Record.read(crafted.craft(tmp_path, status={}))
    assert record.scores == record.best == record.config == record.detail == {}
    assert record.entries == record.layers == record.pictures == []
    assert record.baselines is None
    assert record.samples("val") is None
    assert record.metric == "loss"


def test_an_evaluation_made_later_counts_if_it_is_of_the_best_model(tmp_path):
    best = {"metric": "accuracy", "split": "val", "direction": "max", "value": 0.5, "epoch": 1, "step": 1}
    found = {"metrics": {"accuracy": 0.4, "caveat": "x"}, "checkpoint": "best.ckpt", "samples": 7}
    run = crafted.craft(tmp_path, status={"state": "interrupted", "best": best}, evaluation_test=found)
    assert Record.read(run).scores == {"test": {"accuracy": 0.4}}
    assert Record.read(run).samples("test") == 7
    last = {**found, "checkpoint": "step-00000009.ckpt"}
    run = crafted.craft(tmp_path, "b", status={"state": "interrupted", "best": best}, evaluation_test=last)
    assert Record.read(run).scores == {"val": {"accuracy": 0.5}}


def test_lines_that_are_none_are_left_out(tmp_path):
    run = crafted.craft(tmp_path, metrics=[5, {"split": "val"}, {"split": "val", "step": 1, "epoch": 1, "loss": 1.0}])
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "val", "st')
    assert Record.read(run).entries == [{"split": "val", "step": 1, "epoch": 1, "loss": 1.0}]
