"""A share of the training time that looking at the training may take."""

import time


class Budget:
    """Allows work of several kinds while all of it together stays within a share of the time gone by.

    Args:
        share: of the time since this object was made, 0 to 1.
        first_s: by kind, the seconds that the first piece of work is taken to cost; later ones, as much as the last.
    """

    def __init__(self, share: float, first_s: dict[str, float]) -> None:
        self._share, self._cost_s = share, dict(first_s)
        self._began, self.spent_s = time.perf_counter(), 0.0

    def allows(self, kind: str) -> bool:
        """Whether one more piece of this kind fits by now."""
        return self.spent_s + self._cost_s[kind] <= self._share * (time.perf_counter() - self._began)

    def spend(self, kind: str, seconds: float) -> None:
        """A piece of this kind has cost that much."""
        self.spent_s += seconds
        self._cost_s[kind] = seconds
