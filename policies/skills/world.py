"""The world state as the scheduler sees it: poses by name, the tool and the gripper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from policies.objects import Objects

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """A frame in the robot base frame.

    Attributes:
        position_m: x, y, z.
        quaternion_xyzw: rotation in the order of ROS messages; need not be normalised.

    Raises:
        ValueError: a value is not finite or the quaternion is zero.
    """

    position_m: tuple[float, float, float]
    quaternion_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Checks the values."""
        values = np.array([*self.position_m, *self.quaternion_xyzw], dtype=float)
        if values.shape != (7,) or not np.isfinite(values).all() or not values[3:].any():
            raise ValueError(f"pose: got {values.tolist()}, expected a position and a quaternion")

    @property
    def position(self) -> FloatArray:
        """The position as an array, (3,)."""
        return np.array(self.position_m, dtype=float)

    @property
    def rotation(self) -> FloatArray:
        """The rotation from this frame to the base frame, (3, 3)."""
        x, y, z, w = np.array(self.quaternion_xyzw) / np.linalg.norm(self.quaternion_xyzw)
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )


@dataclass(frozen=True)
class World:
    """What is perceived at one moment, in the robot base frame; the table top is z = 0.

    Attributes:
        parts: pose of each perceived part, its frame at the bottom centre, z up.
        sockets: pose of each perceived socket, its frame at the centre of the hole's floor, z up.
        tool_position_m: the tool point, between the fingertips.
        gripper_width_m: distance between the finger pads.
        home_error_rad: the farthest that any joint is from its home position.
        objects: the catalogue that tells sizes and kinds.

    Raises:
        ValueError: a part or socket is not in the catalogue.
    """

    parts: Mapping[str, Pose]
    sockets: Mapping[str, Pose]
    tool_position_m: tuple[float, float, float]
    gripper_width_m: float
    home_error_rad: float
    objects: Objects

    def __post_init__(self) -> None:
        """Checks the names."""
        for key, seen, known in (
            ("parts", self.parts, self.objects.parts),
            ("sockets", self.sockets, self.objects.sockets),
        ):
            for name in seen:
                if name not in known:
                    raise ValueError(
                        f"world:{key}: got {name!r}, expected one of {', '.join(known)}"
                    )
