"""The residual's environment against the evaluator: the same episodes, step by step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policies.features import INSERTION_SPEC
from sim.tasks import make
from training.residual_env import FIRST_SEED, LAST_SEED, ResidualEnv, Setting
from training.residual_run import refined_actor
from training.rollout import bundle_actor, run_episodes

SETTINGS = [Setting("low", 0.5), Setting("med", 0.2)]


class Reaching:
    """A base that moves a third of the way to its part in each of a chunk's five actions."""

    refines = False

    def __init__(self, task: str = "peg_insert") -> None:
        self.bundle: Any = SimpleNamespace(
            name="reaching",
            spec=INSERTION_SPEC,
            manifest=SimpleNamespace(task=task),
            horizon=5,
            execute_steps=3,
            window=1,
            noise_shape=(5, 7),
            continues=False,
        )

    def infer(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        del noise
        seen = INSERTION_SPEC.split_observation(observation)
        chunk = np.zeros((len(observation), 5, 7), np.float32)
        way = seen["observation.state.part"][:, :3]
        for k in range(5):
            chunk[:, k, :3] = np.clip(way / 3 * (2 / 3) ** k, -0.03, 0.03)
        chunk[..., 6] = 0.07
        return chunk


def env_of(num_envs: int = 4, settings: list[Setting] = SETTINGS, **more: Any) -> ResidualEnv:
    return ResidualEnv("peg_insert", settings, num_envs, Reaching(), seed=3, **more)


def test_without_a_correction_its_episodes_are_those_of_the_evaluator() -> None:
    steps, env = 12, env_of()
    observation, base_action = env.reset()
    seen, acted = [observation], [base_action]
    for _ in range(steps - 1):
        step = env.step(base_action)
        base_action = step.base_action
        seen.append(step.observation)
        acted.append(base_action)
    seeds = np.random.default_rng([3, 0]).integers(FIRST_SEED, LAST_SEED, 4)
    for i, seed in enumerate(seeds):
        setting, expected = SETTINGS[i // 2], []

        def note(newest: np.ndarray, action: np.ndarray, to: Any = expected) -> np.ndarray:
            to.append((newest[0].copy(), action[0].copy()))
            return action

        cell = make("peg_insert", 1, setting.level, setting.clearance_mm, nthread=1)
        cell.max_steps = steps
        run_episodes(cell, replace(bundle_actor(Reaching()), refine=note), [int(seed)])
        assert len(expected) == steps
        for k, (newest, action) in enumerate(expected):
            np.testing.assert_allclose(seen[k][i], newest, atol=1e-6, err_msg=f"step {k}")
            np.testing.assert_allclose(acted[k][i], action, atol=1e-6)


@pytest.mark.parametrize("per_step", [False, True])
def test_a_base_plans_as_often_in_training_as_in_its_evaluations(per_step: bool) -> None:
    steps, asked = 9, []

    class Asked(Reaching):
        def infer(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
            asked.append(observation[0].copy())
            return super().infer(observation, noise)

    env = ResidualEnv("peg_insert", SETTINGS[:1], 1, Asked(), seed=3, per_step=per_step)
    _, base_action = env.reset()
    for _ in range(steps - 1):
        base_action = env.step(base_action).base_action
    while_training = list(asked)
    asked.clear()
    cell = make("peg_insert", 1, "low", 0.5, nthread=1)
    cell.max_steps = steps
    actor = refined_actor(Asked(), "peg_insert", lambda seen, action: action, per_step)
    seed = np.random.default_rng([3, 0]).integers(FIRST_SEED, LAST_SEED, 1)
    run_episodes(cell, actor, [int(seed[0])])
    assert len(asked) == (steps if per_step else 3)
    np.testing.assert_allclose(asked, while_training, atol=1e-6)


def test_episodes_do_not_depend_on_who_runs_beside_them_and_follow_from_the_seed() -> None:
    first, second = env_of(), env_of(nthread=2)
    for env in (first, second):
        _, env.base_action = env.reset()  # type: ignore[attr-defined]
    for _ in range(5):
        steps = [env.step(env.base_action) for env in (first, second)]  # type: ignore[attr-defined]
        for env, step in zip((first, second), steps, strict=True):
            env.base_action = step.base_action  # type: ignore[attr-defined]
        np.testing.assert_array_equal(steps[0].observation, steps[1].observation)


@pytest.mark.parametrize(("own_n", "lost"), [(None, [1, 1]), (7.0, [1, 0]), (0.0, [1, 0])])
def test_an_episode_that_presses_too_hard_is_lost(own_n: float | None, lost: list[int]) -> None:
    settings = [SETTINGS[0], replace(SETTINGS[1], force_limit_n=own_n)]
    env = env_of(2, settings=settings, force_limit_n=5.0)
    _, base_action = env.reset()
    for batch in env.batches:
        step, forced = batch.step, np.array([[0.0, 6.0]])

        def pressing(actions: np.ndarray, step: Any = step, forced: Any = forced) -> Any:
            observation, success, done, info = step(actions)
            return observation, ~success, done, info | {"force_n": forced}

        batch.step = pressing  # type: ignore[method-assign]
    outcome = env.step(base_action)
    # What does not press too hard has succeeded, as the step above says.
    np.testing.assert_array_equal(outcome.success, 1 - np.array(lost))
    np.testing.assert_array_equal(outcome.done, lost)
    begun = (outcome.observation != outcome.final_observation).any(axis=1)
    np.testing.assert_array_equal(begun, lost, "the next begins where one is over, and only there")


def test_a_base_for_another_task_and_too_few_simulations_are_refused() -> None:
    with pytest.raises(ValueError, match="reaching"):
        ResidualEnv("peg_insert", SETTINGS, 4, Reaching("nut_on_post"), seed=0)
    with pytest.raises(ValueError, match="--num-envs: got 1, expected at least one for each of 2"):
        env_of(1)
