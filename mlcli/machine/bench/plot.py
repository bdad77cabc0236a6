"""The picture of bench-io: what each stage costs, and the loader by its workers beside the model's throughput."""

from mlcli.engine.run import png
from mlcli.machine.bench.findings import Findings
from mlcli.machine.bench.verdict import ENOUGH, ThroughputVerdict, compared
from mlcli.show.charts import Axis, Bar, BarChart, Line, LineChart, Role, Rule, axis
from mlcli.show.figure import image


def picture(findings: Findings, verdict: ThroughputVerdict, title: str) -> bytes:
    """A PNG of two charts."""
    state = f"{compared(verdict.ratio)}; the model waits {verdict.wait_share:.0%} of the time"
    from_files = findings.data.cache == "none"
    return png(image(_stages(findings), _by_workers(findings) if from_files else _from_memory(findings),
                     title=f"{title}\n{state}"))  # fmt: skip


def _stages(findings: Findings) -> BarChart:
    """Time per sample of each stage, the model's own beside them."""
    model = findings.model
    rows: list[tuple[str, float, str, Role]] = [
        (s.name, s.timing.seconds, *(("in a worker", "main") if s.by == "worker" else ("in the trainer", "quiet")))
        for s in findings.stages
        if s.timing and s.by != "comparison" and not s.part
    ]
    parts = {"forward": model.forward, "backward": model.backward, "optimizer": model.optimizer}
    rows += [(name, timing.seconds, "the model", "warn") for name, timing in parts.items()]
    longest_s = max(seconds for _, seconds, _, _ in rows)
    scale, unit = (1e3, "ms") if longest_s >= 1e-3 else (1e6, "us")
    bars = [Bar(name, scale * seconds, f"{scale * seconds:.3g}", by, role) for name, seconds, by, role in rows]
    what = "image" if findings.data.unit == "img" else "row"
    return BarChart("Each stage, one process", bars, scale * longest_s, x_name=f"{unit} per {what}")


def _by_workers(findings: Findings) -> LineChart:
    counts = [loading.workers for loading in findings.loader]
    model_per_s = findings.model.step.per_s
    alone = [(float(i), loading.timing.per_s) for i, loading in enumerate(findings.loader)]
    together = [(float(i), findings.joint(count).timing.per_s) for i, count in enumerate(counts)]
    rules = [
        Rule(model_per_s, f"model alone, {model_per_s:,.0f}/s", "y"),
        Rule(ENOUGH * model_per_s, f"{ENOUGH}x of it", "y"),
        Rule(float(counts.index(findings.data.workers)), "configured"),
    ]
    lines = [Line("loader alone", alone, group=0), Line("loader and model", together, group=1)]
    highest = max(value for points in (alone, together) for _, value in points)
    places = tuple(map(float, range(len(counts))))
    return LineChart(
        "Reading and training",
        lines,
        Axis(-0.2, len(counts) - 0.8, places, "workers", labels=tuple(map(str, counts))),
        axis([0.0, highest, ENOUGH * model_per_s], f"{findings.data.unit}/s"),
        rules=rules,
        shown="{:,.0f}/s".format,
    )


def _from_memory(findings: Findings) -> BarChart:
    rows: list[tuple[str, float, Role]] = [
        ("loader alone", findings.fed.per_s, "main"),
        ("model alone", findings.model.step.per_s, "warn"),
        ("together", findings.together[0].timing.per_s, "quiet"),
    ]
    bars = [Bar(name, value, f"{value:,.0f}", role=role) for name, value, role in rows]
    title = f"Batches from {'memory' if findings.data.in_memory else findings.data.cache}"
    return BarChart(title, bars, max(value for _, value, _ in rows), x_name=f"{findings.data.unit}/s")
