"""Action chunks in time: which action of which chunk is due now.

A chunk is indexed by the number of policy steps that the control loop has really consumed since the
observation it came from, never by an estimate of latency. The next chunk is computed while the last
one is executed; when it comes, execution goes on in it at the present step, so that no action is
done twice and none is left out. When chunks stop, there is no action and the robot holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class ChunkError(ValueError):
    """A chunk is not usable."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """The actions that a policy answered to one observation.

    Attributes:
        first_step: policy steps consumed when the observation was made; ``actions[0]`` is for it.
        stamp_s: the time of the observation.
        actions: (H, A), one action per policy step; kept as a read-only copy.

    Raises:
        ChunkError: the actions are no finite (H, A) array, the step is negative or the stamp is not
            finite.
    """

    first_step: int
    stamp_s: float
    actions: npt.NDArray[np.floating]

    def __post_init__(self) -> None:
        """Checks the values."""
        actions = np.array(self.actions)
        if actions.ndim != 2 or actions.size == 0:
            raise ChunkError(f"chunk:actions: got shape {actions.shape}, expected (H, A)")
        if actions.dtype.kind != "f" or not np.isfinite(actions).all():
            raise ChunkError(
                "chunk:actions: got values that are not finite, expected finite floats"
            )
        if self.first_step < 0:
            raise ChunkError(f"chunk:first_step: got {self.first_step}, expected at least 0")
        if not np.isfinite(self.stamp_s):
            raise ChunkError(f"chunk:stamp_s: got {self.stamp_s}, expected a finite time")
        actions.setflags(write=False)
        object.__setattr__(self, "actions", actions)


class ChunkBuffer:
    """Holds the newest chunk and the count of consumed policy steps.

    Args:
        execute_steps: steps to execute of a chunk before the next one is due.
        stale_s: age of a chunk, from the stamp of its observation, beyond which it is not used. It
            must exceed the time of ``execute_steps`` steps and one inference.

    Attributes:
        step: policy steps consumed so far, the index of the next one.
    """

    def __init__(self, execute_steps: int, stale_s: float) -> None:
        if execute_steps < 1:
            raise ChunkError(f"chunks:execute_steps: got {execute_steps}, expected at least 1")
        if not stale_s > 0:
            raise ChunkError(f"chunks:stale_s: got {stale_s}, expected more than 0")
        self.execute_steps = execute_steps
        self.stale_s = stale_s
        self.step = 0
        self._chunk: Chunk | None = None
        self._after_s = -math.inf

    def clear(self, now_s: float) -> None:
        """Forgets the chunk, as when a skill ends; the count of steps goes on.

        Args:
            now_s: the present time. A chunk of an earlier observation, still under way, was meant
                for what has ended and will not be taken.
        """
        self._chunk = None
        self._after_s = now_s

    def push(self, chunk: Chunk) -> bool:
        """Takes a chunk unless one from a later or the same observation was there.

        Returns:
            whether it was taken.
        """
        if chunk.stamp_s <= self._after_s:
            return False
        if self._chunk is not None and chunk.first_step < self._chunk.first_step:
            return False
        self._chunk = chunk
        self._after_s = chunk.stamp_s
        return True

    def due(self) -> bool:
        """Tells whether it is time to ask the policy for the next chunk."""
        return self._chunk is None or self.step - self._chunk.first_step >= self.execute_steps

    def action_at(self, step: int, now_s: float) -> npt.NDArray[np.floating] | None:
        """Returns the action (A,) for a policy step, or None when the robot has to hold.

        Args:
            step: policy steps consumed so far.
            now_s: the present time, by the clock of the stamps.

        Returns:
            None when there is no chunk, when it has no action for the step, or when its stamp is
            farther from now than ``stale_s`` (in either direction: clocks can be set back).
        """
        chunk = self._chunk
        if chunk is None or not abs(now_s - chunk.stamp_s) <= self.stale_s:
            return None
        index = step - chunk.first_step
        return chunk.actions[index] if 0 <= index < len(chunk.actions) else None

    def take(self, now_s: float) -> npt.NDArray[np.floating] | None:
        """Consumes one policy step: the action for it, or None (hold) with the count as it was."""
        action = self.action_at(self.step, now_s)
        if action is not None:
            self.step += 1
        return action
