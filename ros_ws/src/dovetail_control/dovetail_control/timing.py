"""How punctual a periodic loop is: rate, deadline misses, and what a cycle costs."""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 1000


class LoopTiming:
    """Statistics of the newest cycles.

    Args:
        period_s: the period that the loop should keep.

    Attributes:
        cycles: cycles so far.
        misses: cycles that ended after the next one was due.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.cycles = 0
        self.misses = 0
        self._starts_s: deque[float] = deque(maxlen=WINDOW)
        self._costs_s: deque[float] = deque(maxlen=WINDOW)
        self._due_s: float | None = None

    def record(self, start_s: float, end_s: float) -> None:
        """Notes one cycle by the monotonic times of its start and end."""
        # The grid starts anew after a miss, so that one long pause counts once.
        due_s = start_s if self._due_s is None else self._due_s
        late = end_s > due_s + self.period_s
        self._due_s = start_s + self.period_s if late else due_s + self.period_s
        self.misses += late
        self.cycles += 1
        self._starts_s.append(start_s)
        self._costs_s.append(end_s - start_s)

    @property
    def rate_hz(self) -> float:
        """Measured rate over the window; 0 before the second cycle."""
        if len(self._starts_s) < 2:
            return 0.0
        return (len(self._starts_s) - 1) / (self._starts_s[-1] - self._starts_s[0])

    def cost_ms(self) -> tuple[float, float]:
        """Median and 99th percentile of a cycle's duration."""
        if not self._costs_s:
            return 0.0, 0.0
        p50, p99 = np.percentile(self._costs_s, [50, 99]) * 1e3
        return float(p50), float(p99)
