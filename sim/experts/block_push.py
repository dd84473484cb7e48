"""A scripted demonstrator for block_push: one block, then the other, each into its square.

Which block comes first and which square it is meant for is drawn for each episode, and that
intention is all its memory: how it pushes is a feedback law on the state. Behind the block it
pushes towards the square; elsewhere it goes round the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.bullet.block_push import BlockPushBatch

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Habits:
    """How the demonstrator pushes; metres per policy step, metres, radians.

    Attributes:
        step_m: fastest displacement.
        round_m: distance from the block's centre at which it goes round it.
        behind_rad: it pushes within this angle of the line behind the block, and goes round beyond
            twice this.
        steer: sideways correction per metre off that line, while pushing.
        near_m: a block this near to its square's centre is done with.
        avoid_m: distance from the other block's centre that it keeps.
        speed_spread: relative standard deviation of the speed from episode to episode.
        burst_probability: probability that a disturbance begins at a calm step.
        burst_steps: its fewest and most steps.
        burst_m: how far it drives the effector in each, in one direction: where it ends up is far
            enough off to show the way back from there.
    """

    step_m: float = 0.02
    round_m: float = 0.065
    behind_rad: float = 0.3
    steer: float = 1.2
    near_m: float = 0.018
    avoid_m: float = 0.065
    speed_spread: float = 0.1
    burst_probability: float = 0.04
    burst_steps: tuple[int, int] = (1, 5)
    burst_m: float = 0.025


class BlockPushDemonstrator:
    """Pushes in N simulations; see training.collect_play.

    Attributes:
        finished: whether each simulation's demonstration is over, (N,).
        succeeded: whether both blocks were then in their squares, (N,).
    """

    def __init__(self, env: BlockPushBatch, habits: Habits | None = None) -> None:
        self.env = env
        self.habits = habits or Habits()
        n = env.num_envs
        self.finished = np.zeros(n, dtype=bool)
        self.succeeded = np.zeros(n, dtype=bool)
        self.order = np.zeros((n, 2), dtype=int)
        self.square = np.zeros((n, 2), dtype=int)
        self.turn = np.zeros(n, dtype=int)
        self._speed = np.ones(n)
        self._burst = np.zeros((n, 2))
        self._burst_steps = np.zeros(n, dtype=int)
        self._rngs = [np.random.default_rng(0)] * n
        self.reset(np.zeros(n, dtype=int))

    def reset(self, seeds: NDArray[np.int_], ids: NDArray[np.int_] | None = None) -> None:
        """Draws new intentions in simulations `ids`, which have just been reset."""
        ids = np.arange(self.env.num_envs) if ids is None else np.asarray(ids)
        for i, seed in zip(ids, np.asarray(seeds), strict=True):
            rng = self._rngs[i] = np.random.default_rng([int(seed), 1])
            self.order[i], self.square[i] = rng.permutation(2), rng.permutation(2)
            self.turn[i] = self._burst_steps[i] = 0
            self._speed[i] = np.clip(rng.normal(1.0, self.habits.speed_spread), 0.7, 1.3)
            self.finished[i] = self.succeeded[i] = False

    def act(self) -> tuple[Array, Array]:
        """What is wanted (N, 2) and what is executed (N, 2), disturbed now and then."""
        self._go_on()
        wanted = self._push()
        wanted[self.finished] = 0.0
        executed = wanted.copy()
        for i in np.flatnonzero(~self.finished):
            rng, h = self._rngs[i], self.habits
            chance, angle = rng.random(), rng.uniform(-np.pi, np.pi)
            steps = rng.integers(h.burst_steps[0], h.burst_steps[1] + 1)
            if self._burst_steps[i] == 0 and chance < h.burst_probability:
                self._burst_steps[i] = steps
                self._burst[i] = h.burst_m * np.array([np.cos(angle), np.sin(angle)])
            if self._burst_steps[i] > 0:
                self._burst_steps[i] -= 1
                executed[i] = self._burst[i]
        return wanted, executed

    def _blocks(self) -> tuple[Array, Array, Array]:
        """Positions of the block to push, of the other one, and of the square, (N, 2) each."""
        state, rows = self.env.state, np.arange(self.env.num_envs)
        positions = np.stack([state[:, 0:2], state[:, 3:5]], axis=1)
        block = self.order[rows, np.minimum(self.turn, 1)]
        squares = np.array(self.env.table.squares_m)
        return positions[rows, block], positions[rows, 1 - block], squares[self.square[rows, block]]

    def _go_on(self) -> None:
        block, _, square = self._blocks()
        done = np.linalg.norm(square - block, axis=-1) < self.habits.near_m
        self.turn += done & (self.turn < 2)
        over = self.turn >= 2
        late = self.env.steps >= self.env.max_steps
        newly = (over | late) & ~self.finished
        inside = self.env.in_squares()
        rows = np.arange(self.env.num_envs)[:, None]
        both = inside[rows, [0, 1], self.square].all(axis=1)
        self.succeeded = np.where(newly, both, self.succeeded)
        self.finished |= newly

    def _push(self) -> Array:
        h, state = self.habits, self.env.state
        block, other, square = self._blocks()
        # The effector follows its target; deciding by the target keeps the law free of the lag.
        tool = state[:, 8:]
        way = square - block
        distance = np.linalg.norm(way, axis=-1)
        forward = way / np.maximum(distance, 1e-9)[:, None]
        side = np.stack([-forward[:, 1], forward[:, 0]], axis=1)
        offset = tool - block
        away = np.linalg.norm(offset, axis=-1)
        along, across = (offset * forward).sum(1), (offset * side).sum(1)
        angle = np.abs(np.arctan2(across, -along))
        pushing = np.clip(2.0 - angle / h.behind_rad, 0.0, 1.0)

        # Push: forward, steering onto the line; slower at the end.
        speed = self._speed * np.minimum(h.step_m, 0.35 * distance + 0.004)
        push = speed[:, None] * forward - (h.steer * np.clip(across, -0.02, 0.02))[:, None] * side
        # Go round: along the circle towards the point behind, and onto the circle.
        outward = offset / np.maximum(away, 1e-9)[:, None]
        tangent = np.stack([-outward[:, 1], outward[:, 0]], axis=1)
        # The shorter way round: positive turns take the offset towards -forward.
        sense = np.sign(outward[:, 0] * -forward[:, 1] - outward[:, 1] * -forward[:, 0])
        behind = block - h.round_m * forward
        direct = behind - tool
        near = np.clip((away - 1.2 * h.round_m) / h.round_m, 0.0, 1.0)[:, None]
        circle = (sense + (sense == 0))[:, None] * tangent + 12.0 * (h.round_m - away)[
            :, None
        ] * outward
        heading = (1 - near) * circle + near * direct / np.linalg.norm(
            direct, axis=-1, keepdims=True
        )
        round_about = self._avoid(tool, other, heading)
        size = np.linalg.norm(round_about, axis=-1, keepdims=True)
        round_about *= (self._speed * h.step_m)[:, None] / np.maximum(size, 1e-9)
        move = pushing[:, None] * push + (1 - pushing)[:, None] * round_about
        size = np.linalg.norm(move, axis=-1, keepdims=True)
        limit = (self._speed * h.step_m)[:, None]
        return np.asarray(move * np.minimum(1.0, limit / np.maximum(size, 1e-9)))

    def _avoid(self, tool: Array, other: Array, heading: Array) -> Array:
        """Turns a heading (N, 2) along the other block where it would run into it."""
        h = self.habits
        offset = tool - other
        distance = np.linalg.norm(offset, axis=-1, keepdims=True)
        outward = offset / np.maximum(distance, 1e-9)
        close = np.clip((1.5 * h.avoid_m - distance) / (0.5 * h.avoid_m), 0.0, 1.0)
        inward = np.minimum((heading * outward).sum(axis=1, keepdims=True), 0.0)
        tangent = np.stack([-outward[:, 1], outward[:, 0]], axis=1)
        sense = np.sign((heading * tangent).sum(axis=1, keepdims=True))
        sense = sense + (sense == 0)
        pressed = np.clip((h.avoid_m - distance) / h.avoid_m, 0.0, 1.0)
        return np.asarray(
            heading + close * (-inward * outward - inward * sense * tangent) + 4 * pressed * outward
        )
