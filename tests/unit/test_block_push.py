"""Block pushing: what counts as pushed, what a goal is, and whether the demonstrator does it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pybullet", reason="no wheel beyond Python 3.11")

from sim.bullet.block_push import BlockPushBatch
from sim.experts.block_push import BlockPushDemonstrator


@pytest.fixture(scope="module")
def batch() -> BlockPushBatch:
    return BlockPushBatch(4)


def goal_state(batch: BlockPushBatch, red: int, green: int) -> np.ndarray:
    squares = batch.table.squares_m
    return np.array([*squares[red], 0.0, *squares[green], 0.0, 0.1, 0.0, 0.1, 0.0])


def put(
    batch: BlockPushBatch, i: int, red: tuple[float, float], green: tuple[float, float]
) -> None:
    for body, place in zip(batch._bodies[i], (red, green), strict=False):
        batch._bullet.resetBasePositionAndOrientation(
            body, [*place, 0.02], [0, 0, 0, 1], physicsClientId=batch._clients[i]
        )


def test_an_episode_depends_on_its_seed_alone(batch: BlockPushBatch) -> None:
    actions = np.random.default_rng(0).uniform(-0.03, 0.03, (20, 2))
    batch.reset(np.array([5, 6, 7, 8]))
    for action in actions:
        first = batch.step(np.tile(action, (4, 1)))[0][2]
    alone = BlockPushBatch(1)
    alone.reset(np.array([7]))
    for action in actions:
        second = alone.step(action[None])[0][0]
    np.testing.assert_array_equal(first, second)


def test_the_effector_follows_its_target_and_pushes(batch: BlockPushBatch) -> None:
    batch.reset(np.arange(4))
    put(batch, 0, (-0.20, 0.0), (0.0, 0.2))
    batch._read(0)
    start = batch.state[0].copy()
    for _ in range(12):
        batch.step(np.array([[0.02, 0.0]] * 4) * [[1], [0], [0], [0]])
    for _ in range(5):
        batch.step(np.zeros((4, 2)))
    end = batch.state[0]
    assert end[0] > start[0] + 0.05, "the block in the way moved"
    np.testing.assert_allclose(end[6:8], end[8:10], atol=0.004)
    np.testing.assert_allclose(end[8] - start[8], 12 * 0.02, atol=1e-9)
    np.testing.assert_allclose(end[3:5], start[3:5], atol=1e-3, err_msg="the other did not")


def test_reward_counts_any_square_and_result_the_one_asked_for(batch: BlockPushBatch) -> None:
    batch.reset(np.arange(4))
    batch.set_goal(np.stack([goal_state(batch, 0, 1)] * 4), np.arange(4))
    squares = batch.table.squares_m
    put(batch, 0, squares[0], squares[1])
    put(batch, 1, squares[1], squares[0])
    put(batch, 2, squares[0], (-0.1, 0.0))
    _, success, done, info = batch.step(np.zeros((4, 2)))
    assert success.tolist() == [True, False, False, False] == done.tolist()
    assert info["reward"].tolist() == [1.0, 1.0, 0.5, 0.0]
    assert info["result"].tolist() == [1.0, 0.0, 0.5, 0.0]
    assert info["assignment"].tolist() == [0, 1, -1, -1]
    put(batch, 2, (-0.1, 0.0), (-0.1, 0.1))
    info = batch.step(np.zeros((4, 2)))[3]
    assert info["reward"][2] == 0.5, "credit once earned stays"


def test_yaw_of_a_cube_is_known_up_to_quarter_turns(batch: BlockPushBatch) -> None:
    batch.reset(np.arange(4))
    for i, yaw in enumerate((0.3, 0.3 + np.pi / 2, 0.3 - np.pi, 0.3 + 1.5 * np.pi)):
        turn = batch._bullet.getQuaternionFromEuler([0, 0, yaw])
        batch._bullet.resetBasePositionAndOrientation(
            batch._bodies[i][0], [0, 0, 0.02], turn, physicsClientId=batch._clients[i]
        )
        batch._read(i)
    np.testing.assert_allclose(batch.state[:, 2], 0.3, atol=1e-6)


def test_goals_are_states_and_both_assignments_are_asked_for(batch: BlockPushBatch) -> None:
    asked = set()
    for seed in range(0, 24, 4):
        observation = batch.reset(np.arange(seed, seed + 4))
        np.testing.assert_array_equal(observation[:, :10], batch.achieved())
        np.testing.assert_array_equal(observation[:, -10:], batch.goal.astype(np.float32))
        asked |= {tuple(row) for row in batch.asked.tolist()}
    assert asked == {(0, 1), (1, 0)}
    with pytest.raises(ValueError, match="goal: got two blocks in one square"):
        batch.set_goal(goal_state(batch, 0, 0)[None], np.array([0]))


def test_the_demonstrator_does_it_in_every_way() -> None:
    env = BlockPushBatch(24)
    player = BlockPushDemonstrator(env)
    seeds = np.arange(500, 524)
    env.reset(seeds)
    player.reset(seeds)
    info = {}
    while not player.finished.all():
        info = env.step(player.act()[1])[3]
    assert player.succeeded.mean() >= 0.95
    assert set(info["first"].tolist()) == {0, 1, 2, 3}, "every block was first, in every square"


def test_bad_actions_and_levels_are_refused(batch: BlockPushBatch) -> None:
    with pytest.raises(ValueError, match=r"actions: got shape \(4, 7\), expected \(4, 2\)"):
        batch.step(np.zeros((4, 7)))
    with pytest.raises(ValueError, match="level: got 'high', expected med"):
        BlockPushBatch(1, level="high")
