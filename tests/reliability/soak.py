"""How much the tests of reliability do: the figures of CI, or many times as much where MLCLI_SOAK says so."""

import os

SOAK = int(os.environ.get("MLCLI_SOAK", "1"))
"""Factor on the number of random trials; `make soak` sets it."""
LONG = SOAK > 1
"""Whether to go through everything where CI takes a covering selection."""


def soaked(count: int, more: float = 1.0) -> int:
    """How many trials to make where CI makes `count`; in the long run `more` times as many as of the others."""
    return round(count * SOAK * more) if LONG else count
