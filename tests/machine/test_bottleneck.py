"""The arithmetic from rates to a verdict, on measurements that are made up."""

from dataclasses import replace

import pytest

from mlcli.machine.bench.bottleneck import (
    TOO_BUSY,
    as_shown,
    expected_wait_share,
    find_bottleneck,
    memory_checks,
    slots_bytes,
    spreads,
    times,
)
from mlcli.machine.bench.measurements import (
    READ_COLD,
    READ_WARM,
    CachedThroughput,
    Data,
    JointThroughput,
    LoaderThroughput,
    Machine,
    Measurements,
    ModelThroughput,
    Stage,
    Timing,
)
from mlcli.machine.bench.page import advice, page

GB = 10**9


def steady(seconds: float, spread: float = 0.01) -> Timing:
    return Timing(seconds, spread, 9)


def findings(
    *,
    read_ms: float,
    model_ms: float,
    own_ms: float = 0.0,
    held_ms: float = 0.01,
    workers: int = 2,
    counts: tuple[int, ...] = (0, 1, 2, 4, 8),
    crops: bool = False,
    tensors: int = GB // 10,
    together: dict[int, tuple[float, float]] | None = None,
) -> Measurements:
    """Stages of these milliseconds per image that do not disturb each other, unless `together` says otherwise:
    workers -> (milliseconds with the model, share of waiting)."""
    loader, joint = [], []
    for count in counts:
        alone = max(read_ms / count, own_ms) if count else read_ms + own_ms
        wait = expected_wait_share(alone if count else read_ms, own_ms, model_ms, count)
        whole = model_ms / (1 - wait)
        if together and count in together:
            whole, wait = together[count]
        loader.append(LoaderThroughput(count, steady(alone / 1e3), 0.1))
        joint.append(JointThroughput(count, steady(whole / 1e3), wait))
    third = steady(model_ms / 3e3)
    return Measurements(
        data=Data("folder", 10_000, 8_000, "img", "none", workers, False, crops, tensors, 10**8, "ext4 on /dev/sda"),
        machine=Machine(8, 8, 8 * GB, 64_000_000, "cpu", "cpu (8 threads)", "fp32", 8),
        batch_size=64,
        is_slow=False,
        prefetch=2,
        stages=(Stage("decode", steady(read_ms / 1e3), "worker"), Stage("augment", steady(own_ms / 1e3 + 1e-12))),
        loader=tuple(loader),
        held=(CachedThroughput("ram", steady((held_ms + own_ms) / 1e3)),),
        model=ModelThroughput(steady(model_ms / 1e3), third, third, third),
        together=tuple(joint),
        scan=None,
        seconds=1.0,
    )


def in_memory(found: Measurements, *, fed_ms: float, wait: float) -> Measurements:
    data = replace(found.data, cache="ram", workers=0, in_memory=True)
    whole = JointThroughput(0, steady(found.model.step.seconds / (1 - wait)), wait)
    held = (CachedThroughput("ram", steady(fed_ms / 1e3)),)
    return replace(found, data=data, loader=(), held=held, together=(whole,))


@pytest.mark.parametrize(
    ("read_s", "own_s", "model_s", "workers", "share"),
    [
        pytest.param(3, 0, 1, 0, 0.75, id="without workers all adds up"),
        pytest.param(2, 0, 1, 2, 0.5, id="the slower of the two sets the pace"),
        pytest.param(0.5, 0, 1, 2, 0.0, id="hidden behind the model"),
        pytest.param(0.5, 1, 1, 2, 0.5, id="the trainer's own work is never hidden"),
        pytest.param(4, 1, 1, 1, 0.75, id="but counts once where reading is slower"),
    ],
)
def test_expected_wait(read_s, own_s, model_s, workers, share):
    assert expected_wait_share(read_s, own_s, model_s, workers) == pytest.approx(share)


@pytest.mark.parametrize(
    ("read_ms", "model_ms", "fewest"),
    [
        pytest.param(0.1, 2.0, 0, id="reading costs 5 %: no worker needed"),
        pytest.param(1.0, 2.0, 1, id="one worker is twice as fast as the model"),
        pytest.param(1.0, 1.2, 2, id="1.2x is too close"),
        pytest.param(1.0, 1.25, 1, id="1.25x is enough"),
        pytest.param(6.0, 2.0, 4, id="four workers feed 1.33x"),
        pytest.param(12.0, 2.0, 8, id="eight workers feed 1.33x"),
        pytest.param(20.0, 2.0, None, id="nobody can"),
    ],
)
def test_the_fewest_workers_that_are_enough(read_ms, model_ms, fewest):
    verdict = find_bottleneck(findings(read_ms=read_ms, model_ms=model_ms))
    assert verdict.fewest_workers == fewest
    enough = {rating.workers for rating in verdict.ratings if rating.enough}
    assert enough == ({n for n in (0, 1, 2, 4, 8) if n >= fewest} if fewest is not None else set())


def test_what_is_configured_and_enough_is_left_alone():
    verdict = find_bottleneck(findings(read_ms=1.0, model_ms=4.0, workers=4))
    assert verdict.nothing_to_do
    assert (verdict.workers, verdict.cache, verdict.fewest_workers) == (None, None, 1)
    assert verdict.ratio == pytest.approx(16)
    assert verdict.sentence.endswith("Reading is faster than training: nothing to do.")
    assert "1 worker would already be enough" in advice(findings(read_ms=1.0, model_ms=4.0, workers=4), verdict)[0]


def test_too_few_workers():
    verdict = find_bottleneck(findings(read_ms=6.0, model_ms=2.0, workers=1))
    assert verdict.ratio == pytest.approx(1 / 3)
    assert verdict.wait_share == pytest.approx(2 / 3)
    assert (verdict.nothing_to_do, verdict.workers, verdict.cache) == (False, 4, None)
    assert verdict.sentence == (
        "As configured (with 1 worker) loader throughput is 0.33x the model's; the model would wait 67% of the time. "
        "With 4 workers it is 1.3x, with 0% of the time spent waiting. Reading is then faster than training."
    )


def test_a_cache_where_workers_are_not_enough():
    verdict = find_bottleneck(findings(read_ms=40.0, model_ms=2.0, workers=8))
    assert (verdict.workers, verdict.cache) == (None, "ram")
    (ram,) = verdict.caches
    assert ram.bytes == GB // 10
    assert ram.fill_s == pytest.approx(10_000 * 0.005)
    assert ram.wait_share == pytest.approx(0.01 / 2.01)


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param({"crops": True}, id="crops would be cut from smaller images"),
        pytest.param({"tensors": 5 * GB}, id="more than half of the memory"),
        pytest.param({"held_ms": 39.0}, id="it brings nothing"),
    ],
)
def test_no_cache_is_advised(obstacle):
    verdict = find_bottleneck(findings(read_ms=40.0, model_ms=2.0, workers=1, **obstacle))
    assert verdict.cache is None
    assert verdict.workers == 8  # not enough, but the fastest there is
    assert "the best this machine can do" in verdict.sentence


def test_on_a_cpu_workers_take_the_models_cores():
    alone = find_bottleneck(findings(read_ms=2.0, model_ms=4.0, workers=2, counts=(0, 1, 2)))
    assert alone.nothing_to_do
    # Alone, two workers would feed 4x; beside the model they starve it, and one worker does better.
    fighting = findings(read_ms=2.0, model_ms=4.0, workers=2, counts=(0, 1, 2), together={1: (4.4, 0.05), 2: (9, 0.4)})
    verdict = find_bottleneck(fighting)
    assert verdict.ratio == pytest.approx(0.6)
    assert verdict.wait_share == 0.4
    assert verdict.workers == 1


def test_augmentation_is_not_blamed_on_reading():
    found = findings(read_ms=1.0, own_ms=3.0, model_ms=3.0, workers=2)
    verdict = find_bottleneck(found)
    assert verdict.nothing_to_do
    assert verdict.wait_share == pytest.approx(0.5)
    assert "making batches in the trainer's own process" in verdict.sentence
    assert "most of it: augment" in verdict.sentence


def test_data_in_memory():
    found = in_memory(findings(read_ms=1.0, model_ms=2.0), fed_ms=0.01, wait=0.02)
    verdict = find_bottleneck(found)
    assert verdict.nothing_to_do
    assert verdict.ratio == pytest.approx(200)
    assert verdict.sentence == (
        "The data are in memory: loader throughput is 200x the model's; the model would wait 2% of the time. "
        "Nothing is read while training: nothing to do."
    )
    assert "from memory *" in page(found, verdict, "mlp", [])


def test_spreads_are_said_aloud():
    found = findings(read_ms=6.0, model_ms=2.0)
    assert spreads(found) == []
    shaky = replace(found, model=replace(found.model, step=steady(0.002, spread=0.22)))
    assert spreads(shaky) == [("model", 0.22)]
    assert advice(shaky, find_bottleneck(shaky))[-1] == (
        "the machine was busy, with spreads above 15%: model 22%; measure again when it is quiet"
    )


def test_no_spread_is_shown_as_the_bound_it_exceeds():
    found = findings(read_ms=6.0, model_ms=2.0)
    just = replace(found, model=replace(found.model, step=steady(0.002, spread=0.153)))  # shown as 15%
    assert spreads(just) == []


QUIET = {"read_ms": 1.0, "model_ms": 4.0, "workers": 2}


def _shaky_model(found):
    return replace(found, model=replace(found.model, step=steady(0.004, spread=0.6)))


def _shaky_loader(found):
    loader = [replace(one, timing=steady(one.timing.seconds, 0.6 if one.workers == 2 else 0)) for one in found.loader]
    return replace(found, loader=tuple(loader))


def _shaky_together(found):
    joint = [replace(one, timing=steady(one.timing.seconds, 0.6 if one.workers == 2 else 0)) for one in found.together]
    return replace(found, together=tuple(joint))


def _faster_together_than_the_model(found):
    return replace(found, together=tuple(replace(one, timing=steady(0.003)) for one in found.together))


def _faster_together_than_the_loader(found):
    return replace(found, loader=tuple(LoaderThroughput(one.workers, steady(0.006), 0.1) for one in found.loader))


@pytest.mark.parametrize(
    "spoil",
    [
        _shaky_model,
        _shaky_loader,
        _shaky_together,
        _faster_together_than_the_model,
        _faster_together_than_the_loader,
    ],
)
def test_no_verdict_is_relied_on_that_a_busy_machine_gave(spoil):
    assert find_bottleneck(findings(**QUIET)).doubts == ()
    verdict = find_bottleneck(spoil(findings(**QUIET)))
    assert verdict.doubts == (TOO_BUSY,)
    assert verdict.sentence.endswith("The machine was too busy for a reliable verdict; measure again.")


def test_a_number_of_workers_that_is_not_judged_may_be_shaky():
    found = findings(**QUIET)
    loader = [
        replace(one, timing=steady(one.timing.seconds, 0.01 if one.workers == 2 else 0.6)) for one in found.loader
    ]
    assert find_bottleneck(replace(found, loader=tuple(loader))).doubts == ()


@pytest.mark.parametrize("cached", [pytest.param(False, id="files"), pytest.param(True, id="in memory")])
def test_a_slow_model_gives_a_guess(cached):
    found = replace(findings(**QUIET), is_slow=True)
    found = in_memory(found, fed_ms=0.01, wait=0.02) if cached else found
    verdict = find_bottleneck(found)
    doubt = "a batch of 64 takes 0.3s, too slow to measure in the time, so this is a rough guess"
    assert verdict.sentence.endswith(f"probably nothing to do ({doubt}).")
    assert verdict.doubts == (doubt,)
    assert not any("would already be enough" in line for line in advice(found, verdict))


def test_no_workers_at_all_are_not_enough_at_any_ratio():
    # 0 workers read slower than the model learns; that they wait little beside it cannot be trusted.
    waits = {0: (4.6, 0.09), 1: (4.5, 0.3)}
    found = findings(read_ms=6.0, model_ms=4.0, workers=1, counts=(0, 1), together=waits)
    verdict = find_bottleneck(found)
    assert (verdict.workers, verdict.fewest_workers) == (None, None)
    assert "faster than training" not in verdict.sentence


def test_who_waits_little_is_left_alone():
    found = findings(read_ms=6.0, model_ms=4.0, workers=1, counts=(0, 1), together={0: (4.9, 0.14), 1: (4.3, 0.07)})
    verdict = find_bottleneck(found)
    assert (verdict.nothing_to_do, verdict.workers, verdict.cache) == (True, None, None)
    assert "Reading hardly slows training down: nothing to do." in verdict.sentence


@pytest.mark.parametrize(("step_ms", "advised"), [pytest.param(4.9, None, id="2 %"), pytest.param(4.4, 1, id="12 %")])
def test_fewer_workers_only_where_that_is_clearly_faster(step_ms, advised):
    together = {1: (step_ms, 0.05), 2: (5.0, 0.2)}
    found = findings(read_ms=2.0, model_ms=4.0, workers=2, counts=(0, 1, 2), together=together)
    assert find_bottleneck(found).workers == advised


def test_fewer_workers_that_are_slower_are_not_said_to_be_enough():
    together = {0: (4.8, 0.08), 4: (4.1, 0.01)}
    found = findings(read_ms=0.35, model_ms=4.0, workers=4, counts=(0, 4), together=together)
    verdict = find_bottleneck(found)
    assert verdict.fewest_workers == 0
    assert not any("would already be enough" in line for line in advice(found, verdict))


def test_the_fewest_that_feed_is_said_only_of_those_that_do():
    # Making batches takes the trainer's process 4 ms: whoever reads in less does not hold it up, and feeds 0.8x.
    found = findings(read_ms=8.0, own_ms=4.0, model_ms=3.2, workers=1, counts=(1, 2, 4))
    verdict = find_bottleneck(found)
    assert verdict.workers == verdict.fewest_workers == 2
    assert "faster than training" not in verdict.sentence
    assert "loader.workers: 2   the fewest that are enough" in advice(found, verdict)


def test_ratio_and_waiting_that_disagree_are_explained():
    found = findings(read_ms=64.0, model_ms=2.0, workers=1, counts=(0, 1), together={0: (80, 0.16), 1: (70, 0.16)})
    sentence = find_bottleneck(found).sentence
    assert sentence.startswith(
        "As configured (with 1 worker) loader throughput is 0.84x the model's (alone it would be 0.031x; together both "
        "slow down, as they share the CPU); the model would wait 16% of the time."
    )
    without = replace(found, data=replace(found.data, workers=0))
    assert "(alone; together both slow down, as they share the CPU)" in find_bottleneck(without).sentence


def test_taking_turns_is_no_sharing():
    sentence = find_bottleneck(findings(read_ms=2.0, model_ms=4.0, workers=0, counts=(0, 1))).sentence
    assert "is 2x the model's (making batches and training take turns); the model would wait 33%" in sentence


def test_memory_of_the_slots():
    found = findings(read_ms=6.0, model_ms=2.0, workers=1)
    assert slots_bytes(found, 4) == 4 * 2 * 64 * (GB // 10 // 10_000)
    tight = replace(found, machine=replace(found.machine, available_bytes=5_000_000))
    assert any("lower loader.prefetch" in line for line in advice(tight, find_bottleneck(tight)))


def test_both_kinds_of_memory_are_checked():
    found = findings(read_ms=6.0, model_ms=2.0, workers=1)
    verdict = find_bottleneck(found)
    shm, ahead = memory_checks(found, verdict)
    assert (shm.name, shm.status, shm.needed_bytes, shm.available_bytes) == ("/dev/shm", "ok", 0, 64_000_000)
    assert "64 MB, not needed" in shm.text
    assert ahead.status == "ok"
    assert ahead.needed_bytes == slots_bytes(found, verdict.workers or 1) > 0
    tight = replace(found, machine=replace(found.machine, available_bytes=ahead.needed_bytes * 2 - 1, shm_bytes=None))
    shm, ahead = memory_checks(tight, verdict)
    assert (shm.available_bytes, shm.text) == (None, "not there, and not needed")
    assert ahead.status == "warning"
    assert "lower loader.prefetch" in ahead.text
    assert "warning  batches read ahead" in page(tight, verdict, "resnet", [])
    held = in_memory(found, fed_ms=0.1, wait=0.0)
    assert memory_checks(held, find_bottleneck(held))[1].needed_bytes == 0


def test_what_is_shown_is_what_is_compared():
    for ratio in (0.0123, 0.833, 0.996, 1.04, 1.249, 9.94, 9.96, 250.4, 1e7):
        assert f"{as_shown(ratio):g}" == f"{float(times(ratio).removesuffix('x')):g}"
    assert as_shown(0.996) == 1.0
    assert as_shown(0.994) == 0.99


def test_a_cold_disk_is_mentioned():
    found = on_disk(findings(read_ms=1.0, model_ms=2.0, workers=0))
    # 1 ms of reading and 2 of learning; from the disk 10 and 2.
    assert any("100 files/s" in line and "the first epoch would then wait 83%" in line for line in
               advice(found, find_bottleneck(found)))  # fmt: skip
    vast = replace(found, data=replace(found.data, bytes_on_disk=100 * GB))
    assert any("every epoch" in line for line in advice(vast, find_bottleneck(vast)))


def test_workers_share_what_the_disk_costs():
    found = on_disk(findings(read_ms=1.0, model_ms=2.0, counts=(0, 1, 4, 8), workers=1))
    cold = {rating.workers: rating.cold_wait_share for rating in find_bottleneck(found).ratings}
    # One reads for 10 ms what takes 2 to learn from, four 2.5 ms, eight 1.25.
    assert cold == pytest.approx({0: 10 / 12, 1: 8 / 10, 4: 0.5 / 2.5, 8: 0.0}, abs=1e-6)
    starved = on_disk(findings(read_ms=6.0, model_ms=2.0, counts=(0, 1), together={1: (8.0, 0.75)}, workers=1))
    assert find_bottleneck(starved).ratings[1].cold_wait_share == pytest.approx(1 - 2 / 17)


def on_disk(found: Measurements) -> Measurements:
    """From the disk a file takes 9 ms longer."""
    cold = Stage(READ_COLD, steady(0.010), "comparison", 10_000)
    warm = Stage(READ_WARM, steady(0.001), "worker", 10_000)
    return replace(found, stages=(cold, warm, *found.stages[1:]))


def test_the_page_has_every_part():
    found = findings(read_ms=6.0, own_ms=0.2, model_ms=2.0, workers=1)
    text = page(found, find_bottleneck(found), "resnet 11,173,962 parameters", [("saved", "there")])
    heads = [line.split()[0] for line in text.splitlines() if line[:1].strip()]
    assert heads[:4] == ["data", "machine", "memory", "stage"]
    assert {"loader", "model", "epoch", "cache", "VERDICT", "advice", "saved"} <= set(heads)
    assert "1 worker *" in text
    assert "loader.workers: 4   the fewest with 1.25x the model's throughput" in text


@pytest.mark.parametrize(("ratio", "text"), [(0.833, "0.83x"), (1.62, "1.6x"), (9.94, "9.9x"), (250.4, "250x")])
def test_times(ratio, text):
    assert times(ratio) == text
