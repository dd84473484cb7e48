"""The one controller: it turns a policy's action into joint commands, everywhere alike.

The training environment, the evaluator and the ROS control node step this class, so what was
trained is what runs. An action moves a target pose; between two policy steps the command follows a
quadratic B-spline through the targets (continuous velocity, so a seam between chunks is no jump),
differential inverse kinematics (damped least squares with a posture task in the null space:
Siciliano et al., Robotics, section 3.5) gives joint angles; the safety filter has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.control import so3
from policies.control.safety_filter import ALL, Rows, SafetyFilter
from policies.control.so3 import Array

if TYPE_CHECKING:
    from hardware_configs import HardwareConfig

ACTION_SIZE = 7
_DAMPING = 0.02
_POSTURE_GAIN = 0.005


@dataclass(frozen=True)
class JointCommand:
    """One tick's command: q_rad and dq_rad_s (batch, n), gripper_width_m (batch,)."""

    q_rad: Array
    dq_rad_s: Array
    gripper_width_m: Array


class Controller:
    """Cartesian increments to joint commands for a batch of identical robots.

    Args:
        config: the robot.
        action_hz: policy steps per second; must divide the control rate.
        batch_size: number of robots.

    Raises:
        ValueError: the control rate is no whole multiple of `action_hz`.
    """

    def __init__(self, config: HardwareConfig, action_hz: float, batch_size: int = 1) -> None:
        ticks = config.rates.control_hz / action_hz
        if ticks != round(ticks):
            raise ValueError(
                f"action_hz: got {action_hz}, expected a divisor of the control rate "
                f"{config.rates.control_hz} Hz of {config.robot}"
            )
        self.ticks_per_step = round(ticks)
        self._dt_s = 1.0 / config.rates.control_hz
        self._safety = config.safety
        self._gripper = config.gripper
        self._step_translation_m = config.safety.tool_speed_max_m_s / action_hz
        self._step_rotation_rad = config.safety.tool_rotation_speed_max_rad_s / action_hz
        self._home = np.array(config.home_rad, dtype=float)
        self.filter = SafetyFilter(config, batch_size)
        self.chain = self.filter.chain
        # Target poses of the previous, the current and the next policy step.
        self._positions = np.zeros((3, batch_size, 3))
        self._rotations = np.zeros((3, batch_size, 3, 3))
        self.gripper_target_m = np.zeros(batch_size)
        self.gripper_command_m = np.zeros(batch_size)
        self._tick = np.zeros(batch_size, dtype=int)
        self._holding: NDArray[np.bool_] = np.ones(batch_size, dtype=bool)
        self._extra = {kind: np.zeros(batch_size, dtype=int) for kind in ("tool_speed", "lead")}
        self.reset(np.tile(self._home, (batch_size, 1)), np.zeros(batch_size))

    @property
    def target_position_m(self) -> Array:
        """Tool target of the step in progress, (batch, 3), in the base frame."""
        return np.asarray(self._positions[2])

    @property
    def target_rotation(self) -> Array:
        """Tool target orientation of the step in progress, (batch, 3, 3), in the base frame."""
        return np.asarray(self._rotations[2])

    @property
    def interventions(self) -> dict[str, NDArray[np.int_]]:
        """Control ticks on which each limit was active since the last reset, (batch,) each."""
        return {**self.filter.interventions, **self._extra}

    @property
    def rows(self) -> list[NDArray[Any]]:
        """Everything that is remembered, to read and write, with a leading axis of robots."""
        targets = [self._positions.swapaxes(0, 1), self._rotations.swapaxes(0, 1)]
        gripper = [self.gripper_target_m, self.gripper_command_m]
        return [*self.filter.rows, *targets, *gripper, self._tick, self._holding] + list(
            self._extra.values()
        )

    def reset(self, q_rad: Array, gripper_width_m: Array, ids: Rows = ALL) -> None:
        """Starts from measured angles (k, n) and gripper width (k,): the target is where it is."""
        self.filter.reset(q_rad, ids)
        # Fingers at their stops are measured a hair beyond.
        width_m = np.clip(gripper_width_m, 0.0, self._gripper.width_max_m)
        self.gripper_target_m[ids] = width_m
        self.gripper_command_m[ids] = width_m
        self._holding[ids] = True
        for counts in self._extra.values():
            counts[ids] = 0
        self._anchor(self._holding)

    def begin_step(self, action: Array) -> None:
        """Starts a policy step with `action` (batch, 7).

        Columns: tool translation (3, m) and rotation vector (3, rad) of the target in its own
        frame, and the gripper width (m). A row with a NaN or an infinity makes its robot hold.
        """
        self._anchor(self._holding)
        self._positions = np.stack([*self._positions[1:], self._positions[2]])
        self._rotations = np.stack([*self._rotations[1:], self._rotations[2]])
        self._tick[:] = 0
        self._aim(np.asarray(action, dtype=float))

    def amend_step(self, action: Array) -> None:
        """Replaces the action (batch, 7) of the step in progress.

        It may come a few ticks late: the spline turns to a step's target with the square of the
        time since its beginning.
        """
        self._aim(np.asarray(action, dtype=float))

    def _aim(self, action: Array) -> None:
        """Sets the next target, a step from the current one."""
        valid: NDArray[np.bool_] = np.asarray(np.isfinite(action).all(axis=-1))
        self.filter.interventions["invalid"] += ~valid
        still = np.concatenate([np.zeros((len(action), 6)), self.gripper_target_m[:, None]], axis=1)
        action = np.where(valid[:, None], action, still)
        translation, over_m = _limit_norm(action[:, :3], self._step_translation_m)
        rotation, over_rad = _limit_norm(action[:, 3:6], self._step_rotation_rad)
        self._extra["tool_speed"] += over_m | over_rad

        position = self._positions[1] + np.einsum("bij,bj->bi", self._rotations[1], translation)
        self._positions[2] = np.clip(
            position, self._safety.workspace_min_m, self._safety.workspace_max_m
        )
        self._rotations[2] = self._rotations[1] @ so3.exp(rotation)
        self.gripper_target_m = np.clip(
            action[:, 6], self._gripper.width_min_m, self._gripper.width_max_m
        )
        self._holding = ~valid

    def hold(self, ids: Rows = ALL) -> None:
        """Brakes within the acceleration limits and stays; the next step starts from there."""
        self._holding[ids] = True

    def tick(self, q_measured_rad: Array) -> JointCommand:
        """One control period.

        Args:
            q_measured_rad: (batch, n) newest joint reading; bounds how far the command may lead.

        Returns:
            The filtered joint command.
        """
        self._tick = np.minimum(self._tick + 1, self.ticks_per_step)
        phase = (self._tick / self.ticks_per_step)[:, None]
        before, after = 0.5 * (1.0 - phase) ** 2, 0.5 * phase**2
        middle, rotation_middle = self._positions[1], self._rotations[1]
        position = (
            middle + before * (self._positions[0] - middle) + after * (self._positions[2] - middle)
        )
        back = rotation_middle.swapaxes(-1, -2)
        rotation = rotation_middle @ so3.exp(
            before * so3.log(back @ self._rotations[0]) + after * so3.log(back @ self._rotations[2])
        )
        position = self._bound_lead(position, q_measured_rad)
        desired = self._inverse_kinematics(position, rotation)
        command = self.filter.step(np.where(self._holding[:, None], self.filter.q_rad, desired))
        reach = self._gripper.speed_max_m_s * self._dt_s
        self.gripper_command_m = self.gripper_command_m + np.clip(
            self.gripper_target_m - self.gripper_command_m, -reach, reach
        )
        return JointCommand(command, self.filter.dq_rad_s, self.gripper_command_m)

    def _bound_lead(self, position: Array, q_measured_rad: Array) -> Array:
        """Keeps the command within the lead of the measured tool point: contact force is bounded.

        The targets move along, so that nothing winds up while the tool is blocked.
        """
        measured, _ = self.chain.forward(q_measured_rad)
        lead, over = _limit_norm(position - measured, self._safety.lead_max_m)
        over &= ~self._holding
        if over.any():
            shift = np.where(over[:, None], measured + lead - position, 0.0)
            self._positions = self._positions + shift
            position = position + shift
            self._extra["lead"] += over
        return position

    def _inverse_kinematics(self, position: Array, rotation: Array) -> Array:
        jacobian = self.filter.jacobian
        error = np.concatenate(
            [
                position - self.filter.tool_position_m,
                so3.log(rotation @ self.filter.tool_rotation.swapaxes(-1, -2)),
            ],
            axis=-1,
        )
        q = self.filter.q_rad
        posture = _POSTURE_GAIN * (self._home - q)
        transposed = jacobian.swapaxes(-1, -2)
        gram = jacobian @ transposed + _DAMPING**2 * np.eye(6)
        rest = error - np.einsum("bij,bj->bi", jacobian, posture)
        step = posture + (transposed @ np.linalg.solve(gram, rest[..., None]))[..., 0]
        return np.asarray(q + step)

    def _anchor(self, mask: NDArray[np.bool_]) -> None:
        """Puts the targets of the robots in `mask` where their command is."""
        self._positions[:, mask] = self.filter.tool_position_m[mask]
        self._rotations[:, mask] = self.filter.tool_rotation[mask]


def _limit_norm(vector: Array, limit: float) -> tuple[Array, NDArray[np.bool_]]:
    norm = np.linalg.norm(vector, axis=-1)
    over = norm > limit
    return vector * np.where(over, limit / np.maximum(norm, 1e-12), 1.0)[:, None], over
