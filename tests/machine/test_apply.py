"""Advice in a YAML: the values change and nothing else."""

import stat

import pytest

from mlcli.errors import ConfigError, ExitCode, OutputError
from mlcli.schema.edit import apply, edit, refuse_to_apply
from mlcli.schema.places import Origin
from mlcli.schema.yaml12 import parse

HEAD = "# what this is\ntask: classification   # kept\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("loader: {workers: auto}  # c\n", "loader: {workers: 4}  # c\n", id="plain"),
        pytest.param("loader: {workers: 'auto', cache: none}\n", "loader: {workers: 4, cache: none}\n", id="quoted"),
        pytest.param('loader: {workers: "auto"}\n', "loader: {workers: 4}\n", id="double quotes"),
        pytest.param("loader: {workers: 12}\n", "loader: {workers: 4}\n", id="a number"),
        pytest.param("loader: { cache: none }\n", "loader: {workers: 4,  cache: none }\n", id="new in a flow mapping"),
        pytest.param("loader: {}\n", "loader: {workers: 4}\n", id="empty mapping"),
        pytest.param(
            "loader:\n  workers: 8 # c\n  cache: none\n", "loader:\n  workers: 4 # c\n  cache: none\n", id="block"
        ),
        pytest.param(
            "loader:\n  # c\n    cache: none\n",
            "loader:\n  # c\n    workers: 4\n    cache: none\n",
            id="new in a block",
        ),
        pytest.param("train: {epochs: 3}\n", "train: {epochs: 3}\nloader: {workers: 4}\n", id="new section"),
        pytest.param("train: {epochs: 3}", "train: {epochs: 3}\nloader: {workers: 4}\n", id="no newline at the end"),
        pytest.param(
            "train: {epochs: 3}\n# end\n", "train: {epochs: 3}\n# end\nloader: {workers: 4}\n", id="comment last"
        ),
        pytest.param("loader:\r\n  cache: none\r\n", "loader:\r\n  workers: 4\r\n  cache: none\r\n", id="Windows"),
        pytest.param("loader: {a: 'žluť', workers: 1}\n", "loader: {a: 'žluť', workers: 4}\n", id="not ASCII"),
        pytest.param(
            "loader: {\n  # c\n  workers:\n    2\n}\n",
            "loader: {\n  # c\n  workers:\n    4\n}\n",
            id="value on its own line",
        ),
    ],
)
def test_only_the_value_changes(before, after):
    assert edit(HEAD + before, "loader", {"workers": 4}) == HEAD + after


def test_a_configuration_in_braces():
    assert edit("{task: x}\n", "loader", {"workers": 4}) == "{loader: {workers: 4}, task: x}\n"


def test_several_keys():
    text = edit(HEAD + "loader:\n  prefetch: 2\n", "loader", {"workers": 4, "cache": "ram"})
    assert parse(text, Origin("t", ())).data["loader"] == {"workers": 4, "cache": "ram", "prefetch": 2}
    assert text.startswith(HEAD)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("task: x\n...\n", id="an end mark"),
        pytest.param("task: x\nloader:\n", id="an empty section"),
        pytest.param("loader: {workers: 'au''to'}\n", id="quotes in quotes"),
    ],
)
def test_what_cannot_be_changed_safely_is_left_to_the_person(text):
    with pytest.raises(ConfigError) as error:
        edit(text, "loader", {"workers": 4})
    assert "write by hand: loader: {workers: 4}" in error.value.fix


def test_the_file_keeps_its_mode_its_mark_and_its_link(tmp_path):
    target, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    target.write_bytes(b"\xef\xbb\xbftask: x # \xc3\xbc\n")
    target.chmod(0o640)
    link.symlink_to(target)
    apply(link, "loader", {"workers": 4})
    assert target.read_bytes() == b"\xef\xbb\xbftask: x # \xc3\xbc\nloader: {workers: 4}\n"
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["link.yaml", "real.yaml"]


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="standard input"):
        refuse_to_apply(type(tmp_path)("-"))
    (tmp_path / "status.json").write_text("{}")
    with pytest.raises(ConfigError, match="belongs to a run"):
        refuse_to_apply(tmp_path / "resolved.yaml")


def test_a_file_that_cannot_be_written(tmp_path):
    import resource

    path = tmp_path / "x.yaml"
    path.write_text("task: x\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, hard))  # what a full disk does, without filling one
    try:
        with pytest.raises(OutputError) as error:
            apply(path, "loader", {"workers": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.code == ExitCode.OUTPUT
    assert path.read_text() == "task: x\n"
