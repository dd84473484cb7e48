"""What the tasks share that fit a part into a socket: contact, true poses, success, measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig, load
from policies.features import INSERTION_SPEC, Signals, observe
from policies.pose_filter import PoseFilter
from sim import cell, layout, scene
from sim.fixtures.fixture import Fixture
from sim.tasks.cell_batch import CellBatch, Info, Observation, Rows

Array = NDArray[np.float64]


class FitPartBatch(CellBatch):
    """N cells in which one part of the fixture is to be left in one of its sockets.

    A task sets `fixture_type` and `max_steps` and defines `_begin`, which calls `_ask_for`.

    The info of a step has, per simulation and control tick, `penetration_m` (N, ticks; NaN where
    part and base do not touch) and `force_n` (N, ticks) between part and base.

    Args:
        num_envs: N.
        level: low, med or high; see sim.layout.LEVELS.
        clearance_mm: gap a side between part and socket.
        nthread: physics threads, 0 for one a core.
        config: the robot; the Panda when left out.
        friction: factor on the friction of part and base.

    Attributes:
        part, socket: names of what is to be fitted, and where (N,).
        symmetry, grasp_offset_m, grasp_symmetry: see Signals.
        part_width_m: width of the part between the fingers, (N,).
        seated_height_m: how far from its seat the part counts as seated, (N,).
    """

    spec = INSERTION_SPEC
    fixture_type: type[Fixture]

    def __init__(
        self,
        num_envs: int,
        level: str = "med",
        clearance_mm: float = 0.5,
        nthread: int = 0,
        config: HardwareConfig | None = None,
        friction: float = 1.0,
    ) -> None:
        config = config or load("panda")
        fixture = self.fixture_type()
        scene_spec = cell.build_spec(config, fixture, clearance_mm * 1e-3)
        cell.scale_friction(scene_spec, fixture, friction)
        super().__init__(num_envs, fixture, scene_spec, layout.level_of(level), nthread, config)
        self.part = np.full(num_envs, next(iter(fixture.parts)), dtype=object)
        self.socket = np.full(num_envs, next(iter(fixture.sockets)), dtype=object)
        self.symmetry = np.zeros(num_envs, dtype=int)
        self.grasp_offset_m = np.zeros((num_envs, 3))
        self.grasp_symmetry = np.zeros(num_envs, dtype=int)
        self.part_width_m, self.seated_height_m = np.zeros(num_envs), np.zeros(num_envs)
        self._penetration, self._force = np.empty((num_envs, 0)), np.empty((num_envs, 0))
        self._filter = PoseFilter(num_envs)

    @staticmethod
    def measures(
        traces: Sequence[Mapping[str, Sequence[NDArray[Any]]]],
    ) -> dict[str, float | None]:
        """How hard part and base pressed and how deep they overlapped, over whole episodes.

        Args:
            traces: the info of each episode, one entry per step.
        """
        depth_m = np.concatenate([row for trace in traces for row in trace["penetration_m"]])
        depth_m = depth_m[np.isfinite(depth_m)]
        forces = np.array([np.max(trace["force_n"]) for trace in traces])
        return {
            "penetration_p95_mm": round(1e3 * float(np.percentile(depth_m, 95)), 4)
            if len(depth_m)
            else None,
            "peak_force_p95_n": round(float(np.percentile(forces, 95)), 2),
            "peak_force_max_n": round(float(forces.max()), 2),
        }

    @property
    def rows(self) -> list[NDArray[Any]]:
        """See CellBatch."""
        asked = [self.part, self.socket, self.symmetry, self.part_width_m, self.seated_height_m]
        grasp = [self.grasp_offset_m, self.grasp_symmetry]
        return [*super().rows, *asked, *grasp, *self._filter.rows]

    def skill_parameters(self, i: int) -> dict[str, float]:
        """What is asked for in simulation `i` besides part and socket: parameters of the skill."""
        return {}

    def _ask_for(self, i: int, part: str, socket: str) -> None:
        """Asks simulation `i` for a part in a socket, held as the catalogue says."""
        kind = self.scene.fixture.parts[part]
        self.part[i], self.socket[i] = part, socket
        self.symmetry[i], self.grasp_symmetry[i] = kind.symmetry, kind.grasp_symmetry
        self.grasp_offset_m[i] = kind.grasp_offset_m
        self.part_width_m[i], self.seated_height_m[i] = kind.part_width_m, kind.seated_height_m

    def _start_step(self) -> None:
        ticks = self.controller.ticks_per_step
        self._penetration = np.full((self.num_envs, ticks), np.nan)
        self._force = np.zeros((self.num_envs, ticks))
        self._distance_at = np.array([self.scene.distance[p] for p in self.part])
        force_at = np.array([self.scene.force[p] for p in self.part])
        self._force_at = force_at[:, None] + np.arange(3)

    def _after_tick(self, tick: int) -> None:
        rows = np.arange(self.num_envs)
        force = np.linalg.norm(self._sensors[rows[:, None], self._force_at], axis=-1)
        touching = force > 0.0
        distance = self._sensors[rows, self._distance_at]
        self._force[:, tick] = force
        self._penetration[touching, tick] = np.maximum(-distance[touching], 0.0)

    def _info(self) -> Info:
        return {"penetration_m": self._penetration, "force_n": self._force}

    def success(self) -> NDArray[np.bool_]:
        """Whether the part stands in its socket and the fingers have let go, from true poses."""
        part, socket = self.true_poses()
        width = self.scene.gripper_width(self._qpos)
        seated = scene.seated(part, socket, self.seated_height_m)
        return seated & scene.released(width, self.part_width_m)

    def true_poses(self) -> tuple[scene.Pose, scene.Pose]:
        """Poses of the part and of the socket of each simulation, without noise."""
        return self._gather(self.part, self.scene.part_pose, self._qpos), self._gather(
            self.socket, self.scene.socket_pose, self._mocap_pos, self._mocap_quat
        )

    def true_readings(self) -> list[scene.Pose]:
        """The part's and the socket's true pose."""
        return list(self.true_poses())

    def _gather(self, names: NDArray[np.object_], read: Any, *arrays: Array) -> scene.Pose:
        position, rotation = np.empty((self.num_envs, 3)), np.empty((self.num_envs, 3, 3))
        for name in set(names):
            rows = np.flatnonzero(names == name)
            position[rows], rotation[rows] = read(name, *(a[rows] for a in arrays))
        return position, rotation

    def signals(self, noisy: bool = True) -> Signals:
        """Filtered readings; without noise where a test or an expert may know more."""
        return self._signals_of(*(self._filter.poses if noisy else self.true_poses()), noisy)

    def _read(self, ids: Rows) -> None:
        super()._read(ids)
        part, socket = self.readings()
        self._filter.reset(ids[self.steps[ids] == 0])
        self._filter.update(ids, self._signals_of(part, socket, noisy=True))

    def _signals_of(self, part: scene.Pose, socket: scene.Pose, noisy: bool) -> Signals:
        grasp = self.grasp_offset_m, self.grasp_symmetry
        return self._signals(part, socket, self.symmetry, *grasp, noisy)

    def observe(self) -> Observation:
        """The flat observation (N, D) of the newest reading."""
        return self.spec.flatten_observation(observe(self.spec, self.signals()))
