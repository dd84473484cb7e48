"""The timing of chunks in roll-outs, and the arithmetic of the summary."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from training.beso_rollout import visited_inputs
from training.rollout import Actor, policy_actor, run_episodes, wilson_interval

HORIZON = 8


class CountingEnv:
    """An episode with seed s lasts s steps; the observation is (seed, steps so far)."""

    spec = SimpleNamespace(input_size=2, action_size=7)

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.seed = np.zeros(num_envs, dtype=int)
        self.steps = np.zeros(num_envs, dtype=int)
        self.executed: dict[int, list[float]] = {}

    def observe(self) -> np.ndarray:
        return np.stack([self.seed, self.steps], axis=1).astype(np.float32)

    def reset(self, seeds: np.ndarray, ids: np.ndarray) -> np.ndarray:
        assert np.all(np.diff(ids) > 0), "as MuJoCo's batch wants them"
        self.seed[ids], self.steps[ids] = seeds, 0
        return self.observe()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        for i in np.flatnonzero(self.steps < self.seed):
            self.executed.setdefault(int(self.seed[i]), []).append(float(actions[i, 0]))
        self.steps += 1
        done = self.steps == self.seed
        success = done & (self.seed % 2 == 0)
        force = np.tile(self.steps[:, None] * 1.0, (1, 3))
        depth = np.full((self.num_envs, 3), np.nan)
        depth[:, 1] = 1e-4
        return self.observe(), success, done, {"force_n": force, "penetration_m": depth}


def infer(observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Chunks that tell where they come from: action i of the chunk of step k is 100 k + i."""
    chunk = 100.0 * observation[:, 1:2] + np.arange(HORIZON)
    return np.repeat(chunk[:, :, None], 7, axis=2) + 0 * noise


def test_a_chunk_is_used_from_the_step_after_its_observation() -> None:
    env = CountingEnv(2)
    run_episodes(env, policy_actor(infer, (HORIZON, 7), HORIZON, 3), [10])  # type: ignore[arg-type]
    assert env.executed[10] == [0, 1, 2, 3, 301, 302, 303, 601, 602, 603]


def test_an_actor_without_latency_uses_what_it_just_saw() -> None:
    env = CountingEnv(1)
    actor = Actor(
        lambda env, seen, rows, rngs, last: infer(seen[rows, -1], np.zeros((1, HORIZON, 7))),
        execute_steps=2,
        latency_steps=0,
    )
    run_episodes(env, actor, [5])  # type: ignore[arg-type]
    assert env.executed[5] == [0, 1, 200, 201, 400]


@pytest.mark.parametrize("num_envs", [1, 3, 4, 16])
def test_episodes_come_back_in_order_whatever_the_batch(num_envs: int) -> None:
    env = CountingEnv(num_envs)
    seeds = [4, 9, 2, 7, 5, 3, 8, 5, 2, 2, 7, 6, 6, 3, 3, 3]
    calls: list[tuple[int, int]] = []
    actor = policy_actor(infer, (HORIZON, 7), HORIZON, 2)
    episodes = run_episodes(env, actor, seeds, lambda *c: calls.append(c))  # type: ignore[arg-type]
    assert [e.seed for e in episodes] == [e.steps for e in episodes] == seeds
    assert [e.success for e in episodes] == [seed % 2 == 0 for seed in seeds]
    assert [e.trace["force_n"][-1].max() for e in episodes] == seeds
    assert all(len(e.trace["penetration_m"]) == e.steps for e in episodes)
    assert calls[-1] == (16, 7)


@pytest.mark.parametrize("window", [1, 2])
def test_visited_inputs_are_those_a_chunk_was_planned_from(window: int) -> None:
    newest_only = infer if window == 1 else lambda seen, noise: infer(seen[:, -1], noise)
    actor = policy_actor(newest_only, (HORIZON, 7), HORIZON, 3, window)
    visited = visited_inputs(CountingEnv(2), actor, [10, 4])
    newest = visited if window == 1 else visited[:, -1]
    planned = [[4, 0], [4, 3], [10, 0], [10, 3], [10, 6], [10, 9]]
    assert sorted(newest.tolist()) == planned
    if window > 1:
        assert visited[newest.tolist().index([10, 6])].tolist() == [[10, 5], [10, 6]]


def test_too_short_a_horizon_is_refused() -> None:
    with pytest.raises(
        ValueError, match="execute_steps: got 8 and a latency of 1, expected at most"
    ):
        policy_actor(infer, (HORIZON, 7), HORIZON, HORIZON)


def test_wilson_interval() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)
    assert wilson_interval(190, 200) == pytest.approx((0.91043, 0.97261), abs=1e-4)
    assert wilson_interval(200, 200)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="trials: got 0"):
        wilson_interval(0, 0)
