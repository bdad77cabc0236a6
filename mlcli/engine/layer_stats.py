"""Statistics of each layer: how large its gradients are, how far a step moves it, what its outputs are like.

Gradients that vanish or explode on their way down (Hochreiter 1991; Glorot & Bengio 2010, figures 6 to 8) show in the
norms per layer; a step that moves weights by about a thousandth of their size is in order (Karpathy, CS231n, "Ratio of
weights:updates").
"""

import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine.hooks import leaves, watch
from mlcli.engine.meter import Budget
from mlcli.text import first_few

BINS = 30
"""Of a histogram; TensorBoard draws about that many."""
VANISHED = 1e-4
"""Gradient (root mean square) of a layer as a share of the largest layer's, below which it is called vanishing ..."""
MOVES_NOT = 1e-3
"""... if a step also moves the layer by less than this share of what it moves the farthest one: Adam makes up for
small gradients, and at the end of a schedule all steps are small. Only layers at the front count, up to the first
without such a gradient: one that vanishes is small in every layer from there down to the input. A small gradient behind
healthy layers is that of a branch with nothing to learn in these samples, such as a detector's boxes of a size that
hardly occurs."""
EXPLODED = 1e3
"""Norm of a layer's gradient from which it is called exploding."""
JUMPS = 0.3
"""Share of its weights' size by which a single step moves a layer, from which the step is called too large."""
DEAD = 0.995
"""Share of zeros after an activation from which it is called dead."""

MOST_NAMES = 3
"""Layers named in a message."""

Histogram = tuple[list[float], list[float]]
"""Counts [BINS] and the edges between them [BINS + 1]."""


@dataclass(frozen=True)
class Activation:
    """A layer's output over one micro-batch: mean, standard deviation and share of exact zeros."""

    mean: float
    std: float
    zero_share: float


@dataclass
class LayerMeasurement:
    """One layer's own parameters at one step; gradients before clipping, weights after the step.

    size: how many numbers it holds.
    is_matrix: whether they are weights, and not a normalisation's scale and shift only.
    update_ratio: norm of the step over norm of the weights before it; 0 where these were all 0.
    activation: of its output; None where it was not called as a module, and for what has no parameters.
    """

    name: str
    size: int
    is_matrix: bool
    gradient_norm: float
    update_ratio: float
    weight_l1: float
    weight_l2: float
    weight_max: float
    weight_histogram: Histogram
    gradient_histogram: Histogram
    activation: Activation | None = None

    def figures(self) -> dict[str, float]:
        """The single numbers about its parameters, by name."""
        names = ("gradient_norm", "update_ratio", "weight_l1", "weight_l2", "weight_max")
        return {name: getattr(self, name) for name in names}


@dataclass
class LayerStats:
    """All layers at one optimizer step, front to back, and what is wrong with them in words."""

    step: int
    layers: list[LayerMeasurement]
    activations: dict[str, Activation] = field(default_factory=dict)
    """Of modules without parameters, such as ReLU."""
    notes: list[str] = field(default_factory=list)
    cost_s: float = 0.0
    """Seconds that measuring has taken."""

    def to_plain(self) -> dict[str, Any]:
        """For layers.jsonl; histograms are for TensorBoard only."""
        layers = [
            {
                "name": layer.name,
                **_rounded(layer.figures()),
                "activation": _rounded(asdict(layer.activation)) if layer.activation else None,
            }
            for layer in self.layers
        ]
        return {"step": self.step, "layers": layers, "notes": self.notes}


class LayerMonitor:
    """Measures the layers now and then, within a budget of time.

    Args:
        model: whose layers are measured; a compiled form of it shows no activations.
        budget: of kind "layers".
        active: False for never.
    """

    def __init__(self, model: nn.Module, budget: Budget, *, active: bool = True) -> None:
        self._model, self._budget, self._active = model, budget, active
        self._layers: dict[str, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():  # front to back; shared ones belong to the first
            self._layers[name.rpartition(".")[0] or "model"].append(parameter)

    def measure(self, step: int, *, is_log_point: bool) -> "Measurement | NoMeasurement":
        """Measure optimizer step `step` (from 1) if it is a log point and time allows."""
        if is_log_point and self._active and self._budget.allows("layers"):
            return Measurement(self._model, self._layers, step)
        return NO_MEASUREMENT

    def overflowed(self) -> str:
        """Name the layers whose gradients are not finite, as a sentence."""
        names = [
            name
            for name, parameters in self._layers.items()
            if not all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)
        ]
        return f"fp16 gradients overflowed in {first_few(names, MOST_NAMES)}: step skipped, loss scale halved"


class NoMeasurement:
    """A step that is not measured."""

    def gradients(self) -> None:
        pass

    def updated(self) -> None:
        pass

    def result(self) -> None:
        return None


NO_MEASUREMENT = NoMeasurement()


class Measurement:
    """One step being measured. Nothing waits for the device before `result`."""

    def __init__(self, model: nn.Module, layers: dict[str, list[nn.Parameter]], step: int) -> None:
        self._layers, self._step, self._cost_s = layers, step, 0.0
        self._activations: dict[str, Tensor] = {}
        self._figures: dict[str, list[Tensor]] = {}
        self._before: dict[str, list[Tensor]] = {}
        self._hooks = watch(((name, module) for name, module in leaves(model) if name), after=self._remember)

    def _remember(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        began = time.perf_counter()
        if isinstance(output, Tensor) and output.is_floating_point() and name not in self._activations:
            seen = output.detach().float()
            std, mean = torch.std_mean(seen, correction=0)
            self._activations[name] = torch.stack([mean, std, (seen == 0).float().mean()])
        self._cost_s += time.perf_counter() - began

    def gradients(self) -> None:
        """The gradients are there, unscaled and not clipped; remember them, and the weights as they are."""
        began = time.perf_counter()
        self._hooks.close()
        self._figures = {name: _gradient_figures(parameters) for name, parameters in self._layers.items()}
        self._before = {name: [p.detach().clone() for p in parameters] for name, parameters in self._layers.items()}
        self._cost_s += time.perf_counter() - began

    def updated(self) -> None:
        """The step has been taken."""
        began = time.perf_counter()
        for name, parameters in self._layers.items():
            self._figures[name] += _weight_figures(parameters, self._before.pop(name))
        self._cost_s += time.perf_counter() - began

    def result(self) -> LayerStats:
        """Everything read from the device at once."""
        began = time.perf_counter()
        activations = {
            name: Activation(*values) for name, values in zip(self._activations, _read(self._activations), strict=True)
        }
        figures = _read({name: torch.cat([f.float() for f in found]) for name, found in self._figures.items()})
        layers = []
        for (name, parameters), values in zip(self._layers.items(), figures, strict=True):
            gradient_norm, *gradients = values[: BINS + 3]  # of `_gradient_figures`
            ratio, l1, l2, largest, *weights = values[BINS + 3 :]  # of `_weight_figures`
            size, is_matrix = sum(p.numel() for p in parameters), any(p.ndim >= 2 for p in parameters)
            histograms, activation = (_with_edges(weights), _with_edges(gradients)), activations.pop(name, None)
            layers.append(
                LayerMeasurement(name, size, is_matrix, gradient_norm, ratio, l1, l2, largest, *histograms, activation)
            )
        stats = LayerStats(self._step, layers, activations, troubles(layers, activations))
        stats.cost_s = self._cost_s + time.perf_counter() - began
        return stats


def troubles(layers: list[LayerMeasurement], activations: dict[str, Activation]) -> list[str]:
    """Describe each problem, with the layers it was found in."""
    matrices = [layer for layer in layers if layer.is_matrix]
    rms = {layer.name: layer.gradient_norm / layer.size**0.5 for layer in matrices}
    largest, farthest = max(rms.values(), default=0.0), max((layer.update_ratio for layer in matrices), default=0.0)
    trained = [layer for layer in matrices if rms[layer.name] > 0]  # the others are frozen
    front = takewhile(
        lambda layer: rms[layer.name] < VANISHED * largest and layer.update_ratio < MOVES_NOT * farthest, trained
    )
    vanished = [layer.name for layer in front]
    exploded = [layer for layer in matrices if layer.gradient_norm > EXPLODED]
    jumping = [layer for layer in matrices if layer.update_ratio > JUMPS]
    dead = [name for name, seen in activations.items() if seen.zero_share > DEAD]

    def some(names: list[str]) -> str:
        return first_few(names, MOST_NAMES)

    found = []
    if vanished:
        found.append(f"vanishing gradients: {some(vanished)} (below {VANISHED:g} of the largest layer's)")
    if exploded:
        worst, names = max(exploded, key=lambda layer: layer.gradient_norm), [layer.name for layer in exploded]
        found.append(f"exploding gradients: {some(names)} (norm {worst.gradient_norm:.3g} in {worst.name})")
    if jumping:
        worst, names = max(jumping, key=lambda layer: layer.update_ratio), [layer.name for layer in jumping]
        moves = f"a step moves {worst.name} by {worst.update_ratio:.0%} of its size"
        found.append(f"steps too large: {some(names)} ({moves})")
    if dead:
        found.append(f"dead activations: {some(dead)} (over {DEAD:.1%} zeros)")
    return found


def _gradient_figures(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Norm [1] and histogram [BINS + 2] of a layer's gradients; zeros for a frozen layer."""
    found = [p.grad.detach().float().flatten() for p in parameters if p.grad is not None]
    values = torch.cat(found) if found else torch.zeros(1, device=parameters[0].device)
    return [values.norm()[None], _histogram(values)]


def _weight_figures(parameters: list[nn.Parameter], before: list[Tensor]) -> list[Tensor]:
    """Update ratio, L1, L2 and largest magnitude [4], and histogram [BINS + 2] of a layer's weights."""
    now = torch.cat([p.detach().float().flatten() for p in parameters])
    old = torch.cat([p.float().flatten() for p in before])
    size = old.norm()
    ratio = torch.where(size > 0, (now - old).norm() / size.clamp(min=1e-30), 0.0)
    return [torch.stack([ratio, now.norm(1), now.norm(2), now.abs().max()]), _histogram(now)]


def _histogram(values: Tensor) -> Tensor:
    """Smallest value, largest value, and counts in BINS equal bins between them: float32 [BINS + 2]."""
    low, high = torch.aminmax(torch.nan_to_num(values))
    width = (high - low).clamp(min=1e-30)
    bins = ((values - low) / width * BINS).nan_to_num().long().clamp(0, BINS - 1)
    counts = torch.zeros(BINS, device=values.device).scatter_add_(0, bins, torch.ones_like(values))
    return torch.cat([torch.stack([low, high]), counts])


def _with_edges(figures: list[float]) -> Histogram:
    low, high, *counts = figures
    high = high if high > low else low + 1e-12
    return counts, [low + (high - low) * edge / BINS for edge in range(BINS + 1)]


def _read(tensors: dict[str, Tensor]) -> list[list[float]]:
    """Tensors of one length each as numbers: one copy from the device."""
    if not tensors:
        return []
    sizes = [len(tensor) for tensor in tensors.values()]
    return [part.tolist() for part in torch.cat(list(tensors.values())).cpu().split(sizes)]


def _rounded(figures: dict[str, float]) -> dict[str, float | None]:
    """To six digits; JSON has no NaN or infinity."""
    return {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in figures.items()}
