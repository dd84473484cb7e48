"""Gymnasium's own checkers on our environments, and the contract of the vector one."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim  # noqa: F401  (registers the environments)
from sim.tasks import make_expert


def test_gymnasium_accepts_the_environment():
    env = gymnasium.make("dovetail/PegInsert-v0", level="low")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_an_episode_ends_with_one_reward_for_success():
    env = gymnasium.make("dovetail/PegInsert-v0", level="low").unwrapped
    env.reset(seed=11)
    expert, rewards = make_expert("peg_insert"), []
    for _ in range(env.batch.max_steps):
        action = expert.act(env.batch.signals())[0].astype(np.float32)
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        assert not truncated or not terminated
        if terminated or truncated:
            break
    assert terminated and info["is_success"]
    assert sum(rewards) == rewards[-1] == 1.0


def test_vector_environment_is_seeded_and_starts_anew():
    env = gymnasium.make_vec("dovetail/PegInsert-v0", num_envs=3, level="low")
    first, info = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    assert np.array_equal(first, again)
    assert info["episode_seed"].tolist() == [5, 6, 7]
    core = env.unwrapped
    core.batch.steps[1] = core.batch.max_steps - 1
    still = np.tile(np.float32([0, 0, 0, 0, 0, 0, 0.08]), (3, 1))
    _, _, _, truncated, _ = env.step(still)
    assert truncated.tolist() == [False, True, False]
    observation, reward, _, truncated, _ = env.step(still)
    assert not truncated.any() and reward[1] == 0.0
    assert core.batch.steps[1] == 0
    assert not np.allclose(observation[1], first[1])
    env.close()


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_cameras_see_the_parts(camera):
    env = gymnasium.make(
        "dovetail/PegInsert-v0", level="low", render_mode="rgb_array", camera=camera
    )
    try:
        env.reset(seed=1)
        try:
            picture = env.render()
        except RuntimeError as error:
            pytest.skip(str(error))
    finally:
        env.close()
    assert picture.shape == (240, 320, 3)
    assert picture.std() > 10.0
