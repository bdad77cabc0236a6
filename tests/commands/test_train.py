"""`mlcli train` as a person types it: what it prints and leaves behind, resuming, and every way of being refused."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.engine.checkpoint import load_checkpoint
from mlcli.engine.log import read_metrics
from mlcli.engine.run import RunFolder, list_runs
from tests.engine.rig import TIME_FIELDS
from tests.reliability.forked import Command, typed_in_child

DIGITS = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [32], dropout: 0.1}
train: {epochs: 3, batch_size: 64, device: cpu, threads: 1, baselines: false,
        tensorboard: {layers: false, graph: false}}
"""


@pytest.fixture
def digits(tmp_path) -> Path:
    path = tmp_path / "digits.yaml"
    path.write_text(DIGITS)
    return path


def photos(root: Path, counts: dict[str, int], size=(16, 12)) -> Path:
    """A folder of noise photographs, `counts` per class folder."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def folder_yaml(tmp_path: Path, *lines: str, data: str = "root: photos", model: str = "{name: linear}") -> Path:
    path = tmp_path / "photos.yaml"
    head = ["task: classification", f"data: {{name: folder, {data}}}", f"model: {model}"]
    train = "train: {epochs: 1, batch_size: 4, device: cpu, threads: 1, baselines: false}"
    path.write_text("\n".join([*head, train, *lines]))
    return path


def test_a_run_says_what_it_does_and_leaves_everything_behind(mlcli, digits, tmp_path):
    done = mlcli("train", digits, "train.baselines=true", "--name", "first")
    assert done.code == 0, done.err
    for word in ("1,168 train", "2,410 parameters", "cpu (1 thread)", "precision", "check", "epoch", "wait", "* best",
                 "best epoch", "test", "tensorboard --logdir runs", "mlcli evaluate first/"):  # fmt: skip
        assert word in done.out
    (run,) = list_runs(tmp_path / "runs")
    assert run.path.parent.name == "first"
    files = {path.name for path in run.path.iterdir()}
    assert files >= {"config.yaml", "resolved.yaml", "environment.json", "status.json", "metrics.jsonl", "checkpoints",
                     "train", "val", "test", "model.safetensors", "baselines.json"}  # fmt: skip
    status = run.status()
    assert (status["state"], status["exit_code"], status["epoch"]) == ("finished", 0, 3)
    assert status["scores"]["test"]["accuracy"] > 0.8
    assert (run.path / "config.yaml").read_text() == DIGITS
    assert not list(run.path.rglob("*.tmp"))


def test_the_resolved_config_is_a_yaml_that_trains_to_the_same_bits(mlcli, digits, tmp_path):
    mlcli("train", digits, "optimizer.lr=0.05", "--name", "a")
    (first,) = list_runs(tmp_path / "runs")
    again = mlcli("train", first.path / "resolved.yaml", "--name", "b")
    assert again.code == 0, again.err
    second = next(run for run in list_runs(tmp_path / "runs") if run.path.parent.name == "b")
    assert first.config_plain() == second.config_plain()
    assert first.config_plain()["optimizer"]["lr"] == 0.05
    ours, theirs = (load_checkpoint(run.checkpoint("last"))["model"] for run in (first, second))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def metrics_of(run) -> list[dict]:
    lines = read_metrics(run.path / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


def test_resuming_with_more_epochs_goes_on_and_says_what_it_does_to_the_schedule(mlcli, digits, tmp_path):
    mlcli("train", digits)
    (run,) = list_runs(tmp_path / "runs")
    complete = mlcli("train", "--resume", run.path)
    assert complete.code == 2
    assert "the run is complete: 3 epochs are done" in complete.err
    more = mlcli("train", digits, "train.epochs=5", "--resume", run.path)
    assert more.code == 0, more.err
    assert "5 epochs instead of 3: the schedule is stretched" in more.out
    assert run.status()["epoch"] == 5
    assert len(list_runs(tmp_path / "runs")) == 1
    steps = [line["step"] for line in metrics_of(run) if line["split"] == "val"]
    assert steps == sorted(set(steps))
    assert len(steps) == 5


def test_resuming_as_another_experiment_is_refused(mlcli, digits, tmp_path):
    mlcli("train", digits)
    (run,) = list_runs(tmp_path / "runs")
    refused = mlcli("train", digits, "train.epochs=9", "optimizer.lr=0.5", "--resume", run.path)
    assert refused.code == 2
    assert "optimizer.lr was 0.1, is 0.5" in refused.err
    assert run.status()["state"] == "finished"


PLAIN = "train.tensorboard={pictures: false, layers: false, graph: false}"
LONG = ("train.epochs=40", PLAIN)
"""Long enough to be stopped in, with little beside the training."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RunFolder:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "digits.yaml").write_text(DIGITS)
    ended = typed_in_child(folder, "train", "digits.yaml", *LONG)
    assert ended.code == 0, ended.out
    (run,) = list_runs(folder / "runs")
    return run


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGTERM, 143, "interrupted"), (signal.SIGINT, 130, "interrupted"), (signal.SIGKILL, -9, "killed")],
    ids=["TERM", "INT", "KILL"],
)
def test_a_stopped_process_resumes_to_the_bits_of_one_that_was_not(
    mlcli, digits, tmp_path, undisturbed, number, code, state
):
    command = Command(tmp_path, "train", digits, *LONG, "--name", "cut")
    command.wait_until(lambda: re.search(r"^ *3 .*\n", command.out(), re.MULTILINE))  # the third epoch's line
    os.kill(command.pid, number)
    ended = command.wait()
    assert ended.code == code
    (run,) = list_runs(tmp_path / "runs")
    assert run.status()["state"] == state
    if number != signal.SIGKILL:
        assert f"to go on: mlcli train --resume runs/{run.name}" in ended.out
    resumed = mlcli("train", "--resume", run.path)
    assert resumed.code == 0, resumed.err
    ours, theirs = (load_checkpoint(r.checkpoint("last"))["model"] for r in (run, undisturbed))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert metrics_of(run) == metrics_of(undisturbed)


def test_a_complete_run_says_how_to_go_on_from_what_was_done(mlcli, digits, tmp_path):
    mlcli("train", digits)
    refused = mlcli("train", "--resume", "digits", "train.epochs=2")
    assert (refused.code, "train.epochs=6 to go on" in refused.err) == (2, True)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_resumed(mlcli, digits, tmp_path, name):
    refused(mlcli("train", digits, "--resume", name), 2, "the run to go on with is empty", runs=tmp_path / "runs")


def test_resume_auto_begins_goes_on_and_then_has_nothing_to_do(mlcli, digits, tmp_path):
    asked = ("train", digits, "--name", "long", "--resume", "auto")
    assert mlcli(*asked).code == 0
    (run,) = list_runs(tmp_path / "runs")
    finished = run.status()
    again = mlcli(*asked)
    assert (again.code, again.out) == (0, f"run        runs/{run.name} is complete; nothing to do\n")
    run.update_status(state="interrupted")  # as if stopped after its last step
    assert mlcli(*asked).code == 0
    assert list_runs(tmp_path / "runs")[0].status()["scores"] == finished["scores"]
    assert mlcli("train", digits, "train.seed=1", "--name", "other", "--resume", "auto").code == 0
    assert len(list_runs(tmp_path / "runs")) == 2


@pytest.mark.parametrize("devices", ["0", "two", "-1"])
def test_a_number_of_processes_that_cannot_be(mlcli, digits, tmp_path, devices):
    refused(mlcli("train", digits, f"--devices={devices}"), 2, "no number of processes", runs=tmp_path / "runs")


def test_a_yaml_of_fewer_epochs_does_not_cut_a_run_short(mlcli, digits, tmp_path):
    mlcli("train", digits, "train.epochs=5", "--name", "long")
    (run,) = list_runs(tmp_path / "runs")
    run.update_status(state="interrupted")
    before = metrics_of(run)
    result = mlcli("train", digits, "--resume", "long")
    assert (result.code, metrics_of(run)) == (2, before)
    assert "train.epochs=3 would cut the run short: it is 5 of 5 epochs in" in result.err
    assert f"mlcli train --resume runs/{run.name}" in result.err
    assert "would cut the run short" in mlcli("train", "--resume", "long", "train.epochs=4").err
    assert mlcli("train", digits, "--resume", "long", "train.epochs=6").code == 0
    assert run.status()["epoch"] == 6


def test_a_run_that_had_stopped_improving_is_not_resumed_into_nothing(mlcli, digits):
    early = "train.early_stopping={patience: 1, min_delta: 1}"
    assert "stopped early" in mlcli("train", digits, "train.epochs=9", early).out
    refused = mlcli("train", "--resume", "digits", "train.epochs=30")
    assert refused.code == 2
    assert "train.early_stopping.patience=2" in refused.err
    assert mlcli("train", "--resume", "digits", "train.early_stopping=null", "train.epochs=9").code == 0


def test_a_warm_up_of_the_whole_training_is_said(mlcli, digits):
    """It trains all the same, as one epoch of a longer YAML has to."""
    options = ["train.epochs=1", "train.baselines=false"]
    longer = mlcli("train", digits, *options, "schedule={name: cosine, warmup_epochs: 2}")
    assert longer.code == 0, longer.err
    said = " ".join(longer.out.split())
    assert "warning the warm-up (2 epochs) takes the whole training (1): the learning rate only climbs" in said
    assert "schedule.warmup_epochs=0.1" in said
    assert "batches 18 an epoch: of 64; the other 16 of the 1,168 samples wait" in said
    assert "warm-up" not in mlcli("train", digits, *options, "schedule={name: cosine, warmup_epochs: 0.1}").out


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", "..", ""])
def test_a_name_stays_in_the_folder_of_runs(mlcli, digits, tmp_path, name):
    refused(mlcli("train", digits, "--name", name), 2, "cannot name a folder of runs", runs=tmp_path / "runs")


def test_a_resumed_run_keeps_its_name(mlcli, digits):
    mlcli("train", digits)
    assert mlcli("train", "--resume", "digits", "train.epochs=9", "--name", "other").code == 2


def test_a_folder_with_runs_deep_below_is_no_run(mlcli, digits, tmp_path):
    mlcli("train", digits)
    assert mlcli("evaluate", ".").code == 5
    assert mlcli("evaluate", "runs").code == 5
    assert mlcli("evaluate", "runs/digits").code == 0
    assert mlcli("evaluate", "digits", "--checkpoint", "middle").code == 2
    assert mlcli("evaluate", "digits", "--split", "tset").code == 2


def test_layers_that_count_versions_are_loaded_again(mlcli, tmp_path):
    """MNASNet refuses weights whose layer versions were lost on the way through a checkpoint."""
    photos(tmp_path / "photos", {"cat": 12, "dog": 12}, size=(40, 40))
    yaml = folder_yaml(tmp_path, data="root: photos, image_size: 64", model="{name: torchvision, arch: mnasnet0_5}")
    done = mlcli("train", yaml)
    assert done.code == 0, done.err
    assert mlcli("evaluate", "photos").code == 0


@pytest.mark.parametrize("greed", ["model.hidden=[1000000,1000000]", "model.hidden=[999999,999999,999999]"])
def test_a_model_beyond_all_memory(mlcli, digits, tmp_path, greed):
    refused(mlcli("train", digits, greed), 8, "does not fit into memory", runs=tmp_path / "runs")


def test_batch_norm_over_one_sample(mlcli, digits, tmp_path):
    result = mlcli("train", digits, "model.batch_norm=true", "train.accumulate=64")
    refused(result, 2, "a smaller train.accumulate", runs=tmp_path / "runs")


def test_a_run_in_use_is_not_resumed(mlcli, digits, tmp_path):
    mlcli("train", digits)
    (run,) = list_runs(tmp_path / "runs")
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run.lock()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    busy = mlcli("train", "--resume", run.path, "train.epochs=9")
    os.write(done[1], b"x")
    os.waitpid(child, 0)
    assert busy.code == 7
    assert f"pid {child}" in busy.err


def refused(result, code: int, *words: str, runs: Path) -> None:
    """A refusal: the exit code, the words, at most five lines, no traceback, and no run folder."""
    assert result.code == code, result.err
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err + result.out
    assert len(result.err.strip().splitlines()) <= 5, result.err
    assert not runs.exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.hiden=[3]"], ["unknown key 'hiden' (did you mean 'hidden'?)"]),
        (["optimizer.lr=fast"], ["optimizer.lr"]),
        (["train.epochs=0"], ["train.epochs: must be above 0, got 0"]),
        (["train.batch_size=5000"], ["5000", "1168"]),
        (["train.watch=f1"], ["no metric is called 'f1'"]),
        (["train.epochs"], ["one YAML at a time"]),
        (["augment=[{name: mixup}]", "loss.name=hinge"], ["mixup"]),
    ],
    ids=["typo", "type", "range", "batch larger than data", "metric", "no equals sign", "mixup with hinge"],
)
def test_a_config_that_cannot_be_is_refused(mlcli, digits, tmp_path, overrides, words):
    result = mlcli("train", digits, *overrides)
    assert result.code == 2, result.err
    assert all(word in result.err.replace("1,168", "1168").replace("5,000", "5000") for word in words), result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


def test_a_duplicate_key_is_refused_with_both_places(mlcli, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(DIGITS + "model: {name: linear}\n")
    result = mlcli("train", path)
    assert result.code == 2
    assert f"{path}:{len(DIGITS.splitlines()) + 1}:1" in result.err
    assert "twice" in result.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_asked_for_and_absent(mlcli, digits, tmp_path):
    refused(mlcli("train", digits, "train.device=cuda"), 2, "train.device is cuda", runs=tmp_path / "runs")


def test_a_missing_yaml(mlcli, tmp_path):
    refused(mlcli("train", "none.yaml"), 2, "none.yaml", runs=tmp_path / "runs")


def test_an_output_that_cannot_be_written(mlcli, digits, tmp_path):
    (tmp_path / "file").write_text("")
    refused(mlcli("train", digits, "--out", tmp_path / "file"), 6, str(tmp_path / "file"), runs=tmp_path / "runs")


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"], ["predict"]], ids=lambda c: c[0])
def test_a_folder_that_is_no_run(mlcli, tmp_path, command):
    (tmp_path / "other").mkdir()
    more = [tmp_path / "x.png"] if command == ["predict"] else []
    refused(mlcli(*command, tmp_path / "other", *more), 5, "is not a run folder", runs=tmp_path / "runs")


def test_an_empty_class_folder(mlcli, tmp_path):
    photos(tmp_path / "photos", {"cat": 8, "dog": 8, "owl": 0})
    refused(mlcli("train", folder_yaml(tmp_path)), 4, "owl", runs=tmp_path / "runs")


def test_a_class_in_one_split_only(mlcli, tmp_path):
    photos(tmp_path / "photos/train", {"cat": 8, "dog": 8})
    photos(tmp_path / "photos/val", {"cat": 4, "owl": 4})
    refused(mlcli("train", folder_yaml(tmp_path)), 4, "owl", runs=tmp_path / "runs")


def test_no_such_folder(mlcli, tmp_path):
    refused(mlcli("train", folder_yaml(tmp_path)), 4, "photos", runs=tmp_path / "runs")


def test_a_corrupt_image_is_named_and_may_be_skipped(mlcli, tmp_path):
    photos(tmp_path / "photos", {"cat": 30, "dog": 30})
    whole = (tmp_path / "photos/cat/3.png").read_bytes()
    (tmp_path / "photos/cat/3.png").write_bytes(whole[: len(whole) // 2])
    strict = folder_yaml(tmp_path)
    refused(mlcli("train", strict), 4, "3.png", runs=tmp_path / "runs")
    too_many = mlcli("train", strict, "data.bad_images=skip")
    refused(too_many, 4, "max_bad_share", runs=tmp_path / "runs")
    lenient = mlcli("train", strict, "data.bad_images=skip", "data.max_bad_share=0.05")
    assert lenient.code == 0, lenient.err
    assert "3.png" in lenient.out


def test_an_image_too_small_for_the_network_names_the_layer(mlcli, tmp_path):
    photos(tmp_path / "photos", {"cat": 12, "dog": 12})
    blocks = "{name: cnn, blocks: [{name: pool}, {name: pool}, {name: pool}, {name: pool}, {name: pool}]}"
    refused(mlcli("train", folder_yaml(tmp_path, model=blocks)), 2, "model.blocks.3", runs=tmp_path / "runs")
    vgg = folder_yaml(tmp_path, model="{name: vgg}")
    refused(mlcli("train", vgg), 2, "too small for the 4th pooling", runs=tmp_path / "runs")


def test_images_of_several_sizes_need_an_image_size(mlcli, tmp_path):
    photos(tmp_path / "photos", {"cat": 12})
    photos(tmp_path / "photos", {"dog": 12}, size=(20, 20))
    refused(mlcli("train", folder_yaml(tmp_path)), 4, "image_size", runs=tmp_path / "runs")


def test_numbers_survive_a_crash_while_writing_a_line(digits, mlcli, tmp_path):
    mlcli("train", digits)
    (run,) = list_runs(tmp_path / "runs")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "val", "st')
    before = metrics_of(run)
    assert mlcli("train", "--resume", run.path, "train.epochs=4").code == 0
    text = (run.path / "metrics.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()]
    assert metrics_of(run)[: len(before) - 1] == before[:-1]


def test_a_loss_that_explodes_ends_with_its_own_code(mlcli, digits, tmp_path):
    result = mlcli("train", digits, "optimizer.lr=1e15", "train.epochs=5")
    assert result.code == 3
    assert "the loss is not finite" in result.err
    (run,) = list_runs(tmp_path / "runs")
    assert run.status()["state"] == "diverged"


def test_it_stops_when_asked_to(digits, tmp_path):
    process = subprocess.Popen([sys.executable, "-m", "mlcli", "train", str(digits), "train.epochs=100000"],
                               cwd=tmp_path, stdout=subprocess.PIPE, text=True)  # fmt: skip
    for line in process.stdout:
        if line.split()[:1] == ["2"]:
            break
    process.terminate()
    process.stdout.read()
    assert process.wait(60) == 143


@pytest.mark.parametrize(
    ("lines", "unbuffered"), [(0, ""), (12, "1")], ids=["at once, buffered", "in the middle, unbuffered"]
)
def test_a_reader_that_leaves_does_not_end_the_run(digits, tmp_path, lines, unbuffered):
    command = [sys.executable, "-m", "mlcli", "train", str(digits), PLAIN]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": unbuffered})  # fmt: skip
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 0, errors
    assert "Traceback" not in errors
    assert errors.count("nobody reads the output any more") == 1
    (run,) = list_runs(tmp_path / "runs")
    assert (run.status()["state"], run.status()["epoch"]) == ("finished", 3)
    assert run.checkpoint("best").name == "best.ckpt"
    assert (run.path / "report.html").exists()
