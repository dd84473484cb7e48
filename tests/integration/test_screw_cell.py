"""The simulated machine runs the thread as the training task does, without a graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from dovetail_drivers.mujoco_cell import MujocoCell

from hardware_configs import load
from policies.control import Controller
from policies.features import POLICY_HZ
from sim import layout, tasks

CONFIG = load("panda")
NAMES = [*CONFIG.joint_names, CONFIG.gripper.joint]
# Policy steps after which the expert has the leg in the thread, and most it takes in all.
IN_THREAD, MOST = 60, 150
NOISE_M = layout.LEVELS["low"].noise_m


class Both:
    """The machine and the training task's own simulation, under the same actions."""

    def __init__(self) -> None:
        self.cell = MujocoCell(CONFIG, 0.5, task="leg_screw")
        self.cell.connect()
        self.cell.enable(True)
        self.env = tasks.make("leg_screw", 1, "low", nthread=1)
        self.control = Controller(CONFIG, POLICY_HZ)
        self.expert = tasks.make_expert("leg_screw")

    def reset(self, seed: int) -> None:
        episode = self.cell.reset("leg_screw", seed, "low")
        self.part, self.socket = episode.part, episode.socket
        self.env.reset(np.array([seed]))
        q_rad = self.cell.get_observation().q_rad
        # After a reset the machine waits for a command that starts from where it stands.
        self.cell.send_action(NAMES, [*q_rad, 0.08], [0.0] * 8)
        self.control.reset(q_rad[None], np.array([0.08]))

    def step(self) -> bool:
        """One policy step in both; whether it ended with success in both."""
        action = self.expert.act(self.env.signals())
        self.control.begin_step(action)
        for _ in range(self.control.ticks_per_step):
            command = self.control.tick(self.cell.get_observation().q_rad[None])
            position = [*command.q_rad[0], command.gripper_width_m[0]]
            self.cell.send_action(NAMES, position, [*command.dq_rad_s[0], 0.0])
            self.cell.tick()
        success = bool(self.env.step(action)[1][0])
        assert self.cell.truth(self.part, self.socket).inserted == success
        return success

    @property
    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """The machine's joint angles and the simulation's."""
        at = self.env.scene.arm_qpos
        return self.cell.get_observation().q_rad, self.env.batch.bind("qpos")[0, at]


@pytest.fixture
def both() -> Both:
    return Both()


def run(both: Both, steps: int, check: Callable[[], None]) -> bool:
    for _ in range(steps):
        success = both.step()
        check()
        if success:
            return True
    return False


def test_the_machine_goes_the_same_way_to_the_last_bit(both: Both) -> None:
    def same() -> None:
        np.testing.assert_array_equal(*both.joints)

    # Twice: the first episode leaves a leg in the thread.
    both.reset(2)
    assert not run(both, IN_THREAD, same)
    both.reset(3)
    assert run(both, MOST, same)
    leg = both.cell.get_observation().positions_m[0]
    assert np.abs(leg - both.env.true_poses()[0][0][0]).max() < 6 * NOISE_M


def test_a_leg_taken_out_of_the_thread_stands_free(both: Both) -> None:
    both.reset(2)
    run(both, IN_THREAD, lambda: None)
    for take in (
        lambda: both.cell.feed_part(both.part),
        lambda: both.cell.load_product(5, 1, "low"),
    ):
        take()
        before = both.cell.get_observation().positions_m[0]
        for _ in range(30):
            both.cell.tick()
        after = both.cell.get_observation().positions_m[0]
        assert np.abs(after - before).max() < 12 * NOISE_M
        assert abs(after[2]) < 12 * NOISE_M
