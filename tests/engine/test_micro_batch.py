"""When memory runs out, a run either stops with advice or goes on with the same steps in smaller parts."""

import pytest
import torch

from mlcli.engine.checkpoint import by_age, load_checkpoint
from mlcli.engine.rehearsal import rehearse
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import Progress
from mlcli.engine.step import MicroBatches
from mlcli.errors import OutOfMemoryError
from tests.engine.rig import StopAfter, settings_of, train, training
from tests.engine.toy import ToyTask


class Cramped(ToyTask):
    """A task on a device that holds `most` samples at once; from call `since` on."""

    def __init__(self, most: int, *, since: int = 0, **more) -> None:
        super().__init__(**more)
        self.most, self.since, self.seen = most, since, []

    def losses(self, net, batch):
        terms = super().losses(net, batch)
        self.seen.append(len(batch))
        if self.calls > self.since and len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return terms


def weights(task: ToyTask) -> list[torch.Tensor]:
    return list(task.model.state_dict().values())


def test_without_being_asked_a_run_stops_as_before(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, Cramped(3, since=5), settings_of())


def test_asked_for_the_step_is_taken_again_in_smaller_parts(tmp_path, capsys):
    task = Cramped(2, since=5)
    t, outcome = train(tmp_path, task, settings_of(train={"auto_microbatch": True}))
    assert outcome == "finished"
    assert t.state.progress.step == 12
    assert t.state.progress.halvings == 2
    assert task.seen[:8] == [6, 6, 6, 6, 6, 6, 3, 2], "whole, then in halves, then in quarters"
    assert max(task.seen[7:]) <= 2
    assert "memory ran out: micro-batches of 2 from here on, 4 to a step" in capsys.readouterr().out


def test_the_result_is_that_of_the_whole_batch(tmp_path):
    whole, cramped = ToyTask(), Cramped(2)
    train(tmp_path / "a", whole, settings_of())
    train(tmp_path / "b", cramped, settings_of(train={"auto_microbatch": True}))
    for a, b in zip(weights(whole), weights(cramped), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_parts_that_fitted_before_memory_ran_out_are_not_counted_twice(tmp_path):
    """The window's mean loss is over samples, whatever the cut."""
    task = Cramped(3, since=7, accumulate=2)
    t = training(tmp_path, task, settings_of(train={"auto_microbatch": True, "accumulate": 2, "log_every": 12}))
    plain = training(tmp_path, ToyTask(accumulate=2), settings_of(train={"accumulate": 2, "log_every": 12}))
    from mlcli.engine.trainer import fit

    task.most = 2  # the second half of a step fails when its first is through
    task.since = 7
    for one, polls in ((t, 5), (plain, 4)):  # the step taken again is one poll more
        one.stop = StopAfter(polls)  # after the epoch's log point, before its evaluation
        fit(one, one.feed.train_batches(0))
        one.log.close()
    assert t.state.progress.halvings == 1
    assert plain.state.epoch_loss.steps == t.state.epoch_loss.steps == 4
    assert plain.state.epoch_loss.read()["loss"] > 0
    assert t.state.epoch_loss.read()["loss"] == pytest.approx(plain.state.epoch_loss.read()["loss"], rel=1e-5)


def test_a_sample_at_a_time_is_the_end_of_the_way(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, Cramped(0), settings_of(train={"auto_microbatch": True}))


def test_a_resumed_run_keeps_its_cut(tmp_path):
    settings = settings_of(train={"auto_microbatch": True})
    stopped, _ = train(tmp_path, Cramped(3, since=2), settings, stop=StopAfter(7))
    assert load_checkpoint(by_age(stopped.run.checkpoints)[0])["progress"]["halvings"] == 1
    task = Cramped(3)
    t, _ = train(tmp_path, task, settings, run=stopped.run)
    assert max(task.seen) == 3, "no batch that is known not to fit is tried again"
    assert t.state.progress.step == 12


def test_the_check_before_training_finds_the_size_that_fits():
    settings = settings_of(train={"auto_microbatch": True})
    task, runtime, progress = Cramped(2), decide_runtime(settings), Progress()
    feed = task.feed(runtime)
    micro_batches = MicroBatches(settings.train, progress, feed)
    batches, _ = rehearse(task, feed, runtime, 0, micro_batches.halve)
    assert len(next(batches)) == 2
    assert (micro_batches.parts, micro_batches.size) == (4, 2)


def test_the_check_before_training_names_the_lever():
    settings = settings_of()
    task, runtime = Cramped(2), decide_runtime(settings)
    with pytest.raises(OutOfMemoryError, match="a micro-batch of 6 samples does not fit") as caught:
        rehearse(task, task.feed(runtime), runtime, 0)
    assert caught.value.fix.startswith("train.auto_microbatch=true")


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path):
    class Broken(ToyTask):
        def losses(self, net, batch):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        train(tmp_path, Broken(), settings_of(train={"auto_microbatch": True}))
