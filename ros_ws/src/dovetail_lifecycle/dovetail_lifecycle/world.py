"""From messages to the World that skills' conditions are about."""

from __future__ import annotations

import numpy as np
from dovetail_interfaces.msg import ControlState, WorldState
from geometry_msgs.msg import Pose as PoseMessage

from hardware_configs import HardwareConfig
from policies.objects import Objects
from policies.skills.world import Pose, World


def make_world(
    seen: WorldState, control: ControlState, config: HardwareConfig, objects: Objects
) -> World:
    """The perceived world together with the robot's own posture.

    Raises:
        ValueError: an unknown object, a pose that is not finite, or a wrong number of joints.
    """
    if len(control.q_measured_rad) != len(config.joints):
        raise ValueError(
            f"control_state:q_measured_rad: got {len(control.q_measured_rad)} values, "
            f"expected {len(config.joints)}"
        )
    tool = control.tool_measured.position
    return World(
        parts={item.name: _pose(item.pose) for item in seen.parts},
        sockets={item.name: _pose(item.pose) for item in seen.sockets},
        tool_position_m=(tool.x, tool.y, tool.z),
        gripper_width_m=control.gripper_width_m,
        home_error_rad=float(np.abs(np.subtract(control.q_measured_rad, config.home_rad)).max()),
        objects=objects,
    )


def _pose(message: PoseMessage) -> Pose:
    p, o = message.position, message.orientation
    return Pose((p.x, p.y, p.z), (o.x, o.y, o.z, o.w))
