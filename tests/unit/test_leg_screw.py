"""The thread is a coupling of turning and travel that engages only where all fits, and no snap."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from hardware_configs import load
from policies.features import INSERTION_SPEC, SCREW_SPEC
from sim import cell, layout, scene
from sim.fixtures.fixture import CellState
from sim.fixtures.leg import KIND, PART, SOCKET, THREAD, LegFixture
from sim.tasks import make, make_expert

CONFIG = load("panda")
TRAVEL_M, LEAD_M = 0.009, 0.012


class Bench:
    """A leg in the socket of a cell, moved by forces instead of the arm.

    Args:
        phase_rad: its yaw over the socket's.
        gap_m: its height over the thread's start.
        offset_m: its distance from the axis.
        tilt_rad: its tilt.
    """

    def __init__(
        self,
        phase_rad: float = 0.0,
        gap_m: float = 0.0,
        offset_m: float = 0.0,
        tilt_rad: float = 0.0,
    ) -> None:
        fixture = LegFixture()
        self.model = cell.build(CONFIG, fixture)
        self.data = data = mujoco.MjData(self.model)
        self.scene = scene.Scene(self.model, CONFIG, fixture)
        live = (data.qpos, data.qvel, data.mocap_pos, data.mocap_quat, data.eq_active)
        self.state = CellState(*(array[None] for array in live))
        data.qpos[self.scene.arm_qpos] = data.ctrl[self.scene.arm_ctrl] = CONFIG.home_rad
        drawn = layout.sample(layout.LEVELS["low"], np.random.default_rng(0), fixture)
        self.scene.lay_out(drawn, data.qpos, data.mocap_pos, data.mocap_quat)
        position, rotation = self.socket
        start = position + rotation @ [offset_m, 0.0, TRAVEL_M + gap_m]
        self.scene.place_part(PART, start, drawn.base_yaw_rad + phase_rad, data.qpos)
        self.at, self.moves = self.scene.part_qpos[PART], self.scene.part_qvel[PART]
        quaternion = data.qpos[self.at + 3 : self.at + 7]
        turned = np.zeros(4)
        leaning = np.array([np.cos(tilt_rad / 2), np.sin(tilt_rad / 2), 0.0, 0.0])
        mujoco.mju_mulQuat(turned, quaternion, leaning)
        quaternion[:] = turned
        mujoco.mj_forward(self.model, data)

    @property
    def socket(self) -> tuple[np.ndarray, np.ndarray]:
        mocap = self.data.mocap_pos[None], self.data.mocap_quat[None]
        position, rotation = self.scene.socket_pose(SOCKET, *mocap)
        return position[0], rotation[0]

    @property
    def height_m(self) -> float:
        return float(self.data.qpos[self.at + 2] - self.socket[0][2])

    @property
    def yaw_rad(self) -> float:
        rotation = self.scene.part_pose(PART, self.data.qpos[None])[1][0]
        relative = self.socket[1].T @ rotation
        return float(np.arctan2(relative[1, 0], relative[0, 0]))

    @property
    def engaged(self) -> bool:
        return bool(self.scene.mechanism.engaged(self.state)[0])

    def spin(self, rad_s: float) -> None:
        self.data.qvel[self.moves : self.moves + 6] = [0.0, 0.0, 0.0, 0.0, 0.0, rad_s]

    def tick(self, torque_nm: float = 0.0, push_n: float = 0.0, count: int = 1) -> None:
        """Control ticks with a torque about and a force along the axis, anticlockwise and up."""
        leg = self.data.body(PART)
        for _ in range(count):
            # MuJoCo applies forces at the centre of mass.
            leg.xfrc_applied[:] = [0.0, 0.0, push_n, 0.0, 0.0, torque_nm]
            mujoco.mj_step(self.model, self.data, 5)
            self.scene.mechanism.update(self.state)

    def follow(self, torque_nm: float, count: int, push_n: float = 0.0) -> np.ndarray:
        """Turn made (rad) and height (m) after each of `count` ticks, (count, 2)."""
        rows, turn, last = [], 0.0, self.yaw_rad
        for _ in range(count):
            self.tick(torque_nm, push_n)
            turn += (self.yaw_rad - last + np.pi) % (2 * np.pi) - np.pi
            last = self.yaw_rad
            rows.append((turn, self.height_m))
        return np.array(rows)


def screwed_in(ticks: int = 30) -> Bench:
    bench = Bench()
    bench.spin(-1.0)
    bench.scene.mechanism.update(bench.state)
    assert bench.engaged
    bench.tick(-0.2, count=ticks)
    return bench


@pytest.mark.parametrize("start", range(4))
def test_it_engages_at_each_of_four_starts_and_touches_no_part_of_the_leg(start: int) -> None:
    bench = Bench(start * np.pi / 2)
    bench.spin(-0.5)
    leg = slice(bench.at, bench.at + 7), slice(bench.moves, bench.moves + 6)
    before = bench.data.qpos[leg[0]].copy(), bench.data.qvel[leg[1]].copy()
    bench.scene.mechanism.update(bench.state)
    assert bench.engaged
    np.testing.assert_array_equal(bench.data.qpos[leg[0]], before[0])
    np.testing.assert_array_equal(bench.data.qvel[leg[1]], before[1])
    bodies = [bench.model.body(name).id for name in (f"{SOCKET}_carriage", PART)]
    mujoco.mj_forward(bench.model, bench.data)
    velocities = []
    for body in bodies:
        # Of what is where the leg's tip is, should it be fixed to either body.
        velocity = np.zeros(6)
        kind = mujoco.mjtObj.mjOBJ_BODY
        mujoco.mj_objectVelocity(bench.model, bench.data, kind, body, velocity, 0)
        velocities.append(velocity)
    np.testing.assert_allclose(velocities[0], velocities[1], atol=1e-9)


@pytest.mark.parametrize(
    ("place", "spin_rad_s"),
    [
        ({"phase_rad": np.deg2rad(2.0)}, -0.5),
        ({"phase_rad": np.deg2rad(45.0)}, -0.5),
        ({"phase_rad": np.deg2rad(-2.0)}, -0.5),
        ({"gap_m": 0.0004}, -0.5),
        ({"gap_m": 0.00025}, -0.5),
        ({"offset_m": 0.001}, -0.5),
        ({"tilt_rad": np.deg2rad(2.0)}, -0.5),
        ({}, 0.5),
        ({}, 0.0),
    ],
)
def test_it_engages_nowhere_else(place: dict[str, float], spin_rad_s: float) -> None:
    bench = Bench(**place)
    bench.spin(spin_rad_s)
    bench.scene.mechanism.update(bench.state)
    assert not bench.engaged


@pytest.mark.parametrize("phase_deg", [0.0, 30.0])
def test_pressing_goes_nowhere(phase_deg: float) -> None:
    bench = Bench(np.deg2rad(phase_deg), gap_m=0.0001)
    bench.tick(push_n=-60.0, count=50)
    assert not bench.engaged
    assert bench.height_m == pytest.approx(TRAVEL_M, abs=1e-4)


def test_turned_across_a_start_it_engages_without_a_jump() -> None:
    bench = Bench(np.deg2rad(6.0))
    bench.tick(count=10)
    velocity = bench.data.qvel[bench.moves : bench.moves + 3]
    for _ in range(20):
        bench.spin(-4.0)
        bench.tick()
        if bench.engaged:
            break
    assert bench.engaged
    assert abs(bench.yaw_rad) < np.deg2rad(1.5)
    off_helix, speeds, places = [], [velocity.copy()], []
    for _ in range(10):
        off_helix.append(bench.height_m - LEAD_M * bench.yaw_rad / (2 * np.pi))
        places.append(bench.data.qpos[bench.at : bench.at + 2].copy())
        bench.tick(-0.16)
        speeds.append(velocity.copy())
    assert np.ptp(off_helix) < 2e-4
    assert np.ptp(places, axis=0).max() < 2e-4
    # The tip hops on the thread's start while it turns: it may be falling for a physics step.
    assert np.abs(np.diff(speeds, axis=0)).max() < 1.1 * 9.81 * cell.TIMESTEP_S
    assert np.abs(np.diff(speeds[1:], axis=0)).max() < 0.005


def test_turning_moves_it_along_the_helix_to_the_end() -> None:
    bench = screwed_in(0)
    height_m = bench.height_m
    path = bench.follow(-0.4, 150)
    np.testing.assert_allclose(path[:, 1], height_m + LEAD_M * path[:, 0] / (2 * np.pi), atol=5e-5)
    assert path[-1, 0] == pytest.approx(-2 * np.pi * TRAVEL_M / LEAD_M, abs=0.02)
    assert path[-1, 1] == pytest.approx(0.0, abs=5e-5)


@pytest.mark.parametrize("push_n", [-60.0, 60.0])
def test_pushing_and_pulling_do_not_move_it_in_the_thread(push_n: float) -> None:
    bench = screwed_in()
    bench.tick(count=20)
    before = bench.yaw_rad, bench.height_m
    assert 0.002 < before[1] < TRAVEL_M - 0.0005
    path = bench.follow(0.0, 100, push_n)
    assert np.abs(path[:, 0]).max() < np.deg2rad(1.0)
    assert np.abs(path[:, 1] - before[1]).max() < 2e-5


def test_unscrewed_it_comes_free() -> None:
    bench = screwed_in()
    bench.follow(0.3, 150)
    assert not bench.engaged
    bench.tick(push_n=2.0, count=30)
    assert bench.height_m > TRAVEL_M + 0.003
    assert np.abs(bench.state.qpos[0, bench.scene.mechanism.qpos]).max() < 1e-4


def test_success_needs_the_turns() -> None:
    env = make("leg_screw", 3, "low")
    env.reset(np.arange(3))
    _, socket = env.true_poses()
    qpos = env.batch.bind("qpos")
    # 0: home; 1: a tenth of the thread short of it; 2: on the thread's start. Fingers are open.
    for i, height_m in enumerate((0.0, 0.1 * THREAD.travel_m, THREAD.travel_m)):
        env.scene.place_part(PART, socket[0][i] + [0, 0, height_m], 0.0, qpos[i])
    assert env.success().tolist() == [True, False, False]
    env.scene.set_gripper_width(KIND.part_width_m, qpos[0])
    assert not env.success()[0]


def run_expert(env: Any, steps: int, noisy: bool = True) -> dict[str, np.ndarray]:
    expert, qpos, qvel = make_expert("leg_screw"), env.batch.bind("qpos"), env.batch.bind("qvel")
    solved = np.zeros(env.num_envs, dtype=bool)
    path, depths, speed = [], [], 0.0
    for _ in range(steps):
        _, success, _, info = env.step(expert.act(env.signals(noisy)))
        path.append(qpos.copy())
        depths.append(info["penetration_m"][~solved].ravel())
        speed = max(speed, np.abs(qvel[~solved]).max(initial=0.0))
        solved |= success
        if solved.all():
            break
    return {
        "solved": solved,
        "path": np.array(path),
        "depths_m": np.concatenate(depths),
        "speed": np.array(speed),
    }


@pytest.mark.parametrize("level", ["low", "med"])
def test_expert_screws_the_leg_home(level: str) -> None:
    env = make("leg_screw", 6, level)
    env.reset(40_000 + np.arange(6))
    run = run_expert(env, env.max_steps)
    assert run["solved"].all()
    assert len(run["path"]) < 150
    assert np.nanpercentile(run["depths_m"], 95) < 0.0005 / 4
    # A bogus solve, as of a weld between poses that do not fit, would kick the leg.
    assert run["speed"] < 10.0


def test_an_episode_taken_up_in_the_thread_goes_on_as_it_did() -> None:
    env = make("leg_screw", 2, "low", nthread=1)
    env.reset(np.arange(2))
    run_expert(env, 70, noisy=False)
    state = env.scene.mechanism.engaged(CellState(*(env.batch.bind(n) for n in CellState._fields)))
    assert state.all()
    saved = [env.save(i) for i in range(2)]
    first = run_expert(env, 12, noisy=False)["path"]
    other = make("leg_screw", 2, "low", nthread=1)
    other.reset(np.arange(5, 7))
    for i in range(2):
        other.restore(1 - i, saved[i], seed=3)
    np.testing.assert_array_equal(run_expert(other, 12, noisy=False)["path"][:, ::-1], first)


def test_the_screw_adds_to_what_an_insertion_sees_and_changes_nothing_of_it() -> None:
    assert SCREW_SPEC.observation == INSERTION_SPEC.observation
    assert SCREW_SPEC.goal[:-1] == INSERTION_SPEC.goal
    assert SCREW_SPEC.input_size == INSERTION_SPEC.input_size + 3
    # What trained bundles hold.
    assert INSERTION_SPEC.input_size == 33


def test_the_tools_turn_is_told_from_a_whole_quarter() -> None:
    env = make("leg_screw", 1, "low")
    env.reset(np.array([4]))
    expert, told = make_expert("leg_screw"), []
    for _ in range(75):
        observation = env.step(expert.act(env.signals(False)))[0]
        told.append(SCREW_SPEC.split_observation(observation)["goal.screw"][0])
    turn, regrasp, _ = np.array(told).T
    # Carried to the entry, turned through a quarter and back to the next grasp.
    assert np.rad2deg(turn.max()) == pytest.approx(97.0, abs=3.0)
    assert np.rad2deg(turn.min()) == pytest.approx(-12.0, abs=6.0)
    # Where it was grasped before is a quarter turn from where it is grasped next.
    last = int(np.argmin(turn))
    assert np.rad2deg(regrasp[last]) == pytest.approx(90.0, abs=6.0)
