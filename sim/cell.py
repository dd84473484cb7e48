"""The assembly cell as a MuJoCo model: Panda, table, what a task fits it with, two cameras.

Frames: the robot's base frame is the world frame, the table top is z = 0. A part's frame is at its
bottom centre, a socket's at the centre of the hole's floor or the post's foot, both with z up. The
base is a mocap body: fixed while the robot works, moved only when the cell is laid out anew.
Nothing snaps; a part goes in because it fits, and into a thread because it is turned: see
sim.fixtures.thread.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.control import so3
from sim.fixtures.fixture import FIT_SOLIMP, FIT_SOLREF, Fixture
from sim.robots import panda

Array = NDArray[np.float64]

TIMESTEP_S = 0.002
CLEARANCE_MIN_M, CLEARANCE_MAX_M = 0.0001, 0.005

_PAD_FRICTION = [1.2, 0.01, 0.0001]
_ARM_ARMATURE = 0.1
# (label, data, reduction over the contacts of a part with the base: 1 deepest, 3 net force)
_CONTACT_SENSORS = (
    ("distance", mujoco.mjtConDataField.mjCONDATA_DIST, 1),
    ("force", mujoco.mjtConDataField.mjCONDATA_FORCE, 3),
)


def build_spec(
    config: HardwareConfig, fixture: Fixture, clearance_m: float = 0.0005
) -> mujoco.MjSpec:
    """The cell's MjSpec.

    Args:
        config: the robot.
        fixture: base and parts.
        clearance_m: gap between part and socket on each side.

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
    _base(spec, fixture, clearance_m)
    for name in fixture.parts:
        _part(spec, fixture, name)
    fixture.couple(spec)
    _cameras(spec, config)
    return spec


def scale_friction(spec: mujoco.MjSpec, fixture: Fixture, factor: float) -> None:
    """Multiplies the friction of the base and of every part of a cell."""
    for name in ("base", *fixture.parts):
        for geom in spec.body(name).geoms:
            geom.friction = factor * geom.friction


def build(config: HardwareConfig, fixture: Fixture, clearance_m: float = 0.0005) -> mujoco.MjModel:
    """The compiled cell; see build_spec."""
    return build_spec(config, fixture, clearance_m).compile()


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
                geom.solref = FIT_SOLREF
                geom.solimp = FIT_SOLIMP
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


def _base(spec: mujoco.MjSpec, fixture: Fixture, clearance_m: float) -> None:
    base = spec.worldbody.add_body(name="base", mocap=True, pos=[0.5, 0.2, 0.0])
    fixture.add_base(spec, base, clearance_m)
    for name, position in fixture.socket_in_base_m.items():
        base.add_site(name=name, pos=position, size=[0.002] * 3, group=4)


def _part(spec: mujoco.MjSpec, fixture: Fixture, name: str) -> None:
    body = spec.worldbody.add_body(name=name)
    body.add_freejoint(name=name)
    fixture.add_part(spec, body)
    body.add_site(name=f"{name}_frame", size=[0.002] * 3, group=4)
    for label, data, reduce in _CONTACT_SENSORS:
        sensor = spec.add_sensor(name=f"{name}_{label}", type=mujoco.mjtSensor.mjSENS_CONTACT)
        sensor.objtype, sensor.objname = mujoco.mjtObj.mjOBJ_BODY, name
        sensor.reftype, sensor.refname = mujoco.mjtObj.mjOBJ_XBODY, "base"
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
