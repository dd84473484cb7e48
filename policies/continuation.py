"""How a new chunk takes over from the one in execution while the robot moves.

A chunk is inferred while the last one is executed. Between its observation and its arrival some
steps of the last chunk are executed: its first rows come too late and are known already. *Switch*
ignores that. *Blend* mixes what is left of the last chunk into the new one. *In-painting* makes the
policy itself continue the rows that are already decided: real-time chunking (Black, Galliker,
Levine 2025), with the denoised estimate drawn to them at every denoising step. Both follow the same
weights: 1 for the rows that are executed meanwhile (frozen), then fading to 0.

The roll-outs in simulation and the nodes call the same functions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Kind = Literal["switch", "blend", "inpaint"]

# Clocks that differ by less than this make no step.
_TOLERANCE_STEPS = 1e-6


class Infer(Protocol):
    """A policy: observation and noise of a batch to its chunks (N, H, A); `Policy.infer` is one."""

    def __call__(self, observation: Any, noise: Any, **continued: Any) -> Any:
        """Chunks (N, H, A), continued from `previous` (N, H, A) by `weight` (N, H) if given."""


@dataclass(frozen=True)
class Handover:
    """How a new chunk takes over.

    Attributes:
        kind: switch, blend or inpaint; see the module.
        decay_steps: rows after the frozen ones over which the hold on the last chunk fades.
    """

    kind: Kind = "switch"
    decay_steps: int = 0

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.kind not in ("switch", "blend", "inpaint"):
            raise ValueError(f"handover:kind: got {self.kind!r}, expected switch, blend or inpaint")
        if self.decay_steps < 0:
            raise ValueError(f"handover:decay_steps: got {self.decay_steps}, expected at least 0")

    def within(self, continues: bool) -> Handover:
        """This handover, or the nearest that a policy can do which cannot `continue` a chunk."""
        return replace(self, kind="blend") if self.kind == "inpaint" and not continues else self

    def infer(
        self,
        infer: Infer,
        observation: Floats,
        noise: Floats,
        last: Sequence[tuple[Floats, int] | None],
        delay: int,
    ) -> Floats:
        """Asks a policy for the chunks that take over.

        Args:
            infer: the policy.
            observation: (N, D) or (N, W, D).
            noise: what `infer` wants of it, with a leading axis N.
            last: of each of the N, the chunk (H, A) in execution and how many steps before this
                observation it begins, or None where the robot stands.
            delay: steps that will pass before the new chunks take over.

        Returns:
            (N, H, A).
        """
        held = [
            None if one is None else hold(one[0], one[1], delay, self.decay_steps) for one in last
        ]
        if self.kind == "switch" or not any(held):
            return np.asarray(infer(observation, noise))
        shape = next(previous.shape for previous, _ in filter(None, held))
        free = np.zeros(shape), np.zeros(shape[0])
        previous, weight = (
            np.stack(arrays).astype(np.float32)
            for arrays in zip(*(one or free for one in held), strict=True)
        )
        if self.kind == "inpaint":
            return np.asarray(infer(observation, noise, previous=previous, weight=weight))
        return blend(np.asarray(infer(observation, noise)), previous, weight)


# Chosen by training.seams; see policies/zoo/README.md.
DEFAULT = Handover("switch")


def weights(horizon: int, overlap: int, frozen: int, decay: int) -> Floats:
    """How far each row (H,) of a new chunk is held to the last one, in 0..1.

    Args:
        horizon: H.
        overlap: rows that the last chunk has too.
        frozen: rows that are executed before the new chunk takes over; their weight is 1.
        decay: rows after those over which it fades, as in Black et al. 2025: with c going evenly
            from 1 to 0, c (e^c - 1) / (e - 1).
    """
    if min(overlap, frozen, decay) < 0:
        raise ValueError(
            f"weights: got overlap {overlap}, frozen {frozen}, decay {decay}, expected at least 0"
        )
    rows = np.arange(horizon)
    fading = np.clip((frozen + decay - rows) / (decay + 1), 0.0, 1.0)
    fading = fading * np.expm1(fading) / np.expm1(1.0)
    held = np.where(rows < frozen, 1.0, fading)
    return np.asarray(np.where(rows < overlap, held, 0.0))


def hold(last: Floats, shift: int, frozen: int, decay: int) -> tuple[Floats, Floats]:
    """The chunk in execution, aligned to a new one, and how far to hold to it.

    Args:
        last: its actions (H, A).
        shift: policy steps consumed between its observation and the new one.
        frozen: see `weights`.
        decay: see `weights`.

    Returns:
        previous (H, A), whose rows beyond the end of `last` repeat its last action and have weight
        0, and weight (H,).
    """
    if shift < 0:
        raise ValueError(f"hold:shift: got {shift}, expected at least 0")
    horizon = len(last)
    rows = np.minimum(shift + np.arange(horizon), horizon - 1)
    return last[rows], weights(horizon, max(horizon - shift, 0), frozen, decay)


def blend(chunk: Floats, previous: Floats, weight: Floats) -> Floats:
    """Mixes `previous` (..., H, A) into `chunk` (..., H, A) by `weight` (..., H)."""
    return np.asarray(chunk + weight[..., None] * (previous - chunk))


def delay_steps(delay_s: float, rate_hz: float) -> int:
    """Policy steps from an observation at a boundary to the first boundary after `delay_s`."""
    if not (math.isfinite(delay_s) and delay_s >= 0.0):
        raise ValueError(f"delay_s: got {delay_s}, expected a finite time of at least 0")
    return math.ceil(delay_s * rate_hz - _TOLERANCE_STEPS)


def replan_steps(execute_steps: int, delay: int) -> int:
    """Steps from one observation to the next: only one chunk is under way at a time."""
    return max(execute_steps, delay)


def longest_delay(horizon: int, execute_steps: int, rate_hz: float, stale_s: float) -> int:
    """The largest delay in steps under which a robot never runs out of chunk; -1 if none is.

    A chunk takes over `delay` steps after its observation and is executed until the next one, asked
    for `replan_steps` later, takes over in turn: it must be that long, and still younger than
    `stale_s` when its last step ends.
    """
    longest = -1
    for delay in range(horizon + 1):
        used = replan_steps(execute_steps, delay) + delay
        if used <= horizon and used / rate_hz < stale_s:
            longest = delay
    return longest


class DelayEstimate:
    """Expects the largest of the last few delays.

    Args:
        rate_hz: policy steps per second.
        longest: steps beyond which there is nothing to expect; see `longest_delay`.
        memory: delays to remember.
    """

    def __init__(self, rate_hz: float, longest: int, memory: int = 5) -> None:
        self._rate_hz = rate_hz
        self._longest = longest
        self._steps: deque[int] = deque(maxlen=memory)

    def add(self, delay_s: float) -> None:
        """Notes how long a chunk took from its observation on, by the robot's time."""
        self._steps.append(delay_steps(max(delay_s, 0.0), self._rate_hz))

    @property
    def steps(self) -> int:
        """Steps to expect, at least 1: whoever infers while moving misses the present boundary."""
        return min(max(self._steps, default=1) or 1, self._longest)
