"""What the fork server does before it forks: a whole short training, so that all is imported and done for a first time.

The training the trials disturb then takes a quarter of a second; a first one takes three times as long.
"""

import contextlib
import gc
import io
import tempfile
from pathlib import Path

import torch

from tests.reliability.runs import DIGITS, type_train

torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(folder):
    Path("digits.yaml").write_text(DIGITS)
    type_train(Path(folder))
gc.collect()
gc.freeze()  # a collection in a child would copy all of it
