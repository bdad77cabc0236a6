"""The picture of bench-io: what each stage costs, and the loader by its workers beside the model's throughput."""

import io
from typing import Any

from mlcli.machine.bench.findings import Findings
from mlcli.machine.bench.verdict import ENOUGH, ThroughputVerdict, compared

BLUE, ORANGE, GREY, DARK = "#3b6fb6", "#e08a2c", "#b8bec6", "#30343b"


def picture(findings: Findings, verdict: ThroughputVerdict, title: str) -> bytes:
    """A PNG of two panels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    _stages(left, findings)
    if findings.data.cache == "none":
        _by_workers(right, findings, verdict)
    else:
        _from_memory(right, findings)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    state = f"{compared(verdict.ratio)}; the model waits {verdict.wait_share:.0%} of the time"
    figure.suptitle(f"{title}\n{state}", fontsize=11, color=DARK)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()


def _stages(axes: Any, findings: Findings) -> None:
    """Time per sample of each stage, the model's own beside them."""
    shown = [s for s in findings.stages if s.timing and s.by != "comparison" and not s.part]
    names = [*(stage.name for stage in shown), "forward", "backward", "optimizer"]
    model = findings.model
    seconds = [stage.timing.seconds for stage in shown if stage.timing]
    seconds += [model.forward.seconds, model.backward.seconds, model.optimizer.seconds]
    scale, unit = (1e3, "ms") if max(seconds) >= 1e-3 else (1e6, "us")
    colours = [*(BLUE if stage.by == "worker" else GREY for stage in shown), *[ORANGE] * 3]
    values = [scale * value for value in seconds]
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, labels=[f"{value:.3g}" for value in values], padding=3, fontsize=9, color=DARK)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    what = "image" if findings.data.unit == "img" else "row"
    axes.set_xlabel(f"{unit} per {what}")
    axes.set_title("each stage, one process", fontsize=10)
    kinds = [("in a worker", BLUE), ("in the trainer", GREY), ("the model", ORANGE)]
    present = [(name, colour) for name, colour in kinds if colour in colours]
    handles = [axes.barh([0], [0], color=colour) for _, colour in present]
    axes.legend(handles, [name for name, _ in present], frameon=False, fontsize=9, loc="lower right")


def _by_workers(axes: Any, findings: Findings, verdict: ThroughputVerdict) -> None:
    counts = [loading.workers for loading in findings.loader]
    places = range(len(counts))
    model_per_s = findings.model.step.per_s
    axes.plot(places, [loading.timing.per_s for loading in findings.loader], "o-", color=BLUE, label="loader alone")
    together = [findings.joint(count).timing.per_s for count in counts]
    axes.plot(places, together, "s--", color=DARK, label="loader and model together")
    axes.axhline(model_per_s, color=ORANGE, label=f"model alone, {model_per_s:,.0f}/s")
    axes.axhline(ENOUGH * model_per_s, color=ORANGE, linestyle=":", label=f"{ENOUGH}x of it")
    axes.axvline(counts.index(findings.data.workers), color=GREY, linewidth=8, alpha=0.4, zorder=0, label="configured")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xticks(places, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("workers")
    axes.set_ylabel(f"{findings.data.unit}/s")
    axes.set_title("reading and training", fontsize=10)
    axes.legend(frameon=False, fontsize=9)


def _from_memory(axes: Any, findings: Findings) -> None:
    names = ["loader alone", "model alone", "together"]
    values = [findings.fed.per_s, findings.model.step.per_s, findings.together[0].timing.per_s]
    bars = axes.bar(names, values, color=[BLUE, ORANGE, DARK], width=0.6)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=2, fontsize=9, color=DARK)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(f"{findings.data.unit}/s")
    axes.margins(y=0.1)
    axes.set_title(f"batches from {'memory' if findings.data.in_memory else findings.data.cache}", fontsize=10)
