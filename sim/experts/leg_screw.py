"""A scripted expert for leg_screw: strokes of a quarter turn, and grasping anew between them.

Which way the tool turns in the thread follows from the commanded opening alone: closed fingers turn
the leg forward until the stroke's end and then open, open ones turn back to the next grasp and then
close. Each motion aims beyond the place where it is over, so that nobody waits there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.features import Signals, grasp_point, grasp_yaw, regrasp_yaw, screw_yaw
from sim.experts import motion
from sim.experts.fit_part import FitPartExpert, Gains
from sim.fixtures.leg import KIND, THREAD

Array = NDArray[np.float64]

# The tool's yaw over the socket's at which the leg goes in, a little before a start of the thread,
# and at which a stroke is over.
ENTRY_RAD, STROKE_END_RAD = np.deg2rad(97.0), np.deg2rad(-8.0)
# Just wide enough for the corners of the grip to pass.
CLEAR_WIDTH_M, REGRASP_WIDTH_M = 0.0315, 0.036
# Commanded below this, the fingers are closing or closed.
CLOSING_WIDTH_M = 0.02


@dataclass(frozen=True)
class ScrewGains(Gains):
    """Speeds and tolerances of the expert; the tip is round, so that its yaw need not fit."""

    step_rad: float = 0.18
    fit_tolerance_rad: float = 0.2
    step_in_hole_m: float = 0.006
    let_go_height_m: float = 0.0004
    leave_height_m: float = 0.0007
    press_m: float = 0.0006
    stroke_lead_rad: float = 0.25
    end_lead_rad: float = 0.08
    regrasp_tolerance_rad: float = 0.08
    crooked_rad: float = 0.2
    leaning_rad: float = 0.045


class LegScrewExpert(FitPartExpert):
    """See FitPartExpert; where the tip is at the thread, it is screwed instead."""

    gains: ScrewGains
    rest_height_m = THREAD.travel_m

    def __init__(self) -> None:
        super().__init__(KIND, ScrewGains())

    def act(self, s: Signals) -> Array:
        """See FitPartExpert."""
        to_socket = s.socket_position - s.part_position
        to_grasp = grasp_point(s) - s.tool_position
        height = -to_socket[:, 2]
        at_thread = (
            (height < THREAD.travel_m + 0.0012)
            & (np.linalg.norm(to_socket[:, :2], axis=-1) < 0.003)
            & (np.linalg.norm(to_grasp[:, :2], axis=-1) < 0.012)
            & (np.abs(to_grasp[:, 2]) < 0.02)
            & (s.gripper_target < motion.BEGUN_WIDTH_M)
        )
        screwed = self._screw(s, to_grasp, height)
        return np.asarray(np.where(at_thread[:, None], screwed, super().act(s)))

    def _screw(self, s: Signals, to_grasp: Array, height: Array) -> Array:
        """Actions of a tool at a leg whose tip is at the thread."""
        g, width = self.gains, self.kind.part_width_m
        closing = s.gripper_target < CLOSING_WIDTH_M
        gripped = closing & (s.gripper_width < width + 0.0025)
        clear = ~closing & (s.gripper_width > CLEAR_WIDTH_M)
        seated = height < np.where(closing, g.let_go_height_m, g.leave_height_m)

        stroke = screw_yaw(s) - STROKE_END_RAD
        left = height / THREAD.travel_per_rad_m
        forward = -np.minimum(stroke + g.stroke_lead_rad, 0.7 * left + g.end_lead_rad)
        back = regrasp_yaw(s)
        misfit = np.max(
            [
                np.abs(back) / g.regrasp_tolerance_rad,
                np.linalg.norm(to_grasp[:, :2], axis=-1) / g.grasp_tolerance_m,
                np.abs(to_grasp[:, 2]) / g.grasp_tolerance_m,
            ],
            axis=0,
        )
        # Closed beside the grip, on its corners, or on a leg that leans: let go, it stands upright.
        leans = np.hypot(s.part_rotation[:, 0, 2], s.part_rotation[:, 1, 2]) > g.leaning_rad
        crooked = leans | (np.abs(grasp_yaw(s)) > g.crooked_rad)
        missed = closing & (crooked | (s.gripper_width < width - 0.0015))
        over = (gripped & ((stroke < 0.0) | seated)) | missed
        turning = gripped & ~over
        returning = clear & ~seated

        yaw = np.where(turning, forward, np.where(returning, back, 0.0))
        moving = turning | returning
        goal = np.where(moving[:, None], s.tool_position + to_grasp, s.target_position)
        goal[:, 2] -= np.where(turning, g.press_m, 0.0)
        goal[:, 2] += np.where(clear & seated, 0.03, 0.0)
        close = (closing & ~over) | (returning & (misfit < 1.0))
        opening = np.where(close, motion.CLOSED_WIDTH_M, REGRASP_WIDTH_M)
        down = np.full(len(height), g.step_at_rim_m)
        return motion.action(s, np.asarray(goal), yaw, opening, down, g)

    def _fit_yaw(self, s: Signals) -> Array:
        return np.asarray(ENTRY_RAD - screw_yaw(s))
