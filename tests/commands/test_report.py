"""`mlcli report` on real runs."""

import shutil

import pytest

from mlcli.commands import runs
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError


@pytest.mark.parametrize("name", ["digits", "perceptron", "wine", "diabetes"])
def test_the_page_is_written_again_from_the_folder_alone(runs_root, tmp_path, capsys, name):
    run = open_run(name, runs_root)
    moved = tmp_path / "elsewhere" / run.path.name
    shutil.copytree(run.path, moved, ignore=shutil.ignore_patterns("*.ckpt", "*.safetensors", "tensorboard"))
    (moved / "report.html").unlink(missing_ok=True)
    runs.run_report(str(moved), tmp_path)
    assert capsys.readouterr().out == f"written: {moved / 'report.html'}\n"
    page = (moved / "report.html").read_text()
    metric = run.status()["best"]["metric"]
    value = run.status()["scores"]["test"][metric]
    assert (f"{100 * value:.1f}" if metric == "accuracy" else f"{value:.4g}") in page
    assert "could not be drawn" not in page
    for anchor in ("scores", "config", "environment", "data", "next"):
        assert f'<section id="{anchor}">' in page
    assert ('<section id="curves">' in page) == (run.status()["epoch"] > 1)


def test_there_must_be_such_a_run(runs_root):
    with pytest.raises(CheckpointError, match="'nothing' is not a run"):
        runs.run_report("nothing", runs_root)
