"""The assembly cell as a MuJoCo model: Panda, table, a base with sockets, pegs, two cameras.

Frames: the robot's base frame is the world frame, the table top is z = 0. A part's frame is at its
bottom centre, a socket's at the centre of the hole's floor, both with z up. The base is a mocap
body: fixed while the robot works, moved only when the cell is laid out anew. Nothing snaps and
nothing is welded; a peg goes in because it fits.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.control import so3
from policies.objects import load_objects
from sim.robots import panda

Array = NDArray[np.float64]

TIMESTEP_S = 0.002
BASE_HEIGHT_M = 0.040
SOCKET_PITCH_M = 0.060
SOCKET_DEPTH_Y_M = 0.080
ROUND_SEGMENTS = 16
CLEARANCE_MIN_M, CLEARANCE_MAX_M = 0.0001, 0.005

_STEEL = [0.55, 0.57, 0.60, 1.0]
_PART_FRICTION = [0.3, 0.002, 0.0001]
_PAD_FRICTION = [1.2, 0.01, 0.0001]
# Stiff contact between part and socket: the penetration must stay far below the clearance.
_FIT_SOLREF = [0.004, 1.0]
_FIT_SOLIMP = [0.99, 0.999, 0.0002, 0.5, 2.0]
_ARM_ARMATURE = 0.1
# (label, data, reduction over the contacts of a part with the base: 1 deepest, 3 net force)
_CONTACT_SENSORS = (
    ("distance", mujoco.mjtConDataField.mjCONDATA_DIST, 1),
    ("force", mujoco.mjtConDataField.mjCONDATA_FORCE, 3),
)


OBJECTS = load_objects()
# All kinds are of one size, so that one base fits them.
_SIZE = next(iter(OBJECTS.parts.values()))
PART_WIDTH_M, PART_LENGTH_M = _SIZE.part_width_m, _SIZE.part_length_m
HOLE_DEPTH_M = _SIZE.hole_depth_m
PARTS = {name: kind.name for name, kind in OBJECTS.parts.items()}
# Sockets stand in a row along the base's x axis.
SOCKETS = {
    name: (kind.name, SOCKET_PITCH_M * (i - (len(OBJECTS.sockets) - 1) / 2))
    for i, (name, kind) in enumerate(OBJECTS.sockets.items())
}
_COLOURS = {"square": (0.93, 0.55, 0.14, 1.0), "round": (0.16, 0.47, 0.78, 1.0)}


def symmetry(part: str) -> int:
    """Turns about z by which a part looks alike; 0 for any angle."""
    return OBJECTS.parts[part].symmetry


def socket_positions_in_base_m() -> Array:
    """Socket frames' origins (3, 3) in the base part's frame (its bottom centre)."""
    floor = BASE_HEIGHT_M - HOLE_DEPTH_M
    return np.array([[x, 0.0, floor] for _, x in SOCKETS.values()])


def build_spec(config: HardwareConfig, clearance_m: float = 0.0005) -> mujoco.MjSpec:
    """The cell's MjSpec.

    Args:
        config: the robot.
        clearance_m: gap between part and hole on each side.

    Raises:
        ValueError: a clearance that the contact model is not made for.
    """
    if not CLEARANCE_MIN_M <= clearance_m <= CLEARANCE_MAX_M:
        raise ValueError(
            f"clearance: got {clearance_m * 1e3:g} mm, expected {CLEARANCE_MIN_M * 1e3:g} to "
            f"{CLEARANCE_MAX_M * 1e3:g} mm a side"
        )
    spec = mujoco.MjSpec.from_string(panda.urdf(config))
    spec.modelname = "dovetail_cell"
    _options(spec)
    _robot(spec, config)
    _surroundings(spec)
    _base(spec, clearance_m)
    for name, kind in PARTS.items():
        _part(spec, name, kind)
    _cameras(spec, config)
    return spec


def build(config: HardwareConfig, clearance_m: float = 0.0005) -> mujoco.MjModel:
    """The compiled cell; see build_spec."""
    return build_spec(config, clearance_m).compile()


def _options(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0
    # MuJoCo 4.0.0 mis-factors sparse systems; a dense one is also faster at this size.
    option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    spec.visual.global_.offwidth = 1280
    spec.visual.global_.offheight = 960


def _robot(spec: mujoco.MjSpec, config: HardwareConfig) -> None:
    stiffness, damping = panda.ARM_GAINS
    for i, joint in enumerate(config.joints):
        spec.joint(joint.name).armature = _ARM_ARMATURE
        servo = spec.add_actuator(name=joint.name, target=joint.name)
        servo.trntype = mujoco.mjtTrn.mjTRN_JOINT
        servo.set_to_position(kp=stiffness[i], kv=damping[i])
        servo.forcelimited = True
        servo.forcerange = [-joint.effort_max_nm, joint.effort_max_nm]
    fingers = [f"{config.gripper.joint}{i}" for i in (1, 2)]
    for finger in fingers:
        spec.joint(finger).armature = 0.05
        spec.joint(finger).damping[0] = 5.0
    coupling = spec.add_equality(name="finger_coupling", name1=fingers[0], name2=fingers[1])
    coupling.type = mujoco.mjtEq.mjEQ_JOINT
    coupling.objtype = mujoco.mjtObj.mjOBJ_JOINT
    coupling.data[:2] = [0.0, 1.0]
    coupling.solref = [0.004, 1.0]
    width = spec.add_tendon(name="gripper_width")
    for finger in fingers:
        width.wrap_joint(finger, 1.0)
    grip = spec.add_actuator(name="gripper", target="gripper_width")
    grip.trntype = mujoco.mjtTrn.mjTRN_TENDON
    grip.set_to_position(kp=6000.0, kv=60.0)
    grip.forcelimited = True
    grip.forcerange = [-config.gripper.force_n, config.gripper.force_n]

    # After the import the hand's solids sit on the last link that moves.
    for body in spec.bodies:
        body.gravcomp = 1.0
        for geom in body.geoms:
            if geom.type == mujoco.mjtGeom.mjGEOM_CYLINDER:
                geom.contype = geom.conaffinity = 0
                geom.group = 2
                geom.rgba = [0.93, 0.94, 0.95, 1.0]
            else:
                finger = body.name.startswith("panda_finger")
                geom.rgba = [0.25, 0.26, 0.28, 1.0] if finger else [0.85, 0.86, 0.88, 1.0]
                geom.friction = _PAD_FRICTION
                geom.solref = _FIT_SOLREF
                geom.solimp = _FIT_SOLIMP
                geom.condim = 4
    last = spec.body(f"panda_link{len(config.joints)}")
    tool = last.add_site(name="tool", pos=config.tool.origin_xyz_m)
    tool.quat = so3.quaternion(so3.from_rpy(np.array(config.tool.origin_rpy_rad)))
    tool.size = [0.003] * 3
    tool.group = 4


def _surroundings(spec: mujoco.MjSpec) -> None:
    sky = spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    sky.builtin = mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2 = [0.86, 0.90, 0.94], [0.55, 0.62, 0.70]
    sky.width, sky.height = 64, 384
    spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
    spec.visual.headlight.ambient = [0.25, 0.25, 0.25]
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.5, 0.6, 0.02],
        pos=[0.42, 0.0, -0.02],
        rgba=[0.80, 0.78, 0.74, 1.0],
        friction=[0.6, 0.005, 0.0001],
    )
    world.add_light(
        pos=[0.2, -0.6, 1.8],
        dir=[0.2, 0.35, -0.9],
        diffuse=[0.5, 0.5, 0.5],
        castshadow=False,
    )
    world.add_light(
        pos=[1.0, 0.8, 1.6],
        dir=[-0.4, -0.5, -0.8],
        diffuse=[0.25, 0.25, 0.25],
        castshadow=False,
    )


def _base(spec: mujoco.MjSpec, clearance_m: float) -> None:
    base = spec.worldbody.add_body(name="base", mocap=True, pos=[0.5, 0.2, 0.0])

    def wall(name: str, size: list[float], pos: list[float], angle_rad: float = 0.0) -> None:
        geom = base.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=pos)
        geom.quat = [np.cos(angle_rad / 2), 0.0, 0.0, np.sin(angle_rad / 2)]
        geom.rgba = _STEEL
        geom.friction = _PART_FRICTION
        geom.solref = _FIT_SOLREF
        geom.solimp = _FIT_SOLIMP
        geom.priority = 1
        geom.condim = 3

    floor = BASE_HEIGHT_M - HOLE_DEPTH_M
    middle_z, half_z = floor + HOLE_DEPTH_M / 2, HOLE_DEPTH_M / 2
    half_x, half_y = SOCKET_PITCH_M / 2, SOCKET_DEPTH_Y_M / 2
    hole = PART_WIDTH_M / 2 + clearance_m
    for name, (kind, x) in SOCKETS.items():
        wall(f"{name}_floor", [half_x, half_y, floor / 2], [x, 0, floor / 2])
        if kind == "square":
            side, end = (half_x - hole) / 2, (half_y - hole) / 2
            for sign, tag in ((-1, "left"), (1, "right")):
                wall(
                    f"{name}_{tag}", [side, half_y, half_z], [x + sign * (hole + side), 0, middle_z]
                )
            for sign, tag in ((-1, "front"), (1, "back")):
                wall(f"{name}_{tag}", [hole, end, half_z], [x, sign * (hole + end), middle_z])
        else:
            # A ring of flat walls whose inscribed circle is the hole.
            thickness = (half_x - hole) / 2
            half_chord = (hole + 2 * thickness) * np.tan(np.pi / ROUND_SEGMENTS)
            for i in range(ROUND_SEGMENTS):
                angle = 2 * np.pi * i / ROUND_SEGMENTS
                radius = hole + thickness
                wall(
                    f"{name}_wall{i}",
                    [thickness, half_chord, half_z],
                    [x + radius * np.cos(angle), radius * np.sin(angle), middle_z],
                    angle,
                )
            # Where the ring leaves the corners of its block open.
            corner = 0.22 * half_x
            for i, (sx, sy) in enumerate(((-1, -1), (-1, 1), (1, -1), (1, 1))):
                wall(
                    f"{name}_corner{i}",
                    [corner, corner, half_z],
                    [x + sx * (half_x - corner), sy * (half_x - corner), middle_z],
                )
            for sign in (-1, 1):
                end = (half_y - half_x) / 2
                wall(
                    f"{name}_end{sign}", [half_x, end, half_z], [x, sign * (half_x + end), middle_z]
                )
    for name, position in zip(SOCKETS, socket_positions_in_base_m(), strict=True):
        base.add_site(name=name, pos=position, size=[0.002] * 3, group=4)


def _part(spec: mujoco.MjSpec, name: str, kind: str) -> None:
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    half = PART_LENGTH_M / 2
    geom = body.add_geom(name=name, pos=[0.0, 0.0, half], rgba=_COLOURS[kind])
    if kind == "square":
        geom.type = mujoco.mjtGeom.mjGEOM_BOX
        geom.size = [PART_WIDTH_M / 2, PART_WIDTH_M / 2, half]
    else:
        geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
        geom.size = [PART_WIDTH_M / 2, half, 0.0]
    geom.density = 2700.0
    geom.solref = _FIT_SOLREF
    geom.solimp = _FIT_SOLIMP
    geom.friction = _PART_FRICTION
    geom.condim = 4
    body.add_site(name=f"{name}_frame", size=[0.002] * 3, group=4)
    for label, data, reduce in _CONTACT_SENSORS:
        sensor = spec.add_sensor(name=f"{name}_{label}", type=mujoco.mjtSensor.mjSENS_CONTACT)
        sensor.objtype, sensor.objname = mujoco.mjtObj.mjOBJ_BODY, name
        sensor.reftype, sensor.refname = mujoco.mjtObj.mjOBJ_BODY, "base"
        sensor.intprm = [1 << int(data), reduce, 1]


def _cameras(spec: mujoco.MjSpec, config: HardwareConfig) -> None:
    spec.worldbody.add_camera(
        name="front", pos=[1.25, -0.05, 0.62], xyaxes=[0.0, 1.0, 0.0, -0.58, 0.0, 0.81], fovy=38.0
    )
    # On the hand's side where no finger moves, looking along the tool and tilted towards its point.
    hand = so3.from_rpy(np.array(config.tool.origin_rpy_rad))
    tilt = so3.exp(np.array([0.0, np.pi - 0.45, 0.0]))
    spec.body(f"panda_link{len(config.joints)}").add_camera(
        name="wrist",
        pos=hand @ [0.09, 0.0, 0.09],
        fovy=60.0,
        quat=so3.quaternion(hand @ tilt @ so3.about_z(np.array(-np.pi / 2))),
    )
