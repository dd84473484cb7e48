"""One description of the Panda that MuJoCo and PyBullet both read.

Kinematics and limits come from the hardware config; masses, centres of mass and inertias are the
identified values of Gaz et al., Dynamic Identification of the Franka Emika Panda Robot With
Retrieval of Feasible Parameters (RA-L 2019). The shapes are simple solids of our own; the finger
pads are flat, because slanted collision meshes push a part out of the grasp.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Inertial:
    """mass_kg, centre of mass (m) and inertia (kg m^2: xx yy zz xy xz yz) in the link frame."""

    mass_kg: float
    com_m: tuple[float, float, float]
    inertia: tuple[float, float, float, float, float, float]


_LINKS = (
    _Inertial(
        0.629769,
        (-0.041018, -0.00014, 0.049974),
        (0.00315, 0.00388, 0.004285, 8.2904e-7, 0.00015, 8.2299e-6),
    ),
    _Inertial(
        4.970684,
        (0.003875, 0.002081, -0.04762),
        (0.70337, 0.70661, 0.0091170, -0.00013900, 0.0067720, 0.019169),
    ),
    _Inertial(
        0.646926,
        (-0.003141, -0.02872, 0.003495),
        (0.0079620, 0.02811, 0.025995, -0.003925, 0.010254, 0.000704),
    ),
    _Inertial(
        3.228604,
        (0.027518, 0.039252, -0.066502),
        (0.037242, 0.036155, 0.01083, -0.004761, -0.011396, -0.012805),
    ),
    _Inertial(
        3.587895,
        (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.019552, 0.028323, 0.007796, -0.001332, 0.008641),
    ),
    _Inertial(
        1.225946,
        (-0.011953, 0.041065, -0.038437),
        (0.035549, 0.029474, 0.008627, -0.002117, -0.004037, 0.000229),
    ),
    _Inertial(
        1.666555,
        (0.060149, -0.014117, -0.010517),
        (0.001964, 0.004354, 0.005433, 0.000109, -0.001158, 0.000341),
    ),
    _Inertial(
        0.735522,
        (0.010517, -0.004252, 0.061597),
        (0.012516, 0.010027, 0.004815, -0.000428, -0.001196, -0.000741),
    ),
)
_HAND = _Inertial(0.73, (-0.01, 0.0, 0.03), (0.001, 0.0025, 0.0017, 0.0, 0.0, 0.0))
_FINGER = _Inertial(0.015, (0.0, 0.0, 0.02), (3e-6, 3e-6, 1e-6, 0.0, 0.0, 0.0))

# Cylinders (radius m, length m, centre m, rpy rad) that stand for the links' bodies.
_HALF_TURN = np.pi / 2
_SHAPES: dict[int, tuple[tuple[float, float, tuple[float, ...], tuple[float, ...]], ...]] = {
    0: ((0.075, 0.14, (0, 0, 0.07), (0, 0, 0)), (0.06, 0.12, (-0.07, 0, 0.06), (0, 0, 0))),
    1: ((0.06, 0.20, (0, 0, -0.16), (0, 0, 0)), (0.06, 0.14, (0, 0, 0), (_HALF_TURN, 0, 0))),
    2: ((0.058, 0.20, (0, -0.15, 0), (_HALF_TURN, 0, 0)),),
    3: ((0.055, 0.16, (0, 0, -0.08), (0, 0, 0)), (0.055, 0.13, (0.0825, 0, 0), (_HALF_TURN, 0, 0))),
    4: ((0.055, 0.16, (-0.0825, 0.09, 0), (_HALF_TURN, 0, 0)),),
    5: ((0.05, 0.26, (0, 0.02, -0.15), (0.12, 0, 0)), (0.05, 0.12, (0, 0, 0), (_HALF_TURN, 0, 0))),
    6: ((0.047, 0.13, (0.088, 0, 0), (_HALF_TURN, 0, 0)),),
    7: ((0.042, 0.09, (0, 0, 0.06), (0, 0, 0)),),
}
_FLANGE_M = 0.107
_HAND_BOX = ((0.05, 0.20, 0.062), (0.0, 0.0, 0.031))
_FINGER_ORIGIN_Z_M = 0.0584
# (size m, centre m) in the left finger's frame; the right finger is its mirror image.
_FINGER_BODY = ((0.020, 0.014, 0.034), (0.0, 0.014, 0.017))
_FINGER_PAD = ((0.020, 0.014, 0.0196), (0.0, 0.007, 0.0438))

# Joint servo: stiffness N m/rad and damping N m s/rad, near the Panda's own impedance servo.
ARM_GAINS = (
    np.array([4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 1500.0]),
    np.array([225.0, 225.0, 175.0, 175.0, 60.0, 60.0, 45.0]),
)


def arm_control(q_rad: Array, dq_rad_s: Array) -> Array:
    """Servo reference (..., 7) for commanded angles and velocities.

    A position servo damps against rest and lags a moving command by damping / stiffness; the
    velocity the command carries takes that lag away, as the robot's own servo does.
    """
    stiffness, damping = ARM_GAINS
    return np.asarray(q_rad + damping / stiffness * dq_rad_s)


def urdf(config: HardwareConfig) -> str:
    """URDF text of the arm and its hand: links panda_link0..7 with the hand in panda_link7.

    Args:
        config: hardware config whose joints, limits and frames the model takes.

    Returns:
        The XML; joints carry the config's names, the fingers `<gripper joint>1` and `2`.
    """
    robot = ET.Element("robot", name=config.robot)
    compiler = ET.SubElement(ET.SubElement(robot, "mujoco"), "compiler")
    compiler.set("balanceinertia", "true")
    compiler.set("discardvisual", "false")
    for i, inertial in enumerate(_LINKS):
        link = _link(robot, f"panda_link{i}", inertial)
        for radius, length, centre, rpy in _SHAPES[i]:
            shape = ("cylinder", {"radius": _text(radius), "length": _text(length)})
            _visual(link, shape, centre, rpy)
    for i, joint in enumerate(config.joints):
        element = _joint(
            robot,
            joint.name,
            "revolute",
            f"panda_link{i}",
            f"panda_link{i + 1}",
            joint.origin_xyz_m,
            joint.origin_rpy_rad,
            (0, 0, 1),
        )
        ET.SubElement(
            element,
            "limit",
            lower=_text(joint.position_min_rad),
            upper=_text(joint.position_max_rad),
            velocity=_text(joint.velocity_max_rad_s),
            effort=_text(joint.effort_max_nm),
        )
    hand = _link(robot, "panda_hand", _HAND)
    _solid(hand, *_HAND_BOX)
    _joint(
        robot,
        "panda_hand_joint",
        "fixed",
        "panda_link7",
        "panda_hand",
        (0, 0, _FLANGE_M),
        (0, 0, -np.pi / 4),
    )
    for number, side in ((1, 1.0), (2, -1.0)):
        finger = _link(robot, f"panda_finger{number}", _FINGER)
        for size, centre in (_FINGER_BODY, _FINGER_PAD):
            _solid(finger, size, (centre[0], side * centre[1], centre[2]))
        element = _joint(
            robot,
            f"{config.gripper.joint}{number}",
            "prismatic",
            "panda_hand",
            f"panda_finger{number}",
            (0, 0, _FINGER_ORIGIN_Z_M),
            (0, 0, 0),
            (0, side, 0),
        )
        ET.SubElement(
            element,
            "limit",
            lower="0",
            upper=_text(config.gripper.width_max_m / 2),
            velocity=_text(config.gripper.speed_max_m_s),
            effort=_text(config.gripper.force_n),
        )
    ET.indent(robot)
    return ET.tostring(robot, encoding="unicode")


def _text(*numbers: float) -> str:
    return " ".join(repr(float(n)) for n in numbers)


def _link(robot: ET.Element, name: str, inertial: _Inertial) -> ET.Element:
    link = ET.SubElement(robot, "link", name=name)
    element = ET.SubElement(link, "inertial")
    ET.SubElement(element, "origin", xyz=_text(*inertial.com_m), rpy="0 0 0")
    ET.SubElement(element, "mass", value=_text(inertial.mass_kg))
    keys = ("ixx", "iyy", "izz", "ixy", "ixz", "iyz")
    values = {k: _text(v) for k, v in zip(keys, inertial.inertia, strict=True)}
    ET.SubElement(element, "inertia", values)
    return link


def _visual(
    link: ET.Element,
    shape: tuple[str, dict[str, str]],
    xyz: tuple[float, ...],
    rpy: tuple[float, ...],
    tag: str = "visual",
) -> None:
    element = ET.SubElement(link, tag)
    ET.SubElement(element, "origin", xyz=_text(*xyz), rpy=_text(*rpy))
    ET.SubElement(ET.SubElement(element, "geometry"), shape[0], shape[1])


def _solid(link: ET.Element, size: tuple[float, ...], centre: tuple[float, ...]) -> None:
    _visual(link, ("box", {"size": _text(*size)}), centre, (0, 0, 0), tag="collision")


def _joint(
    robot: ET.Element,
    name: str,
    kind: str,
    parent: str,
    child: str,
    xyz: tuple[float, ...],
    rpy: tuple[float, ...],
    axis: tuple[float, ...] | None = None,
) -> ET.Element:
    joint = ET.SubElement(robot, "joint", name=name, type=kind)
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    ET.SubElement(joint, "origin", xyz=_text(*xyz), rpy=_text(*rpy))
    if axis is not None:
        ET.SubElement(joint, "axis", xyz=_text(*axis))
    return joint
