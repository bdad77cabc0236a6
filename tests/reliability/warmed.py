"""What the fork server does before it forks."""

import gc

from tests.reliability.warm import warm_up

warm_up()
gc.collect()
gc.freeze()  # a collection in a child would copy all of it
