"""Looking at a model's layers while it is called, without changing what it computes."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import nn

Before = Callable[[str, nn.Module, tuple[Any, ...]], None]
"""Called with a layer's name, the layer, and its positional inputs. Returns None, or the inputs would be replaced."""
After = Callable[[str, nn.Module, tuple[Any, ...], Any], None]
"""Called with a layer's name, the layer, its positional inputs, and its output. Returns None, as above."""


def leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The innermost modules with their names, front to back; the model itself, "", if it has none inside."""
    return [(name, module) for name, module in model.named_modules() if not list(module.children())]


def watch(
    layers: Iterable[tuple[str, nn.Module]], *, before: Before | None = None, after: After | None = None
) -> ExitStack:
    """Call `before` and `after` around each forward pass of these layers, until the context is left or closed."""
    hooks = ExitStack()
    for name, layer in layers:
        if before is not None:
            hooks.callback(layer.register_forward_pre_hook(partial(before, name)).remove)
        if after is not None:
            hooks.callback(layer.register_forward_hook(partial(after, name)).remove)
    return hooks
