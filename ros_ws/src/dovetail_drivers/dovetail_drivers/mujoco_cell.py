"""The MuJoCo cell as a machine: the same face that a driver of real hardware shows, without ROS.

``tick`` is the machine's own servo cycle: it follows the last good command through the model's
position actuators and brakes within the acceleration limits when commands stop. What a real cell
has besides the arm is here too: a feeder, perception with noise, and, since this cell is simulated,
the truth for evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from dovetail_drivers.commands import CommandRefused, JointCommand, check_jump, read_command
from hardware_configs import HardwareConfig
from policies.control import so3
from policies.control.safety_filter import SafetyFilter
from sim import layout, scene, tasks
from sim.fixtures.fixture import CellState
from sim.robots import panda
from sim.tasks.cell_batch import START_WIDTH_M
from sim.tasks.fit_part import FitPartBatch

Array = NDArray[np.float64]

SETTLED_RAD_S = 0.01


@dataclass(frozen=True)
class Observation:
    """Readings at one moment: joints (n,), and poses of the objects `names` in the base frame."""

    q_rad: Array
    dq_rad_s: Array
    effort_nm: Array
    gripper_width_m: float
    names: tuple[str, ...]
    positions_m: Array
    rotations: Array


@dataclass(frozen=True)
class Episode:
    """What an evaluation episode asks for: `part` in `socket` within the time limit.

    Attributes:
        part, socket: their names.
        parameters: what the task's skill needs besides, by name.
        time_limit_s: robot time.
    """

    part: str
    socket: str
    parameters: dict[str, float]
    time_limit_s: float


@dataclass(frozen=True)
class Truth:
    """What an omniscient observer says: poses without noise, contact since the last loading.

    Attributes:
        inserted: whether the part stands released in the socket.
        penetration_m: of part and base at each tick at which they touched.
        peak_force_n: between them.
    """

    inserted: bool
    penetration_m: Array
    peak_force_n: float


class MujocoCell:
    """A Panda in its cell.

    Args:
        config: the robot.
        clearance_mm: gap a side between part and hole.
        level: low, med or high; how parts lie and how noisy perception is.
        seed: of the first layout and of the noise.
        task: the task whose fixture stands in the cell.

    Raises:
        ValueError: no such level, or no task that fits parts.

    Attributes:
        holding: whether the arm brakes or stands instead of following commands.
        load_count: grows with each loading and reset.
    """

    def __init__(
        self,
        config: HardwareConfig,
        clearance_mm: float,
        level: str = "low",
        seed: int = 0,
        task: str = "peg_insert",
    ) -> None:
        self.config = config
        self.clearance_mm = clearance_mm
        self._first_level, self.level = level, layout.level_of(level)
        if task not in tasks.CLEARANCE_MM:
            raise ValueError(f"task: got {task!r}, expected one of {', '.join(tasks.CLEARANCE_MM)}")
        self.task = task
        self._seed = seed
        self._rng = np.random.default_rng([seed, 0])
        self._stale_s = config.topics["joint_command"].stale_s
        self._dt_s = 1.0 / config.rates.control_hz
        self._brake = SafetyFilter(config)
        self._command = JointCommand(
            np.array(config.home_rad), np.zeros(len(config.joints)), START_WIDTH_M
        )
        self._silent_ticks = 0
        self._enabled = False
        self.holding = True
        self.load_count = 0
        # After a reset commands still aim at the old posture until control has seen the new one.
        self._relocated = False

    def connect(self) -> None:
        """Builds the cell, the arm at home with open fingers, held."""
        self._episodes: dict[str, FitPartBatch] = {}
        trained_in = self._episode(self._first_level)
        self._model, self._scene = trained_in.model, trained_in.scene
        self._fixture = self._scene.fixture
        self._data = data = mujoco.MjData(self._model)
        live = (data.qpos, data.qvel, data.mocap_pos, data.mocap_quat, data.eq_active)
        self._state = CellState(*(array[None] for array in live))
        self._substeps = round(self._dt_s / self._model.opt.timestep)
        self._stand(np.array(self.config.home_rad))
        self._load(layout.sample(self.level, np.random.default_rng([self._seed, 0]), self._fixture))

    def disconnect(self) -> None:
        """Stops following commands."""
        self.enable(False)

    @property
    def settled(self) -> bool:
        """Whether the arm is held and measured at rest."""
        return self.holding and self.speed_max_rad_s < SETTLED_RAD_S

    @property
    def speed_max_rad_s(self) -> float:
        """The fastest joint's measured speed."""
        return float(np.abs(self._data.qvel[self._scene.arm_qvel]).max())

    @property
    def hold_age_s(self) -> float:
        """Robot time since the last good command."""
        return self._silent_ticks * self._dt_s

    def enable(self, enabled: bool) -> None:
        """Follows commands from now on, or brakes and ignores them."""
        self._enabled = enabled
        if not enabled:
            self._hold()

    def get_observation(self) -> Observation:
        """The newest readings, with the noise of the level on the perceived poses."""
        data, scn = self._data, self._scene
        qpos, mocap = data.qpos[None], (data.mocap_pos[None], data.mocap_quat[None])
        true = [scn.part_pose(name, qpos) for name in self._fixture.parts]
        true += [scn.socket_pose(name, *mocap) for name in self._fixture.sockets]
        noise = self._rng.normal(size=(2, len(true), 3))
        positions = np.concatenate([pose[0] for pose in true]) + self.level.noise_m * noise[0]
        rotations = np.concatenate([pose[1] for pose in true])
        return Observation(
            q_rad=data.qpos[scn.arm_qpos],
            dq_rad_s=data.qvel[scn.arm_qvel],
            effort_nm=data.actuator_force[scn.arm_ctrl],
            gripper_width_m=float(scn.gripper_width(qpos)[0]),
            names=(*self._fixture.parts, *self._fixture.sockets),
            positions_m=positions,
            rotations=so3.exp(self.level.noise_rad * noise[1]) @ rotations,
        )

    def send_action(
        self, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float]
    ) -> JointCommand:
        """Takes a command for the next ticks.

        Returns:
            What was sent to the servos.

        Raises:
            CommandRefused: the command is not passed on, see dovetail_drivers.commands.
        """
        if not self._enabled:
            raise CommandRefused("command: got one while not active, expected none")
        command = read_command(self.config, names, positions, velocities)
        try:
            check_jump(self.config, command, self._command, self.hold_age_s)
        except CommandRefused:
            if self._relocated:
                return self._command
            raise
        self._relocated = False
        self._command = command
        self._silent_ticks = 0
        self.holding = False
        return command

    def tick(self) -> None:
        """One control period of the machine."""
        self._silent_ticks += 1
        if not self.holding and self.hold_age_s > self._stale_s:
            self._hold()
        if self.holding:
            q_rad = self._brake.step(self._brake.q_rad)[0]
            self._command = JointCommand(
                q_rad, self._brake.dq_rad_s[0], self._command.gripper_width_m
            )
        command = self._command
        self._data.ctrl[self._scene.arm_ctrl] = panda.arm_control(command.q_rad, command.dq_rad_s)
        self._data.ctrl[self._scene.gripper_ctrl] = command.gripper_width_m
        mujoco.mj_step(self._model, self._data, self._substeps)
        self._scene.mechanism.update(self._state)
        self._measure_contact()

    def load_product(self, seed: int, index: int, level: str) -> None:
        """The feeder clears the table and brings base and parts of product `index` of a run.

        Raises:
            ValueError: no such level.
        """
        self.level = layout.level_of(level)
        self._rng = np.random.default_rng([seed, index, 1])
        self._load(layout.sample(self.level, np.random.default_rng([seed, index]), self._fixture))

    def feed_part(self, part: str) -> None:
        """The feeder takes a part away, wherever it is, and stands it on the table anew.

        Raises:
            ValueError: no such part.
        """
        if part not in self._fixture.parts:
            raise ValueError(
                f"part: got {part!r}, expected one of {', '.join(self._fixture.parts)}"
            )
        start = self._scene.part_qpos
        others = [self._data.qpos[start[n] : start[n] + 2].copy() for n in start if n != part]
        taken = [self._data.mocap_pos[0, :2].copy(), *others]
        xy, yaw_rad = layout.sample_part(self.level, self._rng, self._fixture, part, taken)
        self._scene.place_part(part, np.array([*xy, 0.0]), yaw_rad, self._data.qpos)
        self._rest_parts([part])
        self.load_count += 1

    def reset(self, task: str, seed: int, level: str) -> Episode:
        """Sets arm and cell to the start of evaluation episode `seed`, as the training task does.

        Returns:
            What the episode asks for.

        Raises:
            ValueError: no such task or level.
        """
        if task != self.task:
            raise ValueError(f"task: got {task!r}, expected {self.task}, which this cell is for")
        self.level = layout.level_of(level)
        episode = self._episode(level)
        episode.reset(np.array([seed]))
        mujoco.mj_resetData(self._model, self._data)
        for name in ("qpos", "mocap_pos", "mocap_quat"):
            getattr(self._data, name)[:] = episode.batch.bind(name)[0]
        self._rng = np.random.default_rng([seed, 2])
        self._relocated = True
        self._stand(self._data.qpos[self._scene.arm_qpos].copy())
        self._forget_contact()
        self.load_count += 1
        return Episode(
            part=str(episode.part[0]),
            socket=str(episode.socket[0]),
            parameters=episode.skill_parameters(0),
            time_limit_s=episode.max_steps / episode.spec.rate_hz,
        )

    def truth(self, part: str, socket: str) -> Truth:
        """Whether the part stands released in the socket, and what its contact was like.

        Raises:
            ValueError: no such part or socket.
        """
        if part not in self._fixture.parts or socket not in self._fixture.sockets:
            raise ValueError(f"truth: got {part!r} in {socket!r}, expected a part and a socket")
        data, scn = self._data, self._scene
        qpos = data.qpos[None]
        seated = scene.seated(
            scn.part_pose(part, qpos),
            scn.socket_pose(socket, data.mocap_pos[None], data.mocap_quat[None]),
            self._fixture.parts[part].seated_height_m,
        )
        released = scene.released(scn.gripper_width(qpos), self._fixture.parts[part].part_width_m)
        return Truth(
            inserted=bool(seated[0] and released[0]),
            penetration_m=np.array(self._penetrations_m[part]),
            peak_force_n=self._peak_force_n[part],
        )

    def _episode(self, level: str) -> FitPartBatch:
        """The training task's own simulation, which lays episodes out."""
        if level not in self._episodes:
            self._episodes[level] = tasks.make(
                self.task, 1, level, self.clearance_mm, nthread=1, config=self.config
            )
        return self._episodes[level]

    def _stand(self, q_rad: Array) -> None:
        """Puts the arm at rest at `q_rad` with open fingers, held there."""
        data, scn = self._data, self._scene
        data.qpos[scn.arm_qpos] = q_rad
        data.qvel[scn.arm_qvel] = 0.0
        scn.set_gripper_width(START_WIDTH_M, data.qpos)
        data.ctrl[scn.arm_ctrl] = q_rad
        data.ctrl[scn.gripper_ctrl] = START_WIDTH_M
        self._command = JointCommand(q_rad, np.zeros_like(q_rad), START_WIDTH_M)
        self._silent_ticks = 0
        self._hold()
        mujoco.mj_forward(self._model, data)

    def _hold(self) -> None:
        self.holding = True
        self._brake.reset(self._command.q_rad)
        self._brake.dq_rad_s[0] = self._command.dq_rad_s

    def _load(self, drawn: layout.Layout) -> None:
        data = self._data
        self._scene.lay_out(drawn, data.qpos, data.mocap_pos, data.mocap_quat)
        self._rest_parts(list(self._fixture.parts))
        self._forget_contact()
        self.load_count += 1

    def _rest_parts(self, names: list[str]) -> None:
        for name in names:
            start = self._scene.part_qvel[name]
            self._data.qvel[start : start + 6] = 0.0
        self._scene.mechanism.reset(self._state)
        mujoco.mj_forward(self._model, self._data)

    def _forget_contact(self) -> None:
        self._penetrations_m: dict[str, list[float]] = {name: [] for name in self._fixture.parts}
        self._peak_force_n = dict.fromkeys(self._fixture.parts, 0.0)

    def _measure_contact(self) -> None:
        sensors = self._data.sensordata
        for name in self._fixture.parts:
            start = self._scene.force[name]
            force_n = float(np.linalg.norm(sensors[start : start + 3]))
            if force_n > 0.0:
                self._peak_force_n[name] = max(self._peak_force_n[name], force_n)
                depth_m = max(-float(sensors[self._scene.distance[name]]), 0.0)
                self._penetrations_m[name].append(depth_m)
