"""What bench-io predicts is what a training then measures: with data and models slowed down by a known amount."""

import pytest

from mlcli.engine.log import read_metrics
from mlcli.engine.meter import TOLERATED_WAIT
from mlcli.engine.rehearsal import rehearse
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.trainer import fit
from mlcli.machine.bench.bottleneck import ENOUGH, find_bottleneck
from mlcli.machine.bench.throughput import Bench
from mlcli.report.summary import wait_share
from tests.engine.rig import training
from tests.machine.slow import BATCH, config_of, slow_task, write_images

BUDGET_S = 2.5
POINTS = 0.10  # by which a prediction may be off

pytestmark = pytest.mark.alone  # what is predicted and what is measured must meet the same machine


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def predicted(images, image_s, batch_s, **loader):
    """Sleeping takes no core, so two workers can be tried on any machine."""
    config = config_of(images, **loader)
    bench = Bench(slow_task(config, image_s=image_s, batch_s=batch_s), config, decide_runtime(config),
                  budget_s=BUDGET_S, cpus=2)  # fmt: skip
    return find_bottleneck(bench.measure())


def measured_wait(images, root, image_s, batch_s, **loader) -> float:
    """The share of time a real training of 42 steps says it waited."""
    config = config_of(images, epochs=1, **loader)
    task = slow_task(config, image_s=image_s, batch_s=batch_s)
    t = training(root, task, config)
    batches, _ = rehearse(task, t.feed, t.runtime, 0)
    try:
        fit(t, batches)
    finally:
        t.feed.close()
        t.log.close()
        t.run.unlock()
    return wait_share(read_metrics(t.run.path / "metrics.jsonl"), BATCH)


def test_slow_data(images, tmp_path):
    speeds = {"image_s": 0.005, "batch_s": 0.030}  # a batch: 40 ms to read, 30 ms to learn from
    verdict = predicted(images, **speeds, workers=1)
    assert not verdict.nothing_to_do
    assert 0.6 < verdict.ratio < 1
    assert verdict.wait_share == pytest.approx(measured_wait(images, tmp_path, **speeds, workers=1), abs=POINTS)
    # Two workers read in 20 ms what takes 30 to learn from.
    assert verdict.workers == verdict.fewest_workers == 2
    foretold = next(rating for rating in verdict.ratings if rating.workers == 2)
    then = measured_wait(images, tmp_path, **speeds, workers=2)
    assert foretold.wait_share == pytest.approx(then, abs=POINTS)
    assert then < TOLERATED_WAIT
    assert "With 2 workers" in verdict.sentence


def test_without_workers_reading_is_waited_for(images, tmp_path):
    speeds = {"image_s": 0.002, "batch_s": 0.030}  # 16 ms to read: quicker than learning, and still not free
    verdict = predicted(images, **speeds, workers=0)
    assert verdict.ratio > ENOUGH
    assert verdict.wait_share == pytest.approx(measured_wait(images, tmp_path, **speeds, workers=0), abs=POINTS)
    assert verdict.workers == 1
    assert measured_wait(images, tmp_path, **speeds, workers=1) < TOLERATED_WAIT


def test_slow_model(images, tmp_path):
    speeds = {"image_s": 0.0005, "batch_s": 0.030}  # 4 ms to read, 30 ms to learn from
    verdict = predicted(images, **speeds, workers=1)
    assert verdict.nothing_to_do
    assert verdict.workers is None
    assert verdict.cache is None
    assert 4 < verdict.ratio < 10
    assert verdict.wait_share == pytest.approx(measured_wait(images, tmp_path, **speeds, workers=1), abs=POINTS)
    assert "nothing to do" in verdict.sentence


def test_more_than_workers_can_do_asks_for_a_cache(images, tmp_path):
    speeds = {"image_s": 0.005, "batch_s": 0.008}  # 40 ms to read, 20 with two workers, 8 to learn from
    verdict = predicted(images, **speeds, workers=2)
    assert verdict.fewest_workers is None
    assert verdict.cache == "ram"
    assert verdict.wait_share == pytest.approx(measured_wait(images, tmp_path, **speeds, workers=2), abs=POINTS)
    (ram,) = verdict.caches
    then = measured_wait(images, tmp_path, **speeds, cache="ram", workers=2)
    assert ram.wait_share == pytest.approx(then, abs=POINTS)
    assert then < TOLERATED_WAIT


def test_on_a_cached_set_there_is_nothing_to_do(images, tmp_path):
    speeds = {"image_s": 0.002, "batch_s": 0.010}
    verdict = predicted(images, **speeds, cache="ram", workers=2)
    assert verdict.nothing_to_do
    assert verdict.workers is None
    assert verdict.cache is None
    assert "nothing to do" in verdict.sentence
    then = measured_wait(images, tmp_path, **speeds, cache="ram", workers=2)
    assert verdict.wait_share == pytest.approx(then, abs=POINTS)
