"""Stretches in which a policy acts in the demonstrator's place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from training.takeover import Takeovers, plan

HORIZON, ACTION = 8, 2


class Recorder:
    """Answers every observation with chunks that count their rows, and remembers who asked."""

    def __init__(self) -> None:
        self.bundle = SimpleNamespace(noise_shape=(HORIZON, ACTION))
        self.asked: list[list[float]] = []

    def infer(self, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
        assert noise.shape == (len(observation), HORIZON, ACTION) and noise.dtype == np.float32
        self.asked.append(observation[:, 0].tolist())
        rows = np.arange(HORIZON, dtype=np.float32)[None, :, None]
        return np.tile(rows, (len(observation), 1, ACTION))


def taken(seeds: list[int], steps: int, probability: float, longest: int) -> np.ndarray:
    """Which row of a chunk acts at each step (steps, N); -1 where the demonstrator does."""
    takeovers = [Takeovers(probability, longest, seed) for seed in seeds]
    policy, rows = Recorder(), []
    for step in range(steps):
        plan(policy, takeovers, range(len(seeds)), np.full((len(seeds), 1), float(step)))  # type: ignore[arg-type]
        actions = [takeover.next_action() for takeover in takeovers]
        rows.append([-1 if action is None else int(action[0]) for action in actions])
    return np.array(rows)


def test_a_stretch_runs_through_the_first_actions_of_chunks_and_ends() -> None:
    rows = taken([3], 4000, 0.05, 7)[:, 0]
    ends = np.flatnonzero(np.diff((rows >= 0).astype(int), prepend=0, append=0))
    stretches = [rows[a:b] for a, b in ends.reshape(-1, 2)]
    # Two stretches may touch, which starts a new chunk in the middle of the joint one.
    alone = [s for s in stretches if len(s) <= 7]
    assert len(alone) > 80 and {len(s) for s in alone} == set(range(1, 8))
    counted = [np.arange(len(s)) % Takeovers.execute_steps for s in alone]
    same = [np.array_equal(s, c) for s, c in zip(alone, counted, strict=True)]
    assert np.mean(same) > 0.9
    # A stretch of 4 on average after 20 calm steps on average.
    assert 0.12 < (rows >= 0).mean() < 0.22


def test_it_depends_on_the_episodes_seed_alone() -> None:
    three, two = taken([1, 2, 3], 200, 0.1, 5), taken([3, 1], 200, 0.1, 5)
    assert np.array_equal(three[:, [2, 0]], two)
    assert not np.array_equal(three[:, 0], three[:, 1])


def test_nobody_is_asked_where_the_demonstrator_acts() -> None:
    policy, takeovers = Recorder(), [Takeovers(0.0, 5, 1), Takeovers(1.0, 5, 2)]
    plan(policy, takeovers, [0], np.zeros((2, 1)))  # type: ignore[arg-type]
    assert policy.asked == [] and takeovers[0].next_action() is None
    plan(policy, takeovers, [0, 1], np.array([[4.0], [5.0]]))  # type: ignore[arg-type]
    assert policy.asked == [[5.0]]
