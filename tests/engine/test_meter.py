"""The time of each part of a training, and that it still takes, with clocks and a device that the test moves."""

import pytest

from mlcli.engine import meter
from mlcli.engine.meter import Meter, TimeLeft


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


class Device:
    """A device that gets to what it is given `behind` seconds after the host, and the host's clock."""

    def __init__(self) -> None:
        self.host_s, self.device_s, self.waits = 0.0, 0.0, 0

    def perf_counter(self) -> float:
        return self.host_s

    def work(self, host_s: float, device_s: float) -> None:
        """The host takes so long to give the device work for so long."""
        self.host_s += host_s
        self.device_s = max(self.device_s, self.host_s) + device_s

    def synchronize(self) -> None:
        self.waits += 1
        self.host_s = max(self.host_s, self.device_s)

    def event(self) -> "FakeEvent":
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: Device) -> None:
        self.device, self.at_s = device, 0.0

    def record(self) -> None:
        self.at_s = max(self.device.device_s, self.device.host_s)

    def query(self) -> bool:
        return self.at_s <= self.device.host_s

    def elapsed_time(self, end_event: "FakeEvent") -> float:
        assert self.query() and end_event.query(), "an event that was not got to has no time"  # noqa: PT018
        return 1000 * (end_event.at_s - self.at_s)


def steps_on(device: Device, by: Meter, *, every: int, count: int = 12, parts: int = 1) -> dict:
    """Steps of 1 s waiting for a batch on the host, 2 + 4 + 1 s on the device; the last reads a loss, and so waits."""
    for step in range(count):
        by.begin_step(timed=step % every == 0)
        for _ in range(parts):
            with by:
                device.host_s += 1.0 / parts
            device.work(0.01, 2.0 / parts)
            by.mark("forward")
            device.work(0.01, 4.0 / parts)
            by.mark("backward")
        device.work(0.01, 1.0)
        by.mark("optimizer")
    device.host_s = max(device.host_s, device.device_s)
    return by.times()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("every", [1, 3, 12])
def test_by_events_the_phases_are_the_devices_and_nobody_waits(monkeypatch, every, parts):
    device = Device()
    monkeypatch.setattr(meter, "time", device)
    times = steps_on(device, Meter(device.synchronize, device.event), every=every, parts=parts)
    assert device.waits == 0
    # the device begins when the first batch is there, and then is never without work
    assert device.host_s == pytest.approx(1 / parts + 12 * 7, abs=0.1)
    assert times["backward"] == pytest.approx(48, rel=0.02)
    assert times["forward"] == pytest.approx(24, rel=0.02)
    assert times["optimizer"] == pytest.approx(12, rel=0.02)
    assert times["data"] == pytest.approx(1 / parts, abs=0.2), "the other waits were covered by the device's work"
    assert sum(times.values()) == pytest.approx(device.host_s, rel=1e-6)


def test_by_the_clock_a_step_is_not_charged_for_those_before_it(monkeypatch):
    device = Device()
    monkeypatch.setattr(meter, "time", device)
    times = steps_on(device, Meter(device.synchronize), every=4)
    assert times["forward"] == pytest.approx(24, rel=0.02)
    assert times["backward"] == pytest.approx(48, rel=0.02)
    assert times["optimizer"] == pytest.approx(12, rel=0.02)


def test_by_the_clock_the_device_is_waited_for_after_each_phase(monkeypatch):
    device = Device()
    monkeypatch.setattr(meter, "time", device)
    times = steps_on(device, Meter(device.synchronize), every=1)
    assert device.waits == 12 * 5, "once before the step, once for the batch, and after each of three phases"
    assert times["data"] == pytest.approx(12)
    assert [times[phase] for phase in meter.PHASES] == pytest.approx([24, 48, 12], rel=0.02)


def test_what_the_device_has_not_got_to_is_left_for_later(monkeypatch):
    device = Device()
    monkeypatch.setattr(meter, "time", device)
    by = Meter(device.synchronize, device.event)
    by.begin_step(timed=True)
    with by:
        device.host_s += 1.0
    device.work(0.0, 5.0)
    by.mark("forward")
    assert by.times()["forward"] == 0.0
    device.host_s += 5.0
    assert by.times()["forward"] == pytest.approx(5.0)
    assert device.waits == 0
