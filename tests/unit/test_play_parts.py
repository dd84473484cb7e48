"""play_parts: what its numbers mean, what counts as success, and play that goes everywhere."""

import numpy as np
import pytest

from sim.experts.play_parts import Habits, PlayPartsDemonstrator
from sim.fixtures.fixture import OBJECTS
from sim.tasks import make, make_play
from sim.tasks.play_parts import PEGS, SPOTS_M, PlayPartsBatch


def put(env, i, peg, xy, height_m=0.0):
    """Stands a peg somewhere, the fingers open and far above."""
    env.scene.place_part(peg, np.array([*xy, height_m]), 0.0, env.batch.bind("qpos")[i])


def bring_tool(env, i, position):
    """Puts the arm where its tool is at `position`, by Newton's method on its kinematics."""
    arm = env.batch.bind("qpos")[i, env.scene.arm_qpos]
    for _ in range(20):
        at, _, jacobian = env.controller.chain.forward_and_jacobian(arm[None])
        arm = arm + np.linalg.pinv(jacobian[0, :3]) @ (position - at[0])
    env.batch.bind("qpos")[i, env.scene.arm_qpos] = arm


def columns(env, observation, name):
    return env.spec.split_observation(observation)[name]


def test_observation_and_goal_hold_what_they_say():
    env = PlayPartsBatch(3, nthread=1)
    observation = env.reset(np.arange(3))
    assert observation.shape == (3, env.spec.input_size) and observation.dtype == np.float32
    true = np.stack([position for position, _ in env.true_readings()], axis=1)
    noise_m = 6 * env.level.noise_m
    assert columns(env, observation, "observation.state.parts") == pytest.approx(true, abs=noise_m)
    assert np.array_equal(columns(env, observation, "goal.parts"), env.goal.astype(np.float32))
    # The goal columns come last, and achieved() is the same quantity.
    assert np.array_equal(observation[:, -6:], env.goal.reshape(3, 6).astype(np.float32))
    parts = columns(env, observation, "observation.state.parts")
    assert np.array_equal(env.achieved(), parts.reshape(3, 6))
    # The grasp, turned back from the tool into the base frame, lies in the peg.
    tool_position, tool_rotation, _ = env.controller.chain.forward_and_jacobian(
        env.batch.bind("qpos")[:, env.scene.arm_qpos]
    )
    for k, peg in enumerate(PEGS):
        vector = columns(env, observation, f"observation.state.{peg}")[:, :3]
        grasp = tool_position + np.einsum("bij,bj->bi", tool_rotation, vector)
        assert grasp == pytest.approx(
            true[:, k] + list(OBJECTS.parts[peg].grasp_offset_m), abs=2 * noise_m
        )
    pose = columns(env, observation, "observation.state.tool_pose")
    assert pose[:, :3] == pytest.approx(tool_position, abs=1e-6)
    assert pose[:, 3:5] == pytest.approx(tool_rotation[:, :2, 2], abs=1e-6)


def test_both_pegs_are_wanted_on_spots_that_are_free():
    env = PlayPartsBatch(40, nthread=1)
    env.reset(np.arange(40))

    def nearest(xy):
        distance = np.linalg.norm(xy[..., None, :2] - SPOTS_M, axis=-1)
        assert distance.min(axis=-1).max() < 0.015
        return distance.argmin(axis=-1)

    start = nearest(np.stack([position for position, _ in env.true_readings()], axis=1))
    wanted = nearest(env.goal)
    for i in range(40):
        assert sorted([*start[i], *wanted[i]]) == [0, 1, 2, 3]
    assert len({tuple(row) for row in np.hstack([start, wanted])}) > 12
    for i in range(40):
        data = env.snapshot(i)
        assert min((c.dist for c in data.contact[: data.ncon]), default=0.0) > -0.0006


def test_a_goal_can_be_set():
    env = PlayPartsBatch(2, nthread=1)
    env.reset(np.arange(2))
    env.set_goal(np.arange(6.0)[None], np.array([1]))
    assert env.observe()[1, -6:].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(env.observe()[0, -6:], env.goal[0].ravel().astype(np.float32))
    with pytest.raises(ValueError, match=r"goal: got shape \(1, 4\), expected \(2, 6\)"):
        env.set_goal(np.zeros((1, 4)))


def test_success_needs_both_pegs_standing_at_their_goals_and_let_go():
    env = PlayPartsBatch(6, nthread=1)
    env.reset(np.arange(6))
    for i in range(6):
        for k, peg in enumerate(PEGS):
            put(env, i, peg, env.goal[i, k, :2] + [0.015, 0.0])
    # 0 is right; 1: a peg too far off; 2: in the air; 3: tilted; 4: between closed fingers;
    # 5: only one peg was moved.
    qpos = env.batch.bind("qpos")
    put(env, 1, "round_peg", env.goal[1, 1, :2] + [0.025, 0.0])
    put(env, 2, "square_peg", env.goal[2, 0, :2], 0.02)
    at = env.scene.part_qpos["square_peg"]
    qpos[3, at + 3 : at + 7] = [np.cos(0.1), np.sin(0.1), 0.0, 0.0]
    bring_tool(env, 4, env.goal[4, 0] + [0.015, 0.0, OBJECTS.parts["square_peg"].grasp_offset_m[2]])
    env.scene.set_gripper_width(0.02, qpos[4])
    put(env, 5, "round_peg", SPOTS_M[env.start_spot[5, 1]])
    assert env.success().tolist() == [True, False, False, False, False, False]
    assert env.at_goal().sum(axis=1).tolist() == [2, 1, 1, 1, 1, 1]
    # Fingers that have opened around a peg have let go of it.
    env.scene.set_gripper_width(0.03, qpos[4])
    assert env.success()[4]


def test_moves_are_told_from_where_pegs_are_let_go():
    env = PlayPartsBatch(2, nthread=1)
    env.reset(np.arange(2))
    hold = np.tile([0, 0, 0, 0, 0, 0, 0.08], (2, 1))
    info = env.step(hold)[3]
    assert info["first_move"].tolist() == info["order"].tolist() == [-1, -1]
    free = [sorted(set(range(4)) - set(env.start_spot[i])) for i in range(2)]
    put(env, 0, "round_peg", SPOTS_M[free[0][1]])
    put(env, 1, "square_peg", SPOTS_M[free[1][0]])
    env.set_goal(np.array([[[0, 0, 0], [*SPOTS_M[free[0][1]], 0]]] * 2))
    info = env.step(hold)[3]
    assert info["first_move"].tolist() == [4 + free[0][1], free[1][0]]
    assert info["first_mode"].tolist() == [3, 0]
    # Simulation 0: the round peg is at its goal, then the square one is, too.
    env.set_goal(np.array([[[*SPOTS_M[free[0][0]], 0], [*SPOTS_M[free[0][1]], 0]]]), np.array([0]))
    assert env.step(hold)[3]["order"][0] == -1
    put(env, 0, "square_peg", SPOTS_M[free[0][0]])
    _, success, done, info = env.step(hold)
    assert success[0] and done[0] and info["order"][0] == 1 and info["moves"][0] == 2
    assert info["first_move"][0] == 4 + free[0][1]


def test_measures_are_counted_over_episodes():
    def trace(mode, order, at_goal, moves):
        row = {"first_mode": mode, "order": order, "moves": moves}
        start = {"first_mode": -1, "order": -1, "moves": 0, "at_goal": [False, False]}
        row["at_goal"] = at_goal
        trace = {key: [np.array(start[key]), np.array(row[key])] for key in row}
        return trace | {"distance_m": [np.zeros(2), np.array([0.01, 0.03])]}

    found = PlayPartsBatch.measures(
        [
            trace(0, 0, [True, True], 2),
            trace(3, 1, [True, True], 2),
            trace(3, -1, [True, False], 1),
            trace(-1, -1, [False, False], 0),
        ]
    )
    assert found["result"] == 5 / 8 and found["moved"] == 0.75 and found["moves"] == 1.25
    assert found["first_modes"] == {"0": 1, "1": 0, "2": 0, "3": 2}
    assert found["modes_covered"] == 0.5 and found["distance_mm"] == 20.0
    assert found["modes_entropy"] == pytest.approx(0.4591, abs=1e-3)  # 0.918 of 2 bits
    assert found["orders"] == {"square_peg": 1, "round_peg": 1}


def play(seeds, habits):
    """Observations of whole plays side by side, and who played."""
    env = PlayPartsBatch(len(seeds), nthread=1)
    player = PlayPartsDemonstrator(env, habits=habits)
    rows = [env.reset(np.asarray(seeds))]
    player.reset(np.asarray(seeds))
    flags = []
    while not player.finished.all():
        wanted, executed = player.act()
        flags.append((wanted != executed).any(axis=1))
        observation, _, _, info = env.step(executed)
        rows.append(observation)
    return player, np.array(rows), np.array(flags), info


def test_play_completes_its_moves_and_goes_everywhere():
    calm = Habits(moves=(2, 2), roughness=(1.0, 1.0))
    player, _, flags, info = play(1_000_000 + np.arange(30), habits=calm)
    assert player.succeeded.mean() >= 0.95
    assert len(player.steps_of_moves) >= 0.95 * 60
    assert np.median(player.steps_of_moves) <= 40
    assert set(info["first_mode"]) >= {0, 1, 2, 3}
    assert {spot % 4 for spot in info["first_move"]} == {0, 1, 2, 3}
    assert 0.03 < flags.mean() < 0.15


def test_rough_play_sometimes_knocks_a_peg_over_and_then_ends():
    rough = Habits(moves=(2, 2), roughness=(3.0, 3.0))
    player, rows, _, info = play(1_000_000 + np.arange(24), habits=rough)
    assert 0.1 < player.succeeded.mean() < 0.9
    assert (info["moves"][player.succeeded] == 2).all()
    assert len(rows) < 2 * rough.give_up_steps, "a peg that lies is not tried for"


def test_a_play_ends_with_the_fall_of_either_peg():
    env = PlayPartsBatch(3, nthread=1)
    env.reset(np.arange(3))
    player = PlayPartsDemonstrator(env)
    player.reset(np.arange(3))
    put(env, 0, "square_peg", (1.5, 0.0), height_m=-0.3)
    put(env, 1, "round_peg", (0.48, 0.0), height_m=0.02)
    start = env.scene.part_qpos["round_peg"]
    half = np.sqrt(0.5)
    env.batch.bind("qpos")[1, start + 3 : start + 7] = (half, half, 0.0, 0.0)  # on its side
    player.act()
    assert player.finished.tolist() == [True, True, False]
    assert player.succeeded.tolist() == [False, False, True]


def test_after_somebody_else_acted_the_peg_in_hand_is_the_one_to_move():
    env = PlayPartsBatch(8, nthread=1)
    seeds = 1_000_000 + np.arange(8)
    env.reset(seeds)
    player = PlayPartsDemonstrator(env, habits=Habits(gesture_probability=0.0))
    player.reset(seeds)
    for _ in range(120):
        lifted = np.stack([at[:, 2] for at, _ in env.true_readings()], axis=1) > 0.03
        if lifted.any(axis=1)[:2].all():
            break
        wanted, _ = player.act()
        # Who has a peg up holds it there until the other simulation has, too.
        wanted[lifted.any(axis=1), :6] = 0.0
        env.step(wanted)
    in_hand = lifted[:2].argmax(axis=1)
    for _ in range(20):
        player.reconsider(np.arange(2))
        assert player.peg[:2].tolist() == in_hand.tolist()
        for i in range(2):
            distance = np.linalg.norm(SPOTS_M - player.target[i], axis=1)
            assert distance.min() < 0.01 and distance.argmin() not in env.place[i]


def test_after_somebody_else_acted_the_peg_about_to_be_fetched_is_the_one_to_move():
    env = PlayPartsBatch(4, nthread=1)
    everywhere, seeds = np.arange(4), 1_000_000 + np.arange(4)
    env.reset(seeds)
    player = PlayPartsDemonstrator(env, habits=Habits(gesture_probability=0.0))
    player.reset(seeds)

    def chosen(times):
        drawn = []
        for _ in range(times):
            player.reconsider(everywhere)
            drawn.append(player.peg.copy())
        return np.array(drawn)

    far = chosen(10)
    assert (far.min(axis=0) < far.max(axis=0)).all()
    fetched = far[-1]
    for _ in range(30):
        pegs = np.stack([at for at, _ in env.true_readings()], axis=1)
        tool = env.signals(noisy=False)[0].tool_position
        over = np.linalg.norm((pegs[everywhere, fetched] - tool)[:, :2], axis=1) < 0.03
        if over.all():
            break
        wanted, _ = player.act()
        wanted[over, :6] = 0.0
        env.step(wanted)
    assert over.all()
    assert (chosen(10) == fetched).all()
    # What stands where it was asked for has been put there: next may be either.
    env.set_goal(pegs)
    put = chosen(20)
    assert (put.min(axis=0) < put.max(axis=0)).all()


def test_a_play_depends_on_its_seed_alone():
    habits = Habits(moves=(1, 1))
    _, three, _, _ = play([7, 8, 9], habits=habits)
    _, two, _, _ = play([9, 7], habits=habits)
    steps = min(len(two), len(three), 30)
    assert np.array_equal(two[:steps], three[:steps, [2, 0]])


def test_episodes_of_one_start_differ_in_noise_only():
    env = PlayPartsBatch(3, nthread=1, start_seed=5)
    first = env.reset(np.array([1, 2, 5]))
    goals = columns(env, first, "goal.parts")
    assert np.array_equal(goals[0], goals[1]) and np.array_equal(goals[0], goals[2])
    parts = [position for position, _ in env.true_readings()]
    assert all(np.ptp(position, axis=0).max() == 0.0 for position in parts)
    assert not np.array_equal(first[0], first[1])


def test_the_task_is_made_by_name():
    env = make("play_parts", 1, "low", nthread=1)
    assert isinstance(env, PlayPartsBatch) and len(env.hardware_hash) == 64
    with pytest.raises(ValueError, match="clearance_mm: got 0.2, expected none for play_parts"):
        make("play_parts", 1, "low", 0.2)
    with pytest.raises(ValueError, match="level: got 'high', expected one of low, med"):
        make("play_parts", 1, "high")
    with pytest.raises(ValueError, match="task: got 'peg_insert', expected one of play_parts"):
        make_play("peg_insert", 1)
