"""Task play_parts: two pegs stand on two of four marked spots; both are wanted on the other two.

The pegs can be moved in either order, and without a goal there are four first moves (a peg to a
free spot): a task with several right answers, to measure what a policy makes of its goal and
whether it knows more than one way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig, load
from policies.features import (
    ACTION,
    INSERTION_SPEC,
    POLICY_HZ,
    Signals,
    grasp_point,
    observe,
)
from policies.spec import Field, Spec
from sim import cell, layout, scene
from sim.fixtures.pegs import PART_WIDTH_M, PegFixture
from sim.modes import spread
from sim.tasks.cell_batch import CellBatch, Info, Observation, Rows

Array = NDArray[np.float64]
Traces = Sequence[Mapping[str, Sequence[NDArray[Any]]]]

PEGS = ("square_peg", "round_peg")
# Room between two spots for open fingers beside a peg; the socket base stands out of the way.
SPOT_PITCH_M = 0.12
SPOTS_M = np.array([0.48, 0.0]) + SPOT_PITCH_M / 2 * np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
SPOT_RADIUS_M = 0.02
BASE_M = (0.48, 0.30)
MAX_STEPS = 120
# Level -> largest offset of a peg from its spot, and of its yaw.
OFFSETS = {"low": (0.01, np.deg2rad(15.0)), "med": (0.015, np.deg2rad(30.0))}
# A goal lies this close to a spot's centre, and so does what play puts there.
GOAL_OFFSET_M = 0.005

REACHED_M = 0.02
UPRIGHT_RAD = np.deg2rad(8.0)
ON_TABLE_M = 0.004
# The fingers are clear of a peg when open or this far away from where they would hold it.
CLEAR_M = 0.05

# The lead of the command, for actions are increments of it: who does not see it is centimetres
# off at full speed.
_, _LEAD, _GRIPPER, _PEG = INSERTION_SPEC.observation
_READ = Spec(observation=(_LEAD, _GRIPPER, _PEG), goal=(), action=(ACTION,), rate_hz=POLICY_HZ)
_POSITIONS = tuple(f"{peg}_{axis}" for peg in PEGS for axis in "xyz")
PLAY_SPEC = Spec(
    observation=(
        Field(
            "observation.state.tool_pose",
            (6,),
            "m,1,rad",
            "base",
            ("x", "y", "z", "axis_x", "axis_y", "yaw"),
        ),
        _LEAD,
        _GRIPPER,
        *(replace(_PEG, name=f"observation.state.{peg}") for peg in PEGS),
        Field("observation.state.parts", (2, 3), "m", "base", _POSITIONS),
    ),
    goal=(Field("goal.parts", (2, 3), "m", "base", _POSITIONS),),
    action=(ACTION,),
    rate_hz=POLICY_HZ,
)


class PlayPartsBatch(CellBatch):
    """N cells with the task play_parts.

    A move is completed when a peg stands released on a spot other than where it last stood. The
    info of a step has `first_move` (N,), 4 * peg + spot of the first completed move, -1 before;
    `first_mode` (N,), 2 * peg + rank of that spot among those free at the start; `order` (N,), the
    peg that was first to reach its goal, -1 until both have been there; `moves` (N,), moves
    completed; `at_goal` (N, 2), whether each peg stands released at its goal; and `distance_m`
    (N, 2) from there in the plane.

    Args:
        num_envs: N.
        level: low or med.
        nthread: physics threads, 0 for one a core.
        config: the robot; the Panda when left out.
        start_seed: where given, every episode starts and has the goal as with this seed, so that
            what differs between episodes is what the policy chose. Readings' noise still follows
            the episode's own seed.
    """

    spec = PLAY_SPEC
    max_steps = MAX_STEPS

    def __init__(
        self,
        num_envs: int,
        level: str = "low",
        nthread: int = 0,
        config: HardwareConfig | None = None,
        start_seed: int | None = None,
    ) -> None:
        if level not in OFFSETS:
            raise ValueError(f"level: got {level!r}, expected one of {', '.join(OFFSETS)}")
        config = config or load("panda")
        self.offset_m, self.yaw_rad = OFFSETS[level]
        self.start_seed = start_seed
        super().__init__(
            num_envs, PegFixture(), build_spec(config), layout.level_of(level), nthread, config
        )
        self.goal = np.zeros((num_envs, 2, 3))
        self.start_spot = np.zeros((num_envs, 2), dtype=int)
        self.place = np.zeros((num_envs, 2), dtype=int)
        self.moves = np.zeros(num_envs, dtype=int)
        self.first_move = np.full(num_envs, -1)
        self.first_at_goal = np.full(num_envs, -1)
        self.order = np.full(num_envs, -1)

    @staticmethod
    def measures(traces: Traces) -> dict[str, Any]:
        """What the episodes came to beside success.

        Args:
            traces: the info of each episode, one entry per step.

        Returns:
            `result`: share of pegs at their goals in the end; `distance_mm`: median distance of a
            peg from its goal in the end; `moved`: share of episodes with a completed move;
            `moves`: moves completed per episode; `first_modes`: episodes per first move, numbered
            2 * peg + rank of the free spot, and their spread, see sim.modes; `orders`: episodes
            per peg that reached its goal first, where both did.
        """
        end = {key: np.array([trace[key][-1] for trace in traces]) for key in traces[0]}
        modes = [int((end["first_mode"] == k).sum()) for k in range(4)]
        orders = Counter(int(peg) for peg in end["order"] if peg >= 0)
        return {
            "result": round(float(end["at_goal"].mean()), 4),
            "distance_mm": round(1e3 * float(np.median(end["distance_m"])), 1),
            "moved": round(float((end["moves"] > 0).mean()), 4),
            "moves": round(float(end["moves"].mean()), 3),
            "first_modes": {str(k): modes[k] for k in range(4)},
            **spread(modes),
            "orders": {peg: orders[k] for k, peg in enumerate(PEGS)},
        }

    def _begin(self, i: int, rng: np.random.Generator) -> None:
        draw = rng if self.start_seed is None else np.random.default_rng(self.start_seed)
        spots = draw.permutation(len(SPOTS_M))
        xy = SPOTS_M[spots[:2]] + draw.uniform(-self.offset_m, self.offset_m, (2, 2))
        yaw = draw.uniform(-self.yaw_rad, self.yaw_rad, 2)
        offset = draw.uniform(-GOAL_OFFSET_M, GOAL_OFFSET_M, (2, 2))
        self.goal[i] = 0.0
        self.goal[i, :, :2] = SPOTS_M[spots[2:]] + offset
        drawn = layout.Layout(
            base_xy_m=np.array(BASE_M),
            base_yaw_rad=0.0,
            part_xy_m=dict(zip(PEGS, xy, strict=True)),
            part_yaw_rad=dict(zip(PEGS, yaw.tolist(), strict=True)),
            seated={},
        )
        self.scene.lay_out(drawn, self._qpos[i], self._mocap_pos[i], self._mocap_quat[i])
        self.start_spot[i] = self.place[i] = spots[:2]
        self.moves[i] = 0
        self.first_move[i] = self.first_at_goal[i] = self.order[i] = -1

    def set_goal(self, goal: NDArray[np.floating[Any]], ids: Rows | None = None) -> None:
        """Asks simulations `ids` for peg positions (n, 6) or (n, 2, 3), base frame."""
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids)
        goal = np.asarray(goal, dtype=float)
        if goal.size != 6 * len(ids):
            raise ValueError(f"goal: got shape {goal.shape}, expected ({len(ids)}, 6)")
        self.goal[ids] = goal.reshape(-1, 2, 3)
        self.first_at_goal[ids] = self.order[ids] = -1

    def achieved(self) -> Observation:
        """What the goal columns would ask for to have things as they are read to be, (N, 6)."""
        return self._parts().reshape(self.num_envs, -1).astype(np.float32)

    def true_readings(self) -> list[scene.Pose]:
        """The pegs' true poses."""
        return [self.scene.part_pose(peg, self._qpos) for peg in PEGS]

    def signals(self, noisy: bool = True) -> list[Signals]:
        """Readings of every simulation, once with each peg as the part; no socket is asked for."""
        signals = []
        for peg, pose in zip(PEGS, self.readings(noisy), strict=True):
            kind = self.scene.fixture.parts[peg]
            symmetry = np.full(self.num_envs, kind.symmetry)
            offset_m = np.tile(kind.grasp_offset_m, (self.num_envs, 1))
            grasp_symmetry = np.full(self.num_envs, kind.grasp_symmetry)
            signals.append(self._signals(pose, pose, symmetry, offset_m, grasp_symmetry, noisy))
        return signals

    def observe(self) -> Observation:
        """The flat input (N, D): observation of the newest readings, and the goal."""
        signals = self.signals()
        each = [observe(_READ, s) for s in signals]
        fields: dict[str, NDArray[Any]] = {f.name: each[0][f.name] for f in (_LEAD, _GRIPPER)}
        position, rotation = signals[0].tool_position, signals[0].tool_rotation
        yaw = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])[:, None]
        pose = np.concatenate([position, rotation[:, :2, 2], yaw], axis=1)
        fields["observation.state.tool_pose"] = pose
        for peg, features in zip(PEGS, each, strict=True):
            fields[f"observation.state.{peg}"] = features[_PEG.name]
        fields["observation.state.parts"] = self._parts()
        fields["goal.parts"] = self.goal
        return self.spec.flatten_observation(fields)

    def standing(self) -> NDArray[np.bool_]:
        """Whether each peg stands upright on the table, released, (N, 2), from true poses."""
        answer = np.empty((self.num_envs, 2), dtype=bool)
        for k, s in enumerate(self.signals(noisy=False)):
            away = np.linalg.norm(grasp_point(s) - s.tool_position, axis=-1)
            clear = scene.released(s.gripper_width, PART_WIDTH_M) | (away > CLEAR_M)
            upright = s.part_rotation[:, 2, 2] > np.cos(UPRIGHT_RAD)
            answer[:, k] = clear & upright & (np.abs(s.part_position[:, 2]) < ON_TABLE_M)
        return answer

    def distances_m(self) -> Array:
        """How far each peg is from its goal in the plane, (N, 2), from true poses."""
        at = np.stack([position for position, _ in self.true_readings()], axis=1)
        return np.asarray(np.linalg.norm((at - self.goal)[..., :2], axis=-1))

    def at_goal(self) -> NDArray[np.bool_]:
        """Whether each peg stands released at its goal, (N, 2)."""
        return self.standing() & (self.distances_m() < REACHED_M)

    def success(self) -> NDArray[np.bool_]:
        """Whether both pegs stand released at their goals, (N,), from true poses."""
        return np.asarray(self.at_goal().all(axis=1))

    def spots(self) -> NDArray[np.int_]:
        """The spot on which each peg stands released, (N, 2), -1 for none; from true poses."""
        at = np.stack([position[:, :2] for position, _ in self.true_readings()], axis=1)
        distance = np.linalg.norm(at[:, :, None] - SPOTS_M, axis=-1)
        on = self.standing() & (distance.min(axis=-1) < REACHED_M + GOAL_OFFSET_M)
        return np.where(on, distance.argmin(axis=-1), -1)

    def _info(self) -> Info:
        spots, at_goal = self.spots(), self.at_goal()
        for i, peg in np.argwhere((spots >= 0) & (spots != self.place)):
            self.place[i, peg] = spots[i, peg]
            self.moves[i] += 1
            if self.first_move[i] < 0:
                self.first_move[i] = len(SPOTS_M) * peg + spots[i, peg]
        for i, peg in np.argwhere(at_goal):
            if self.first_at_goal[i] < 0:
                self.first_at_goal[i] = peg
            elif self.first_at_goal[i] != peg and self.order[i] < 0:
                self.order[i] = self.first_at_goal[i]
        return {
            "first_move": self.first_move.copy(),
            "first_mode": self._first_mode(),
            "order": self.order.copy(),
            "moves": self.moves.copy(),
            "at_goal": at_goal,
            "distance_m": self.distances_m(),
        }

    def _first_mode(self) -> NDArray[np.int_]:
        peg, spot = np.divmod(self.first_move, len(SPOTS_M))
        rank = spot - (self.start_spot < spot[:, None]).sum(axis=1)
        return np.where(self.first_move < 0, -1, 2 * peg + rank)

    def _parts(self) -> Array:
        return np.stack([position for position, _ in self.readings()], axis=1)


def build_spec(config: HardwareConfig) -> mujoco.MjSpec:
    """The cell with the spots drawn on its table."""
    spec = cell.build_spec(config, PegFixture())
    for k, xy in enumerate(SPOTS_M):
        disc = spec.worldbody.add_geom(name=f"spot_{k}", type=mujoco.mjtGeom.mjGEOM_CYLINDER)
        disc.pos, disc.size = [*xy, 0.0005], [SPOT_RADIUS_M, 0.0005, 0.0]
        disc.contype = disc.conaffinity = 0
        disc.rgba = [0.36, 0.62, 0.46, 1.0]
    return spec
