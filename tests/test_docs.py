"""docs/config.md is what the schema says today, and a person finds every key in it."""

import re
from pathlib import Path

import pytest

from mlcli import experiment
from mlcli.commands import init
from mlcli.experiment import TASKS, Experiment, config_type
from mlcli.schema.reference import _slug
from mlcli.schema.words import walk

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
RENEW = "docs/config.md is out of date; renew it with: mlcli schema --markdown > docs/config.md"


def test_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == experiment.reference(), RENEW


def test_command_prints_the_page_and_the_schema(capsys):
    init.run_schema(markdown=True)
    assert capsys.readouterr().out == experiment.reference()
    init.run_schema()
    assert capsys.readouterr().out.startswith('{\n  "$schema": "https://json-schema.org/')


def test_every_key_has_a_row():
    page = experiment.reference()
    keys = {key for task in TASKS for path, section in walk(config_type(task)) if path for key in section.model_fields}
    assert len(keys) > 80
    assert sorted(key for key in keys - {"name"} if f"\n| `{key}` |" not in page) == []


def test_every_link_leads_to_a_heading():
    page = experiment.reference()
    headings = [
        _slug(line.lstrip("# "))
        for line in re.sub("```.*?```", "", page, flags=re.DOTALL).split("\n")
        if line[:1] == "#"
    ]
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 50
    assert set(links) <= set(headings)
    assert len(headings) == len(set(headings))


def test_example_on_the_page_loads(tmp_path):
    example = re.search("```yaml\n(.*?)```", experiment.reference(), re.DOTALL)
    assert example is not None
    (tmp_path / "x.yaml").write_text(example[1])
    Experiment.load(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    "variant", ["loss: smooth_l1 (classification)", "loss: smooth_l1 (regression)", "model.blocks: conv"]
)
def test_things_of_one_name_have_their_own_headings(variant):
    assert f"\n### {variant}\n" in experiment.reference()


@pytest.mark.parametrize("page", ["docs/reliability.md", "SECURITY.md"])
def test_every_test_that_a_promise_names_exists(page):
    root = PAGE.parents[1]
    named = re.findall(r"`((?:[\w]+/)*test_\w+\.py)`", (root / page).read_text(encoding="utf-8"))
    assert len(named) >= 5
    places = (root, root / "tests", root / "tests" / "reliability")
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
