"""From what the robot and the cell report to the named fields of a spec.

The simulator, the recorder and the skill node call these functions, so that a policy sees the same
numbers in training and on the robot. All poses are readings (noisy), in the robot's base frame;
every vector field is turned into the tool frame, so that the policy need not learn where in the
cell it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.control import Controller, so3
from policies.spec import Field, Spec

Array = NDArray[np.float64]

POLICY_HZ = 10.0
# Beyond this distance a fine field saturates; below, it resolves tenths of millimetres.
FINE_RANGE_M = 0.008
FINE_RANGE_RAD = 0.04
FINE_HEIGHT_M = 0.0015
# A screw is turned forward, clockwise from above, through a quarter turn that ends about where the
# tool's yaw is the socket's, and is grasped anew where the tool's yaw is nearest to this.
REGRASP_RAD = np.deg2rad(80.0)


@dataclass(frozen=True)
class Signals:
    """Readings of a batch of N robots at one policy step, base frame, m and rad.

    Attributes:
        tool_position, tool_rotation: measured tool frame, (N, 3) and (N, 3, 3).
        tool_velocity: measured linear then angular velocity of the tool, (N, 6), m/s and rad/s.
        target_position, target_rotation: the controller's tool target, likewise.
        gripper_width, gripper_target: measured and commanded opening, (N,).
        part_position, part_rotation: frame of the part to be handled, at its bottom centre.
        socket_position, socket_rotation: frame of the target socket, at the hole's floor.
        symmetry: turns about z by which the part fits the socket alike, (N,); 0 = any angle.
        grasp_offset_m: where the tool is to hold the part, (N, 3), part frame.
        grasp_symmetry: turns about z by which the tool holds the part alike, (N,); 0 = any angle.
    """

    tool_position: Array
    tool_rotation: Array
    tool_velocity: Array
    target_position: Array
    target_rotation: Array
    gripper_width: Array
    gripper_target: Array
    part_position: Array
    part_rotation: Array
    socket_position: Array
    socket_rotation: Array
    symmetry: NDArray[np.int_]
    grasp_offset_m: Array
    grasp_symmetry: NDArray[np.int_]


def read_signals(
    controller: Controller,
    q_rad: Array,
    dq_rad_s: Array,
    gripper_width_m: Array,
    part: tuple[Array, Array],
    socket: tuple[Array, Array],
    symmetry: NDArray[np.int_],
    grasp_offset_m: Array,
    grasp_symmetry: NDArray[np.int_],
) -> Signals:
    """Signals from joint readings (N, n), the controller's target and two observed poses.

    `part` and `socket` are (position (N, 3), rotation (N, 3, 3)) in the base frame; for the rest
    see Signals.
    """
    position, rotation, jacobian = controller.chain.forward_and_jacobian(q_rad)
    return Signals(
        tool_position=position,
        tool_rotation=rotation,
        tool_velocity=np.einsum("bij,bj->bi", jacobian, dq_rad_s),
        target_position=controller.target_position_m,
        target_rotation=controller.target_rotation,
        gripper_width=gripper_width_m,
        gripper_target=controller.gripper_target_m,
        part_position=part[0],
        part_rotation=part[1],
        socket_position=socket[0],
        socket_rotation=socket[1],
        symmetry=symmetry,
        grasp_offset_m=grasp_offset_m,
        grasp_symmetry=grasp_symmetry,
    )


def wrap_symmetric(angle_rad: Array, symmetry: NDArray[np.int_]) -> Array:
    """The smallest equivalent of an angle under a part's symmetry; 0 where any angle will do."""
    period = 2 * np.pi / np.maximum(symmetry, 1)
    wrapped = angle_rad - period * np.round(angle_rad / period)
    return np.asarray(np.where(symmetry == 0, 0.0, wrapped))


def yaw_between(rotation: Array, reference: Array, symmetry: NDArray[np.int_]) -> Array:
    """Turn about the base's z axis from `reference` to `rotation`, wrapped by symmetry, (N,).

    Yaw is read off the x axis, so that a tool looking down and a part looking up compare.
    """
    yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    yaw_reference = np.arctan2(reference[:, 1, 0], reference[:, 0, 0])
    return wrap_symmetric(yaw - yaw_reference, symmetry)


def grasp_point(signals: Signals) -> Array:
    """Where the tool grasps the part, (N, 3), base frame."""
    offset = np.einsum("bij,bj->bi", signals.part_rotation, signals.grasp_offset_m)
    return np.asarray(signals.part_position + offset)


def grasp_yaw(signals: Signals) -> Array:
    """Turn about the base's z axis from the tool to how it is to hold the part, (N,).

    The tool's x axis is along the part's, so that the fingers close along the part's y axis.
    """
    return yaw_between(signals.part_rotation, signals.tool_rotation, signals.grasp_symmetry)


def fit_yaw(signals: Signals) -> Array:
    """Turn about the base's z axis from the part to how it fits the socket, (N,)."""
    return yaw_between(signals.socket_rotation, signals.part_rotation, signals.symmetry)


def screw_yaw(signals: Signals) -> Array:
    """Turn about the base's z axis from the socket to the tool, (N,), in (-pi, pi].

    Of the turns by which the part fits the socket alike, the socket's is the one nearest to the
    base's own yaw: so the tool stays where the wrist reaches.
    """
    still = np.broadcast_to(np.eye(3), signals.socket_rotation.shape)
    socket = yaw_between(signals.socket_rotation, still, signals.symmetry)
    tool = yaw_between(signals.tool_rotation, still, np.ones_like(signals.symmetry))
    return wrap_symmetric(tool - socket, np.ones_like(signals.symmetry))


def regrasp_yaw(signals: Signals) -> Array:
    """Turn (N,) from the tool to where it is to hold a screw for its next quarter turn."""
    way = REGRASP_RAD - screw_yaw(signals)
    return np.asarray(way + wrap_symmetric(grasp_yaw(signals) - way, signals.grasp_symmetry))


def _in_tool(signals: Signals, vector: Array) -> Array:
    return np.asarray(np.einsum("bji,bj->bi", signals.tool_rotation, vector))


def _fine(vector_m: Array) -> Array:
    return np.asarray(np.tanh(vector_m / FINE_RANGE_M))


def _tool_state(s: Signals) -> Array:
    return np.concatenate(
        [
            s.tool_position[:, 2:],
            s.tool_rotation[:, :2, 2],
            s.tool_velocity[:, :3],
            s.tool_velocity[:, 5:],
        ],
        axis=1,
    )


def _lead(s: Signals) -> Array:
    turn = so3.log(s.tool_rotation.swapaxes(-1, -2) @ s.target_rotation)
    return np.concatenate([_in_tool(s, s.target_position - s.tool_position), turn], axis=1)


def _gripper(s: Signals) -> Array:
    return np.stack([s.gripper_width, s.gripper_target], axis=1)


def _part_in_tool(s: Signals) -> Array:
    vector = _in_tool(s, grasp_point(s) - s.tool_position)
    tilt = _in_tool(s, s.part_rotation[:, :, 2])[:, :2]
    return np.concatenate([vector, _fine(vector), tilt, grasp_yaw(s)[:, None]], axis=1)


def _part_to_socket(s: Signals) -> Array:
    vector = _in_tool(s, s.socket_position - s.part_position)
    return np.concatenate([vector, _fine(vector), fit_yaw(s)[:, None]], axis=1)


def _fine_yaw(s: Signals) -> Array:
    return np.tanh(np.stack([grasp_yaw(s), fit_yaw(s)], axis=1) / FINE_RANGE_RAD)


def _screw(s: Signals) -> Array:
    height = (s.part_position - s.socket_position)[:, 2]
    return np.stack([screw_yaw(s), regrasp_yaw(s), np.tanh(height / FINE_HEIGHT_M)], axis=1)


_XYZ = ("x", "y", "z")
_FINE = ("fine_x", "fine_y", "fine_z")
_FEATURES: dict[str, tuple[Field, Callable[[Signals], Array]]] = {
    field.name: (field, function)
    for field, function in (
        (
            Field(
                "observation.state.tool",
                (7,),
                "m,1,m/s,rad/s",
                "base",
                ("z", "axis_x", "axis_y", "vx", "vy", "vz", "wz"),
            ),
            _tool_state,
        ),
        (Field("observation.state.lead", (6,), "m,rad", "tool", (*_XYZ, "rx", "ry", "rz")), _lead),
        (Field("observation.state.gripper", (2,), "m", "none", ("width", "target")), _gripper),
        (
            Field(
                "observation.state.part",
                (9,),
                "m,1,rad",
                "tool",
                (*_XYZ, *_FINE, "tilt_x", "tilt_y", "yaw"),
            ),
            _part_in_tool,
        ),
        (Field("goal.fine_yaw", (2,), "1", "base", ("part_in_tool", "socket_in_part")), _fine_yaw),
        (Field("goal.socket", (7,), "m,1,rad", "tool", (*_XYZ, *_FINE, "yaw")), _part_to_socket),
        (Field("goal.screw", (3,), "rad,1", "base", ("turn", "regrasp", "fine_height")), _screw),
    )
}
ACTION = Field(
    "action",
    (7,),
    "m,rad,m",
    "target",
    ("dx", "dy", "dz", "drx", "dry", "drz", "gripper_width"),
)
INSERTION_SPEC = Spec(
    observation=tuple(
        _FEATURES[f"observation.state.{name}"][0] for name in ("tool", "lead", "gripper", "part")
    ),
    goal=(_FEATURES["goal.socket"][0], _FEATURES["goal.fine_yaw"][0]),
    action=(ACTION,),
    rate_hz=POLICY_HZ,
)
# A screw is turned and grasped anew: where the wrist stands and how far there is to go matter too.
SCREW_SPEC = replace(INSERTION_SPEC, goal=(*INSERTION_SPEC.goal, _FEATURES["goal.screw"][0]))


def observe(spec: Spec, signals: Signals) -> dict[str, NDArray[np.float32]]:
    """The fields of `spec` from readings, each (N, *shape) float32.

    Raises:
        KeyError: the spec names a field that no feature computes.
    """
    unknown = [f.name for f in spec.input_fields if f.name not in _FEATURES]
    if unknown:
        raise KeyError(f"spec: got fields {unknown}, expected some of {sorted(_FEATURES)}")
    return {
        field.name: _FEATURES[field.name][1](signals).astype(np.float32)
        for field in spec.input_fields
    }
