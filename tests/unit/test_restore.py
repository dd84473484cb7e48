"""An episode taken up again from a saved state goes on exactly as it did."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim import tasks


def follow(env: Any, steps: int) -> np.ndarray:
    """What the simulations' parts and arms do under the expert that sees the truth."""
    expert, state = tasks.make_expert("peg_insert"), []
    for _ in range(steps):
        env.step(expert.act(env.signals(noisy=False)))
        state.append(env.batch.bind("qpos").copy())
    return np.array(state)


def test_a_restored_episode_goes_on_as_it_did() -> None:
    """To the last bit, in any simulation of any batch, controller and filter included."""
    env = tasks.make("peg_insert", 3, "med", nthread=1)
    env.reset(np.arange(3))
    follow(env, 25)
    saved, readings = [env.save(i) for i in range(3)], env.signals()
    first = follow(env, 10)
    other = tasks.make("peg_insert", 3, "med", nthread=1)
    other.reset(np.arange(7, 10))
    for i in range(3):
        other.restore(2 - i, saved[i], seed=5)
    np.testing.assert_array_equal(other.signals().part_position[::-1], readings.part_position)
    np.testing.assert_array_equal(follow(other, 10)[:, ::-1], first)
