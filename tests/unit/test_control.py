"""Kinematics, safety filter and controller against MuJoCo, SciPy and their own guarantees."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hardware_configs import load
from policies.control import Chain, Controller, SafetyFilter, so3
from sim.robots import panda

CONFIG = load("panda")
DT_S = 1.0 / CONFIG.rates.control_hz
LOWER, UPPER = np.array(CONFIG.position_limits).T
HOME = np.array(CONFIG.home_rad)


@pytest.fixture(scope="module")
def arm() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(panda.urdf(CONFIG))


def random_joints(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.uniform(LOWER, UPPER, size=(count, 7))


def test_so3_agrees_with_scipy():
    vectors = np.random.default_rng(0).normal(size=(200, 3))
    vectors[0], vectors[1] = 0.0, 1e-10
    rotations = so3.exp(vectors)
    reference = Rotation.from_rotvec(vectors)
    assert np.allclose(rotations, reference.as_matrix(), atol=1e-12)
    assert np.allclose(so3.log(rotations), reference.as_rotvec(), atol=1e-9)
    assert np.allclose(so3.matrix(so3.quaternion(rotations)), rotations, atol=1e-12)


@pytest.mark.parametrize("angle", [np.pi, np.pi - 1e-9, np.pi - 1e-5])
def test_so3_log_keeps_its_precision_near_a_half_turn(angle):
    axis = np.array([[0.6, -0.48, 0.64]])
    assert np.allclose(np.abs(so3.log(so3.exp(angle * axis))), np.abs(angle * axis), atol=1e-7)


def test_rpy_is_the_convention_of_urdf():
    rpy = np.array([0.3, -0.7, 1.1])
    assert np.allclose(so3.from_rpy(rpy), Rotation.from_euler("xyz", rpy).as_matrix())


def test_kinematics_and_jacobian_agree_with_mujoco(arm):
    chain, data = Chain.from_config(CONFIG), mujoco.MjData(arm)
    q = random_joints(np.random.default_rng(1), 20)
    position, rotation, jacobian = chain.forward_and_jacobian(q)
    last = arm.body("panda_link7").id
    offset = np.array(CONFIG.tool.origin_xyz_m)
    for i in range(len(q)):
        data.qpos[:7] = q[i]
        mujoco.mj_forward(arm, data)
        frame = data.xmat[last].reshape(3, 3)
        point = data.xpos[last] + frame @ offset
        linear, angular = np.zeros((3, arm.nv)), np.zeros((3, arm.nv))
        mujoco.mj_jac(arm, data, linear, angular, point, last)
        assert np.allclose(position[i], point, atol=1e-12)
        assert np.allclose(rotation[i], frame @ so3.from_rpy(np.array(CONFIG.tool.origin_rpy_rad)))
        assert np.allclose(jacobian[i], np.vstack([linear, angular])[:, :7], atol=1e-12)


def test_published_reach():
    """Flange of the Panda at zero angles: 88 mm forward, 926 mm up (manual, figure of the DH)."""
    position, _ = Chain.from_config(CONFIG).forward(np.zeros(7))
    assert position == pytest.approx([0.088, 0.0, 0.333 + 0.316 + 0.384 - 0.2104], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 20.0), jump_every=st.integers(1, 40))
def test_no_command_breaks_a_limit(seed, scale, jump_every):
    rng = np.random.default_rng(seed)
    gate = SafetyFilter(CONFIG, 3)
    start = np.tile(HOME, (3, 1)) + rng.normal(scale=0.05, size=(3, 7))
    gate.reset(start)
    low, high = np.array(CONFIG.safety.workspace_min_m), np.array(CONFIG.safety.workspace_max_m)
    previous, velocity = start, np.zeros((3, 7))
    desired = start
    for tick in range(120):
        if tick % jump_every == 0:
            desired = HOME + scale * rng.normal(size=(3, 7))
        if tick % 17 == 0:
            desired[0, 2] = rng.choice([np.nan, np.inf])
        q = gate.step(desired).copy()
        new_velocity = (q - previous) / DT_S
        assert np.isfinite(q).all()
        assert (q >= LOWER - 1e-9).all() and (q <= UPPER + 1e-9).all()
        assert (np.abs(new_velocity) <= np.array(CONFIG.velocity_limits) + 1e-6).all()
        change = np.abs(new_velocity - velocity) / DT_S
        assert (change <= np.array(CONFIG.acceleration_limits) + 1e-4).all()
        tool, _ = gate.chain.forward(q)
        # The stopping point is inside; on the arc towards it the tool may graze the wall.
        assert (tool > low - 0.002).all() and (tool < high + 0.002).all()
        previous, velocity = q, new_velocity


def test_filter_brakes_on_nan_and_counts_it():
    gate = SafetyFilter(CONFIG)
    gate.reset(HOME[None])
    for _ in range(20):
        gate.step((HOME + 0.3)[None])
    assert np.abs(gate.dq_rad_s).max() > 0.1
    for _ in range(60):
        gate.step(np.full((1, 7), np.nan))
    assert np.abs(gate.dq_rad_s).max() < 1e-9
    assert gate.interventions["invalid"][0] == 60


def test_joint_measured_outside_its_limit_is_led_back_not_thrown():
    gate = SafetyFilter(CONFIG)
    outside = HOME.copy()
    outside[5] = UPPER[5] + 0.05
    gate.reset(outside[None])
    first = gate.step(outside[None] + 0.1)
    assert first[0, 5] == pytest.approx(outside[5])
    q = [gate.step(HOME[None])[0, 5] for _ in range(100)]
    inside = int(np.argmax(np.array(q) < UPPER[5]))
    assert inside > 0 and (np.diff(q[: inside + 1]) <= 1e-12).all()


def drive(controller: Controller, actions: np.ndarray) -> np.ndarray:
    """Ideal robot: what is commanded is measured. Returns the joint commands (ticks, batch, 7)."""
    q = controller.filter.q_rad
    out = []
    for action in actions:
        controller.begin_step(action)
        for _ in range(controller.ticks_per_step):
            q = controller.tick(q).q_rad
            out.append(q)
    return np.array(out)


def still(steps: int, batch: int = 1, width: float = 0.04) -> np.ndarray:
    actions = np.zeros((steps, batch, 7))
    actions[..., 6] = width
    return actions


def test_tool_arrives_where_the_actions_lead():
    controller = Controller(CONFIG, 10.0)
    controller.reset(HOME[None], np.array([0.08]))
    start = controller.filter.tool_position_m[0].copy()
    actions = still(30)
    actions[:5, 0, 2] = 0.02
    actions[5:10, 0, 0] = 0.01
    actions[5:10, 0, 5] = 0.1
    drive(controller, actions)
    # The tool looks down: forward in the tool frame is down in the base frame.
    moved = controller.filter.tool_position_m[0] - start
    turned = 0.1 * np.arange(5)
    sideways = 0.01 * np.array([np.cos(turned).sum(), -np.sin(turned).sum()])
    assert moved == pytest.approx([*sideways, -0.1], abs=1e-4)
    yaw = so3.log(controller.filter.tool_rotation)[0]
    assert np.linalg.norm(yaw) == pytest.approx(np.pi, abs=0.01)
    assert controller.gripper_command_m[0] == pytest.approx(0.04)
    assert sum(int(v[0]) for v in controller.interventions.values()) == 0


def test_commands_have_no_jump_at_a_seam():
    controller = Controller(CONFIG, 10.0)
    controller.reset(HOME[None], np.array([0.08]))
    actions = still(20)
    actions[:10, 0, 0] = 0.02
    actions[10:, 0, 0] = -0.02
    q = drive(controller, actions)[:, 0]
    change = np.abs(np.diff(q, 2, axis=0)) / DT_S**2
    assert (change <= np.array(CONFIG.acceleration_limits) + 1e-6).all()


def test_a_batch_moves_as_its_members_do():
    rng = np.random.default_rng(2)
    starts = HOME + rng.normal(scale=0.05, size=(3, 7))
    actions = still(12, 3)
    actions[..., :3] = rng.normal(scale=0.01, size=(12, 3, 3))
    together = Controller(CONFIG, 10.0, 3)
    together.reset(starts, np.full(3, 0.08))
    joint = drive(together, actions)
    for i in range(3):
        alone = Controller(CONFIG, 10.0)
        alone.reset(starts[i : i + 1], np.array([0.08]))
        assert np.allclose(drive(alone, actions[:, i : i + 1])[:, 0], joint[:, i], atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_invalid_action_holds(bad):
    controller = Controller(CONFIG, 10.0)
    controller.reset(HOME[None], np.array([0.08]))
    moving = still(4)
    moving[:, 0, 0] = 0.02
    drive(controller, moving)
    broken = still(8)
    broken[:, 0, 1] = bad
    q = drive(controller, broken)[:, 0]
    assert np.abs(np.diff(q[-20:], axis=0)).max() < 1e-9
    assert controller.interventions["invalid"][0] >= 8


def test_the_command_leads_a_blocked_tool_by_no_more_than_allowed():
    controller = Controller(CONFIG, 10.0)
    controller.reset(HOME[None], np.array([0.08]))
    blocked, _ = controller.chain.forward(HOME[None])
    for _ in range(15):
        action = still(1)[0]
        action[0, 2] = 0.02
        controller.begin_step(action)
        for _ in range(controller.ticks_per_step):
            controller.tick(HOME[None])
    lead = np.linalg.norm(controller.filter.tool_position_m - blocked)
    assert lead < CONFIG.safety.lead_max_m + 1e-3
    assert controller.interventions["lead"][0] > 0
    # Nothing has wound up: the way back starts at once.
    action = still(1)[0]
    action[0, 2] = -0.02
    drive(controller, np.stack([action] * 3))
    assert (controller.filter.tool_position_m - blocked)[0, 2] > 0.01


def test_action_rate_must_divide_the_control_rate():
    with pytest.raises(ValueError, match=r"action_hz: got 30.*expected a divisor"):
        Controller(CONFIG, 30.0)
