"""Forward kinematics and Jacobian of a serial arm, batched in numpy.

The chain comes from the hardware config: each joint frame's pose in its parent's at zero angle,
each joint turning about its own z axis, and the tool frame in the last joint frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from policies.control import so3
from policies.control.so3 import Array

if TYPE_CHECKING:
    from hardware_configs import HardwareConfig


class Chain:
    """A serial chain of revolute joints with a tool frame.

    Args:
        origin_positions_m: (n, 3), joint frame origins in the parent frame.
        origin_rotations: (n, 3, 3), joint frames in the parent frame at zero angle.
        tool_position_m: (3,), tool frame origin in the last joint frame.
        tool_rotation: (3, 3), tool frame in the last joint frame.
    """

    def __init__(
        self,
        origin_positions_m: Array,
        origin_rotations: Array,
        tool_position_m: Array,
        tool_rotation: Array,
    ) -> None:
        self._positions = np.asarray(origin_positions_m, dtype=float)
        self._rotations = np.asarray(origin_rotations, dtype=float)
        self._tool_position = np.asarray(tool_position_m, dtype=float)
        self._tool_rotation = np.asarray(tool_rotation, dtype=float)
        self.size = len(self._positions)

    @classmethod
    def from_config(cls, config: HardwareConfig) -> Chain:
        """The chain of a hardware config."""
        return cls(
            np.array([j.origin_xyz_m for j in config.joints]),
            np.array([so3.from_rpy(np.array(j.origin_rpy_rad)) for j in config.joints]),
            np.array(config.tool.origin_xyz_m),
            so3.from_rpy(np.array(config.tool.origin_rpy_rad)),
        )

    def forward(self, q_rad: Array) -> tuple[Array, Array]:
        """Tool pose in the base frame.

        Args:
            q_rad: (..., n) joint angles.

        Returns:
            Position (..., 3) in m and rotation (..., 3, 3).
        """
        position, rotation, _, _ = self._sweep(np.asarray(q_rad, dtype=float))
        return position, rotation

    def forward_and_jacobian(self, q_rad: Array) -> tuple[Array, Array, Array]:
        """Tool pose and geometric Jacobian in the base frame.

        Args:
            q_rad: (..., n) joint angles.

        Returns:
            Position (..., 3) in m, rotation (..., 3, 3), and Jacobian (..., 6, n): three rows of
            linear velocity of the tool point in m/rad, then three of angular velocity.
        """
        position, rotation, axes, anchors = self._sweep(np.asarray(q_rad, dtype=float))
        linear = np.cross(axes, position[..., None, :] - anchors)
        jacobian = np.concatenate([linear, axes], axis=-1).swapaxes(-1, -2)
        return position, rotation, jacobian

    def _sweep(self, q_rad: Array) -> tuple[Array, Array, Array, Array]:
        batch = q_rad.shape[:-1]
        joint_rotations = so3.about_z(q_rad)
        axes = np.empty((*batch, self.size, 3))
        anchors = np.empty((*batch, self.size, 3))
        position = np.zeros((*batch, 3))
        rotation = np.broadcast_to(np.eye(3), (*batch, 3, 3))
        for i in range(self.size):
            position = position + rotation @ self._positions[i]
            rotation = (rotation @ self._rotations[i]) @ joint_rotations[..., i, :, :]
            axes[..., i, :] = rotation[..., :, 2]
            anchors[..., i, :] = position
        position = position + rotation @ self._tool_position
        return position, rotation @ self._tool_rotation, axes, anchors
