"""What the nodes are made of, without a graph: control loop, planners, runs, timing, the cell."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dovetail_control.control_loop import ChunkMessage, ChunkRefused, ControlLoop, Joints
from dovetail_control.timing import LoopTiming
from dovetail_drivers.commands import CommandRefused
from dovetail_drivers.mujoco_cell import MujocoCell
from dovetail_skills.planners import HomePlanner, LearnedPlanner, Readings
from dovetail_skills.skill_run import LOST_AFTER_STEPS, SkillRun

from hardware_configs import load
from policies.continuation import Handover
from policies.control import Chain, Controller
from policies.features import ACTION, INSERTION_SPEC, POLICY_HZ
from policies.objects import load_objects
from policies.pose_filter import PoseFilter
from policies.skills.registry import ErrorCode, load_skills
from policies.skills.world import Pose, World

CONFIG = load("panda")
OBJECTS, SKILLS = load_objects(), load_skills()
HOME = np.array(CONFIG.home_rad)
DT_S = 1.0 / CONFIG.rates.control_hz
NAMES = [*CONFIG.joint_names, CONFIG.gripper.joint]


class Clocked:
    """A control loop driven tick by tick, the joints following at once."""

    def __init__(self) -> None:
        self.loop = ControlLoop(CONFIG, ACTION.names, POLICY_HZ)
        self.now_s = 100.0
        self.q_rad = HOME.copy()
        self.commands: list[np.ndarray] = []
        self.ticks(3)

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.now_s += DT_S
            joints = Joints(self.q_rad, np.zeros(7), 0.08, self.now_s)
            self.loop.begin_cycle(joints, self.now_s)
            self.q_rad = self.loop.command(joints, self.now_s).q_rad[0].copy()
            self.commands.append(self.q_rad)

    def chunk(self, dz_m: float, goal_id: str = "a", **changes: object) -> ChunkMessage:
        data = np.tile([0.0, 0.0, dz_m, 0.0, 0.0, 0.0, 0.08], 8)
        values = {
            "goal_id": goal_id,
            "first_step": self.loop.step,
            "stamp_s": self.now_s,
            "step_s": 0.1,
            "action_names": ACTION.names,
            "horizon": 8,
            "data": data,
            "hardware_hash": CONFIG.hash,
        }
        return ChunkMessage(**{**values, **changes})

    def push(self, message: ChunkMessage) -> None:
        self.loop.push(message, self.now_s)


def test_steps_are_counted_as_they_are_consumed() -> None:
    clocked = Clocked()
    clocked.ticks(25)
    assert clocked.loop.step == 0 and clocked.loop.hold_reason
    clocked.push(clocked.chunk(0.001))
    clocked.ticks(1)
    assert clocked.loop.step == 1 and not clocked.loop.hold_reason
    clocked.ticks(9)
    assert clocked.loop.step == 1
    clocked.ticks(1)
    assert clocked.loop.step == 2


def test_seam_between_chunks_has_no_jump() -> None:
    clocked = Clocked()
    clocked.push(clocked.chunk(0.004))
    clocked.ticks(25)
    clocked.push(clocked.chunk(-0.004))
    clocked.ticks(40)
    velocity = np.diff(clocked.commands, axis=0) / DT_S
    change = np.diff(velocity, axis=0) / DT_S
    assert (np.abs(velocity).max(axis=0) <= CONFIG.velocity_limits * (1 + 1e-6)).all()
    assert (np.abs(change).max(axis=0) <= CONFIG.acceleration_limits * (1 + 1e-6)).all()


def test_late_chunk_of_another_goal_is_not_executed() -> None:
    clocked = Clocked()
    late = clocked.chunk(0.004)
    clocked.ticks(1)
    clocked.push(clocked.chunk(0.0, "", horizon=0, data=np.zeros(0)))
    clocked.push(late)
    clocked.ticks(30)
    assert clocked.loop.step == 0 and clocked.loop.hold_reason


def test_interventions_survive_a_new_anchor() -> None:
    clocked = Clocked()
    clocked.push(clocked.chunk(0.2))
    clocked.ticks(30)
    before = clocked.loop.interventions
    assert before["tool_speed"] > 0
    clocked.loop.anchor(Joints(HOME, np.zeros(7), 0.08, clocked.now_s), clocked.now_s)
    assert clocked.loop.interventions == before


def test_empty_chunk_with_data_is_refused() -> None:
    clocked = Clocked()
    with pytest.raises(ChunkRefused, match="chunk:data: got 7 values, expected 0"):
        clocked.push(clocked.chunk(0.0, horizon=0, data=np.zeros(7)))


def test_state_is_published_at_each_boundary_with_what_the_step_begins_with() -> None:
    clocked = Clocked()
    clocked.push(clocked.chunk(0.002))
    loop, steps = clocked.loop, []
    for tick in range(32):
        clocked.now_s += DT_S
        joints = Joints(clocked.q_rad, np.zeros(7), 0.08, clocked.now_s)
        before = loop.target[0].copy()
        if loop.begin_cycle(joints, clocked.now_s):
            steps.append((tick, loop.step))
            np.testing.assert_array_equal(loop.target[0], before)
        clocked.q_rad = loop.command(joints, clocked.now_s).q_rad[0].copy()
    assert steps == [(0, 0), (10, 1), (20, 2), (30, 3)]


def test_correction_of_a_step_that_has_just_begun_ends_where_the_step_would_have() -> None:
    asked, corrected = 0.002, 0.005
    plain, late = Clocked(), Clocked()
    plain.push(plain.chunk(corrected))
    plain.ticks(10)
    late.push(late.chunk(asked))
    late.ticks(2)
    begun = late.loop.target[0].copy()
    late.push(late.chunk(corrected, first_step=0))
    late.ticks(8)
    assert np.linalg.norm(late.loop.target[0] - begun) > 0.002
    np.testing.assert_allclose(late.loop.target[0], plain.loop.target[0], atol=1e-12)
    # On its way it was behind, by a few hundredths of a millimetre.
    np.testing.assert_allclose(late.q_rad, plain.q_rad, atol=1e-3)
    assert late.loop.late_corrections == 0
    acceleration = np.diff(late.commands, n=2, axis=0) / DT_S**2
    assert (np.abs(acceleration).max(axis=0) <= CONFIG.acceleration_limits * (1 + 1e-6)).all()


def test_correction_that_comes_too_late_is_counted_and_changes_nothing() -> None:
    plain, late = Clocked(), Clocked()
    for clocked in (plain, late):
        clocked.push(clocked.chunk(0.002))
        clocked.ticks(6)
    # The same again is no correction.
    late.push(late.chunk(0.002, first_step=0))
    assert late.loop.late_corrections == 0
    late.push(late.chunk(0.005, first_step=0, stamp_s=late.now_s + 1e-3))
    assert late.loop.late_corrections == 1
    plain.ticks(4)
    late.ticks(4)
    np.testing.assert_array_equal(late.q_rad, plain.q_rad)


def test_timing_counts_a_pause_once() -> None:
    timing = LoopTiming(0.01)
    for i in range(10):
        timing.record(i * 0.01, i * 0.01 + 0.002)
    assert timing.misses == 0
    for i in range(10):
        timing.record(0.5 + i * 0.01, 0.5 + i * 0.01 + 0.002)
    assert (timing.cycles, timing.misses) == (20, 1)
    assert timing.cost_ms() == pytest.approx((2.0, 2.0))


@pytest.mark.parametrize("release", [False, True])
def test_home_planner_rises_before_it_goes_home(release: bool) -> None:
    controller = Controller(CONFIG, POLICY_HZ)
    q_rad = HOME + np.array([0.35, 0.45, 0.0, -0.15, 0.0, 0.55, 0.3])
    controller.reset(q_rad[None], np.array([0.02]))
    planner = HomePlanner(CONFIG, release)
    home_m = controller.chain.forward(HOME)[0]
    path_m, widths_m = [], []
    for step in range(100):
        if step % planner.execute_steps == 0:
            target = controller.target_position_m[0], controller.target_rotation[0]
            readings = Readings(
                step=step,
                holding=False,
                boundary_s=step / POLICY_HZ,
                q_rad=q_rad,
                dq_rad_s=np.zeros(7),
                gripper_width_m=float(controller.gripper_command_m[0]),
                gripper_target_m=float(controller.gripper_target_m[0]),
                target=target,
                parts={},
                sockets={},
            )
            actions = planner.plan(readings)
        if planner.finished and np.abs(q_rad - HOME).max() < 0.05:
            break
        controller.begin_step(actions[step % planner.execute_steps][None])
        for _ in range(controller.ticks_per_step):
            q_rad = controller.tick(q_rad[None]).q_rad[0].copy()
            path_m.append(controller.chain.forward(q_rad)[0])
            widths_m.append(float(controller.gripper_command_m[0]))
    assert planner.finished
    assert np.abs(q_rad - HOME).max() < 0.05
    path = np.array(path_m)
    low = path[:, 2] < home_m[2] - 0.06
    assert low.any() and np.ptp(path[low][:, :2], axis=0).max() < 0.005
    if release:
        assert np.array(widths_m)[low].max() < 0.05
        moved = np.linalg.norm(path - path[0], axis=1) > 0.01
        assert np.array(widths_m)[moved].min() > 0.04
    else:
        assert np.array(widths_m)[low].max() < 0.021
    assert widths_m[-1] > 0.07


class CountingPolicy:
    """Chunks whose every value says how often it was asked; remembers what it had to continue.

    Its residual, if it has one, adds a half.
    """

    def __init__(self, refines: bool = False) -> None:
        self.refines = refines
        self.bundle = SimpleNamespace(
            spec=INSERTION_SPEC, execute_steps=2, continues=True, noise_shape=(8, 7)
        )
        self.asked: list[dict[str, Any]] = []

    def infer(self, observation: np.ndarray, noise: np.ndarray, **continued: Any) -> np.ndarray:
        assert observation.shape == (1, INSERTION_SPEC.input_size)
        self.asked.append(continued)
        return np.full((1, 8, 7), float(len(self.asked)))

    def refine(self, observation: np.ndarray, base_action: np.ndarray) -> np.ndarray:
        assert (observation.shape, base_action.shape) == ((1, INSERTION_SPEC.input_size), (1, 7))
        return base_action + 0.5


def planner_of(
    policy: CountingPolicy, now_s: Callable[[], float] = lambda: 0.0, **more: Any
) -> LearnedPlanner:
    model = SimpleNamespace(
        bundle=policy.bundle, policy=policy, chain=Chain.from_config(CONFIG), longest_delay=2
    )
    return LearnedPlanner(model, OBJECTS, "round_peg", "socket_b", 0, now_s, **more)


def readings_at(step: int, holding: bool = False) -> Readings:
    pose = np.zeros(3), np.eye(3)
    return Readings(
        step=step,
        holding=holding,
        boundary_s=step / POLICY_HZ,
        q_rad=HOME,
        dq_rad_s=np.zeros(7),
        gripper_width_m=0.08,
        gripper_target_m=0.08,
        target=pose,
        parts={"round_peg": pose},
        sockets={"socket_b": pose},
    )


def test_learned_planner_continues_what_is_executed_while_it_thinks() -> None:
    policy, now_s = CountingPolicy(), 0.0
    planner = planner_of(policy, lambda: now_s, handover=Handover("inpaint", 1))
    now_s = 0.03
    assert (planner.plan(readings_at(0, holding=True)) == 1.0).all()
    assert policy.asked[-1] == {}, "the robot stands: nothing to continue"
    now_s = 0.2 + 0.13
    planner.plan(readings_at(2))
    weight = policy.asked[-1]["weight"][0]
    assert (policy.asked[-1]["previous"] == 1.0).all()
    assert weight[0] == 1.0 and 0.0 < weight[1] < 1.0 and not weight[2:].any()
    now_s = 0.5 + 0.01
    planner.plan(readings_at(5))
    weight = policy.asked[-1]["weight"][0]
    assert (policy.asked[-1]["previous"] == 2.0).all()
    assert (weight[:2] == 1.0).all() and 0.0 < weight[2] < 1.0, "the last took two steps"
    planner.plan(readings_at(6, holding=True))
    assert policy.asked[-1] == {}


def test_learned_planner_blends_for_a_policy_that_cannot_continue() -> None:
    policy = CountingPolicy()
    policy.bundle.continues = False
    planner = planner_of(policy, handover=Handover("inpaint", 1))
    planner.plan(readings_at(0))
    chunk = planner.plan(readings_at(2))
    assert policy.asked == [{}, {}]
    assert (chunk[0] == 1.0).all() and (chunk[2:] == 2.0).all()
    assert ((chunk[1] > 1.0) & (chunk[1] < 2.0)).all()


def test_what_is_decided_for_the_step_of_an_observation_stays() -> None:
    planner = planner_of(CountingPolicy())
    planner.plan(readings_at(0, holding=True))
    chunk = planner.plan(readings_at(2))
    assert (chunk[0] == 1.0).all() and (chunk[1:] == 2.0).all()
    assert planner.refine(readings_at(3)) is None, "this policy has no residual"


def test_a_residual_corrects_each_action_and_chunks_take_over_a_step_later() -> None:
    planner = planner_of(CountingPolicy(refines=True))
    assert planner.refine(readings_at(4)) is None, "nothing is executed yet"
    first = planner.plan(readings_at(4, holding=True))
    assert (first[0] == 1.5).all() and (first[1:] == 1.0).all(), "the robot waits for this one"
    for step in (5, 6):
        rows = planner.refine(readings_at(step))
        assert len(rows) == 8 - (step - 4)
        assert (rows[0] == 1.5).all() and (rows[1:] == 1.0).all(), "corrections do not add up"
    assert planner.plan(readings_at(6)) is None, "the corrections hand it out"
    rows = planner.refine(readings_at(7))
    assert (rows[0] == 2.5).all() and (rows[1:] == 2.0).all()
    assert planner.refine(readings_at(14)) is None, "the chunk is at its end"
    lost = replace(readings_at(7), parts={})
    assert planner.refine(planner.see(lost)) is None
    assert len(planner.refinement_ms) == 3


def test_learned_planner_sees_the_poses_that_the_simulation_would() -> None:
    rng, planner = np.random.default_rng(3), planner_of(CountingPolicy())
    reference, errors = PoseFilter(1), []
    still = np.array([0.4, -0.2, 0.0])
    for step in range(30):
        noisy = still + 1e-3 * rng.standard_normal(3), np.eye(3)
        readings = replace(
            readings_at(step),
            parts={"round_peg": noisy, "square_peg": noisy},
            sockets={"socket_b": noisy},
        )
        seen = planner.see(readings)
        tool = planner._signals(readings)
        expected, _ = reference.update(np.array([0]), tool)
        np.testing.assert_allclose(seen.parts["round_peg"][0], expected[0][0], atol=1e-12)
        np.testing.assert_array_equal(seen.parts["square_peg"][0], noisy[0])
        errors.append(np.linalg.norm(seen.parts["round_peg"][0] - still))
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:2])


class StillPlanner:
    """Has nothing to do."""

    execute_steps = 2
    finished = True

    def plan(self, readings: Readings) -> np.ndarray:
        return np.zeros((8, 7))


def world(part: Pose | None) -> World:
    sockets = {name: Pose((0.5 + 0.06 * i, 0.2, 0.01)) for i, name in enumerate(OBJECTS.sockets)}
    parts = {"round_peg": part} if part else {}
    return World(parts, sockets, (0.4, 0.0, 0.3), 0.08, 0.0, OBJECTS)


def insertion() -> SkillRun:
    arguments = {"part": "round_peg", "socket": "socket_b"}
    return SkillRun(SKILLS["insert_peg"], arguments, StillPlanner(), "id", 0.0, 0.1)


FREE, SEATED = Pose((0.4, -0.2, 0.0)), Pose((0.56, 0.2, 0.01))
LYING = Pose((0.4, -0.2, 0.01), (math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)))


def test_run_plans_at_boundaries_and_succeeds_by_the_world() -> None:
    run = insertion()
    assert run.on_step(10, True, world(FREE), 0.0)
    assert not run.on_step(10, True, world(FREE), 0.1)
    run.on_planned(0.12, 20.0)
    assert not run.on_step(11, False, world(FREE), 0.2)
    assert run.on_step(12, False, world(FREE), 0.3)
    run.on_planned(0.32, 20.0)
    assert not run.on_step(12, True, world(FREE), 0.35)
    assert run.on_step(12, True, world(FREE), 0.5)
    run.on_planned(0.52, 20.0)
    run.on_step(14, False, world(SEATED), 0.7)
    assert run.outcome is not None and run.outcome.success
    assert run.inference_ms == [20.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("part", "code"), [(LYING, ErrorCode.PART_TOPPLED), (None, ErrorCode.PART_LOST)]
)
def test_run_ends_when_the_part_is_gone_for_a_while(part: Pose | None, code: ErrorCode) -> None:
    run = insertion()
    run.on_step(0, False, world(FREE), 0.0)
    for i in range(LOST_AFTER_STEPS):
        assert run.outcome is None
        run.on_step(i, False, world(part), 0.1 * i)
    assert run.outcome is not None and run.outcome.code == code


def test_run_times_out_and_says_what_is_missing() -> None:
    run = insertion()
    run.on_step(0, False, world(FREE), 0.0)
    run.on_step(1, False, world(FREE), SKILLS["insert_peg"].timeout_s + 0.1)
    assert run.outcome is not None and run.outcome.code == ErrorCode.TIMEOUT
    assert "seated(part, socket)" in run.outcome.message


@pytest.fixture
def cell() -> MujocoCell:
    """A connected cell that follows commands."""
    made = MujocoCell(CONFIG, 0.5)
    made.connect()
    made.enable(True)
    return made


def test_cell_brakes_within_the_acceleration_limits(cell: MujocoCell) -> None:
    q_rad = HOME.copy()
    for _ in range(40):
        q_rad[0] += 0.8 * DT_S
        cell.send_action(NAMES, [*q_rad, 0.08], [0.8, *[0.0] * 7])
        cell.tick()
    speeds = []
    while not cell.settled:
        cell.tick()
        speeds.append(cell.speed_max_rad_s)
        assert len(speeds) < 100
    stale_ticks = round(CONFIG.topics["joint_command"].stale_s / DT_S)
    assert cell.holding and len(speeds) > stale_ticks
    # The command stops within its limit; the arm's servo rings a little around it.
    braking = -np.diff(speeds) / DT_S
    assert braking.max() < 1.5 * CONFIG.acceleration_limits[0]


def test_cell_disconnected_ignores_commands(cell: MujocoCell) -> None:
    cell.disconnect()
    with pytest.raises(CommandRefused, match="while not active"):
        cell.send_action(NAMES, [*HOME, 0.08], [0.0] * 8)


def test_cell_reset_is_a_function_of_the_seed(cell: MujocoCell) -> None:
    first = cell.reset("peg_insert", 3, "med")
    poses = cell.get_observation().positions_m
    for _ in range(20):
        cell.tick()
    assert cell.reset("peg_insert", 3, "med") == first
    np.testing.assert_array_equal(cell.get_observation().positions_m, poses)
    # Control does not know of the new posture yet: what it commands is not followed, nor an error.
    before = cell.get_observation().q_rad
    sent = cell.send_action(NAMES, [*(HOME + 0.5), 0.08], [0.0] * 8)
    np.testing.assert_array_equal(sent.q_rad, before)


def test_cell_feeds_a_part_anew(cell: MujocoCell) -> None:
    before = cell.get_observation()
    cell.feed_part("round_peg")
    after = cell.get_observation()
    moved_m = np.linalg.norm(after.positions_m - before.positions_m, axis=1)
    assert moved_m[before.names.index("round_peg")] > 1e-3
    assert moved_m[before.names.index("square_peg")] < 1e-3
