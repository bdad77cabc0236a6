"""mlcli: from one YAML file to a trained, measured and explained model.

For Python and notebooks: `init`, `train`, `load` and `Run` of `mlcli.api`; PyTorch is loaded when first used.
"""

from typing import TYPE_CHECKING, Any

from mlcli.version import __version__

if TYPE_CHECKING:
    from mlcli.api import Run, init, load, train

__all__ = ["Run", "__version__", "init", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import what `mlcli.api` offers (PEP 562); commands that need no PyTorch import this package too."""
    if name not in __all__:
        raise AttributeError(f"module 'mlcli' has no attribute '{name}'")
    from mlcli import api

    return getattr(api, name)
