"""How every scripted demonstrator of the cell moves, grasps, and is disturbed.

A motion is a feedback law on readings, without memory: so that demonstrations teach a function of
the observation, and the demonstrator recovers from disturbances put on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.control import so3
from policies.features import Signals

Array = NDArray[np.float64]

CLOSED_WIDTH_M = 0.0
# Commanded below this, the fingers have begun to close.
BEGUN_WIDTH_M = 0.05


@dataclass(frozen=True)
class Speeds:
    """How fast a demonstrator moves.

    Attributes:
        gain: share of the way to the goal that is made in one policy step.
        step_m: longest translation per policy step.
        step_change_m: largest change of it from one policy step to the next.
        step_rad: largest turn per policy step.
    """

    gain: float = 0.6
    step_m: float = 0.035
    step_change_m: float = 0.02
    step_rad: float = 0.12


def funnel(tool_position: Array, vector: Array, above: Array, height: Array) -> Array:
    """Tool goal (N, 3) that closes `vector` sideways and comes to `above`, rising before it moves.

    Args:
        tool_position: (N, 3), base frame.
        vector: what is to be closed, (N, 3), base frame.
        above: wanted height (N,) over what is approached: the closer to its axis, the lower.
        height: present height (N,).
    """
    too_low = np.clip((above - height) / 0.03, 0.0, 1.0)
    goal = tool_position + vector * (1.0 - too_low)[:, None]
    goal[:, 2] = tool_position[:, 2] + above - height
    return np.asarray(goal)


def closing_width(
    misfit: Array, near: NDArray[np.bool_], gripper_target_m: Array, open_width_m: float
) -> Array:
    """Opening of the fingers (N,) that approach or grasp a part.

    They close where the tool fits, and having begun they go on while it is near. An imitator that
    is unsure which side of a threshold it is on is then decided by its first step across; without
    that, and also where the opening follows the misfit smoothly, it hesitates half open.

    Args:
        misfit: how badly the tool fits the part, 1 at the tolerance, (N,).
        near: whether it is near enough to go on closing, (N,).
        gripper_target_m: commanded opening, (N,).
        open_width_m: opening while the tool approaches.
    """
    closing = (misfit < 1.0) | (near & (gripper_target_m < BEGUN_WIDTH_M))
    return np.where(closing, CLOSED_WIDTH_M, open_width_m)


def action(s: Signals, goal: Array, yaw: Array, width: Array, down_m: Array, v: Speeds) -> Array:
    """Actions (N, 7), see policies.features.ACTION, towards a tool goal.

    Args:
        s: readings.
        goal: tool position to go to, (N, 3), base frame.
        yaw: turn about the base's z axis still to make, (N,); the tool points down.
        width: opening of the fingers to command, (N,).
        down_m: longest way down per policy step, (N,).
        v: the other speeds.
    """
    move = v.gain * (goal - s.target_position)
    sideways = np.linalg.norm(move[:, :2], axis=-1, keepdims=True)
    move[:, :2] *= np.minimum(1.0, v.step_m / np.maximum(sideways, 1e-9))
    move[:, 2] = np.clip(move[:, 2], -down_m, v.step_m)
    # Start and stop gently: in steady motion the target leads the tool by 1.5 policy steps.
    moving = (s.target_position - s.tool_position) / 1.5
    change = move - moving
    size = np.linalg.norm(change, axis=-1, keepdims=True)
    move = moving + change * np.minimum(1.0, v.step_change_m / np.maximum(size, 1e-9))
    tool_yaw = np.arctan2(s.tool_rotation[:, 1, 0], s.tool_rotation[:, 0, 0])
    desired = so3.about_z(tool_yaw + yaw) @ np.diag([1.0, -1.0, -1.0])
    turn = v.gain * so3.log(s.target_rotation.swapaxes(-1, -2) @ desired)
    angle = np.linalg.norm(turn, axis=-1, keepdims=True)
    turn *= np.minimum(1.0, v.step_rad / np.maximum(angle, 1e-9))
    forward = np.einsum("bji,bj->bi", s.target_rotation, move)
    return np.concatenate([forward, turn, width[:, None]], axis=1)


@dataclass(frozen=True)
class Disturbance:
    """Bursts of noise on what is executed, with calm between them.

    Attributes:
        burst_probability: probability of a burst starting at a calm step.
        burst_steps: longest burst, steps; lengths are uniform from 1.
        disturb_m, disturb_rad: standard deviation of its translation and rotation.
    """

    burst_probability: float = 0.06
    burst_steps: int = 3
    disturb_m: float = 0.004
    disturb_rad: float = 0.04


class Disturber:
    """Disturbances of one episode (Laskey et al. 2017, DART), from its own random stream."""

    def __init__(self, args: Disturbance, rng: np.random.Generator) -> None:
        self.args = args
        self.rng = rng
        self.left = 0

    def draw(self) -> Array | None:
        """What is added to the next action's motion (6,), or None for a calm step."""
        motion, chance = self.rng.normal(size=6), self.rng.random()
        length = int(self.rng.integers(1, self.args.burst_steps + 1))
        if self.left == 0 and chance < self.args.burst_probability:
            self.left = length
        if self.left == 0:
            return None
        self.left -= 1
        scale = np.repeat([self.args.disturb_m, self.args.disturb_rad], 3)
        return np.asarray(scale * motion)
