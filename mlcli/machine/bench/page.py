"""The answer of bench-io: a page for the terminal with stages, loader, model, verdict and advice, and a picture."""

from collections.abc import Iterable

from mlcli.engine.meter import TOLERATED_WAIT
from mlcli.machine.bench.bottleneck import (
    ENOUGH,
    GAIN,
    POINTS,
    CacheOption,
    ThroughputVerdict,
    compared,
    expected_wait_share,
    memory_checks,
    slow_batch,
    spreads,
    times,
)
from mlcli.machine.bench.measurements import LARGE_SPREAD, READ_COLD, Measurements, Timing
from mlcli.outputs import png
from mlcli.show.charts import Axis, Bar, BarChart, Line, LineChart, Role, Rule, axis
from mlcli.show.figure import image
from mlcli.text import ABSENT, duration, paragraphs, plural, size, table


def page(measured: Measurements, verdict: ThroughputVerdict, model: str, next_lines: list[tuple[str, str]]) -> str:
    """model: its description; next_lines: subject and text to end with (apply, saved)."""
    memory = [f"{check.status:<7}  {check.name}: {check.text}" for check in memory_checks(measured, verdict)]
    m = measured.machine
    is_limited = m.usable_cpus < m.cpus and m.processes == 1
    limit = f" (of {m.cpus}: limited by affinity or control group)" if is_limited else ""
    machine = (
        f"{plural(m.usable_cpus, 'usable CPU')}{limit} · {size(m.available_bytes)} RAM available · {m.device_name}"
    )
    setting = [("data", _data(measured)), ("machine", machine), *(("memory", line) for line in memory)]
    if m.processes > 1:
        share = f"batches of up to {measured.batch_size}, {plural(m.usable_cpus, 'usable CPU')}"
        told = f"{share}, {plural(m.threads, 'thread')}; workers are counted for each, the disk is shared by all"
        setting.append(("processes", f"{m.processes}; measured is what one of them gets: {told}"))
    advised = [("advice", line) for line in advice(measured, verdict)]
    parts = [
        paragraphs(setting),
        _stages(measured),
        _loader(measured),
        paragraphs(_model(measured, model)),
        _caches(measured, verdict.caches),
        paragraphs([("VERDICT", verdict.sentence), *advised, *next_lines]),
    ]
    return "\n\n".join(part for part in parts if part)


def advice(measured: Measurements, verdict: ThroughputVerdict) -> list[str]:
    """Changes to make and things to beware of, one sentence each."""
    data, fewest, lines = measured.data, verdict.fewest_workers, []
    ratings = {rating.workers: rating for rating in verdict.ratings}
    if verdict.workers is not None:
        why = "the fewest that are enough" if verdict.workers == fewest else "the fastest measured"
        if verdict.workers == fewest and ratings[verdict.workers].ratio >= ENOUGH:
            why = f"the fewest with {ENOUGH}x the model's throughput"
        lines.append(f"loader.workers: {verdict.workers}   {why}")
    if verdict.cache is not None:
        lines.append(f"loader.cache: {verdict.cache}   all samples are read once and kept")
    is_fine = verdict.nothing_to_do and not verdict.doubts
    if (
        fewest is not None
        and is_fine
        and fewest < data.workers
        and ratings[fewest].step_s <= (1 + GAIN) * ratings[data.workers].step_s
    ):
        lines.append(f"{plural(fewest, 'worker')} would already be enough; more do no harm but take memory")
    if data.cache == "none" and not data.in_memory:
        lines += _disk_advice(measured, ratings[data.workers].wait_share, ratings[data.workers].cold_wait_share)
    if data.crops and fewest is None and not data.in_memory:
        lines.append("loader.cache: ram is not advised: parts would be cut from the small images held")
    if measured.is_slow:
        lines.append(f"the model is slow here: {slow_batch(measured)}; few steps could be measured in the time")
    lines += [check.text for check in memory_checks(measured, verdict) if check.status == "warning"]
    if wide := spreads(measured):
        shown = ", ".join(f"{name} {spread:.0%}" for name, spread in wide[:4])
        busy = f"the machine was busy, with spreads above {LARGE_SPREAD:.0%}"
        lines.append(f"{busy}: {shown}; measure again when it is quiet")
    return lines


def _disk_advice(measured: Measurements, wait_share: float, cold_wait_share: float) -> list[str]:
    """Say whether the disk itself, read without help of the page cache, is too slow."""
    cold = next((stage.timing for stage in measured.stages if stage.name == READ_COLD), None)
    if cold is None or cold_wait_share < max(TOLERATED_WAIT, wait_share + POINTS):
        return []
    fits = measured.data.bytes_on_disk < measured.machine.available_bytes
    when = "the first epoch" if fits else "every epoch, since the files do not fit into memory,"
    return [f"the disk delivers {_count(cold.per_s)} files/s when the page cache is cold: {when} would then wait "
            f"{cold_wait_share:.0%} of the time"]  # fmt: skip


def _data(measured: Measurements) -> str:
    data = measured.data
    parts = [f"{data.name}  {data.samples:,} {'images' if data.unit == 'img' else 'rows'}"]
    if data.bytes_on_disk:
        parts.append(f"mean {size(data.bytes_on_disk // data.samples)}")
        parts.append(f"{size(data.bytes_on_disk)}  {data.file_system}".rstrip())
    places = {"ram": "held in RAM", "disk": "held in a file mapped into memory", "device": "held on the device"}
    how = places.get(data.cache, "files read while training")
    if data.cache != "none" and not data.in_memory:
        how += " after the first reading"
    return "  ".join([*parts, how])


def _stages(measured: Measurements) -> str:
    chain_s = sum(s.timing.seconds for s in measured.stages if s.timing and s.by != "comparison" and not s.part)
    rows = []
    for stage in measured.stages:
        share = ABSENT if stage.by == "comparison" or stage.timing is None else f"{stage.timing.seconds / chain_s:.0%}"
        figures = [ABSENT] * 4
        if stage.timing:
            seconds = stage.timing.seconds
            speed = f"{stage.bytes_per_sample * stage.timing.per_s / 1e6:,.0f}" if stage.bytes_per_sample else ""
            time = f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.2f} us"
            figures = [_count(stage.timing.per_s), speed, time, _spread(stage.timing)]
        name = f"    {stage.name}" if stage.part else stage.name
        rows.append([name, "" if stage.by == "comparison" else stage.by, *figures, share])
    unit = "image" if measured.data.unit == "img" else "row"
    header = ["stage", "in", f"{measured.data.unit}/s", "MB/s", f"per {unit}", "spread", "share"]
    notes = [f"  {stage.name}: {stage.note}" for stage in measured.stages if stage.note]
    return "\n".join([table(header, rows, left=2), *notes])


def _loader(measured: Measurements) -> str:
    """The loader alone and with the model, by number of workers, and from memory where that is configured."""
    data, model_s, own_s = measured.data, measured.model.step.seconds, measured.own_s
    header = ["loader", f"alone {data.unit}/s", "spread", "first batch", "with model", "spread", "waits",
              "if not sharing"]  # fmt: skip
    joints = {joint.workers: joint for joint in measured.together}
    rows = []
    for loading in measured.loader:
        timing, workers = loading.timing, plural(loading.workers, "worker")
        row = [f"{workers} *" if loading.workers == data.workers else workers]
        row += [_count(timing.per_s), _spread(timing), duration(loading.first_batch_s)]
        if data.cache == "none":
            joint = joints[loading.workers]
            read_s = timing.seconds if loading.workers else max(timing.seconds - own_s, 0.0)
            alone = expected_wait_share(read_s, own_s, model_s, loading.workers)
            row += [_count(joint.timing.per_s), _spread(joint.timing), f"{joint.wait_share:.0%}", f"{alone:.0%}"]
        else:
            row += [ABSENT] * 4
        rows.append(row)
    if data.cache != "none":
        held, joint = measured.configured_loader, measured.together[0]
        alone = expected_wait_share(held.seconds, 0, model_s, 0)
        rows.append([f"from {'memory' if data.in_memory else data.cache} *", _count(held.per_s), _spread(held), ABSENT,
                     _count(joint.timing.per_s), _spread(joint.timing), f"{joint.wait_share:.0%}",
                     f"{alone:.0%}"])  # fmt: skip
    return table(header, rows)


def _model(measured: Measurements, model: str) -> Iterable[tuple[str, str]]:
    machine, data, speed = measured.machine, measured.data, measured.model
    parts = {"forward": speed.forward, "backward": speed.backward, "optimizer": speed.optimizer}
    total_s = sum(timing.seconds for timing in parts.values())
    shares = ", ".join(f"{name} {timing.seconds / total_s:.0%}" for name, timing in parts.items())
    yield "model", model
    yield "", (f"{_count(speed.step.per_s)} {data.unit}/s (spread {_spread(speed.step)}) in batches of "
               f"{measured.batch_size}, {machine.precision} on {machine.device}: {shares}")  # fmt: skip
    joint = measured.joint(data.workers if data.cache == "none" else 0)
    alone_s, model_s, joint_s = (data.train * t.seconds for t in (measured.configured_loader, speed.step, joint.timing))
    yield "epoch", f"loader alone {duration(alone_s)} · model alone {duration(model_s)} · together {duration(joint_s)}"
    if scan := measured.scan:
        yield "scan", (f"all {scan.samples:,} samples read once in {duration(scan.seconds)}, "
                       f"{_count(scan.samples / scan.seconds)} {data.unit}/s: every one can be read")  # fmt: skip


def _caches(measured: Measurements, caches: tuple[CacheOption, ...]) -> str:
    """Cost and effect of holding the samples; nothing for data that are in memory anyway on a CPU."""
    if measured.data.in_memory and len(caches) == 1:
        return ""
    rows = []
    for cache in caches:
        fits = "" if cache.fits else "  too much for this machine"
        fill = duration(cache.fill_s) if cache.fill_s else ABSENT
        rows.append([cache.cache, size(cache.bytes), fill, times(cache.ratio), f"{cache.wait_share:.0%}{fits}"])
    text = table(["cache", "memory", "to fill", "vs model", "waits"], rows)
    if measured.machine.device == "cpu":
        text += "\ndevice  the same memory as ram, the device being the CPU"
    return text


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(timing: Timing) -> str:
    return ABSENT if timing.spread is None else f"{timing.spread:.0%}"


# --- the picture -----------------------------------------------------------------------------------------------------


def picture(measured: Measurements, verdict: ThroughputVerdict, title: str) -> bytes:
    """A PNG of two charts."""
    state = f"{compared(verdict.ratio)}; the model waits {verdict.wait_share:.0%} of the time"
    from_files = measured.data.cache == "none"
    loading = _by_workers(measured) if from_files else _from_memory(measured)
    return png(image(_stages_chart(measured), loading, title=f"{title}\n{state}"))


def _stages_chart(measured: Measurements) -> BarChart:
    """Time per sample of each stage and of the model's phases."""
    model = measured.model
    rows: list[tuple[str, float, str, Role]] = [
        (s.name, s.timing.seconds, *(("in a worker", "main") if s.by == "worker" else ("in the trainer", "quiet")))
        for s in measured.stages
        if s.timing and s.by != "comparison" and not s.part
    ]
    parts = {"forward": model.forward, "backward": model.backward, "optimizer": model.optimizer}
    rows += [(name, timing.seconds, "the model", "warn") for name, timing in parts.items()]
    longest_s = max(seconds for _, seconds, _, _ in rows)
    scale, unit = (1e3, "ms") if longest_s >= 1e-3 else (1e6, "us")
    bars = [Bar(name, scale * seconds, f"{scale * seconds:.3g}", by, role) for name, seconds, by, role in rows]
    what = "image" if measured.data.unit == "img" else "row"
    return BarChart("Each stage, one process", bars, scale * longest_s, x_name=f"{unit} per {what}")


def _by_workers(measured: Measurements) -> LineChart:
    counts = [loading.workers for loading in measured.loader]
    model_per_s = measured.model.step.per_s
    alone = [(float(i), loading.timing.per_s) for i, loading in enumerate(measured.loader)]
    together = [(float(i), measured.joint(count).timing.per_s) for i, count in enumerate(counts)]
    rules = [
        Rule(model_per_s, f"model alone, {model_per_s:,.0f}/s", "y"),
        Rule(ENOUGH * model_per_s, f"{ENOUGH}x of it", "y"),
        Rule(float(counts.index(measured.data.workers)), "configured"),
    ]
    lines = [Line("loader alone", alone, group=0), Line("loader and model", together, group=1)]
    highest = max(value for points in (alone, together) for _, value in points)
    places = tuple(map(float, range(len(counts))))
    return LineChart(
        "Reading and training",
        lines,
        Axis(-0.2, len(counts) - 0.8, places, "workers", labels=tuple(map(str, counts))),
        axis([0.0, highest, ENOUGH * model_per_s], f"{measured.data.unit}/s"),
        rules=rules,
        shown="{:,.0f}/s".format,
    )


def _from_memory(measured: Measurements) -> BarChart:
    rows: list[tuple[str, float, Role]] = [
        ("loader alone", measured.configured_loader.per_s, "main"),
        ("model alone", measured.model.step.per_s, "warn"),
        ("together", measured.together[0].timing.per_s, "quiet"),
    ]
    bars = [Bar(name, value, f"{value:,.0f}", role=role) for name, value, role in rows]
    title = f"Batches from {'memory' if measured.data.in_memory else measured.data.cache}"
    return BarChart(title, bars, max(value for _, value, _ in rows), x_name=f"{measured.data.unit}/s")
