"""The last gate before the robot: every joint command passes these limits.

Discrete-time barriers on the commanded state. Velocity and change of velocity are scaled for all
joints alike, so that the direction of motion survives; the workspace is a box of six barriers on
the tool point, and a command after which the tool could no longer stop inside gives way to braking;
position limits are braking-aware (a joint may only be as fast as it can still stop before them).
With h the distance to a limit the condition on the speed v towards it is v dt + v^2 / (2 a) <= h
for joints and v <= gain h for the workspace (Ames et al., Control Barrier Functions: Theory and
Applications, 2019, the discrete reading of h' >= -gain h).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.control.kinematics import Chain
from policies.control.so3 import Array

if TYPE_CHECKING:
    from hardware_configs import HardwareConfig

# Which robots of a batch a call is about.
Rows = NDArray[np.int_] | slice
ALL = slice(None)
INTERVENTIONS = ("invalid", "position", "velocity", "acceleration", "workspace")
_RELATIVE_TOLERANCE = 1e-6


class SafetyFilter:
    """Limits on joint position, velocity, acceleration and the tool's workspace, batched.

    Args:
        config: limits, workspace and control rate.
        batch_size: number of robots filtered at once.

    Attributes:
        q_rad: (batch, n) last command. dq_rad_s: (batch, n) its velocity.
        interventions: number of control ticks each kind of limit was active, (batch,) per kind.
    """

    def __init__(self, config: HardwareConfig, batch_size: int = 1) -> None:
        self._dt_s = 1.0 / config.rates.control_hz
        self._lower, self._upper = np.array(config.position_limits, dtype=float).T
        self._velocity = np.array(config.velocity_limits, dtype=float)
        self._acceleration = np.array(config.acceleration_limits, dtype=float)
        self._box_min = np.array(config.safety.workspace_min_m, dtype=float)
        self._box_max = np.array(config.safety.workspace_max_m, dtype=float)
        self._gain_per_s = float(config.safety.barrier_gain_per_s)
        self.chain = Chain.from_config(config)
        self.q_rad = np.tile(np.array(config.home_rad, dtype=float), (batch_size, 1))
        self.dq_rad_s = np.zeros_like(self.q_rad)
        self.interventions = {kind: np.zeros(batch_size, dtype=int) for kind in INTERVENTIONS}
        self._refresh()

    def _refresh(self) -> None:
        self.tool_position_m, self.tool_rotation, self.jacobian = self.chain.forward_and_jacobian(
            self.q_rad
        )

    def reset(self, q_rad: Array, ids: Rows = ALL) -> None:
        """Starts from rest at measured angles `q_rad` (k, n), for the robots `ids`."""
        self.q_rad[ids] = q_rad
        self.dq_rad_s[ids] = 0.0
        for counts in self.interventions.values():
            counts[ids] = 0
        self._refresh()

    @property
    def rows(self) -> list[NDArray[Any]]:
        """Everything that is remembered, to read and write, with a leading axis of robots."""
        derived = [self.tool_position_m, self.tool_rotation, self.jacobian]
        return [self.q_rad, self.dq_rad_s, *derived, *self.interventions.values()]

    def step(self, q_desired_rad: Array) -> Array:
        """The nearest safe command to `q_desired_rad` (batch, n), for the next control tick.

        A row with a NaN or an infinity asks for nothing: its robot brakes.

        Returns:
            (batch, n) joint command in rad, also kept as `q_rad`.
        """
        q, dt = self.q_rad, self._dt_s
        valid = np.asarray(np.isfinite(q_desired_rad).all(axis=-1))
        self.interventions["invalid"] += ~valid
        desired = np.where(valid[:, None], q_desired_rad, q)
        velocity = (desired - q) / dt

        ratio = np.max(np.abs(velocity) / self._velocity, axis=-1)
        self.interventions["velocity"] += ratio > 1.0 + _RELATIVE_TOLERANCE
        velocity = velocity / np.maximum(ratio, 1.0)[:, None]

        scale = self._workspace_scale(velocity)
        velocity = velocity * scale[:, None]

        # The change of velocity is scaled as a whole, so that the tool keeps to its path.
        change = velocity - self.dq_rad_s
        ratio = np.max(np.abs(change) / (self._acceleration * dt), axis=-1)
        self.interventions["acceleration"] += ratio > 1.0 + _RELATIVE_TOLERANCE
        velocity = self.dq_rad_s + change / np.maximum(ratio, 1.0)[:, None]

        in_time = self._brakes_in_time(velocity)
        velocity = np.where(in_time[:, None], velocity, self._braked(self.dq_rad_s))
        self.interventions["workspace"] += (scale < 1.0 - _RELATIVE_TOLERANCE) | ~in_time

        # Last, since it always lies within reach of the acceleration limit.
        limited = np.clip(
            velocity, -self._stopping_speed(q - self._lower), self._stopping_speed(self._upper - q)
        )
        stopped = np.abs(limited - velocity) > _RELATIVE_TOLERANCE
        self.interventions["position"] += stopped.any(axis=-1)

        # A joint measured outside its limits may move inwards but is never thrown to the limit.
        self.q_rad = np.clip(
            q + limited * dt, np.minimum(self._lower, q), np.maximum(self._upper, q)
        )
        self.dq_rad_s = (self.q_rad - q) / dt
        self._refresh()
        return self.q_rad

    def _stopping_speed(self, distance_rad: Array) -> Array:
        """The fastest speed from which the joint stops within `distance_rad`, (batch, n)."""
        a, dt = self._acceleration, self._dt_s
        return np.asarray(a * (np.sqrt(dt**2 + 2.0 * np.maximum(distance_rad, 0.0) / a) - dt))

    def _workspace_scale(self, velocity: Array) -> Array:
        """The share of `velocity` (batch, n) that the workspace's six walls allow, (batch,)."""
        tool_velocity = np.einsum("bij,bj->bi", self.jacobian[:, :3], velocity)
        position = self.tool_position_m
        distance = np.concatenate([position - self._box_min, self._box_max - position], axis=-1)
        approach = np.concatenate([-tool_velocity, tool_velocity], axis=-1)
        share = self._gain_per_s * np.maximum(distance, 0.0) / np.maximum(approach, 1e-9)
        return np.asarray(np.min(np.minimum(1.0, share), axis=-1))

    def _brakes_in_time(self, velocity: Array) -> NDArray[np.bool_]:
        """Whether the tool, braked from `velocity` (batch, n) on, would stop in the workspace.

        Braking scales the whole velocity, so that the joints run straight to where they stop; one
        that starts outside may not get further out.
        """
        stop_s = np.max(np.abs(velocity) / self._acceleration, axis=-1)[:, None]
        position, _ = self.chain.forward(self.q_rad + velocity * (self._dt_s + stop_s / 2.0))
        now_m = self._outside_m(self.tool_position_m)
        return np.asarray(self._outside_m(position) <= np.maximum(now_m, 1e-6))

    def _outside_m(self, position: Array) -> Array:
        beyond = np.maximum(self._box_min - position, position - self._box_max)
        return np.asarray(np.maximum(np.max(beyond, axis=-1), 0.0))

    def _braked(self, velocity: Array) -> Array:
        """`velocity` (batch, n) one tick into the fastest braking that keeps its direction."""
        stop_s = np.max(np.abs(velocity) / self._acceleration, axis=-1)
        share = np.maximum(1.0 - self._dt_s / np.maximum(stop_s, self._dt_s), 0.0)
        return np.asarray(velocity * share[:, None])
