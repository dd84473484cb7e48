"""Task peg_insert: pick the named peg from the table and leave it standing in the named socket.

A batch of cells stepped together on MuJoCo's thread pool. One step is one policy step: ten control
ticks through the one controller, each of five physics steps. The other peg is either still on the
table or already in its socket, as it happens while a product is assembled.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch
from numpy.typing import NDArray

from hardware_configs import HardwareConfig, load
from policies.control import Controller, so3
from policies.features import INSERTION_SPEC, Signals, observe, read_signals
from sim import cell, layout, scene
from sim.robots import panda

Array = NDArray[np.float64]
Observation = NDArray[np.float32]

MAX_STEPS = 100
START_WIDTH_M = 0.08


class PegInsertBatch:
    """N cells with the task peg_insert.

    Args:
        num_envs: N.
        level: low, med or high; see sim.layout.LEVELS.
        clearance_mm: gap a side between peg and hole.
        nthread: physics threads, 0 for one a core.
        config: the robot; the Panda when left out.

    Attributes:
        spec: fields of observation, goal and action.
        max_steps: an episode without success ends after so many policy steps.
    """

    spec = INSERTION_SPEC
    max_steps = MAX_STEPS

    def __init__(
        self,
        num_envs: int,
        level: str = "med",
        clearance_mm: float = 0.5,
        nthread: int = 0,
        config: HardwareConfig | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.level = layout.level_of(level)
        self.config = config or load("panda")
        self.model = cell.build(self.config, clearance_mm * 1e-3)
        self.scene = scene.Scene(self.model, self.config)
        self.controller = Controller(self.config, self.spec.rate_hz, num_envs)
        self._substeps = round(1.0 / (self.config.rates.control_hz * self.model.opt.timestep))
        self.batch = Batch(self.model, num_envs, nthread)
        self._qpos, self._qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self._ctrl = self.batch.bind("ctrl")
        self._mocap_pos, self._mocap_quat = (
            self.batch.bind("mocap_pos"),
            self.batch.bind("mocap_quat"),
        )
        self._sensors = self.batch.bind("sensordata")
        self._rngs = [np.random.default_rng(0)] * num_envs
        self.part = np.full(num_envs, "square_peg", dtype=object)
        self.socket = np.full(num_envs, "socket_a", dtype=object)
        self.symmetry = np.zeros(num_envs, dtype=int)
        self.steps = np.zeros(num_envs, dtype=int)
        self._reading: tuple[scene.Pose, scene.Pose] | None = None

    def reset(self, seeds: NDArray[np.int_], ids: NDArray[np.int_] | None = None) -> Observation:
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
            self._begin(int(i), int(seed))
        self._ctrl[ids[:, None], self.scene.arm_ctrl] = self._qpos[
            ids[:, None], self.scene.arm_qpos
        ]
        self._ctrl[ids, self.scene.gripper_ctrl] = START_WIDTH_M
        self.batch.forward(ids)
        self.controller.reset(
            self._qpos[ids[:, None], self.scene.arm_qpos], np.full(len(ids), START_WIDTH_M), ids
        )
        self.steps[ids] = 0
        self._read(ids)
        return self.observe()

    def _begin(self, i: int, seed: int) -> None:
        rng = self._rngs[i] = np.random.default_rng(seed)
        part = str(rng.choice(list(cell.PARTS)))
        kind = cell.PARTS[part]
        socket = str(rng.choice([s for s, (k, _) in cell.SOCKETS.items() if k == kind]))
        other = next(p for p in cell.PARTS if p != part)
        homes = [s for s, (k, _) in cell.SOCKETS.items() if k == cell.PARTS[other]]
        seated = {other: str(rng.choice(homes))} if rng.random() < 0.5 else {}
        self.part[i], self.socket[i] = part, socket
        self.symmetry[i] = cell.symmetry(part)
        drawn = layout.sample(self.level, rng, seated)
        self.scene.lay_out(drawn, self._qpos[i], self._mocap_pos[i], self._mocap_quat[i])
        start = np.array(self.config.home_rad)
        start = start + rng.normal(scale=self.level.start_rad, size=start.size)
        self._qpos[i, self.scene.arm_qpos] = start
        self.scene.set_gripper_width(START_WIDTH_M, self._qpos[i])

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[Observation, NDArray[np.bool_], NDArray[np.bool_], dict[str, Array]]:
        """One policy step in every simulation.

        Args:
            actions: (N, 7), see policies.control.Controller.begin_step.

        Returns:
            Observation (N, D) float32, success (N,), done (N,), and info with, per simulation and
            control tick, `penetration_m` (N, ticks; NaN where part and base do not touch) and
            `force_n` (N, ticks) between part and base.
        """
        controller, scn = self.controller, self.scene
        controller.begin_step(np.asarray(actions, dtype=float))
        ticks = controller.ticks_per_step
        penetration = np.full((self.num_envs, ticks), np.nan)
        force = np.zeros((self.num_envs, ticks))
        rows = np.arange(self.num_envs)
        distance_at = np.array([scn.distance[p] for p in self.part])
        force_at = np.array([scn.force[p] for p in self.part])[:, None] + np.arange(3)
        for tick in range(ticks):
            command = controller.tick(self._qpos[:, scn.arm_qpos])
            self._ctrl[:, scn.arm_ctrl] = panda.arm_control(command.q_rad, command.dq_rad_s)
            self._ctrl[:, scn.gripper_ctrl] = command.gripper_width_m
            self.batch.step(nstep=self._substeps)
            force[:, tick] = np.linalg.norm(self._sensors[rows[:, None], force_at], axis=-1)
            touching = force[:, tick] > 0.0
            distance = self._sensors[rows, distance_at]
            penetration[touching, tick] = np.maximum(-distance[touching], 0.0)
        self.steps += 1
        self._read(rows)
        success = self.success()
        done = success | (self.steps >= self.max_steps)
        info = {"penetration_m": penetration, "force_n": force}
        return self.observe(), success, done, info

    def success(self) -> NDArray[np.bool_]:
        """Whether the part stands in its socket and the fingers have let go, from true poses."""
        part, socket = self.true_poses()
        return scene.seated(part, socket) & scene.released(self.scene.gripper_width(self._qpos))

    def true_poses(self) -> tuple[scene.Pose, scene.Pose]:
        """Poses of the part and of the socket of each simulation, without noise."""
        return self._gather(self.part, self.scene.part_pose, self._qpos), self._gather(
            self.socket, self.scene.socket_pose, self._mocap_pos, self._mocap_quat
        )

    def _gather(self, names: NDArray[np.object_], read: Any, *arrays: Array) -> scene.Pose:
        position, rotation = np.empty((self.num_envs, 3)), np.empty((self.num_envs, 3, 3))
        for name in set(names):
            rows = np.flatnonzero(names == name)
            position[rows], rotation[rows] = read(name, *(a[rows] for a in arrays))
        return position, rotation

    def _read(self, ids: NDArray[np.int_]) -> None:
        """Takes one noisy reading of part and socket, from each simulation's own random stream."""
        poses = self.true_poses()
        noise = np.zeros((self.num_envs, 2, 6))
        for i in ids:
            noise[i] = self._rngs[i].normal(size=(2, 6))
        noisy = []
        for k, (position, rotation) in enumerate(poses):
            turn = so3.exp(self.level.noise_rad * noise[:, k, 3:])
            noisy.append((position + self.level.noise_m * noise[:, k, :3], turn @ rotation))
        if self._reading is not None and len(ids) < self.num_envs:
            keep = np.setdiff1d(np.arange(self.num_envs), ids)
            for new, old in zip(noisy, self._reading, strict=True):
                new[0][keep], new[1][keep] = old[0][keep], old[1][keep]
        self._reading = (noisy[0], noisy[1])

    def signals(self, noisy: bool = True) -> Signals:
        """Readings of every simulation; without noise where a test or an expert may know more."""
        part, socket = self._reading if noisy and self._reading else self.true_poses()
        return read_signals(
            self.controller,
            self._qpos[:, self.scene.arm_qpos],
            self._qvel[:, self.scene.arm_qvel],
            self.scene.gripper_width(self._qpos),
            part,
            socket,
            self.symmetry,
        )

    def snapshot(self, i: int) -> mujoco.MjData:
        """Simulation `i` with everything computed that a picture or a measurement needs."""
        data = self.batch.get_data(i)
        mujoco.mj_forward(self.model, data)
        return data

    def observe(self) -> Observation:
        """The flat observation (N, D) of the newest reading."""
        return self.spec.flatten_observation(observe(self.spec, self.signals()))
