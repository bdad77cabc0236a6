"""What bench-io prints: stages, loader, model, verdict and advice, for a terminal."""

from collections.abc import Iterable

from mlcli.machine.bench.findings import READ_COLD, Findings, Stage
from mlcli.machine.bench.rating import ENOUGH, POINTS, TOLERATED_WAIT, CacheOption, expected_wait_share, times
from mlcli.machine.bench.shared_memory import checks
from mlcli.machine.bench.timing import LARGE_SPREAD, Timing
from mlcli.machine.bench.verdict import GAIN, Verdict, spreads
from mlcli.text import ABSENT, duration, paragraphs, plural, size, table


def page(findings: Findings, verdict: Verdict, model: str, next_lines: list[tuple[str, str]]) -> str:
    """model: its description; next_lines: subject and text to end with (apply, saved)."""
    parts = [
        paragraphs([("data", _data(findings)), ("machine", _machine(findings)), *_checks(findings, verdict)]),
        _stages(findings),
        _loader(findings),
        paragraphs(_model(findings, model)),
        _caches(findings, verdict.caches),
        paragraphs(
            [("VERDICT", verdict.sentence), *(("advice", line) for line in advice(findings, verdict)), *next_lines]
        ),
    ]
    return "\n\n".join(part for part in parts if part)


def advice(findings: Findings, verdict: Verdict) -> list[str]:
    """What to change and what to beware of, one sentence each."""
    data, lines = findings.data, []
    if verdict.workers is not None:
        best = next(rating for rating in verdict.ratings if rating.workers == verdict.workers)
        why = "the fewest that are enough" if best.workers == verdict.fewest_workers else "the fastest measured"
        if best.workers == verdict.fewest_workers and best.ratio >= ENOUGH:
            why = f"the fewest that feed {ENOUGH}x"
        lines.append(f"loader.workers: {verdict.workers}   {why}")
    if verdict.cache is not None:
        lines.append(f"loader.cache: {verdict.cache}   all samples are read once and kept")
    fewest = _fewer_that_do(findings, verdict)
    if fewest is not None:
        lines.append(f"{plural(fewest, 'worker')} would already be enough; more do no harm but take memory")
    if not data.in_memory and data.cache == "none":
        lines += _disk_advice(findings, verdict)
    if data.crops and verdict.fewest_workers is None and not data.in_memory:
        lines.append("loader.cache: ram is not advised: random_resized_crop would cut from the small images held")
    if findings.batch_size < findings.asked_batch_size:
        lines.append(f"the model is slow here: measured with batches of {findings.batch_size} instead of "
                     f"{findings.asked_batch_size}, to keep within the time")  # fmt: skip
    lines += [check.text for check in checks(findings, verdict) if check.status == "warning"]
    if wide := spreads(findings):
        shown = ", ".join(f"{name} {spread:.0%}" for name, spread in wide[:4])
        busy = f"the machine was busy, with spreads above {LARGE_SPREAD:.0%}"
        lines.append(f"{busy}: {shown}; measure again when it is quiet")
    return lines


def _fewer_that_do(findings: Findings, verdict: Verdict) -> int | None:
    """Fewer workers than configured with which training is as fast."""
    step_s = {rating.workers: rating.step_s for rating in verdict.ratings}
    fewest, configured = verdict.fewest_workers, findings.data.workers
    if verdict.doubts or not verdict.nothing_to_do or fewest is None or fewest >= configured:
        return None
    return fewest if step_s[fewest] <= (1 + GAIN) * step_s[configured] else None


def _disk_advice(findings: Findings, verdict: Verdict) -> list[str]:
    """Whether the disk itself, read without help of the page cache, is too slow."""
    cold = next((stage.timing for stage in findings.stages if stage.name == READ_COLD), None)
    now = next(rating for rating in verdict.ratings if rating.workers == findings.data.workers)
    if cold is None or now.cold_wait_share < max(TOLERATED_WAIT, now.wait_share + POINTS):
        return []
    fits = findings.data.bytes_on_disk < findings.machine.available_bytes
    when = "the first epoch" if fits else "every epoch, since the files do not fit into memory,"
    return [f"the disk delivers {_count(cold.per_s)} files/s when the page cache is cold: {when} would then wait "
            f"{now.cold_wait_share:.0%} of the time"]  # fmt: skip


def _data(findings: Findings) -> str:
    data = findings.data
    unit = "images" if data.unit == "img" else "rows"
    parts = [f"{data.name}  {data.samples:,} {unit}"]
    if data.bytes_on_disk:
        parts.append(f"mean {size(data.bytes_on_disk // data.samples)}")
        parts.append(f"{size(data.bytes_on_disk)}  {data.file_system}".rstrip())
    places = {"ram": "held in RAM", "disk": "held in a file mapped into memory", "device": "held on the device"}
    how = places.get(data.cache, "files read while training")
    if data.cache != "none" and not data.in_memory:
        how += " after the first reading"
    return "  ".join([*parts, how])


def _machine(findings: Findings) -> str:
    m = findings.machine
    limit = f" (of {m.cpus}: limited by affinity or control group)" if m.usable_cpus < m.cpus else ""
    parts = [f"{m.usable_cpus} usable CPUs{limit}", f"{size(m.available_bytes)} RAM available", m.device_name]
    return " · ".join(parts)


def _checks(findings: Findings, verdict: Verdict) -> Iterable[tuple[str, str]]:
    for check in checks(findings, verdict):
        yield "memory", f"{check.status:<7}  {check.name}: {check.text}"


def _stages(findings: Findings) -> str:
    chain_s = sum(s.timing.seconds for s in findings.stages if s.timing and s.by != "comparison" and not s.part)
    unit = "image" if findings.data.unit == "img" else "row"
    rows = []
    for stage in findings.stages:
        share = ABSENT if stage.by == "comparison" or stage.timing is None else f"{stage.timing.seconds / chain_s:.0%}"
        name = f"    {stage.name}" if stage.part else stage.name
        by = {"worker": "worker", "trainer": "trainer", "comparison": ""}[stage.by]
        rows.append([name, by, *_figures(stage), share])
    header = ["stage", "in", f"{findings.data.unit}/s", "MB/s", f"per {unit}", "spread", "share"]
    text = table(header, rows, left=2)
    notes = [f"{stage.name}: {stage.note}" for stage in findings.stages if stage.note]
    return "\n".join([text, *(f"  {note}" for note in notes)])


def _figures(stage: Stage) -> list[str]:
    if stage.timing is None:
        return [ABSENT] * 4
    speed = f"{stage.bytes_per_sample * stage.timing.per_s / 1e6:,.0f}" if stage.bytes_per_sample else ""
    return [_count(stage.timing.per_s), speed, _time(stage.timing.seconds), _spread(stage.timing)]


def _loader(findings: Findings) -> str:
    data, unit = findings.data, f"{findings.data.unit}/s"
    header = [
        "loader",
        f"alone {unit}",
        "spread",
        "first batch",
        "with model",
        "spread",
        "waits",
        "if not sharing",
    ]
    rows = []
    model_s, own_s = findings.model.step.seconds, findings.own_s
    joints = {joint.workers: joint for joint in findings.together}
    for loading in findings.loader:
        timing, workers = loading.timing, plural(loading.workers, "worker")
        row = [f"{workers} *" if loading.workers == data.workers else workers]
        row += [_count(timing.per_s), _spread(timing), duration(loading.first_batch_s)]
        if data.cache == "none":
            joint = joints[loading.workers]
            read_s = timing.seconds if loading.workers else max(timing.seconds - own_s, 0.0)
            alone = expected_wait_share(read_s, own_s, model_s, loading.workers)
            row += [_count(joint.timing.per_s), _spread(joint.timing), f"{joint.wait_share:.0%}", f"{alone:.0%}"]
        rows.append(row)
    if data.cache != "none":
        rows = [[*row, *[ABSENT] * 4] for row in rows] if rows else rows
        fed, joint = findings.fed, findings.together[0]
        alone = expected_wait_share(fed.seconds, 0, model_s, 0)
        where = "memory" if data.in_memory else data.cache
        rows.append([f"from {where} *", _count(fed.per_s), _spread(fed), ABSENT,
                     _count(joint.timing.per_s), _spread(joint.timing), f"{joint.wait_share:.0%}",
                     f"{alone:.0%}"])  # fmt: skip
    return table(header, rows)


def _model(findings: Findings, model: str) -> Iterable[tuple[str, str]]:
    m, appetite = findings.machine, findings.model
    parts = {"forward": appetite.forward, "backward": appetite.backward, "optimizer": appetite.optimizer}
    total_s = sum(timing.seconds for timing in parts.values())
    shares = ", ".join(f"{name} {timing.seconds / total_s:.0%}" for name, timing in parts.items())
    unit = findings.data.unit
    yield "model", model
    yield "", (f"eats {_count(appetite.step.per_s)} {unit}/s (spread {_spread(appetite.step)}) in batches of "
               f"{findings.batch_size}, {m.precision} on {m.device}: {shares}")  # fmt: skip
    train, together = findings.data.train, next(j for j in findings.together if _is_configured(findings, j.workers))
    fed_s, eaten_s = train * findings.fed.seconds, train * appetite.step.seconds
    both_s = train * together.timing.seconds
    yield "epoch", f"loader alone {duration(fed_s)} · model alone {duration(eaten_s)} · together {duration(both_s)}"
    if findings.scan:
        scan = findings.scan
        yield "scan", (f"all {scan.samples:,} samples read once in {duration(scan.seconds)}, "
                       f"{_count(scan.samples / scan.seconds)} {unit}/s: every one can be read")  # fmt: skip


def _is_configured(findings: Findings, workers: int) -> bool:
    return workers == (findings.data.workers if findings.data.cache == "none" else 0)


def _caches(findings: Findings, caches: tuple[CacheOption, ...]) -> str:
    """What holding the samples costs and brings; nothing to say for data that are in memory anyway on a CPU."""
    if findings.data.in_memory and len(caches) == 1:
        return ""
    rows = []
    for cache in caches:
        fits = "" if cache.fits else "  too much for this machine"
        fill = duration(cache.fill_s) if cache.fill_s else ABSENT
        rows.append([cache.cache, size(cache.bytes), fill, times(cache.ratio), f"{cache.wait_share:.0%}{fits}"])
    text = table(["cache", "memory", "to fill", "feeds", "waits"], rows)
    if findings.machine.device == "cpu":
        text += "\ndevice  the same memory as ram, the device being the CPU"
    return text


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spread(timing: Timing) -> str:
    return ABSENT if timing.spread is None else f"{timing.spread:.0%}"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.2f} us"
