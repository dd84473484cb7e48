"""What the tasks of the assembly cell share: N cells stepped together on MuJoCo's thread pool.

One step is one policy step: ten control ticks through the one controller, each of five physics
steps. All randomness of an episode, its readings' noise included, comes from its seed alone.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.control import Controller, so3
from policies.features import Signals, read_signals
from policies.spec import Spec
from sim import layout, scene
from sim.fixtures.fixture import CellState, Fixture
from sim.robots import panda

Array = NDArray[np.float64]
Rows = NDArray[np.int_]
Observation = NDArray[np.float32]
Info = dict[str, NDArray[Any]]

START_WIDTH_M = 0.08
# The state of a simulation in MuJoCo's sense.
STATE = ("qpos", "qvel", "ctrl", "mocap_pos", "mocap_quat", "eq_active", "qacc_warmstart")


class CellBatch:
    """N cells; a task says what lies in them, what is read, and what counts as success.

    A task defines `spec` and `max_steps` and the methods `_begin`, `true_readings`, `observe` and
    `success`; it may add to `_start_step`, `_after_tick` and `_info`.

    Args:
        num_envs: N.
        fixture: what the task fits the cell with.
        scene_spec: the cell as the task wants it, with that fixture.
        level: how much varies and how noisy readings are.
        nthread: physics threads, 0 for one a core.
        config: the robot.

    Attributes:
        spec: fields of observation, goal and action.
        max_steps: an episode without success ends after so many policy steps.
        hardware_hash: hash of the robot's config.
        scene_spec: what the cell is compiled from; to change it, copy it.
    """

    spec: Spec
    max_steps: int

    def __init__(
        self,
        num_envs: int,
        fixture: Fixture,
        scene_spec: mujoco.MjSpec,
        level: layout.Level,
        nthread: int,
        config: HardwareConfig,
    ) -> None:
        self.num_envs = num_envs
        self.scene_spec = scene_spec
        self.model = model = scene_spec.compile()
        self.level = level
        self.config = config
        self.hardware_hash = config.hash
        self.control_hz = config.rates.control_hz
        self.scene = scene.Scene(model, config, fixture)
        self.controller = Controller(config, self.spec.rate_hz, num_envs)
        self._substeps = round(1.0 / (config.rates.control_hz * model.opt.timestep))
        self.batch = Batch(model, num_envs, nthread)
        self._qpos, self._qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self._ctrl = self.batch.bind("ctrl")
        self._mocap_pos, self._mocap_quat = (
            self.batch.bind("mocap_pos"),
            self.batch.bind("mocap_quat"),
        )
        self._sensors = self.batch.bind("sensordata")
        self._state = CellState(
            self._qpos,
            self._qvel,
            self._mocap_pos,
            self._mocap_quat,
            self.batch.bind("eq_active"),
        )
        self._rngs = [np.random.default_rng(0)] * num_envs
        self.steps = np.zeros(num_envs, dtype=int)
        self._readings: list[scene.Pose] = []
        # The robot's state as it was last read.
        self._seen_qpos, self._seen_qvel = self._qpos.copy(), self._qvel.copy()
        # Ticks by which readings and commands of each simulation are late, and the fewest and most.
        self._late = np.zeros((num_envs, 2), dtype=int)
        self._late_range = np.zeros((2, 2), dtype=int)
        # The newest commands, those under way to the servos, the oldest first.
        self._under_way = np.zeros((num_envs, 0, model.nu))

    def delay(self, reading_s: tuple[float, float], command_s: tuple[float, float]) -> None:
        """Lets time pass where the nodes or a robot would; call it before `reset`.

        Each episode has its own delays, whole numbers of control periods.

        Args:
            reading_s: age of a step's readings, robot and poses alike, when the step begins: the
                least and the most.
            command_s: from a control tick's command to the servos that follow it, likewise.

        Raises:
            ValueError: no whole number of control periods, the most below the least, or readings
                older than a policy step.
        """
        asked = np.array([reading_s, command_s]) * self.control_hz
        for name, (least, most) in zip(("reading", "command"), asked, strict=True):
            for ticks in (least, most):
                if ticks < least or ticks < 0 or abs(ticks - round(ticks)) > 1e-6:
                    raise ValueError(
                        f"{name} delay: got {1e3 * ticks / self.control_hz:g} ms, expected a "
                        f"multiple of the control period, {1e3 / self.control_hz:g} ms, "
                        "and the least first"
                    )
        if asked[0, 1] >= self.controller.ticks_per_step:
            raise ValueError(
                f"reading delay: got {1e3 * reading_s[1]:g} ms, "
                f"expected less than a policy step, {1e3 / self.spec.rate_hz:g} ms"
            )
        self._late_range = np.round(asked).astype(int)
        self._under_way = np.repeat(self._ctrl[:, None], self._late_range[1, 1], axis=1)

    def reset(self, seeds: Rows, ids: Rows | None = None) -> Observation:
        """Starts an episode in each simulation of `ids` (all when None), one seed each.

        Returns:
            The observation (N, D) of all simulations.
        """
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids)
        seeds = np.asarray(seeds)
        if seeds.shape != ids.shape:
            raise ValueError(f"seeds: got shape {seeds.shape}, expected {ids.shape}")
        self.batch.reset(ids, stage=0)
        for i, seed in zip(ids, seeds, strict=True):
            rng = self._rngs[i] = np.random.default_rng(int(seed))
            self._begin(int(i), rng)
            start = np.array(self.config.home_rad)
            start = start + rng.normal(scale=self.level.start_rad, size=start.size)
            self._qpos[i, self.scene.arm_qpos] = start
            self.scene.set_gripper_width(START_WIDTH_M, self._qpos[i])
        arm = self._qpos[ids[:, None], self.scene.arm_qpos]
        self._ctrl[ids[:, None], self.scene.arm_ctrl] = arm
        self._ctrl[ids, self.scene.gripper_ctrl] = START_WIDTH_M
        least, most = self._late_range.T
        for i, seed in zip(ids, seeds, strict=True):
            self._late[i] = np.random.default_rng([int(seed), 9]).integers(least, most + 1)
        self._under_way[ids] = self._ctrl[ids, None]
        self.batch.forward(ids)
        self.controller.reset(arm, np.full(len(ids), START_WIDTH_M), ids)
        self.steps[ids] = 0
        self._read(ids)
        return self.observe()

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[Observation, NDArray[np.bool_], NDArray[np.bool_], Info]:
        """One policy step in every simulation.

        Args:
            actions: (N, 7), see policies.control.Controller.begin_step.

        Returns:
            Observation (N, D) float32, success (N,), done (N,), and info of the task, each array
            with a leading axis N.
        """
        controller, scn = self.controller, self.scene
        controller.begin_step(np.asarray(actions, dtype=float))
        self._start_step()
        self.steps += 1
        for tick in range(controller.ticks_per_step):
            command = controller.tick(self._qpos[:, scn.arm_qpos])
            self._ctrl[:, scn.arm_ctrl] = panda.arm_control(command.q_rad, command.dq_rad_s)
            self._ctrl[:, scn.gripper_ctrl] = command.gripper_width_m
            if self._under_way.shape[1]:
                sent = np.concatenate([self._under_way, self._ctrl[:, None]], axis=1)
                newest = sent.shape[1] - 1
                self._ctrl[:] = sent[np.arange(self.num_envs), newest - self._late[:, 1]]
                self._under_way = sent[:, 1:]
            self.batch.step(nstep=self._substeps)
            scn.mechanism.update(self._state)
            self._after_tick(tick)
            due = np.flatnonzero(self._late[:, 0] == controller.ticks_per_step - 1 - tick)
            if len(due):
                self._read(due)
        success = self.success()
        done = success | (self.steps >= self.max_steps)
        info = self._info()
        return self.observe(), success, done, info

    def snapshot(self, i: int) -> mujoco.MjData:
        """Simulation `i` with everything computed that a picture or a measurement needs."""
        data = self.batch.get_data(i)
        mujoco.mj_forward(self.model, data)
        return data

    @property
    def rows(self) -> list[NDArray[Any]]:
        """Everything an episode depends on but its random stream, each with a leading axis N."""
        state = [self.batch.bind(name) for name in STATE]
        readings = [array for pose in self._readings for array in pose]
        seen = [self._seen_qpos, self._seen_qvel, self._late, self._under_way]
        return [*state, *self.controller.rows, self.steps, *seen, *readings]

    def save(self, i: int) -> list[Any]:
        """A copy of where the episode in simulation `i` stands."""
        return [copy(row[i]) for row in self.rows]

    def restore(self, i: int, saved: list[Any], seed: int) -> None:
        """Goes on in simulation `i` where `save` was called, with another random stream."""
        self.batch.reset(np.array([i]), stage=0)
        for row, value in zip(self.rows, saved, strict=True):
            row[i] = value
        self._rngs[i] = np.random.default_rng([seed, 1])
        self.batch.forward(np.array([i]))

    def observe(self) -> Observation:
        """The flat input (N, D) of the newest reading."""
        raise NotImplementedError

    def success(self) -> NDArray[np.bool_]:
        """Whether each simulation (N,) has reached its aim, from true poses."""
        raise NotImplementedError

    def true_readings(self) -> list[scene.Pose]:
        """True poses, (N, 3) and (N, 3, 3) each, of what the task reads, in a fixed order."""
        raise NotImplementedError

    def readings(self, noisy: bool = True) -> list[scene.Pose]:
        """The newest readings; without noise where a test or an expert may know more."""
        return self._readings if noisy and self._readings else self.true_readings()

    def _begin(self, i: int, rng: np.random.Generator) -> None:
        """Lays out simulation `i` and draws what its episode asks for."""
        raise NotImplementedError

    def _start_step(self) -> None:
        """Called when a policy step begins."""

    def _after_tick(self, tick: int) -> None:
        """Called after each control tick of a policy step."""

    def _info(self) -> Info:
        """What the step's info holds, after readings and success are known."""
        return {}

    def _read(self, ids: Rows) -> None:
        """Reads the robot and, with noise from each simulation's own stream, each pose."""
        self._seen_qpos[ids], self._seen_qvel[ids] = self._qpos[ids], self._qvel[ids]
        poses = self.true_readings()
        noise = np.zeros((self.num_envs, len(poses), 6))
        for i in ids:
            noise[i] = self._rngs[i].normal(size=(len(poses), 6))
        noisy = []
        for k, (position, rotation) in enumerate(poses):
            turn = so3.exp(self.level.noise_rad * noise[:, k, 3:])
            noisy.append((position + self.level.noise_m * noise[:, k, :3], turn @ rotation))
        if self._readings and len(ids) < self.num_envs:
            keep = np.setdiff1d(np.arange(self.num_envs), ids)
            for new, old in zip(noisy, self._readings, strict=True):
                new[0][keep], new[1][keep] = old[0][keep], old[1][keep]
        self._readings = noisy

    def _signals(
        self,
        part: scene.Pose,
        socket: scene.Pose,
        symmetry: NDArray[np.int_],
        grasp_offset_m: Array,
        grasp_symmetry: NDArray[np.int_],
        noisy: bool,
    ) -> Signals:
        """The robot, as it was last read or as it is, with a part and a socket; see Signals."""
        qpos, qvel = self._qpos, self._qvel
        if noisy:
            qpos, qvel = self._seen_qpos, self._seen_qvel
        return read_signals(
            self.controller,
            qpos[:, self.scene.arm_qpos],
            qvel[:, self.scene.arm_qvel],
            self.scene.gripper_width(qpos),
            part,
            socket,
            symmetry,
            grasp_offset_m,
            grasp_symmetry,
        )
