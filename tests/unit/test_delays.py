"""Readings and commands that are late, as on a slow machine: late by what was asked, no more."""

from __future__ import annotations

import numpy as np
import pytest

from policies.control import Chain
from sim.tasks.peg_insert import PegInsertBatch

TICK_S = 0.01


class Recorded(PegInsertBatch):
    """Keeps joints and servo targets of every control tick."""

    def _start_step(self) -> None:
        super()._start_step()
        self.qpos, self.ctrl = self.__dict__.get("qpos", []), self.__dict__.get("ctrl", [])

    def _after_tick(self, tick: int) -> None:
        super()._after_tick(tick)
        self.qpos.append(self._qpos[:, self.scene.arm_qpos].copy())
        self.ctrl.append(self._ctrl.copy())


def run(reading_s: float, command_s: float) -> Recorded:
    """Three steps towards the table, after a start anew that must leave nothing behind."""
    env = Recorded(2, "med", nthread=1)
    env.delay((reading_s, reading_s), (command_s, command_s))
    for seeds in ([5, 6], [1, 2]):
        env.reset(np.array(seeds))
        env.qpos, env.ctrl = [], []
        for _ in range(3):
            env.step(np.tile([0.0, 0.0, 0.004, 0.0, 0.0, 0.0, 0.06], (2, 1)))
    return env


@pytest.mark.parametrize("late", [0, 1, 3])
def test_readings_are_as_old_as_asked(late: int) -> None:
    env = run(late * TICK_S, 0.0)
    position, _ = Chain.from_config(env.config).forward(env.qpos[-1 - late])
    np.testing.assert_allclose(env.signals().tool_position, position, atol=1e-12)
    position, _ = Chain.from_config(env.config).forward(env.qpos[-1])
    np.testing.assert_allclose(env.signals(noisy=False).tool_position, position, atol=1e-12)
    np.testing.assert_array_equal(np.array(env.ctrl), np.array(run(0.0, 0.0).ctrl))


@pytest.mark.parametrize("late", [1, 2])
def test_commands_reach_the_servos_as_late_as_asked(late: int) -> None:
    now, then = np.array(run(0.0, 0.0).ctrl), np.array(run(0.0, late * TICK_S).ctrl)
    np.testing.assert_array_equal(then[late:], now[:-late])
    # Until the first arrives they stand where the episode began.
    assert (then[:late] == then[0]).all() and np.abs(then[0] - now[0]).max() > 0


@pytest.mark.parametrize(
    ("delays_s", "message"),
    [
        ((0.005, 0.0), "reading delay: got 5 ms, expected a multiple of the control period, 10 ms"),
        ((0.0, -0.01), "command delay: got -10 ms"),
        ((0.1, 0.0), "reading delay: got 100 ms, expected less than a policy step, 100 ms"),
    ],
)
def test_delays_that_cannot_be_are_refused(delays_s: tuple[float, float], message: str) -> None:
    env = PegInsertBatch(1, "low", nthread=1)
    with pytest.raises(ValueError, match=message):
        env.delay(*((s, s) for s in delays_s))
    with pytest.raises(ValueError, match="and the least first"):
        env.delay((0.02, 0.01), (0.0, 0.0))


def test_each_episode_draws_its_own_delays() -> None:
    env = Recorded(40, "med", nthread=1)
    env.delay((0.0, 2 * TICK_S), (TICK_S, 3 * TICK_S))
    env.reset(np.arange(40))
    first = env._late.copy()
    assert set(first[:, 0]) == {0, 1, 2} and set(first[:, 1]) == {1, 2, 3}
    env.reset(np.arange(40)[::-1].copy())
    np.testing.assert_array_equal(env._late[::-1], first)
    env.step(np.tile([0.0, 0.0, 0.004, 0.0, 0.0, 0.0, 0.06], (40, 1)))
    seen = env.signals().tool_position
    chain = Chain.from_config(env.config)
    for i in range(40):
        position, _ = chain.forward(env.qpos[-1 - env._late[i, 0]][i : i + 1])
        np.testing.assert_allclose(seen[i], position[0], atol=1e-12)
