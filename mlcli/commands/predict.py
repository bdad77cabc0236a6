"""`mlcli predict`: labels and probabilities for files the model has not seen. The training data are not needed."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import ConfigError, DataError, ExitCode
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from torch import Tensor
