"""The time that a training still takes, with a clock that the test moves."""

import pytest

from mlcli.engine.meter import TimeLeft


class Seconds:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_counts_evaluation_and_saving_and_not_the_first_slow_steps():
    clock = Seconds()
    left = TimeLeft(epochs=10, steps_per_epoch=20, clock=clock)
    assert left.seconds() is None
    for epoch in range(5):
        for done in range(1, 21):
            clock.now += 30.0 if epoch == 0 and done == 1 else 1.0
            left.step(epoch, done)
            if epoch == 0 and done > 3:
                assert left.seconds() == pytest.approx(200 - done)
        clock.now += 6.0  # evaluation
        left.epoch(epoch)
        clock.now += 2.0  # saving
        steps, judged, saved = 20 * (9 - epoch), 6 * (9 - epoch), 2 * (9 - epoch)
        assert left.seconds() == pytest.approx(steps + judged + (saved - 2 if epoch else 0), abs=3)
    assert left.seconds() == pytest.approx(28 * 5 - 2)


def test_the_time_left_of_a_run_that_goes_on():
    clock = Seconds()
    left = TimeLeft(epochs=10, steps_per_epoch=2, clock=clock)
    for step in range(12, 18):
        clock.now += 1.0
        left.step(step // 2, step % 2 + 1)
    assert left.seconds() == pytest.approx(2.0)
