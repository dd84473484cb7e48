"""Franka Kitchen: the batch is the published environment, what goals ask for, and who does it."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics", reason="comes with the training extra")

import mujoco

from policies.spec import Spec
from sim.experts.kitchen import LAST, KitchenDemonstrator, KitchenExpert
from sim.experts.kitchen_arm import Arm
from sim.kitchen import ASKED, JOINTS, KITCHEN_SPEC, SUBTASKS, KitchenBatch, load_kitchen


@pytest.fixture(scope="module")
def batch() -> KitchenBatch:
    return KitchenBatch(3)


@pytest.fixture(scope="module")
def published():
    return load_kitchen()[0]


def put(batch: KitchenBatch, i: int, objects: np.ndarray) -> None:
    data = batch.kitchen.data
    mujoco.mj_setState(batch.model, data, batch._states[i], batch._kind)
    data.qpos[JOINTS:] = objects
    data.qvel[:] = 0.0
    mujoco.mj_getState(batch.model, data, batch._states[i], batch._kind)


def test_each_simulation_is_the_published_environment(batch: KitchenBatch, published) -> None:
    seeds, rng = [11, 12, 13], np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (12, 3, JOINTS))
    batch.reset(np.array(seeds))
    seen = [batch.step(action)[0] for action in actions]
    for i, seed in enumerate(seeds):
        published.reset(seed=seed)
        for step, action in zip(seen, actions[:, i], strict=True):
            expected = published.step(action)[0]["observation"]
            np.testing.assert_array_equal(step[i, :9], expected[:9].astype(np.float32))
            np.testing.assert_array_equal(step[i, 9:30], expected[18:39].astype(np.float32))


def test_an_episode_depends_on_its_seed_alone(batch: KitchenBatch) -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (6, JOINTS))
    batch.reset(np.array([5, 6, 7]))
    batch.step(np.zeros((3, JOINTS)))
    batch.reset(np.array([8]), np.array([1]))
    rows = [batch.step(np.tile(action, (3, 1)))[0][1] for action in actions]
    alone = KitchenBatch(1)
    alone.reset(np.array([8]))
    for row, action in zip(rows, actions, strict=True):
        np.testing.assert_array_equal(row, alone.step(action[None])[0][0])
    alone.reset(np.array([9]))
    assert not np.array_equal(alone.step(actions[:1])[0][0, :30], rows[0][:30]), "noise is drawn"


def test_columns_are_the_models_joints(batch: KitchenBatch) -> None:
    names = [name for field in KITCHEN_SPEC.observation for name in field.names]
    joints = [batch.model.joint(k) for k in range(batch.model.njnt)]
    assert len(names) == batch.model.nq == KITCHEN_SPEC.observation_size
    for name, joint in {
        "joint_7": "robot:panda0_joint7",
        "knob_4": "knob_Joint_4",
        "burner_2": "bottom_left_burner",
        "light": "light_joint",
        "slide_cabinet": "slide_cabinet",
        "right_hinge_cabinet": "right_hinge_cabinet",
        "microwave": "microwave",
        "kettle_x": "kettle",
    }.items():
        (found,) = [j for j in joints if j.name == joint]
        assert names.index(name) == found.qposadr[0]
    assert Spec.from_dict(KITCHEN_SPEC.to_dict()) == KITCHEN_SPEC
    flat = batch.reset(np.array([1, 2, 3]))
    parts = KITCHEN_SPEC.split_observation(flat)
    np.testing.assert_array_equal(KITCHEN_SPEC.flatten_observation(parts), flat)
    np.testing.assert_array_equal(parts["observation.state.objects"], batch.achieved())
    assert KITCHEN_SPEC.rate_hz == pytest.approx(1.0 / batch.kitchen.robot_env.dt)


def test_a_goal_asks_for_four_and_for_nothing_else(batch: KitchenBatch) -> None:
    for chosen in combinations(SUBTASKS, ASKED):
        goal = batch.goal_of(chosen)
        asked = {name for name, done in zip(SUBTASKS, batch.done_in(goal), strict=True) if done}
        assert asked == set(chosen)
        # The mechanism couples a knob with its burner, and the lever with the light.
        np.testing.assert_allclose(goal[0:8:2], 174.0 * goal[1:8:2])
        assert goal[8] == pytest.approx(14.0 * goal[9])
    seen = set()
    for seed in range(0, 30, 3):
        batch.reset(np.arange(seed, seed + 3))
        assert (batch.asked.sum(axis=1) == ASKED).all()
        seen |= {tuple(np.flatnonzero(row)) for row in batch.asked}
    assert len(seen) > 15
    batch.start_seed = 4
    batch.reset(np.arange(3))
    assert (batch.goal == batch.goal[0]).all()
    batch.start_seed = None


def test_a_goal_leaves_what_is_not_asked_for_as_it_comes_to_rest(batch: KitchenBatch) -> None:
    """Not as the published start has it, where even the kettle's quaternion is no rotation's."""
    batch.reset(np.arange(batch.num_envs))
    for _ in range(10):
        batch.step(np.zeros((batch.num_envs, JOINTS)))
    goal = batch.goal_of(["light switch"])
    changed = np.abs(goal - batch.achieved()[0]) > 2e-3
    assert set(np.flatnonzero(changed)) == set(batch.columns["light switch"])
    kettle = batch.columns["kettle"][3:]
    assert np.linalg.norm(goal[kettle]) == pytest.approx(1.0, abs=1e-3)


def test_reward_counts_any_four_and_result_those_asked_for(batch: KitchenBatch) -> None:
    batch.reset(np.arange(3))
    batch.set_goal(np.stack([batch.goal_of(SUBTASKS[:4])] * 3), np.arange(3))
    put(batch, 0, batch.goal_of(SUBTASKS[2:5]))
    put(batch, 1, batch.goal_of(SUBTASKS[:6]))
    still = np.zeros((3, JOINTS))
    _, success, done, info = batch.step(still)
    assert info["reward"].tolist() == [3.0, 4.0, 0.0] and success.tolist() == [False, True, False]
    assert info["result"].tolist() == [2.0, 4.0, 0.0] and done.tolist() == [False, True, False]
    put(batch, 0, batch.goal_of(SUBTASKS[:2]))
    _, success, _, info = batch.step(still)
    assert info["result"][0] == 4.0 and success[0], "credit once earned stays"
    ends = [{key: [values[i]] for key, values in info.items()} for i in range(3)]
    measured = KitchenBatch.measures(ends)
    assert measured["result"] == pytest.approx(8 / 3, abs=1e-3)
    assert measured["subtasks"]["kettle"] == [2, 3] and measured["unasked"] == 1.0


def test_a_whole_later_state_is_a_goal_too(batch: KitchenBatch) -> None:
    batch.reset(np.arange(3))
    later = batch.goal_of(["kettle"])
    later[14] += 0.02
    batch.set_goal(later[None], np.array([2]))
    assert batch.asked[2].tolist() == [name == "kettle" for name in SUBTASKS]
    with pytest.raises(ValueError, match="goal: got a state in which nothing is done"):
        batch.set_goal(batch.achieved()[:1], np.array([0]))
    with pytest.raises(ValueError, match=r"goal: got shape \(1, 30\), expected \(1, 21\)"):
        batch.set_goal(np.zeros((1, 30)), np.array([0]))


def test_a_command_displaces_the_joints_as_asked(batch: KitchenBatch) -> None:
    batch.reset(np.arange(3))
    arm = Arm(batch.kitchen)
    wanted = np.array([0.03, 0.02, -0.03, 0.03, 0.02, -0.02, 0.03])
    for change in (wanted, -wanted, 0.0 * wanted):
        before = batch.qpos[0, :7].copy()
        arm.look(batch.qpos[0], batch.qvel[0])
        command = arm.command(change, 0.04, batch.readings[0, :JOINTS], straight=True)
        batch.step(np.tile(command, (3, 1)))
        np.testing.assert_allclose(batch.qpos[0, :7] - before, change, atol=0.004)


def test_all_seven_are_done_and_the_environment_agrees(published) -> None:
    env = KitchenBatch(2)
    player = KitchenDemonstrator(env)
    env.reset(np.array([600, 601]))
    orders = [SUBTASKS[:4], SUBTASKS[4:]]
    for i, order in enumerate(orders):
        player.intend(i, order, np.random.default_rng(i))
    commands = []
    while not player.finished.all():
        commands.append(player.act()[1])
        env.step(commands[-1])
    assert player.succeeded.all()
    for i, order in enumerate(orders):
        published.reset(seed=600 + i)
        for command in commands:
            info = published.step(command[i])[4]
        assert set(info["episode_task_completions"]) == set(order)
        assert {SUBTASKS[k] for k in np.flatnonzero(env.completed[i])} == set(order)


def test_the_expert_does_what_is_asked_for() -> None:
    env, expert = KitchenBatch(1), KitchenExpert()
    env.reset(np.array([3]))
    env.set_goal(env.goal_of(["light switch"])[None], np.array([0]))
    success = done = np.zeros(1, dtype=bool)
    while not done[0]:
        _, success, done, _ = env.step(expert.act(env.signals()))
    assert success[0] and env.completed.sum() == 1


def test_orders_are_drawn_and_one_comes_last(batch: KitchenBatch) -> None:
    player = KitchenDemonstrator(batch)
    firsts, orders = set(), set()
    for seed in range(0, 60, 3):
        player.reset(np.arange(seed, seed + 3))
        for script in player._scripts:
            assert len(set(script.order)) == ASKED
            assert LAST not in script.order[:-1]
            firsts.add(script.order[0])
            orders.add(tuple(script.order))
    assert firsts == set(SUBTASKS) - {LAST} and len(orders) > 50


def test_bad_input_is_refused(batch: KitchenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"actions: got shape \(3, 7\), expected \(3, 9\)"):
        batch.step(np.zeros((3, 7)))
    with pytest.raises(ValueError, match=r"seeds: got shape \(2,\), expected \(3,\)"):
        batch.reset(np.arange(2))
    with pytest.raises(ValueError, match="level: got 'low', expected med"):
        KitchenBatch(1, level="low")
    monkeypatch.setitem(sys.modules, "gymnasium_robotics.envs.franka_kitchen.kitchen_env", None)
    with pytest.raises(ValueError, match="gymnasium-robotics: not installed"):
        load_kitchen()
