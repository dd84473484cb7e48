"""Between pose messages and the arrays that policies and features work on."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray

from policies.control import so3

Array = NDArray[np.float64]


def to_messages(positions_m: Array, rotations: Array) -> list[Pose]:
    """Poses from positions (N, 3) in m and rotation matrices (N, 3, 3)."""
    poses = []
    for position, quaternion in zip(
        positions_m.tolist(), so3.quaternion(rotations).tolist(), strict=True
    ):
        pose = Pose()
        pose.position.x, pose.position.y, pose.position.z = position
        o = pose.orientation
        o.w, o.x, o.y, o.z = quaternion
        poses.append(pose)
    return poses


def to_message(position_m: Array, rotation: Array) -> Pose:
    """A Pose from a position (3,) in m and a rotation matrix (3, 3)."""
    return to_messages(position_m[None], rotation[None])[0]


def to_arrays(pose: Pose) -> tuple[Array, Array]:
    """Position (3,) in m and rotation matrix (3, 3) of a Pose.

    Raises:
        ValueError: a value is not finite or the quaternion has no direction.
    """
    p, o = pose.position, pose.orientation
    position = np.array([p.x, p.y, p.z])
    quaternion = np.array([o.w, o.x, o.y, o.z])
    norm = float(np.linalg.norm(quaternion))
    if not (np.isfinite(position).all() and np.isfinite(norm) and norm > 0.5):
        raise ValueError(f"pose: got position {position}, quaternion {quaternion}, expected finite")
    return position, so3.matrix(quaternion)
