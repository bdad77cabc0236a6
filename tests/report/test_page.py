"""The page as text: what is on it, that nothing of a stranger's is taken for markup, and that damage is survived."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mlcli.report.page import sections
from mlcli.report.page.sections import SECTIONS, curves, highlighted, layers
from mlcli.report.page.write import write_report
from mlcli.report.record import Record
from tests.report import crafted

EVIL = "<script>alert('x')</script>\"'&amp;"


class Reader(HTMLParser):
    """Sections, elements and visible text of a page; open elements must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids, self.tags, self.words, self.open = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.ids.append(dict(attrs)["id"])
        if tag not in ("img", "meta", "link", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(run) -> Reader:
    return Reader(write_report(run).read_text())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    run = crafted.classifier(tmp_path_factory.mktemp("runs"), ["cat", EVIL, "dog"])
    noise = np.random.default_rng(0).integers(0, 255, (300, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(run.path / "pictures" / "val-mistakes.png")
    Image.fromarray(noise).save(run.path / "pictures" / "test-boxes.png")
    return read(run)


def test_every_section_a_classification_has(full):
    names = [name for name, _ in SECTIONS if name not in ("residuals", "errors", "importance")]
    assert full.ids == names
    links = [attrs["href"] for tag, attrs in full.tags if tag == "a"]
    assert links == [f"#{name}" for name in names]
    shown = [
        "79.0",
        "95 % sampling interval",
        "random forest",
        "on 4,000 of 50,000 rows",
        "taken for",
        "vanishing gradients",
    ]
    assert re.sub(r"\s+", " ", f"The files, in this order photos/7.jpg: {EVIL}, is cat") in full.text
    for words in (*shown, "made by hand", "29% forward", "mlcli train made.yaml", "4,810"):
        assert words in full.text, words


def test_the_score_of_training_samples_stands_beside_that_of_validation(tmp_path):
    """As a curve where it was measured on the way; else as one point, of the best model at the end."""

    def notes_of(folder: str, measured: list[dict]) -> tuple[int, int]:
        scores = {"train": {"accuracy": 0.9}, "val": {"accuracy": 0.5}}
        status = crafted.status("accuracy", "max", scores)
        entries = crafted.metrics("accuracy", [0.3, 0.4, 0.5]) + measured
        page = str(curves(Record.read(crafted.craft(tmp_path, folder, status=status, metrics=entries))))
        return page.count("some of the samples learned from"), page.count("measured at the end")

    measured = [{"split": "train_measured", "step": 10 * e, "epoch": e, "accuracy": 0.3 * e} for e in (1, 2, 3)]
    assert notes_of("on the way", measured) == (1, 0)
    assert notes_of("at the end", []) == (0, 1)


def test_metrics_that_are_left_out_are_counted(tmp_path):
    def lede(folder: str, count: int) -> str:
        status = crafted.status("m0", "max", {"val": {f"m{n}": 0.5 for n in range(count)}})
        return sections.scores(Record.read(crafted.craft(tmp_path, folder, status=status)))["lede"]

    assert lede("few", 12) == "Of the best model, by split."
    assert lede("many", 25).endswith("13 more are in status.json.")


def test_updates_are_not_judged_by_the_last_step_of_a_schedule(tmp_path):
    looks = crafted.layers(["net.only"], looks=5)
    for look, ratio in zip(looks, (2e-3, 2e-3, 1e-3, 1e-4, 0.0), strict=True):
        look["layers"][0]["update_ratio"] = ratio
    values = layers(Record.read(crafted.craft(tmp_path, layers=looks)))
    assert values["rows"][0][4] == "0.001"


def test_names_stay_names(full):
    assert EVIL in full.text
    assert [tag for tag, _ in full.tags].count("script") == 1
    assert all("onerror" not in attrs for _, attrs in full.tags)


def test_nothing_is_loaded(full):
    for tag, attrs in full.tags:
        for key in ("src", "href"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    policy = next(a["content"] for t, a in full.tags if t == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy
    pictures = [attrs["src"] for tag, attrs in full.tags if tag == "img"]
    assert [source.partition(";")[0] for source in pictures] == ["data:image/webp", "data:image/png", "data:image/png"]
    assert [attrs["alt"] for tag, attrs in full.tags if tag == "img"] == [
        "Boxes, test",
        "Mistakes, test",
        "Filters, test",
    ]


def test_detection_and_regression(tmp_path):
    boxes, numbers = read(crafted.detector(tmp_path)), read(crafted.regressor(tmp_path))
    assert {"confusion", "errors", "classes", "quality"} <= set(boxes.ids)
    assert "baselines" not in boxes.ids
    for words in ("where nothing is", "missed", "+0.100", "Precision and recall", "best 0.41"):
        assert words in boxes.text, words
    assert "residuals" in numbers.ids
    assert "true progression" in numbers.text
    dots = next(a["d"] for t, a in numbers.tags if t == "path" and a.get("class") == "dots main")
    assert dots.count("M") == 200


def test_a_run_that_left_nothing(tmp_path):
    page = read(crafted.craft(tmp_path, status={"state": "running"}))
    assert page.ids == ["next"]
    assert "killed" in page.text
    assert "mlcli train --resume made/20260102-030405-abcd" in page.text


def test_runs_that_did_not_finish(tmp_path):
    few = crafted.metrics("accuracy", [0.3, 0.4])
    best = {"metric": "accuracy", "split": "val", "direction": "max", "value": 0.4, "epoch": 2, "step": 20}
    stopped = read(crafted.craft(tmp_path, "a", status={"state": "interrupted", "best": best}, metrics=few))
    assert "interrupted" in stopped.text
    assert "40.0 %" in stopped.text
    assert "curves" in stopped.ids
    error = "the loss is no longer finite: loss = nan"
    gone = read(crafted.craft(tmp_path, "b", status={"state": "diverged", "error": error}, metrics=few[:2]))
    assert error in gone.text
    assert "Diverged" in gone.text


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', "5", '{"a": 1}', '{"classes": 3, "pr_curves": [1]}'])
def test_damaged_files_are_survived(tmp_path, content):
    run = crafted.classifier(tmp_path, ["cat", "dog"])
    whole = set(read(run).ids)
    for name in ("evaluation-test.json", "baselines.json", "summary.json", "environment.json", "resolved.yaml",
                 "layers.jsonl", "metrics.jsonl", "status.json", "pictures/test-mistakes.png"):  # fmt: skip
        kept = (run.path / name).read_bytes()
        (run.path / name).write_text(content)
        page = read(run)
        assert {"next"} <= set(page.ids) <= whole | {"residuals"}, name
        (run.path / name).write_bytes(kept)


def test_values_of_another_kind_cost_their_section_only(tmp_path):
    run = crafted.classifier(tmp_path, ["cat", "dog"], evaluation_test={**crafted.confused(["cat", "dog"]),
                             "calibration": [{"samples": "many"}]})  # fmt: skip
    page = read(run)
    assert "This part could not be drawn" in page.text
    assert "confusion" in page.ids


def test_written_atomically_over_the_old_one(tmp_path):
    run = crafted.craft(tmp_path)
    (run.path / "report.html").write_text("old")
    assert write_report(run) == run.path / "report.html"
    assert (run.path / "report.html").read_text().startswith("<!doctype html>")
    assert not list(run.path.glob(".*tmp"))


def test_lines_of_a_config_that_nobody_reads_are_not_searched(monkeypatch):
    searched = []
    pattern = SimpleNamespace(finditer=lambda line: searched.append(len(line)) or ())
    monkeypatch.setattr(sections, "YAML_PARTS", pattern)
    long = "name: " + "a" * 10**6
    assert "".join(Reader(str(highlighted(f"a: 1\n{long}"))).words) == f"a: 1\n{long}"
    assert sum(searched) == len("a: 1")


def test_yaml_keeps_every_character():
    source = 'a: {b: 1e-3, c: "<x>: y", d: true} # <note>\npath: /data/2024-01 # x\nname: step10\n- list: [1, null]\n'
    parts = Reader(str(highlighted(source)))
    assert "".join(parts.words) == source.rstrip("\n")
    marked = re.findall(r'<span class="(\w+)">(.*?)</span>', highlighted(source))
    assert ("key", "b") in marked
    assert ("value", "1e-3") in marked
    assert ("string", "&#34;&lt;x&gt;: y&#34;") in marked
    assert ("comment", "# &lt;note&gt;") in marked
    assert ("value", "10") not in marked
