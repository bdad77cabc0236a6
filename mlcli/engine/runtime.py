"""Device, precision, threads and seeds: decided once, before training, each choice with the reason for it."""

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn

from mlcli.engine.limits import has_bf16_units, usable_threads
from mlcli.engine.meter import Event
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.settings import TrainerSettings
from mlcli.errors import ConfigError, OutOfMemoryError
from mlcli.text import plural

SAVED = 0.15
"""Of the time of training on a GPU, that a compiled model is expected to save."""
COMPILE_S = 60.0
MARGIN = 1.5  # expected saving and time to compile are guesses both
GPU_STEP_S, CPU_STEP_S = 1.6e-3, 0.6e-3
"""Seconds of the shortest step: on a GPU those of launching its kernels (an MLP of two layers, batches of 128, on an
NVIDIA H100 with a Xeon, 2026-11-27), on a CPU those of a loop by hand (the same, EPYC, 2026-11-23)."""
CPU_FLOPS, CPU_BYTES = 80e9, 10e9
"""What a CPU thread computes a second (VGG-16 and ResNet-18 on two threads, fp32, EPYC, 2026-11-23: 87e9) and what a
CPU reads and writes of weights, gradients and momentum."""
CLEARLY = 1.5
"""Times faster that a CPU must be expected to be for advice: both times are rough."""
CRASHES_IN = "torch 2.15.0"
"""The last version seen to write past its buffer in the backward pass of a strided 1x1 convolution, channels_last on a
CPU, from fewer than `SAFE_CHANNELS` channels (https://github.com/uxlfoundation/oneDNN/issues/6035): wrong gradients, a
hang or a crash. No later version is known to be without the error; `Runtime.for_model` is where to name the first."""
SAFE_CHANNELS = 16


class Choice(NamedTuple):
    """One thing that was decided for the user: what, which value, why."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a run's computations.

    precision: "fp32", "tf32", "bf16" or "fp16", the format of matrix products and convolutions; weights stay in fp32.
    choices: what was decided and why.
    """

    device: torch.device
    precision: str
    seed: int
    threads: int
    channels_last: bool
    compile: bool
    """Whether that was asked for; what `auto` comes to is decided once the first steps are timed (`decide_compile`)."""
    choices: tuple[Choice, ...]
    ranks: Ranks = ALONE
    """The processes that train together, of which this is one."""

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context a forward pass runs in; one that does nothing for fp32 and tf32."""
        if self.precision in ("bf16", "fp16"):
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
            return torch.autocast(self.device.type, dtype=dtype)
        return contextlib.nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps small fp16 gradients from vanishing (Micikevicius et al. 2018, section 3.2); a no-op otherwise."""
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def seed_step(self, step: int, part: int = 0) -> None:
        """Make dropout and the like a function of (seed, step, part), so that logging or resuming changes nothing."""
        name = f"{self.seed}/{step}/{part}" if part else f"{self.seed}/{step}"  # without parts as in version 0.1.0
        key = hashlib.blake2b(name.encode(), digest_size=8).digest()
        # The generators directly: torch.manual_seed costs 300 us a call, this 3.
        value = int.from_bytes(key, "little") >> 1
        torch.default_generator.manual_seed(value)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(value)
        elif self.device.type == "mps":
            torch.mps.manual_seed(value)

    def for_model(self, model: nn.Module) -> "Runtime":
        """The same, in channels_first where the model cannot be trained in channels_last; asked for or not.

        The choice of the layout then gives the reason.
        """
        if not (self.channels_last and self.device.type == "cpu" and any(map(_crashes, model.modules()))):
            return self
        why = f"in channels_last, {CRASHES_IN} can crash on a CPU at strided 1x1 convolutions of under"
        safe = Choice("layout", "channels_first", f"{why} {SAFE_CHANNELS} channels")
        choices = tuple(safe if choice.what == "layout" else choice for choice in self.choices)
        return replace(self, channels_last=False, choices=choices)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, in the memory format chosen (see `for_model`). Returns the same module."""
        model.to(self.device)
        if self.for_model(model).channels_last:
            model.to(memory_format=torch.channels_last)
        return model

    def callable_form(self, model: nn.Module) -> nn.Module:
        """Return the module to call: the compiled model, or the model itself. Weights are shared, names unchanged."""
        return torch.compile(model) if self.compile else model  # type: ignore[return-value]

    def memory_mb(self) -> float:
        """Most memory the GPU has held since the last call, or what this process holds now; in MB (10**6 bytes)."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return round(peak / 1e6, 1)
        return round(_process(os.getpid()).memory_info().rss / 1e6, 1)

    @property
    def event(self) -> Callable[[], Event] | None:
        """What makes events that the device takes note of the time by; None where there are none."""
        return functools.partial(torch.cuda.Event, enable_timing=True) if self.device.type == "cuda" else None

    def synchronize(self) -> None:
        """Wait until the device is done; for timing only."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device that is not waited for: CUDA has read pageable memory once the call returns.

    mps reads it later, when something else may lie there (pytorch#189690), so that one is waited for.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def _crashes(layer: nn.Module) -> bool:
    """Whether a layer's backward pass is the one of `CRASHES_IN`."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < SAFE_CHANNELS
    )


TOO_LARGE = re.compile(
    "can't allocate memory|Overflow when unpacking long|(Storage size|numel|multiplication).*overflow"
    "|array is too big|Maximum allowed dimension exceeded|too large to convert to C"
)
"""What torch, NumPy and Python say of memory that the host has not, or that nobody could count."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host has no memory left, or no machine could have so much."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError)
    return known or bool(TOO_LARGE.search(str(error)))


def decide_runtime(settings: TrainerSettings, ranks: Ranks = ALONE) -> Runtime:
    """Turn the `auto` values of the train section into decisions, and apply the process-wide ones (threads, tf32).

    Raises ConfigError where the machine lacks what was asked for by name.
    """
    train, convolves = settings.train, settings.convolves
    device, device_why = _decide_device(train.device)
    precision, precision_why = _decide_precision(train.precision, device, convolves)
    channels_last, channels_why = train.channels_last, "as configured"
    if channels_last == "auto":
        channels_last, channels_why = _decide_layout(device, convolves)
    threads, limited_by = (train.threads, "") if train.threads else usable_threads()
    torch.set_num_threads(threads)
    # The legacy call: mixing it with torch.backends.*.fp32_precision breaks torch.compile (pytorch#166387).
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"  # by default cuDNN takes tf32 for convolutions of fp32
    if train.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    named = {"cpu": f"cpu ({plural(threads, 'thread')})"}.get(device.type, device.type)
    if device.type == "cuda":
        named = f"cuda:{device.index} ({torch.cuda.get_device_name(device)})"
    choices = (
        Choice("device", named, "; ".join(filter(None, [device_why, limited_by]))),
        Choice("precision", precision, precision_why),
        Choice("layout", "channels_last" if channels_last else "channels_first", channels_why),
    )
    return Runtime(device, precision, train.seed, threads, channels_last, train.compile is True, choices, ranks)


def _decide_device(asked: str) -> tuple[torch.device, str]:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        if cuda:
            return torch.device("cuda", torch.cuda.current_device()), "a CUDA device is available"
        if mps:
            return torch.device("mps"), "Apple's GPU is available, CUDA is not"
        return torch.device("cpu"), _why_no_cuda()
    if asked == "cuda" and not cuda:
        what = f"train.device is cuda, but CUDA cannot be used: {_why_no_cuda()}"
        raise ConfigError(what, where="train.device", fix="train.device=auto chooses an available device")
    if asked == "mps" and not mps:
        what = "train.device is mps, but this machine has none"
        raise ConfigError(what, where="train.device", fix="train.device=auto")
    device = torch.device("cuda", torch.cuda.current_device()) if asked == "cuda" else torch.device(asked)
    return device, "as configured"


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return "this PyTorch was built without CUDA"
    return "PyTorch finds no usable NVIDIA GPU and driver"


@functools.cache
def _process(pid: int) -> psutil.Process:
    """Finding out about a process costs more than asking it."""
    return psutil.Process(pid)


def _decide_layout(device: torch.device, convolves: bool) -> tuple[bool, str]:
    """A rule instead of a measurement each time, as bits depend on it; measured in benchmarks/layout.py."""
    if device.type == "cpu":
        return convolves, "convolutions are faster that way" if convolves else "this model has no convolutions"
    if device.type == "cuda":
        return True, "convolutions are faster that way"
    return False, f"convolutions are not known to be faster channels_last on {device.type}"


def _decide_precision(asked: str, device: torch.device, convolves: bool) -> tuple[str, str]:
    cuda = device.type == "cuda"
    if asked == "auto":
        if cuda and torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU computes it natively, and it needs no loss scaling"
        if device.type == "cpu":
            # By what the processor is, not by the clock, so that equal runs get equal bits; see benchmarks/layout.py.
            if not has_bf16_units():
                return "fp32", "this CPU has no bf16 units"
            if not convolves:
                return "fp32", "without convolutions there is too little to gain by this CPU's bf16 units"
            why = "this CPU has bf16 units, which make convolutions faster; train.precision=fp32 turns it off"
            return "bf16", why
        return "fp32", "this GPU has no native bf16" if cuda else f"the format {device.type} is known to be fast in"
    if asked == "tf32" and not cuda:
        raise ConfigError(f"tf32 exists on NVIDIA GPUs only, the device is {device.type}", where="train.precision",
                          fix="train.precision=auto")  # fmt: skip
    return asked, "as configured"


def decide_compile(runtime: Runtime, left_s: float, *, is_static: bool, by_graphs: bool = False) -> Choice:
    """Resolve `train.compile: auto`: whether compiling pays, which takes a minute before the first step.

    Measured by others, a compiled convolutional net takes 0.72 to 0.91 of the time on a GPU (airbench 1.24 times as
    fast, ResNet-152 1.38, pytorch#111180; ResNet-50 1.1 to 1.2), and a large one a minute and more to compile. On a CPU
    the shipped ones became 0.9 to 1.1 times as fast with bf16, 1.0 to 1.2 times in fp32 (benchmarks/layout.py
    --compile), and it takes a C++ compiler.

    Args:
        left_s: seconds that the training is expected to take as it is.
        is_static: of the task.
        by_graphs: steps are CUDA graphs.
    """
    if runtime.device.type == "cpu":
        return Choice("compile", "no", "on a CPU it saves too little time")
    if runtime.device.type != "cuda":
        return Choice("compile", "no", f"it is not known to pay on {runtime.device.type}")
    if not is_static:
        return Choice("compile", "no", "shapes inside this model depend on the data, so it would be recompiled often")
    if by_graphs:
        return Choice("compile", "no", "train.cuda_graphs: steps are captured as they are")
    if torch.are_deterministic_algorithms_enabled():
        return Choice("compile", "no", "train.deterministic: whether it pays depends on the clock")
    why = f"compiling takes about {COMPILE_S:.0f} s and may save {SAVED * left_s:.0f} s of this training"
    return Choice("compile", "yes" if SAVED * left_s > MARGIN * COMPILE_S else "no", why)


def advise_device(runtime: Runtime, step_flops: float, parameters: int) -> list[tuple[str, str]]:
    """Return a line where `train.device: auto` took a GPU and a CPU is expected to be clearly faster.

    By a rule, as small models were slower on a GPU than on two CPU threads: an MLP on digits 22,000 to 26,000 samples/s
    against 87,000. Only said, since no other GPU was tried.

    Args:
        step_flops: floating-point operations of a step, forward and backward.
        parameters: that it moves.
    """
    cpu_s = CPU_STEP_S + step_flops / (CPU_FLOPS * runtime.threads) + 20 * parameters / CPU_BYTES
    if runtime.device.type != "cuda" or CLEARLY * cpu_s > GPU_STEP_S:
        return []
    cpu = f"about {1000 * cpu_s:.1f} ms on {plural(runtime.threads, 'CPU thread')}"
    why = f"and {1000 * GPU_STEP_S:.1f} ms or more on a GPU, most of it to launch its kernels"
    return [("advice", f"a step of this model takes {cpu}, {why}: train.device=cpu is probably faster")]
