"""A scripted expert for the tasks that fit a part: a feedback law on readings, without memory.

Every decision follows from the present reading, so that the demonstrations teach a function of the
observation and the expert recovers from disturbances put on it while it demonstrates. Approaches
are funnels: the closer to the axis, the lower the tool may be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.features import Signals, fit_yaw, grasp_point, grasp_yaw
from policies.objects import Kind
from sim.experts import motion

Array = NDArray[np.float64]

APPROACH_WIDTH_M = 0.07
RELEASE_WIDTH_M = 0.04


@dataclass(frozen=True)
class Gains(motion.Speeds):
    """Speeds per policy step and tolerances of the expert."""

    step_down_m: float = 0.03
    step_in_hole_m: float = 0.012
    step_at_rim_m: float = 0.004
    grasp_tolerance_m: float = 0.004
    grasp_tolerance_rad: float = 0.04
    fit_tolerance_m: float = 0.0004
    fit_tolerance_rad: float = 0.012
    settled_m_s: float = 0.06
    let_go_height_m: float = 0.0012
    leave_height_m: float = 0.0025


class FitPartExpert:
    """Actions (N, 7) from Signals of N cells; see policies.features.ACTION.

    Args:
        kind: what is fitted, for its width and the depth it goes in.
        gains: speeds and tolerances.

    Attributes:
        rest_height_m: how far over the socket's origin pushing the part in ends.
    """

    rest_height_m = 0.0

    def __init__(self, kind: Kind, gains: Gains | None = None) -> None:
        self.kind = kind
        self.gains = gains or Gains()

    def act(self, s: Signals) -> Array:
        """The expert's action for each row of the signals."""
        g, depth_m = self.gains, self.kind.hole_depth_m
        to_socket = s.socket_position - s.part_position
        height = -to_socket[:, 2]
        off_axis = np.linalg.norm(to_socket[:, :2], axis=-1)
        in_socket = (height < g.leave_height_m) & (off_axis < 0.003)
        to_grasp = grasp_point(s) - s.tool_position
        near = (np.linalg.norm(to_grasp[:, :2], axis=-1) < 0.008) & (np.abs(to_grasp[:, 2]) < 0.012)
        closing = (s.gripper_target < motion.BEGUN_WIDTH_M) & near
        held = closing & (s.gripper_width < self.kind.part_width_m + 0.0015)
        fetch_goal, fetch_yaw, fetch_width = self._fetch(s, to_grasp, near)
        carry_goal, carry_yaw = self._carry(s, to_socket, height, off_axis)

        leave = in_socket & ~held
        done = held & (height < g.let_go_height_m) & (off_axis < 0.003)
        goal = np.where(held[:, None], carry_goal, fetch_goal)
        yaw = np.where(held, carry_yaw, fetch_yaw)
        still = leave | done | (closing & ~held)
        goal = np.where(still[:, None], s.target_position, goal)
        clear = leave & (s.gripper_width > RELEASE_WIDTH_M - 0.004)
        goal = np.where(clear[:, None], s.target_position + [0.0, 0.0, 0.03], goal)
        yaw = np.where(still, 0.0, yaw)
        width = np.where(done | leave, RELEASE_WIDTH_M, fetch_width)

        over = held & (off_axis < 0.003)
        down = np.where(over & (height < depth_m + 0.008), g.step_at_rim_m, g.step_down_m)
        down = np.where(over & (height < depth_m - 0.002), g.step_in_hole_m, down)
        return motion.action(s, goal, yaw, width, down, g)

    def _fetch(
        self, s: Signals, to_grasp: Array, near: NDArray[np.bool_]
    ) -> tuple[Array, Array, Array]:
        """Goal, turn and opening of the fingers to grasp the part."""
        g = self.gains
        off_axis = np.linalg.norm(to_grasp[:, :2], axis=-1)
        yaw = grasp_yaw(s)
        above = np.clip(3.0 * (off_axis - 0.004), 0.0, 0.06)
        above = np.maximum(above, np.clip(0.15 * (np.abs(yaw) - 0.05), 0.0, 0.04))
        goal = motion.funnel(s.tool_position, to_grasp, above, -to_grasp[:, 2])
        misfit = np.max(
            [
                off_axis / g.grasp_tolerance_m,
                np.abs(to_grasp[:, 2]) / g.grasp_tolerance_m,
                np.abs(yaw) / g.grasp_tolerance_rad,
                np.linalg.norm(s.tool_velocity[:, :3], axis=-1) / g.settled_m_s,
            ],
            axis=0,
        )
        width = motion.closing_width(misfit, near, s.gripper_target, APPROACH_WIDTH_M)
        return goal, yaw, width

    def _carry(
        self, s: Signals, to_socket: Array, height: Array, off_axis: Array
    ) -> tuple[Array, Array]:
        """Goal and turn to bring the held part over the socket and down into it."""
        g, depth_m = self.gains, self.kind.hole_depth_m
        yaw = self._fit_yaw(s)
        inside = (height < depth_m - 0.001) & (off_axis < 0.003)
        # Another part may stand in the next socket: pass over its top.
        above = depth_m + 0.005 + np.clip(1.6 * (off_axis - 0.003), 0.0, 0.06)
        # The better it fits the lower, without a threshold to wait at: whoever imitates a wait
        # waits for ever.
        misfit = np.maximum(off_axis / g.fit_tolerance_m, np.abs(yaw) / g.fit_tolerance_rad)
        above = above - 0.009 * np.clip(1.5 - misfit, 0.0, 1.0)
        above = np.where(inside, self.rest_height_m - 0.001, above)
        # A part held beside its axis swings as the tool turns.
        return motion.funnel(s.tool_position, to_socket - self._swing(s, yaw), above, height), yaw

    def _fit_yaw(self, s: Signals) -> Array:
        """Turn (N,) still to make with the held part before it goes in."""
        return fit_yaw(s)

    def _swing(self, s: Signals, yaw: Array) -> Array:
        """How far the held part will move, (N, 3), while the tool turns by `yaw`."""
        return np.zeros_like(s.part_position)
