"""`mlcli init` for regression: a YAML for a table with an amount to predict."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.data.draft import Draft, table_draft

if TYPE_CHECKING:
    from mlcli.data.survey import Place

TEMPLATES: Mapping[str, Path] = {}


def propose(place: "Place") -> Draft | None:
    """Return a YAML for a CSV file of features and an amount; None for anything else."""
    return table_draft(place, task="regression", loss="mse")
