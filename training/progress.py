"""A progress line that is pleasant on a terminal and short in a log file."""

from __future__ import annotations

import sys
import time

LOG_PERIOD_S = 10.0


class Progress:
    """Shows how many episodes, or other things, are over, and how fast, on stderr.

    On a terminal one line is kept up to date; elsewhere a line is written every ten seconds.

    Args:
        total: things in all.
        things: what they are called.
    """

    def __init__(self, total: int, things: str = "episodes") -> None:
        self.total = total
        self._things = things
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self._shown = self._started

    def show(self, over: int, text: str) -> None:
        """Reports that `over` episodes have ended; `text` says how."""
        now = time.monotonic()
        last = over == self.total
        if not (self._terminal or last or now - self._shown >= LOG_PERIOD_S):
            return
        self._shown = now
        per_minute = 60.0 * over / max(now - self._started, 1e-9)
        line = f"{over}/{self.total} {self._things}, {text}, {per_minute:.0f} a minute"
        end = "" if self._terminal and not last else "\n"
        print(f"\r\033[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)
