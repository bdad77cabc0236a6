"""The picture of bench-io: what each stage costs, and the throughput of loader and model by workers."""

from mlcli.engine.run import png
from mlcli.machine.bench.measurements import Measurements
from mlcli.machine.bench.verdict import ENOUGH, ThroughputVerdict, compared
from mlcli.show.charts import Axis, Bar, BarChart, Line, LineChart, Role, Rule, axis
from mlcli.show.figure import image


def picture(measured: Measurements, verdict: ThroughputVerdict, title: str) -> bytes:
    """A PNG of two charts."""
    state = f"{compared(verdict.ratio)}; the model waits {verdict.wait_share:.0%} of the time"
    from_files = measured.data.cache == "none"
    return png(image(_stages(measured), _by_workers(measured) if from_files else _from_memory(measured),
                     title=f"{title}\n{state}"))  # fmt: skip


def _stages(measured: Measurements) -> BarChart:
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
