"""`train.batch_size: auto`: the smallest batch that is nearly as fast as any, measured on the machine at hand."""

import json

import pytest
import torch

from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.errors import OutOfMemoryError
from mlcli.machine.bench.learner import Trial, choose_batch_size, measure_learner, smallest_fast_enough
from mlcli.tasks.classification.build import build_task
from mlcli.tasks.classification.config import Classification

CONFIG = {
    "task": "classification",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [16]},
    "train": {"batch_size": "auto", "device": "cpu", "threads": 1, "epochs": 1},
}


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({8: 100.0, 16: 190.0, 32: 300.0, 64: 305.0}, 32),
        ({8: 100.0, 16: 190.0, 32: 292.0, 64: 300.0}, 32),
        ({8: 100.0, 16: 190.0, 32: 290.0, 64: 301.0}, 64),
        ({8: 300.0, 16: 200.0}, 8),
    ],
    ids=["two alike", "just within 3 %", "just not", "the first is best"],
)
def test_the_smallest_within_three_percent_of_the_best(speeds, chosen):
    assert smallest_fast_enough([Trial(size, speed) for size, speed in speeds.items()]).size == chosen


def test_sizes_rise_until_an_epoch_would_have_too_few_steps():
    config = Classification.model_validate(CONFIG)
    task = build_task(config)
    trials = measure_learner(task, config, decide_runtime(config), [8, 16, 32, 64])
    sizes = [trial.size for trial in trials]
    assert sizes == [8, 16, 32, 64][: len(sizes)]
    assert all(trial.samples_per_s > 0 for trial in trials)
    size, why = choose_batch_size(build_task(config), config, decide_runtime(config))
    assert size in (8, 16, 32, 64), "a tenth of 1,168 samples is 116"
    assert f"{size}: " in why


def test_no_graph_is_captured_for_each_size():
    config = Classification.model_validate({**CONFIG, "train": {**CONFIG["train"], "cuda_graphs": True}})
    assert measure_learner(build_task(config), config, decide_runtime(config), [8]), "a CPU would refuse graphs"


def test_memory_that_runs_out_bounds_the_size():
    config = Classification.model_validate(CONFIG)

    def cramped(most):
        """A task whose losses need more memory than there is for more than so many samples."""
        task = build_task(config)
        losses = task.losses

        def limited(net, batch):
            if len(batch) > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return losses(net, batch)

        task.losses = limited
        return task

    assert choose_batch_size(cramped(16), config, decide_runtime(config))[0] <= 16
    with pytest.raises(OutOfMemoryError, match="not even a batch of 8"):
        choose_batch_size(cramped(0), config, decide_runtime(config))


def test_no_smaller_than_the_parts_it_is_cut_into():
    config = Classification.model_validate({**CONFIG, "train": {**CONFIG["train"], "accumulate": 100}})
    assert choose_batch_size(build_task(config), config, decide_runtime(config))[0] >= 100


def test_auto_is_64_where_nobody_measures():
    assert TrainerSettings.model_validate({"train": {"batch_size": "auto"}}).train.samples_per_step == 64


def test_a_run_keeps_what_was_measured(tmp_path, monkeypatch, capsys):
    import yaml

    from mlcli.commands.train import run
    from mlcli.engine.run import list_runs

    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(json.dumps({**CONFIG, "train": {**CONFIG["train"], "baselines": False}}))
    assert run(tmp_path / "digits.yaml", [], name="auto", resume=None, root=tmp_path / "runs") == 0
    (folder,) = list_runs(tmp_path / "runs")
    kept = yaml.safe_load((folder.path / "resolved.yaml").read_text())["train"]["batch_size"]
    assert kept in (8, 16, 32, 64)
    assert f"batch size {kept}: the smallest within 3 % of the best" in capsys.readouterr().out
    assert run(None, ["train.epochs=2"], name=None, resume=str(folder.path), root=tmp_path / "runs") == 0, (
        "resumed with the same"
    )
