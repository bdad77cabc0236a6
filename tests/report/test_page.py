"""The page as text: what is on it, that nothing of a stranger's is taken for markup, and that damage is survived."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from mlcli.report.page.markup import el, text
from mlcli.report.page.plot import Line, apart, axis, line_chart, log_axis, nice, sparkline, thinned
from mlcli.report.page.setup import highlighted
from mlcli.report.page.write import SECTIONS, write_report
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
    names = [name for name, _ in SECTIONS if name not in ("residuals", "errors")]
    assert full.ids == names
    links = [attrs["href"] for tag, attrs in full.tags if tag == "a"]
    assert links == [f"#{name}" for name in names]
    shown = [
        "79.0",
        "by the luck of the draw",
        "random forest",
        "on 4,000 of 50,000 rows",
        "taken for",
        "vanishing gradients",
    ]
    for words in (*shown, "made by hand", "29% forward", "mlcli train made.yaml", "4,810"):
        assert words in full.text, words


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
    for words in ("where nothing is", "missed", "+0.100", "Precision over recall", "best 0.41"):
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


def test_markup_escapes_by_default():
    made = el("p", EVIL, el("b", 3), None, class_="x", data_title=EVIL, hidden=True, title=None)
    assert str(made) == (
        '<p class="x" data-title="&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&#x27;&amp;amp;" hidden>'
        "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&quot;&#x27;&amp;amp;<b>3</b></p>"
    )
    assert text(made) is made


def test_yaml_keeps_every_character():
    source = 'a: {b: 1e-3, c: "<x>: y", d: true} # <note>\npath: /data/2024-01 # x\nname: step10\n- list: [1, null]\n'
    parts = Reader(str(highlighted(source)))
    assert "".join(parts.words) == source.rstrip("\n")
    marked = re.findall(r'<span class="(\w+)">(.*?)</span>', highlighted(source))
    assert ("key", "b") in marked
    assert ("value", "1e-3") in marked
    assert ("string", "&quot;&lt;x&gt;: y&quot;") in marked
    assert ("comment", "# &lt;note&gt;") in marked
    assert ("value", "10") not in marked


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0.13, 0.97], (0.0, 0.25, 0.5, 0.75, 1.0)), ([3, 3], (1.0, 2.0, 3.0, 4.0, 5.0)), ([-1e-5, 2e-5], None)],
    ids=["shares", "one value", "tiny"],
)
def test_ticks_are_round_and_hold_the_values(values, ticks):
    found = axis(values)
    assert found.low <= min(values) <= max(values) <= found.high
    assert found.high > found.low
    assert ticks is None or found.ticks == ticks
    assert all(-1e-9 <= found.share(value) <= 1 + 1e-9 for value in values)


def test_a_wide_span_gets_powers_of_ten():
    assert log_axis([2.0, 0.0016]).ticks == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert log_axis([2.0, 0.5]) is None
    assert log_axis([2.0, 0.0]) is None
    assert log_axis([1, 0.01]).share(0.1) == pytest.approx(0.5)
    assert nice(0.3) == 0.5


def test_labels_keep_apart_and_inside():
    places = apart([0.5, 0.49, 0.02, 0.01], 0.1)
    assert all(a - b >= 0.1 - 1e-9 for a, b in pairwise(places))
    assert min(places) >= -1e-9
    assert apart([0.9, 0.1], 0.1) == [0.9, 0.1]
    assert apart([1.0, 0.0, 0.0], 0.1) == [1.0, 0.1, 0.0]


def test_long_lines_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    short = thinned(points)
    assert len(short) <= 400
    assert {y for _, y in short[:-1]} <= {0.48, 0.5, 0.52}
    assert short[-1][0] == 9999
    chart = line_chart("many", [Line("a", points)], x_name="epoch")
    data = re.search(r'data-lines="(.*?)"', chart).group(1).replace("&quot;", '"')
    assert len(json.loads(data)[0]["x"]) == len(short)


def test_sparklines_of_nothing_and_of_zeros():
    assert "svg" not in sparkline([], "x")
    assert "svg" not in sparkline([0.0, 0.0], "x", log=True)
    assert "nan" not in sparkline([0.0, 1e-3], "x", log=True)
