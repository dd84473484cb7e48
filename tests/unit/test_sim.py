"""The cell is honest: geometry, contact, determinism, and a success that is measured."""

import mujoco
import numpy as np
import pytest

from hardware_configs import load
from policies.control import Chain
from sim import cell, layout, scene
from sim.fixtures.fixture import RING_WALLS
from sim.fixtures.pegs import HOLE_DEPTH_M, PART_WIDTH_M, PegFixture
from sim.robots import panda
from sim.tasks import make, make_expert

CONFIG = load("panda")


def run_expert(env, seeds):
    """Runs the expert; returns success, penetrations, forces (episodes under way) and top speed."""
    expert = make_expert("peg_insert")
    env.reset(np.asarray(seeds))
    solved = np.zeros(env.num_envs, dtype=bool)
    depths, forces, speeds = [], [], []
    velocity = env.batch.bind("qvel")
    for _ in range(env.max_steps):
        _, success, _, info = env.step(expert.act(env.signals()))
        depths.append(info["penetration_m"][~solved].ravel())
        forces.append(info["force_n"][~solved].ravel())
        speeds.append(np.abs(velocity[~solved]).max(initial=0.0))
        solved |= success
        if solved.all():
            break
    depths = np.concatenate(depths)
    return solved, depths[~np.isnan(depths)], np.concatenate(forces), np.max(speeds)


@pytest.mark.parametrize(
    ("level", "clearance_mm", "expected"), [("low", 0.5, 0.9), ("med", 0.5, 0.9), ("low", 0.2, 0.8)]
)
def test_expert_inserts_and_walls_stay_hard(level, clearance_mm, expected):
    env = make("peg_insert", 24, level, clearance_mm)
    solved, depths, _, speed = run_expert(env, 40_000 + np.arange(24))
    assert solved.mean() >= expected
    assert len(depths) > 100
    assert np.percentile(depths, 95) < clearance_mm * 1e-3 / 4
    # A bogus contact solve would kick the part to tens of rad/s.
    assert speed < 20.0


def drop(turn_rad: float, clearance_m: float) -> float:
    """Height of a peg's bottom over the hole's floor after it fell from over the rim."""
    model = cell.build(CONFIG, PegFixture(), clearance_m)
    data, scn = mujoco.MjData(model), scene.Scene(model, CONFIG, PegFixture())
    data.qpos[scn.arm_qpos] = CONFIG.home_rad
    drawn = layout.sample(layout.LEVELS["low"], np.random.default_rng(0), PegFixture())
    scn.lay_out(drawn, data.qpos, data.mocap_pos, data.mocap_quat)
    position, rotation = scn.socket_pose("socket_a", data.mocap_pos[None], data.mocap_quat[None])
    start = position[0] + rotation[0] @ [0.0, 0.0, HOLE_DEPTH_M + 0.002]
    scn.place_part("square_peg", start, drawn.base_yaw_rad + turn_rad, data.qpos)
    mujoco.mj_forward(model, data)
    data.ctrl[scn.arm_ctrl] = CONFIG.home_rad
    mujoco.mj_step(model, data, 600)
    return float(scn.part_pose("square_peg", data.qpos[None])[0][0, 2] - position[0, 2])


@pytest.mark.parametrize("clearance_m", [0.0002, 0.0005])
def test_a_peg_falls_in_only_where_it_fits(clearance_m):
    assert abs(drop(0.0, clearance_m)) < 0.0005
    # A quarter turn is the same peg; between, its corners rest on the rim and nothing pulls it in.
    assert abs(drop(np.pi / 2, clearance_m)) < 0.0005
    assert drop(np.deg2rad(12.0), clearance_m) > HOLE_DEPTH_M - 0.001


@pytest.mark.parametrize("clearance_m", [0.0, -0.001, 0.01])
def test_impossible_clearance_is_refused(clearance_m):
    with pytest.raises(ValueError, match="clearance: got .* mm, expected 0.1 to 5 mm"):
        cell.build_spec(CONFIG, PegFixture(), clearance_m)


def test_holes_are_as_wide_as_asked():
    clearance = 0.0003
    model = cell.build(CONFIG, PegFixture(), clearance)
    left, right = model.geom("socket_a_left"), model.geom("socket_a_right")
    width = (right.pos[0] - right.size[0]) - (left.pos[0] + left.size[0])
    assert width == pytest.approx(PART_WIDTH_M + 2 * clearance)
    ring = [model.geom(f"socket_b_wall{i}") for i in range(RING_WALLS)]
    inner = [np.linalg.norm(g.pos[:2]) - g.size[0] for g in ring]
    assert inner == pytest.approx([PART_WIDTH_M / 2 + clearance] * len(ring))


def test_success_needs_the_part_in_and_the_fingers_off():
    env = make("peg_insert", 4, "low")
    env.reset(np.arange(4))
    _, socket = env.true_poses()
    qpos = env.batch.bind("qpos")
    # 0: seated and released; 1: fingers closed on it; 2: standing on the rim; 3: tilted in the hole
    for i, (height, width) in enumerate([(0.0, 0.04), (0.0, 0.02), (0.03, 0.04), (0.0, 0.04)]):
        name = str(env.part[i])
        env.scene.place_part(name, socket[0][i] + [0, 0, height], 0.0, qpos[i])
        env.scene.set_gripper_width(width, qpos[i])
    start = env.scene.part_qpos[str(env.part[3])]
    qpos[3, start + 3 : start + 7] = [np.cos(0.03), np.sin(0.03), 0.0, 0.0]
    assert env.success().tolist() == [True, False, False, False]


def test_an_episode_depends_on_its_seed_alone():
    expert = make_expert("peg_insert")

    def rollout(seeds, nthread):
        env = make("peg_insert", len(seeds), "med", nthread=nthread)
        rows = [env.reset(np.array(seeds))]
        for _ in range(12):
            rows.append(env.step(expert.act(env.signals()))[0])
        return np.array(rows)

    three = rollout([5, 6, 7], 2)
    assert not np.allclose(three[:, 0], three[:, 1])
    assert np.array_equal(rollout([7, 5], 1), three[:, [2, 0]])


def test_a_partial_reset_leaves_the_others_alone():
    env = make("peg_insert", 3, "med")
    before = env.reset(np.array([1, 2, 3]))
    after = env.reset(np.array([9]), np.array([1]))
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.allclose(before[1], after[1])
    again = env.reset(np.array([2]), np.array([1]))
    assert np.array_equal(again, before)


@pytest.mark.parametrize("level", ["low", "med", "high"])
def test_readings_are_as_noisy_as_the_level_says(level):
    env = make("peg_insert", 300, level)
    env.reset(np.arange(300))
    error = env.signals().part_position - env.signals(noisy=False).part_position
    expected = layout.LEVELS[level].noise_m
    # 900 samples: the standard deviation's own error is 2.4 %.
    assert error.std() == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("level", ["low", "med", "high"])
def test_nothing_overlaps_at_the_start(level):
    env = make("peg_insert", 60, level)
    env.reset(np.arange(60))
    for i in range(60):
        data = env.snapshot(i)
        depth = [c.dist for c in data.contact[: data.ncon]]
        assert min(depth, default=0.0) > -0.0006, f"seed {i}"


def test_levels_and_tasks_are_refused_by_name():
    with pytest.raises(ValueError, match="level: got 'hard', expected one of low, med, high"):
        make("peg_insert", 1, "hard")
    with pytest.raises(ValueError, match="task: got 'juggle', expected one of peg_insert"):
        make("juggle", 1)


def test_mujoco_and_pybullet_read_the_same_robot(tmp_path):
    pybullet = pytest.importorskip("pybullet", reason="pybullet has wheels up to CPython 3.11 only")
    file = tmp_path / "panda.urdf"
    file.write_text(panda.urdf(CONFIG))
    client = pybullet.connect(pybullet.DIRECT)
    try:
        body = pybullet.loadURDF(
            str(file),
            useFixedBase=True,
            flags=pybullet.URDF_USE_INERTIA_FROM_FILE,
            physicsClientId=client,
        )
        info = [pybullet.getJointInfo(body, i) for i in range(pybullet.getNumJoints(body))]
        moving = [i for i, row in enumerate(info) if row[2] == pybullet.JOINT_REVOLUTE]
        assert [info[i][1].decode() for i in moving] == list(CONFIG.joint_names)
        assert [info[i][8:10] for i in moving] == [tuple(r) for r in CONFIG.position_limits]
        q = np.random.default_rng(3).uniform(*np.array(CONFIG.position_limits).T)
        for i, angle in zip(moving, q, strict=True):
            pybullet.resetJointState(body, i, angle)
        state = pybullet.getLinkState(body, moving[-1], computeForwardKinematics=True)
        frame = np.array(pybullet.getMatrixFromQuaternion(state[5])).reshape(3, 3)
        tool = np.array(state[4]) + frame @ np.array(CONFIG.tool.origin_xyz_m)
        position, _ = Chain.from_config(CONFIG).forward(q)
        assert tool == pytest.approx(position, abs=1e-5)
        model = mujoco.MjModel.from_xml_path(str(file))
        total = sum(pybullet.getDynamicsInfo(body, i)[0] for i in range(len(info)))
        assert total == pytest.approx(float(model.body_mass.sum()), abs=1e-4)
    finally:
        pybullet.disconnect(client)
