"""How long OpenMP's threads, which torch computes with on a CPU, wait for work by spinning before they go to sleep.

By GNU's default that is some milliseconds after every operation, on cores that processes reading data could use: with 2
workers on 2 cores, 640x480 JPEGs came 1.3 times and 32x32 ones 1.5 times as fast with a thirtieth of it, and models
trained no slower, whose operations follow each other within microseconds. A tenth of that again slowed small ones.
"""

import os

SPINS = 10_000  # of a few nanoseconds each; GNU OpenMP does 300,000


def spin_briefly() -> None:
    """To be called before torch is imported: OpenMP looks at its variables once. What the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
