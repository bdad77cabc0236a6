"""Natural mistakes on the command line are answered with the line that was meant, before anything is computed."""

import json
import shlex

import pytest

from mlcli.text import command_line

YAML = "task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train x.yaml --epochs 3", "train x.yaml train.epochs=3"),
        ("train --epochs 3", "train x.yaml train.epochs=3"),
        ("train x.yaml --epochs=3 --name hot", "train x.yaml train.epochs=3 --name hot"),
        ("train x.yaml -epochs 3", "train x.yaml train.epochs=3"),
        ("train x.yaml \u2013epochs 3", "train x.yaml train.epochs=3"),
        ("train x.yaml --lr 0.1 --batch-size 32", "train x.yaml optimizer.lr=0.1 train.batch_size=32"),
        ("lr-find x.yaml --learning-rate 0.1", "lr-find x.yaml optimizer.lr=0.1"),
        ("train x.yaml --optimizer.lr 0.1", "train x.yaml optimizer.lr=0.1"),
        ("train x.yaml --nesterov", "train x.yaml optimizer.nesterov=true"),
        ("train x.yaml --nam hot", "train x.yaml --name hot"),
        ("train x.yaml train.epochs = 3", "train x.yaml train.epochs=3"),
        ("train x.yaml train.epochs= 3", "train x.yaml train.epochs=3"),
        ("train x.yaml train.epochs =3", "train x.yaml train.epochs=3"),
        ("train x.yaml train.epochs 3", "train x.yaml train.epochs=3"),
        ("train x.yaml train.epochs:3", "train x.yaml train.epochs=3"),
        ("train x.yaml train.epochs: 3 --name hot", "train x.yaml train.epochs=3 --name hot"),
        ("train x.yaml data={name: digits}", "train x.yaml 'data={name: digits}'"),
        ("inspect x.yaml model.hidden=[64, 32] --depth 1", "inspect x.yaml 'model.hidden=[64, 32]' --depth 1"),
        ("data check x.yaml data={name: digits}", "data check x.yaml 'data={name: digits}'"),
        ("trian x.yaml", "train x.yaml"),
        ("fit x.yaml train.epochs=3", "train x.yaml train.epochs=3"),
        ("x.yaml", "train x.yaml"),
        ("data chek x.yaml", "data check x.yaml"),
        ("train", "train x.yaml"),
    ],
)
def test_the_line_that_was_meant(mlcli, tmp_path, typed, meant):
    (tmp_path / "x.yaml").write_text(YAML)
    done = mlcli(*typed.split(" "))
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == f"fix:   mlcli {meant}"
    assert shlex.split(meant)  # a shell takes it


def test_what_stands_for_nothing_is_answered_with_the_options_there_are(mlcli):
    assert "--name, --resume" in mlcli("train", "x.yaml", "--zzzz").err
    assert "there are: --" in mlcli("bench-io", "x.yaml", "--seconds", "1").err  # not --json, for its s, o and n
    assert "--name 3" not in mlcli("train", "x.yaml", "-e", "3").err
    assert "train.epochs" not in mlcli("predict", "run", "--epochs", "3").err  # it takes no keys


def test_paths_with_signs_are_no_mistyped_overrides(mlcli, tmp_path):
    (tmp_path / "a=b.yaml").write_text(YAML.replace("mlp", "mpl"))
    assert "did you mean 'mlp'?" in mlcli("train", "a=b.yaml").err
    (tmp_path / "x.yaml").write_text(YAML)
    assert mlcli("train", "x.yaml", "train.batch_size=zero", "data.name=digits").err.count("override") == 1


@pytest.mark.parametrize("typed", ["confg.yaml", "config", "Config.yml"])
def test_a_yaml_beside_it_is_what_was_meant(mlcli, tmp_path, typed):
    (tmp_path / "config.yaml").write_text(YAML)
    assert mlcli("train", typed).err.endswith("fix:   did you mean config.yaml?\n")


def test_a_folder_or_table_is_answered_with_init(mlcli, tmp_path):
    (tmp_path / "my photos").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    assert "mlcli init 'my photos'" in mlcli("train", "my photos").err
    assert "mlcli init t.csv" in mlcli("train", "t.csv").err


def finished_run(root, name, time, **status):
    folder = root / name / time
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "finished", "epoch": 4, "epochs": 9, **status}))
    return folder


def test_resume_alone_lists_what_can_go_on(mlcli, tmp_path):
    root = tmp_path / "runs"
    finished_run(root, "a", "20260101-000000-0000")
    assert "no run in runs/ was stopped" in mlcli("train", "--resume").err
    for number in range(6):
        finished_run(root, "b c", f"20260102-00000{number}-0000", state="interrupted")
    shown = mlcli("train", "--resume").err
    assert "fix:   mlcli train --resume 'b c/20260102-000005-0000'   # interrupted after epoch 4 of 9\n" in shown
    assert "and 3 more" in shown
    assert len(shown.splitlines()) <= 6
    assert mlcli("train", "--resume", "").err.splitlines()[2:] == shown.splitlines()[2:]


def test_a_yaml_where_a_run_is_wanted(mlcli, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML)
    assert "mlcli train config.yaml makes one" in mlcli("evaluate", "config.yaml").err
    finished_run(tmp_path / "runs", "config", "20260101-000000-0000")
    for command in ("evaluate", "predict", "report"):
        assert "config is its newest run" in mlcli(command, "config.yaml", *["x.png"] * (command == "predict")).err
    assert "did you mean config?" in mlcli("evaluate", "confg").err
    assert "fix:   mlcli evaluate config" in mlcli("evaluate").err


def test_the_run_that_an_ambiguous_name_means_is_said(mlcli, tmp_path):
    for number in range(3):
        finished_run(tmp_path / "runs", "a", f"20260101-00000{number}-0000")
    newest = "run        a/20260101-000002-0000, the newest of 3 of this name\n"
    assert mlcli("evaluate", "a").err.startswith(newest)
    assert not mlcli("evaluate", "a/20260101-000001-0000").err.startswith("run")
    finished_run(tmp_path / "runs", "b", "20260102-000000-0000")
    assert str(tmp_path / "runs/b/20260102-000000-0000") in mlcli("evaluate", "latest").err
    assert str(tmp_path / "runs/b/20260102-000000-0000") in mlcli("evaluate", "20260102-000000-0000").err


def test_a_suggested_command_is_quoted_and_has_a_key_once():
    assert command_line("train", "my x.yaml", "a=1", "b=[1, 2]", "a=2") == "mlcli train 'my x.yaml' 'b=[1, 2]' a=2"
