"""Reading and writing a cell's state by name, for one simulation or a batch of them.

All functions work on arrays with a leading batch axis: `qpos` (N, nq), `mocap_pos` (N, 1, 3) and
`mocap_quat` (N, 1, 4) of a Batch, or of one MjData with an axis put in front.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.control import so3
from sim import cell
from sim.fixtures.fixture import Fixture
from sim.layout import Layout

Array = NDArray[np.float64]
Pose = tuple[Array, Array]

SEATED_TILT_RAD = np.deg2rad(2.0)
RELEASED_MARGIN_M = 0.004


class Scene:
    """Addresses of a compiled cell.

    Args:
        model: from cell.build.
        config: the robot in it.
        fixture: the base and parts in it.

    Attributes:
        mechanism: what happens in the fixture besides contact.
    """

    def __init__(self, model: mujoco.MjModel, config: HardwareConfig, fixture: Fixture) -> None:
        self.model = model
        self.fixture = fixture
        self.mechanism = fixture.mechanism(model)
        self.arm_qpos = np.array([model.joint(j.name).qposadr[0] for j in config.joints])
        self.arm_qvel = np.array([model.joint(j.name).dofadr[0] for j in config.joints])
        self.arm_ctrl = np.array([model.actuator(j.name).id for j in config.joints])
        fingers = [f"{config.gripper.joint}{i}" for i in (1, 2)]
        self.finger_qpos = np.array([model.joint(f).qposadr[0] for f in fingers])
        self.gripper_ctrl = model.actuator("gripper").id
        self.part_qpos = {name: int(model.joint(name).qposadr[0]) for name in fixture.parts}
        self.part_qvel = {name: int(model.joint(name).dofadr[0]) for name in fixture.parts}
        self.distance = {n: int(model.sensor(f"{n}_distance").adr[0]) for n in fixture.parts}
        self.force = {n: int(model.sensor(f"{n}_force").adr[0]) for n in fixture.parts}

    def lay_out(self, layout: Layout, qpos: Array, mocap_pos: Array, mocap_quat: Array) -> None:
        """Writes one simulation's base and parts.

        Shapes: qpos (nq,), mocap_pos (1, 3), mocap_quat (1, 4).
        """
        mocap_pos[0] = [*layout.base_xy_m, 0.0]
        mocap_quat[0] = _yaw_quaternion(layout.base_yaw_rad)
        for name, xy in layout.part_xy_m.items():
            self.place_part(name, np.array([*xy, 0.0]), layout.part_yaw_rad[name], qpos)
        for name, socket in layout.seated.items():
            position, _ = self.socket_pose(socket, mocap_pos[None], mocap_quat[None])
            self.place_part(name, position[0], layout.base_yaw_rad, qpos)

    def place_part(self, name: str, position_m: Array, yaw_rad: float, qpos: Array) -> None:
        """Stands one part upright at `position_m` (3,) in qpos (nq,)."""
        start = self.part_qpos[name]
        qpos[start : start + 3] = position_m
        qpos[start + 3 : start + 7] = _yaw_quaternion(yaw_rad)

    def part_pose(self, name: str, qpos: Array) -> Pose:
        """True pose of a part: position (N, 3) and rotation (N, 3, 3), base frame."""
        start = self.part_qpos[name]
        return qpos[:, start : start + 3].copy(), so3.matrix(qpos[:, start + 3 : start + 7])

    def socket_pose(self, name: str, mocap_pos: Array, mocap_quat: Array) -> Pose:
        """True pose of a socket, likewise."""
        rotation = so3.matrix(mocap_quat[:, 0])
        return mocap_pos[:, 0] + rotation @ np.array(self.fixture.socket_in_base_m[name]), rotation

    def gripper_width(self, qpos: Array) -> Array:
        """Opening between the pads, (N,), m."""
        return np.asarray(qpos[:, self.finger_qpos].sum(-1))

    def set_gripper_width(self, width_m: float, qpos: Array) -> None:
        """Puts the fingers at an opening; qpos (..., nq)."""
        qpos[..., self.finger_qpos] = width_m / 2


def seated(part: Pose, socket: Pose, height_m: Array | float) -> NDArray[np.bool_]:
    """Whether a part stands within `height_m` of a socket's bottom, (N,), from true poses.

    The lateral bound only tells the sockets apart: the walls hold the part within the clearance.
    """
    offset = np.einsum("bji,bj->bi", socket[1], part[0] - socket[0])
    cosine = np.einsum("bi,bi->b", part[1][:, :, 2], socket[1][:, :, 2])
    return np.asarray(
        (np.abs(offset[:, 2]) < height_m)
        & (np.linalg.norm(offset[:, :2], axis=-1) < cell.CLEARANCE_MAX_M)
        & (cosine > np.cos(SEATED_TILT_RAD))
    )


def released(gripper_width_m: Array, part_width_m: Array | float) -> NDArray[np.bool_]:
    """Whether the fingers are clear of a part that is so wide where it is grasped, (N,)."""
    return np.asarray(gripper_width_m > part_width_m + RELEASED_MARGIN_M)


def _yaw_quaternion(yaw_rad: float) -> Array:
    return np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])
