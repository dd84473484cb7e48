"""A scripted demonstrator for the kitchen: four of seven sub-tasks, one after the other.

Which four and in which order is drawn for each episode. What it knows beside the true state is
which of its moves it is in (sim.experts.kitchen_moves); each of them is a feedback law, so that it
comes back from disturbances. The hinged cabinet comes last where it is among the four: its open
door stands in the way of the sliding door's handle and of the arm before the knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.experts.kitchen_arm import ARM_JOINTS, Arm, Array
from sim.experts.kitchen_moves import MOVES, OPEN_M, Aim, Move
from sim.kitchen import ASKED, JOINTS, SUBTASKS, KitchenBatch

LAST = "hinge cabinet"
TRIES = 3
# A posture is reached when no joint is further from it, rad; and its fastest step.
POSTURE_RAD, POSTURE_STEP_RAD = 0.07, 0.1


@dataclass(frozen=True)
class Habits:
    """How the demonstrator varies, and is disturbed.

    Attributes:
        speed_spread: relative standard deviation of the speed from episode to episode.
        aim_m: standard deviation of an offset from where it aims, from sub-task to sub-task.
        posture_rad: the same of the joint angles that a sub-task begins from.
        burst_probability: probability that a disturbance begins at a calm step.
        burst_steps: its fewest and most steps.
        burst: standard deviation of what it adds to the command of each of the arm's joints, the
            same in all its steps.
    """

    speed_spread: float = 0.08
    aim_m: float = 0.0015
    posture_rad: float = 0.02
    burst_probability: float = 0.04
    burst_steps: tuple[int, int] = (1, 6)
    burst: float = 0.15


class _Script:
    """What is done in one simulation, and how far it has come."""

    def __init__(self, order: Sequence[str], rng: np.random.Generator, habits: Habits) -> None:
        self.order = list(order)
        self.rng = rng
        self.speed = float(np.clip(rng.normal(1.0, habits.speed_spread), 0.8, 1.2))
        self.turn = self.move = self.tries = self.since = 0
        self.begun: Aim | None = None
        self.width_m = OPEN_M
        self.offset_m = rng.normal(0.0, habits.aim_m, (len(self.order), 3))
        self.offset_rad = rng.normal(0.0, habits.posture_rad, (len(self.order), ARM_JOINTS))
        self.burst = np.zeros(ARM_JOINTS)
        self.burst_steps = 0

    @property
    def over(self) -> bool:
        return self.turn >= len(self.order)

    @property
    def current(self) -> Move:
        return MOVES[self.order[self.turn]][self.move]

    def go_on(self, done: NDArray[np.bool_]) -> None:
        """To the next move; after the last, to the next sub-task, or to the same if it failed."""
        self.since, self.begun = 0, None
        self.move += 1
        name = self.order[self.turn]
        if self.move < len(MOVES[name]):
            return
        self.move = 0
        self.tries += 1
        if done[SUBTASKS.index(name)] or self.tries == TRIES:
            self.turn, self.tries = self.turn + 1, 0


class KitchenDemonstrator:
    """Does sub-tasks in N simulations; see training.collect_play.

    Attributes:
        finished: whether each simulation's demonstration is over, (N,).
        succeeded: whether all that was intended was then done, (N,).
    """

    def __init__(self, env: KitchenBatch, habits: Habits | None = None) -> None:
        self.env = env
        self.habits = habits or Habits()
        n = env.num_envs
        self.finished = np.zeros(n, dtype=bool)
        self.succeeded = np.zeros(n, dtype=bool)
        self._arm = Arm(env.kitchen)
        self._arm.look(self._arm.start, np.zeros(self._arm.model.nv))
        nowhere = Aim(self._arm.position, self._arm.rotation, OPEN_M)
        self._ready = {
            name: self._arm.posture_at(*move.goal(self._arm, nowhere)[:2])
            for name, moves in MOVES.items()
            for move in moves
            if move.posture == "ready"
        }
        self._scripts = [_Script((), np.random.default_rng(0), self.habits) for _ in range(n)]
        self.reset(np.zeros(n, dtype=int))

    def reset(self, seeds: NDArray[np.int_], ids: NDArray[np.int_] | None = None) -> None:
        """Draws new intentions in simulations `ids`, which have just been reset."""
        ids = np.arange(self.env.num_envs) if ids is None else np.asarray(ids)
        for i, seed in zip(ids, np.asarray(seeds), strict=True):
            rng = np.random.default_rng([int(seed), 1])
            self.intend(int(i), [SUBTASKS[k] for k in rng.permutation(len(SUBTASKS))[:ASKED]], rng)

    def intend(self, i: int, subtasks: Sequence[str], rng: np.random.Generator) -> None:
        """Begins with sub-tasks in simulation `i`, in this order but for the one that is last."""
        order = sorted(subtasks, key=lambda name: name == LAST)
        self._scripts[i] = _Script(order, rng, self.habits)
        self.finished[i] = self.succeeded[i] = False

    def act(self) -> tuple[Array, Array]:
        """What is wanted (N, 9) and what is executed (N, 9), disturbed now and then."""
        wanted = np.zeros((self.env.num_envs, JOINTS))
        executed = wanted.copy()
        for i, script in enumerate(self._scripts):
            if self.finished[i]:
                continue
            wanted[i] = executed[i] = self._act(i, script)
            intended = [SUBTASKS.index(name) for name in script.order]
            self.finished[i] = script.over or self.env.steps[i] >= self.env.max_steps
            self.succeeded[i] = self.finished[i] and self.env.completed[i, intended].all()
            self._disturb(script)
            executed[i, :ARM_JOINTS] += script.burst
        return wanted, np.clip(executed, -1.0, 1.0)

    def _act(self, i: int, script: _Script) -> Array:
        arm = self._arm
        arm.look(self.env.qpos[i], self.env.qvel[i])
        reading = self.env.readings[i, :JOINTS]
        while not script.over:
            move, turn = script.current, script.turn
            if script.begun is None:
                script.begun = Aim(arm.position, arm.rotation, script.width_m)
            aim = move.goal(arm, script.begun)
            position = aim.position + script.offset_m[turn]
            at_start = move.posture == "start"
            posture = arm.start[:ARM_JOINTS] if at_start else self._ready[script.order[turn]]
            posture = posture + script.offset_rad[turn]
            if move.posture:
                reached = bool(np.abs(posture - arm.joints).max() < POSTURE_RAD)
            elif move.until:
                reached = move.until(arm)
            else:
                reached = bool(np.linalg.norm(position - arm.position) < move.tolerance_m)
            if reached or script.since >= move.steps:
                script.go_on(self.env.completed[i])
                continue
            script.since += 1
            script.width_m = aim.width_m
            if move.posture:
                change = 0.6 * (posture - arm.joints)
                step_rad = script.speed * POSTURE_STEP_RAD
                change *= min(1.0, step_rad / max(float(np.abs(change).max()), 1e-9))
            else:
                change = arm.towards(position, aim.rotation, script.speed * move.step_m, posture)
            # Against what resists, a drive at its limit does not keep the others back.
            straight = move.posture is None and move.until is None
            return arm.command(change, aim.width_m, reading, straight)
        return arm.command(np.zeros(ARM_JOINTS), script.width_m, reading, straight=True)

    def _disturb(self, script: _Script) -> None:
        habits, rng = self.habits, script.rng
        chance, burst = rng.random(), rng.normal(0.0, habits.burst, ARM_JOINTS)
        steps = int(rng.integers(habits.burst_steps[0], habits.burst_steps[1] + 1))
        if script.burst_steps > 0:
            script.burst_steps -= 1
        if script.burst_steps == 0:
            begins = chance < habits.burst_probability
            script.burst_steps = steps if begins else 0
            script.burst = burst if begins else np.zeros(ARM_JOINTS)


class KitchenExpert:
    """The demonstrator, undisturbed, doing what is asked for; see training.evaluate."""

    def __init__(self) -> None:
        self._player: KitchenDemonstrator | None = None

    def act(self, signals: KitchenBatch) -> Array:
        """Commands (N, 9); a simulation that stands at its start begins anew."""
        if self._player is None or self._player.env is not signals:
            self._player = KitchenDemonstrator(signals, Habits(burst_probability=0.0))
        for i in np.flatnonzero(signals.steps == 0):
            rng = np.random.default_rng([int(signals.seeds[i]), 1])
            asked = rng.permutation(np.flatnonzero(signals.asked[i]))
            self._player.intend(int(i), [SUBTASKS[k] for k in asked], rng)
        return self._player.act()[0]
