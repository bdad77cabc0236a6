"""Whether compiling the model pays, which torch.compile does for a minute before the first step is taken.

Measured by others, a compiled convolutional net takes 0.72 to 0.91 of the time on a GPU (airbench 1.24 times as fast,
ResNet-152 1.38, pytorch#111180; ResNet-50 1.1 to 1.2), and a large one a minute and more to compile. On a CPU the
shipped ones became 0.9 to 1.1 times as fast beside bf16, 1.0 to 1.2 times in fp32 (benchmarks/layout.py --compile), and
it takes a C++ compiler.
"""

import torch

from mlcli.engine.contract import Choice, Task
from mlcli.engine.runtime import Runtime

SAVED = 0.15
"""Of the time of training on a GPU, that a compiled model is expected to save."""
COMPILE_S = 60.0
MARGIN = 1.5  # expected saving and time to compile are guesses both


def decide_compile(task: Task, runtime: Runtime, left_s: float) -> Choice:
    """What `train.compile: auto` comes to.

    left_s: seconds that the training is expected to take as it is.
    """
    if runtime.device.type == "cpu":
        return Choice("compile", "no", "on a CPU it has saved too little to be waited for")
    if runtime.device.type != "cuda":
        return Choice("compile", "no", f"it is not known to pay on {runtime.device.type}")
    if not task.is_static:
        return Choice("compile", "no", "shapes inside this model depend on the data, so it would be compiled for ever")
    if torch.are_deterministic_algorithms_enabled():
        return Choice("compile", "no", "train.deterministic: whether it pays depends on the clock")
    why = f"compiling takes about {COMPILE_S:.0f} s and may save {SAVED * left_s:.0f} s of this training"
    return Choice("compile", "yes" if SAVED * left_s > MARGIN * COMPILE_S else "no", why)
