"""The hardware config: what a robot is, how fast it may go and where its signals are.

Everything that concerns the robot, the recorder, the simulator, the trainer, the controller and the
driver read from the same YAML file through ``hardware_configs.load``. Lengths are in metres, angles
in radians, times in seconds; a frame's origin is given in its parent's frame, with fixed-axis
roll-pitch-yaw as in URDF.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Vector3 = tuple[float, float, float]


@dataclass(frozen=True)
class Joint:
    """One revolute joint, turning about the z axis of its own frame.

    Attributes:
        name: the joint's name in every message and model.
        sign: +1 or -1; the machine's reading is ``sign * position + offset_rad``.
        offset_rad: see ``sign``.
        origin_xyz_m: origin of the joint frame at zero position in the parent frame.
        origin_rpy_rad: its fixed-axis roll, pitch and yaw in the parent frame.
    """

    name: str
    sign: int
    offset_rad: float
    position_min_rad: float
    position_max_rad: float
    velocity_max_rad_s: float
    acceleration_max_rad_s2: float
    effort_max_nm: float
    origin_xyz_m: Vector3
    origin_rpy_rad: Vector3


@dataclass(frozen=True)
class Tool:
    """The tool frame in the last joint's frame: z out of the hand, the fingers open along y."""

    origin_xyz_m: Vector3
    origin_rpy_rad: Vector3


@dataclass(frozen=True)
class Gripper:
    """A parallel gripper; its width is the distance between the finger pads."""

    joint: str
    width_min_m: float
    width_max_m: float
    speed_max_m_s: float
    force_n: float


@dataclass(frozen=True)
class Rates:
    """How often the controller commands and the driver reports."""

    control_hz: int
    state_hz: int


@dataclass(frozen=True)
class Topic:
    """A ROS topic, its QoS, and the age from which a message of it is stale."""

    name: str
    reliability: str
    depth: int
    stale_s: float


@dataclass(frozen=True)
class Camera:
    """A camera and the topic of its images."""

    name: str
    width_px: int
    height_px: int
    rate_hz: float
    topic: str


@dataclass(frozen=True)
class Safety:
    """What the safety filter keeps to.

    Attributes:
        workspace_min_m: lower corner of the box that holds the tool point, robot base frame.
        workspace_max_m: its upper corner.
        lead_max_m: the farthest that the commanded tool point may run ahead of the measured one.
        chunk_stale_s: age of an action chunk from which the robot holds.
        barrier_gain_per_s: largest share of the distance to a limit that one second may use up.
        tool_speed_max_m_s: speed limit of the tool point.
        tool_rotation_speed_max_rad_s: speed limit of the tool's turning.
    """

    workspace_min_m: Vector3
    workspace_max_m: Vector3
    lead_max_m: float
    chunk_stale_s: float
    barrier_gain_per_s: float
    tool_speed_max_m_s: float
    tool_rotation_speed_max_rad_s: float


@dataclass(frozen=True)
class HardwareConfig:
    """One robot's contract; ``load`` makes it. Joints are in the order of every joint vector."""

    robot: str
    joints: tuple[Joint, ...]
    tool: Tool
    home_rad: tuple[float, ...]
    gripper: Gripper
    rates: Rates
    topics: Mapping[str, Topic]
    cameras: tuple[Camera, ...]
    drivers: Mapping[str, Mapping[str, float]]
    safety: Safety

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of what a policy depends on.

        That is the robot, joints, tool, gripper and rates. Topics, cameras, drivers, home and the
        safety set may change without a policy becoming foreign.
        """
        body = {
            "robot": self.robot,
            "joints": [dataclasses.asdict(joint) for joint in self.joints],
            "tool": dataclasses.asdict(self.tool),
            "gripper": dataclasses.asdict(self.gripper),
            "rates": dataclasses.asdict(self.rates),
        }
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def joint_names(self) -> tuple[str, ...]:
        """The names of the joints in order."""
        return tuple(joint.name for joint in self.joints)

    @property
    def position_limits(self) -> FloatArray:
        """Lower and upper joint position limits in rad, (n, 2)."""
        return np.array([(j.position_min_rad, j.position_max_rad) for j in self.joints])

    @property
    def velocity_limits(self) -> FloatArray:
        """Joint speed limits in rad/s, (n,)."""
        return np.array([joint.velocity_max_rad_s for joint in self.joints])

    @property
    def acceleration_limits(self) -> FloatArray:
        """Joint acceleration limits in rad/s^2, (n,)."""
        return np.array([joint.acceleration_max_rad_s2 for joint in self.joints])
