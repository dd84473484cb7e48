"""Scripted play for play_parts: now this peg, now that one, to whichever spot is free.

Nothing of it follows a goal, and nothing is sorted out afterwards. How a peg is moved is a feedback
law on readings and the present intention; the intention itself, a peg and a place, is the only
memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.features import Signals, grasp_point, grasp_yaw, wrap_symmetric
from sim.experts import motion
from sim.fixtures.pegs import PART_LENGTH_M, PART_WIDTH_M
from sim.tasks.play_parts import GOAL_OFFSET_M, SPOTS_M, PlayPartsBatch

Array = NDArray[np.float64]

APPROACH_WIDTH_M = 0.07
RELEASE_WIDTH_M = 0.045
# A hand whose command is this close to a peg's axis is about to fetch it; half-way between two
# neighbours it would be 0.06 m from either.
FETCHED_M = 0.045
# Fingers that travel, and a peg's bottom while carried, pass over a peg that stands.
TRAVEL_OVER_GRASP_M = 0.05
CARRY_HEIGHT_M = PART_LENGTH_M + 0.02
# A move is over when the released fingers are this far over the peg's grasp.
RISEN_M = 0.035
# A peg below the table's top by more than this fell off it; one that leans more lies down.
LOST_M = 0.01
LYING_RAD = np.deg2rad(45.0)


@dataclass(frozen=True)
class Gains(motion.Speeds):
    """Speeds per policy step and tolerances of the play."""

    step_m: float = 0.042
    step_down_m: float = 0.036
    step_change_m: float = 0.022
    grasp_tolerance_m: float = 0.005
    grasp_tolerance_rad: float = 0.08
    settled_m_s: float = 0.06
    place_tolerance_m: float = 0.006


@dataclass(frozen=True)
class Habits:
    """What play is like.

    Attributes:
        moves: fewest and most moves of an episode.
        give_up_steps: the play ends with a move that takes longer.
        gesture_probability: probability of an aimless gesture before a move.
        gesture_steps, gesture_m: its fewest and most steps, and how far it goes in one.
        roughness: least and largest factor of one play's disturbances. Rough plays show how to come
            back from centimetres off, and often knock a peg over; calm ones last.
    """

    moves: tuple[int, int] = (3, 5)
    give_up_steps: int = 80
    gesture_probability: float = 0.08
    gesture_steps: tuple[int, int] = (3, 8)
    gesture_m: float = 0.02
    roughness: tuple[float, float] = (1.0, 3.0)


class PlayPartsDemonstrator:
    """Plays in N cells; see training.collect_play.

    Attributes:
        finished: whether each simulation's play is over, (N,).
        succeeded: whether every move of it was completed, (N,).
        peg, target: the present intention: which peg (N,), and where to (N, 2), base frame.
        steps_of_moves: policy steps of each completed move, all simulations together.
    """

    def __init__(
        self,
        env: PlayPartsBatch,
        gains: Gains | None = None,
        habits: Habits | None = None,
        disturbance: motion.Disturbance | None = None,
    ) -> None:
        self.env = env
        self.gains = gains or Gains()
        self.habits = habits or Habits()
        self.disturbance = disturbance or motion.Disturbance(0.04, 6, 0.006, 0.03)
        n = env.num_envs
        self.finished = np.zeros(n, dtype=bool)
        self.succeeded = np.ones(n, dtype=bool)
        self.peg = np.zeros(n, dtype=int)
        self.target = np.zeros((n, 2))
        self.steps_of_moves: list[int] = []
        self._moves_left = np.zeros(n, dtype=int)
        self._steps = np.zeros(n, dtype=int)
        self._gesture = np.zeros((n, 3))
        self._gesture_steps = np.zeros(n, dtype=int)
        self._rngs = [np.random.default_rng(0)] * n
        self._disturbers = [motion.Disturber(self.disturbance, rng) for rng in self._rngs]
        self.reset(np.zeros(n, dtype=int))

    def reset(self, seeds: NDArray[np.int_], ids: NDArray[np.int_] | None = None) -> None:
        """Begins to play in simulations `ids`, which have just been reset, one seed each."""
        ids = np.arange(self.env.num_envs) if ids is None else np.asarray(ids)
        for i, seed in zip(ids, np.asarray(seeds), strict=True):
            rng = self._rngs[i] = np.random.default_rng([int(seed), 1])
            self._disturbers[i] = self._disturber(np.random.default_rng([int(seed), 4]))
            fewest, most = self.habits.moves
            self._moves_left[i] = rng.integers(fewest, most + 1)
            self.finished[i], self.succeeded[i] = False, True
            self._intend(int(i))

    def act(self) -> tuple[Array, Array]:
        """What is wanted (N, 7) and what is executed (N, 7), disturbed now and then.

        A simulation whose play is over holds.
        """
        each = self.env.signals(noisy=False)
        self._go_on(each)
        s = self._of_peg(each)
        wanted = self._move(s)
        executed = wanted.copy()
        for i in np.flatnonzero(~self.finished):
            added = self._disturbers[i].draw()
            if added is not None:
                executed[i, :6] += added
        self._steps += 1
        self._gesture_steps = np.maximum(self._gesture_steps - 1, 0)
        return wanted, executed

    def reconsider(self, ids: NDArray[np.int_]) -> None:
        """Intends anew in simulations `ids`, where somebody else acted meanwhile: to move the peg
        in hand, or else the one that the hand was about to fetch, if there is one.

        Where it stands close to a peg, a hand that turned to either would show that a hand there
        may do both, and in the mean of both it goes down beside the peg.
        """
        each = self.env.signals(noisy=False)
        held = np.stack([self._held(s) for s in each], axis=1)
        off_axis = np.stack(
            [np.linalg.norm((grasp_point(s) - s.target_position)[:, :2], axis=-1) for s in each],
            axis=1,
        )
        # Who acted went for the episode's goal: a peg that is there was put there.
        fetched = (off_axis < FETCHED_M) & ~self.env.at_goal()
        holds = np.asarray(held.any(axis=1))
        meant = np.where(holds[:, None], held, fetched)
        nearest = np.where(meant, off_axis, np.inf).argmin(axis=1)
        for i in ids[~self.finished[ids]]:
            self._intend(int(i))
            if meant[i].any():
                self.peg[i] = nearest[i]
            if holds[i]:
                self._gesture_steps[i] = 0

    def _disturber(self, rng: np.random.Generator) -> motion.Disturber:
        """Disturbances of one play, as rough as it is."""
        least, largest = np.log(self.habits.roughness)
        factor = float(np.exp(rng.uniform(least, largest)))
        calm = self.disturbance
        rough = replace(
            calm, disturb_m=factor * calm.disturb_m, disturb_rad=factor * calm.disturb_rad
        )
        return motion.Disturber(rough, rng)

    def _intend(self, i: int) -> None:
        """Draws the next peg and a place on a free spot, from the episode's random stream."""
        rng, taken = self._rngs[i], set(self.env.place[i].tolist())
        free = [k for k in range(len(SPOTS_M)) if k not in taken]
        self.peg[i] = rng.integers(2)
        offset = rng.uniform(-GOAL_OFFSET_M, GOAL_OFFSET_M, 2)
        self.target[i] = SPOTS_M[rng.choice(free)] + offset
        self._steps[i] = 0
        direction = rng.normal(size=3)
        direction[2] = abs(direction[2])
        self._gesture[i] = self.habits.gesture_m * direction / np.linalg.norm(direction)
        fewest, most = self.habits.gesture_steps
        steps = rng.integers(fewest, most + 1)
        wants = rng.random() < self.habits.gesture_probability
        self._gesture_steps[i] = steps if wants else 0

    def _go_on(self, each: list[Signals]) -> None:
        """Turns to the next move where one is over; ends the play if stuck or a peg is lost."""
        s = self._of_peg(each)
        risen = s.tool_position[:, 2] - grasp_point(s)[:, 2] > RISEN_M
        # The play ends with it: nobody here stands a peg up again, and how deep one has fallen
        # would swamp the data's statistics.
        lost = np.any([_lost(peg) for peg in each], axis=0)
        over = self._placed(s) & ~self._held(s) & risen & ~lost
        stuck = (self._steps > self.habits.give_up_steps) | lost
        for i in np.flatnonzero((over | stuck) & ~self.finished):
            if over[i]:
                self.steps_of_moves.append(int(self._steps[i]))
            else:
                self.succeeded[i] = False
            self._moves_left[i] -= 1
            self.finished[i] = stuck[i] or self._moves_left[i] == 0
            if not self.finished[i]:
                self._intend(int(i))

    def _of_peg(self, each: list[Signals]) -> Signals:
        """Readings with the intended peg as the part."""
        first = self.peg == 0
        a, b = each
        return Signals(
            **{
                name: value
                if value is getattr(b, name)
                else np.where(first.reshape(-1, *[1] * (value.ndim - 1)), value, getattr(b, name))
                for name, value in vars(a).items()
            }
        )

    def _placed(self, s: Signals) -> NDArray[np.bool_]:
        off = np.linalg.norm(self.target - s.part_position[:, :2], axis=-1)
        low = s.part_position[:, 2] < 0.003
        return np.asarray((off < 2 * self.gains.place_tolerance_m) & low)

    @staticmethod
    def _held(s: Signals) -> NDArray[np.bool_]:
        to_grasp = grasp_point(s) - s.tool_position
        near = (np.linalg.norm(to_grasp[:, :2], axis=-1) < 0.012) & (np.abs(to_grasp[:, 2]) < 0.02)
        closing = s.gripper_target < motion.BEGUN_WIDTH_M
        return np.asarray(near & closing & (s.gripper_width < PART_WIDTH_M + 0.002))

    def _move(self, s: Signals) -> Array:
        """Actions (N, 7) that serve the intention."""
        g = self.gains
        held, placed = self._held(s), self._placed(s)
        to_grasp = grasp_point(s) - s.tool_position
        goal, yaw, width = self._fetch(s, to_grasp)
        carry_goal, carry_yaw = self._carry(s)
        goal = np.where(held[:, None], carry_goal, goal)
        yaw = np.where(held, carry_yaw, yaw)
        width = np.where(held, motion.CLOSED_WIDTH_M, width)

        # Let go where the peg stands in place, then rise.
        leave = placed & (held | (s.gripper_width < RELEASE_WIDTH_M + 0.01))
        width = np.where(leave, RELEASE_WIDTH_M, width)
        opened = np.clip((s.gripper_width - 0.028) / 0.01, 0.0, 1.0)
        rise = np.concatenate([np.zeros((len(yaw), 2)), 0.07 * opened[:, None]], axis=1)
        goal = np.where(leave[:, None], s.target_position + rise, goal)
        yaw = np.where(leave, 0.0, yaw)

        idle = (self._gesture_steps > 0) & ~held & ~leave
        goal = np.where(idle[:, None], s.target_position + self._gesture / g.gain, goal)
        goal = np.where(self.finished[:, None], s.target_position, goal)
        yaw = np.where(self.finished, 0.0, yaw)
        width = np.where(self.finished, s.gripper_target, width)
        return motion.action(s, goal, yaw, width, np.full(len(yaw), g.step_down_m), g)

    def _fetch(self, s: Signals, to_grasp: Array) -> tuple[Array, Array, Array]:
        """Goal, turn and opening of the fingers to grasp the peg."""
        g = self.gains
        off_axis = np.linalg.norm(to_grasp[:, :2], axis=-1)
        yaw = grasp_yaw(s)
        yaw = np.where(s.symmetry == 0, -_yaw(s.tool_rotation), yaw)
        above = np.clip(2.0 * (off_axis - 0.006), 0.0, TRAVEL_OVER_GRASP_M)
        goal = motion.funnel(s.tool_position, to_grasp, above, -to_grasp[:, 2])
        misfit = np.max(
            [
                off_axis / g.grasp_tolerance_m,
                np.abs(to_grasp[:, 2]) / g.grasp_tolerance_m,
                np.where(s.symmetry == 0, 0.0, np.abs(yaw)) / g.grasp_tolerance_rad,
                np.linalg.norm(s.tool_velocity[:, :3], axis=-1) / g.settled_m_s,
            ],
            axis=0,
        )
        near = (off_axis < 0.01) & (np.abs(to_grasp[:, 2]) < 0.015)
        width = motion.closing_width(misfit, near, s.gripper_target, APPROACH_WIDTH_M)
        return goal, yaw, width

    def _carry(self, s: Signals) -> tuple[Array, Array]:
        """Goal and turn to bring the held peg over its place and down onto the table."""
        height = s.part_position[:, 2]
        vector = np.zeros((len(height), 3))
        vector[:, :2] = self.target - s.part_position[:, :2]
        off_axis = np.linalg.norm(vector, axis=-1)
        above = np.clip(2.0 * (off_axis - self.gains.place_tolerance_m), 0.0, CARRY_HEIGHT_M)
        # Below the table: it is the table that stops the peg.
        above = np.where(off_axis < 2 * self.gains.place_tolerance_m, above - 0.004, above)
        goal = motion.funnel(s.tool_position, vector, above, height)
        return goal, wrap_symmetric(-_yaw(s.tool_rotation), np.ones(len(height), dtype=int))


def _lost(s: Signals) -> NDArray[np.bool_]:
    """Whether the peg fell off the table, or over."""
    upright = s.part_rotation[:, 2, 2] > np.cos(LYING_RAD)
    return np.asarray((s.part_position[:, 2] < -LOST_M) | ~upright)


def _yaw(rotation: Array) -> Array:
    return np.asarray(np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]))
