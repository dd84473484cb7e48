"""What can be true of the world: the words of preconditions, effects and success detectors.

Each is a function of a ``World`` and the names of parts and sockets. What is not perceived is not
true: a part out of sight is neither free nor seated, a socket out of sight is not empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.skills.world import FloatArray, Pose, World

SEATED_LATERAL_M = 0.002
# Perceived poses are noisy: they may be off by as much as a part may be from its seat.
SEATED_SLACK = 2.0
SEATED_TILT_RAD = math.radians(3.0)
UPRIGHT_TILT_RAD = math.radians(5.0)
ON_TABLE_M = 0.005
HELD_DISTANCE_M = 0.040
# Fingers farther apart than the part by this much do not hold it.
HELD_SLACK_M = 0.004
HOLE_RADIUS_M = 0.015
HOME_TOLERANCE_RAD = 0.05


def part_free(world: World, part: str) -> bool:
    """The part stands upright on the table, in no socket, ready to be picked."""
    pose = world.parts.get(part)
    if pose is None or any(_in_hole(world, part, socket) for socket in world.sockets):
        return False
    upright = _tilt_rad(pose) < UPRIGHT_TILT_RAD
    return upright and bool(abs(pose.position_m[2]) < ON_TABLE_M)


def toppled(world: World, part: str) -> bool:
    """The part lies or leans somewhere and is not in the gripper."""
    pose = world.parts.get(part)
    return pose is not None and _tilt_rad(pose) >= UPRIGHT_TILT_RAD and not held(world, part)


def held(world: World, part: str) -> bool:
    """The part is off the table, within reach of the fingers, and they are closed on it."""
    pose = world.parts.get(part)
    if pose is None:
        return False
    kind = world.objects.parts[part]
    axis = pose.rotation[:, 2]
    # The line along the part through where it is to be grasped.
    bottom = pose.position + pose.rotation @ [*kind.grasp_offset_m[:2], 0.0]
    along_m = float(np.dot(np.array(world.tool_position_m) - bottom, axis))
    nearest = bottom + np.clip(along_m, 0.0, kind.part_length_m) * axis
    near = np.linalg.norm(np.array(world.tool_position_m) - nearest) < HELD_DISTANCE_M
    closed = world.gripper_width_m < kind.part_width_m + HELD_SLACK_M
    return bool(near and closed) and _lowest_m(world, part) > ON_TABLE_M


def seated(world: World, part: str, socket: str) -> bool:
    """The part stands at the bottom of the socket."""
    if part not in world.parts or socket not in world.sockets:
        return False
    x_m, y_m, z_m = _in_socket(world, part, socket)
    axes = world.parts[part].rotation[:, 2], world.sockets[socket].rotation[:, 2]
    tilt_rad = np.arccos(np.clip(np.dot(*axes), -1.0, 1.0))
    height_m = SEATED_SLACK * world.objects.parts[part].seated_height_m
    return bool(
        np.hypot(x_m, y_m) < SEATED_LATERAL_M and abs(z_m) < height_m and tilt_rad < SEATED_TILT_RAD
    )


def socket_empty(world: World, socket: str) -> bool:
    """No part is in the socket."""
    return socket in world.sockets and not any(
        _in_hole(world, part, socket) for part in world.parts
    )


def fits(world: World, part: str, socket: str) -> bool:
    """The part and the socket are of one kind."""
    kind = world.objects.parts.get(part)
    return kind is not None and kind == world.objects.sockets.get(socket)


def gripper_empty(world: World) -> bool:
    """No part is held."""
    return not any(held(world, part) for part in world.parts)


def at_home(world: World) -> bool:
    """The arm is at its home position."""
    return bool(world.home_error_rad < HOME_TOLERANCE_RAD)


def parts_free(world: World) -> bool:
    """There are parts and all of them are free."""
    return bool(world.parts) and all(part_free(world, part) for part in world.parts)


def base_empty(world: World) -> bool:
    """There is a base and all of its sockets are empty."""
    return bool(world.sockets) and all(socket_empty(world, socket) for socket in world.sockets)


@dataclass(frozen=True)
class Predicate:
    """A predicate's function and the types of its arguments after the world."""

    function: Callable[..., bool]
    types: tuple[str, ...]


PREDICATES = {
    "part_free": Predicate(part_free, ("part",)),
    "toppled": Predicate(toppled, ("part",)),
    "held": Predicate(held, ("part",)),
    "seated": Predicate(seated, ("part", "socket")),
    "socket_empty": Predicate(socket_empty, ("socket",)),
    "fits": Predicate(fits, ("part", "socket")),
    "gripper_empty": Predicate(gripper_empty, ()),
    "at_home": Predicate(at_home, ()),
    "parts_free": Predicate(parts_free, ()),
    "base_empty": Predicate(base_empty, ()),
}


def _tilt_rad(pose: Pose) -> float:
    return float(np.arccos(np.clip(pose.rotation[2, 2], -1.0, 1.0)))


def _lowest_m(world: World, part: str) -> float:
    """Height of the part's lowest point over the table, for a part as thick as its width."""
    pose, kind = world.parts[part], world.objects.parts[part]
    top_m = pose.position_m[2] + kind.part_length_m * pose.rotation[2, 2]
    sag_m = 0.5 * kind.part_width_m * np.sin(_tilt_rad(pose))
    return float(min(pose.position_m[2], top_m) - sag_m)


def _in_socket(world: World, part: str, socket: str) -> FloatArray:
    """Origin of the part in the socket's frame, (3,) m."""
    part_pose, socket_pose = world.parts[part], world.sockets[socket]
    offset: FloatArray = socket_pose.rotation.T @ (part_pose.position - socket_pose.position)
    return offset


def _in_hole(world: World, part: str, socket: str) -> bool:
    x_m, y_m, z_m = _in_socket(world, part, socket)
    depth_m = world.objects.sockets[socket].hole_depth_m
    return bool(np.hypot(x_m, y_m) < HOLE_RADIUS_M and z_m < depth_m)
