"""Task block_push: a round effector pushes two blocks into two squares, in PyBullet.

The multi-modal block-pushing benchmark (Florence et al. 2021, implicit behavioral cloning, section
5; Shafiullah et al. 2022, behavior transformers; Reuss et al. 2023, BESO, section V) built anew
from its description: which block is pushed first, and into which square, is open, so that there are
several right answers everywhere. The state has the paper's ten numbers, actions are displacements
of the effector's target in the plane at 10 Hz, a goal is a full state, and `reward` counts blocks
in any square, `result` those in the square that was asked for.

A policy also sees what follows from the state: where the effector's target lies from each block, in
metres and once more finely, for where it touches the block decides where that goes; and how far
each block is from the middle of each square, saturating, for that decides when a push is over.

What differs from the original: no arm carries the effector, a force-limited drive with two sliding
joints does; positions are counted from the middle of the table; the squares stay where they are;
sizes, speeds and the scripted demonstrations are ours; an episode has 200 steps instead of 350.
Numbers are therefore comparable in kind, not digit by digit.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.spec import Field, Spec
from sim.modes import spread

Array = NDArray[np.float64]
Observation = NDArray[np.float32]
Rows = NDArray[np.int_]

POLICY_HZ = 10.0
BLOCKS = ("red", "green")
SQUARES = ("right", "left")
_STATE_NAMES = (
    *(f"{block}_{part}" for block in BLOCKS for part in ("x", "y", "yaw")),
    *(f"{point}_{axis}" for point in ("effector", "target") for axis in "xy"),
)
_STATE = Field("observation.state", (10,), "m,rad", "table", _STATE_NAMES)
# Beyond this distance the fine offset saturates; below, it resolves millimetres.
FINE_RANGE_M = 0.03
_CONTACT = Field(
    "observation.state.contact",
    (8,),
    "m,1",
    "table",
    tuple(
        f"{block}_{part}"
        for block in BLOCKS
        for part in ("offset_x", "offset_y", "fine_offset_x", "fine_offset_y")
    ),
)
_PLACE = Field(
    "observation.state.place",
    (4,),
    "1",
    "table",
    tuple(f"{block}_from_{square}" for block in BLOCKS for square in SQUARES),
)
BLOCK_PUSH_SPEC = Spec(
    observation=(_STATE, _CONTACT, _PLACE),
    goal=(Field("goal.state", (10,), "m,rad", "table", _STATE_NAMES),),
    action=(Field("action", (2,), "m", "table", ("dx", "dy")),),
    rate_hz=POLICY_HZ,
)


@dataclass(frozen=True)
class Table:
    """Sizes and physics, SI units, in the table's frame (origin in its middle, z up)."""

    block_m: float = 0.04
    block_kg: float = 0.1
    effector_radius_m: float = 0.0125
    squares_m: tuple[tuple[float, float], ...] = ((0.15, -0.12), (0.15, 0.12))
    """Centres of the two squares."""
    inside_m: float = 0.05
    """A block's centre this near to a square's is in it."""
    reach_m: float = 0.30
    """The effector's target stays within +- this."""
    step_m: float = 0.03
    """Largest displacement of the target in one step, each way."""
    starts_x_m: tuple[float, float] = (-0.16, -0.06)
    starts_y_m: float = 0.14
    spacing_m: float = 0.10
    """Least distance between the blocks' centres at the start."""
    effector_start_m: tuple[float, float] = (-0.27, 0.02)
    """Its x, and the spread of both coordinates."""
    friction_table: float = 0.4
    friction_block: float = 0.5
    force_n: float = 10.0
    speed_m_s: float = 0.4
    physics_hz: float = 240.0
    max_steps: int = 200


class BlockPushBatch:
    """N tables with the task block_push.

    The info of a step has `reward` and `result` (N,), shares of the two blocks; `first` (N,), 2 *
    block + square of the first entry of a block into a square, -1 before; `assignment` (N,), the
    square of the red block once both are in different ones, else -1.

    Args:
        num_envs: N.
        level: only "med", the task's own randomness.
        nthread: not used; a table is one thread's work.

    Attributes:
        start_seed: where set, every episode starts and has the goal as with this seed, so that what
            differs between episodes is what the policy chose.

    Raises:
        ValueError: PyBullet is not installed, or another level.
    """

    spec = BLOCK_PUSH_SPEC
    control_hz = POLICY_HZ

    def __init__(self, num_envs: int, level: str = "med", nthread: int = 0) -> None:
        del nthread
        if level != "med":
            raise ValueError(f"level: got {level!r}, expected med: block_push has but one")
        try:
            self._bullet: Any = importlib.import_module("pybullet")
        except ImportError:
            raise ValueError(
                "pybullet: not installed, expected it: `make setup-train` on Python 3.11"
            ) from None
        self.num_envs = num_envs
        self.start_seed: int | None = None
        self.table = Table()
        self.max_steps = self.table.max_steps
        content = json.dumps(asdict(self.table), sort_keys=True)
        self.hardware_hash = hashlib.sha256(content.encode()).hexdigest()
        self._clients = [self._bullet.connect(self._bullet.DIRECT) for _ in range(num_envs)]
        self._bodies = [(0, 0, 0)] * num_envs
        self._origin = np.zeros((num_envs, 2))
        self.state = np.zeros((num_envs, 10))
        self.goal = np.zeros((num_envs, 10), dtype=np.float32)
        self.asked = np.zeros((num_envs, 2), dtype=int)
        self.steps = np.zeros(num_envs, dtype=int)
        self.entered = np.zeros((num_envs, 2, 2), dtype=bool)
        self.first = np.full(num_envs, -1)
        self.reset(np.arange(num_envs))

    def __del__(self) -> None:
        for client in getattr(self, "_clients", ()):
            self._bullet.disconnect(client)

    def reset(self, seeds: Rows, ids: Rows | None = None) -> Observation:
        """Starts an episode in each simulation of `ids` (all when None), one seed each.

        The goal of the episode says which block belongs in which square: a state like those that
        demonstrations end in, both blocks about in the middle of their squares and the effector
        behind one of them.

        Returns:
            The observation (N, 32) of all simulations.
        """
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids)
        seeds = np.asarray(seeds)
        if seeds.shape != ids.shape:
            raise ValueError(f"seeds: got shape {seeds.shape}, expected {ids.shape}")
        table = self.table
        for i, seed in zip(ids, seeds, strict=True):
            rng = np.random.default_rng(int(seed) if self.start_seed is None else self.start_seed)
            places = self._places(rng)
            yaws = rng.uniform(-np.pi, np.pi, 2)
            x, spread = table.effector_start_m
            effector = np.array([x, 0.0]) + rng.uniform(-spread, spread, 2)
            self._build(int(i), places, yaws, effector)
            self.asked[i] = rng.permutation(2)
            self.goal[i] = self._draw_goal(rng, self.asked[i])
            self.state[i, 8:] = effector
            self.steps[i] = 0
            self.entered[i] = False
            self.first[i] = -1
            self._read(int(i))
        return self.observe()

    def _places(self, rng: np.random.Generator) -> Array:
        while True:
            x = rng.uniform(*self.table.starts_x_m, 2)
            y = rng.uniform(-self.table.starts_y_m, self.table.starts_y_m, 2)
            if np.hypot(x[0] - x[1], y[0] - y[1]) >= self.table.spacing_m:
                return np.stack([x, y], axis=1)

    def _draw_goal(self, rng: np.random.Generator, asked: Rows) -> Array:
        squares = np.array(self.table.squares_m)[asked]
        blocks = squares + rng.uniform(-0.015, 0.015, (2, 2))
        yaws = rng.uniform(-np.pi / 4, np.pi / 4, 2)
        last = int(rng.integers(2))
        middle = np.array([np.mean(self.table.starts_x_m), 0.0])
        back = middle - squares[last]
        distance = self.table.block_m / 2 + self.table.effector_radius_m
        effector = blocks[last] + distance * back / np.linalg.norm(back)
        return np.concatenate(
            [[*blocks[0], yaws[0], *blocks[1], yaws[1]], effector, effector]
        ).astype(np.float64)

    def _build(self, i: int, places: Array, yaws: Array, effector: Array) -> None:
        """Builds a table anew, so that nothing of the last episode is left in the solver."""
        b, client, t = self._bullet, self._clients[i], self.table
        b.resetSimulation(physicsClientId=client)
        b.setGravity(0, 0, -9.81, physicsClientId=client)
        b.setPhysicsEngineParameter(
            fixedTimeStep=1.0 / POLICY_HZ,
            numSubSteps=round(t.physics_hz / POLICY_HZ),
            numSolverIterations=20,
            deterministicOverlappingPairs=1,
            physicsClientId=client,
        )
        ground = b.createMultiBody(
            0,
            b.createCollisionShape(b.GEOM_BOX, halfExtents=[1, 1, 0.05], physicsClientId=client),
            basePosition=[0, 0, -0.05],
            physicsClientId=client,
        )
        b.changeDynamics(ground, -1, lateralFriction=t.friction_table, physicsClientId=client)
        half = t.block_m / 2
        cube = b.createCollisionShape(b.GEOM_BOX, halfExtents=[half] * 3, physicsClientId=client)
        blocks = []
        for (x, y), yaw in zip(places, yaws, strict=True):
            turn = b.getQuaternionFromEuler([0, 0, yaw])
            block = b.createMultiBody(
                t.block_kg, cube, -1, [x, y, half], turn, physicsClientId=client
            )
            b.changeDynamics(block, -1, lateralFriction=t.friction_block, physicsClientId=client)
            blocks.append(block)
        # Two sliding joints carry the effector; its middle is at the height of the blocks'.
        tip = b.createCollisionShape(
            b.GEOM_CYLINDER, radius=t.effector_radius_m, height=0.03, physicsClientId=client
        )
        pusher = b.createMultiBody(
            0,
            basePosition=[*effector, half + 0.002],
            linkMasses=[0.1, 0.3],
            linkCollisionShapeIndices=[-1, tip],
            linkVisualShapeIndices=[-1, -1],
            linkPositions=[[0, 0, 0]] * 2,
            linkOrientations=[[0, 0, 0, 1]] * 2,
            linkInertialFramePositions=[[0, 0, 0]] * 2,
            linkInertialFrameOrientations=[[0, 0, 0, 1]] * 2,
            linkParentIndices=[0, 1],
            linkJointTypes=[b.JOINT_PRISMATIC] * 2,
            linkJointAxis=[[1, 0, 0], [0, 1, 0]],
            physicsClientId=client,
        )
        b.changeDynamics(pusher, 1, lateralFriction=t.friction_block, physicsClientId=client)
        self._bodies[i] = (blocks[0], blocks[1], pusher)
        self._origin[i] = effector

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[Observation, NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[Any]]]:
        """One policy step in every simulation.

        Args:
            actions: (N, 2), displacement of the effector's target, m; clipped to the largest.

        Returns:
            Observation (N, 32), success (N,), done (N,) and info; see the class.
        """
        actions = np.asarray(actions, dtype=float)
        if actions.shape != (self.num_envs, 2):
            raise ValueError(f"actions: got shape {actions.shape}, expected ({self.num_envs}, 2)")
        t, b = self.table, self._bullet
        target = self.state[:, 8:] + np.clip(actions, -t.step_m, t.step_m)
        self.state[:, 8:] = np.clip(target, -t.reach_m, t.reach_m)
        for i, client in enumerate(self._clients):
            for axis in range(2):
                b.setJointMotorControl2(
                    self._bodies[i][2],
                    axis,
                    b.POSITION_CONTROL,
                    targetPosition=self.state[i, 8 + axis] - self._origin[i, axis],
                    force=t.force_n,
                    maxVelocity=t.speed_m_s,
                    positionGain=0.08,
                    physicsClientId=client,
                )
            b.stepSimulation(physicsClientId=client)
            self._read(i)
        self.steps += 1
        rows = np.arange(self.num_envs)[:, None]
        success = np.all(self.in_squares()[rows, [0, 1], self.asked], axis=1)
        done = success | (self.steps >= self.max_steps)
        return self.observe(), success, done, self._info()

    def _read(self, i: int) -> None:
        b, client, state = self._bullet, self._clients[i], self.state[i]
        *blocks, pusher = self._bodies[i]
        for k, block in enumerate(blocks):
            position, turn = b.getBasePositionAndOrientation(block, physicsClientId=client)
            yaw = b.getEulerFromQuaternion(turn)[2]
            # A cube looks alike after a quarter turn.
            yaw -= np.pi / 2 * np.round(yaw / (np.pi / 2))
            state[3 * k : 3 * k + 3] = *position[:2], yaw
        joints = b.getJointStates(pusher, [0, 1], physicsClientId=client)
        state[6:8] = self._origin[i] + [joint[0] for joint in joints]
        for block, square in np.argwhere(self.in_squares(i)):
            if not self.entered[i].any():
                self.first[i] = 2 * block + square
            self.entered[i, block, square] = True

    def in_squares(self, i: int | None = None) -> NDArray[np.bool_]:
        """Which block is in which square now, (N, block, square), or of one table (2, 2)."""
        distance = self._from_squares(self.state if i is None else self.state[i])
        return np.asarray(distance < self.table.inside_m)

    def _from_squares(self, state: Array) -> Array:
        """Distances of blocks from squares' centres, (..., block, square)."""
        blocks = np.stack([state[..., 0:2], state[..., 3:5]], axis=-2)
        offset = blocks[..., :, None, :] - np.array(self.table.squares_m)
        return np.asarray(np.linalg.norm(offset, axis=-1))

    def _info(self) -> dict[str, NDArray[Any]]:
        """Credit is given once: a block that has been in a square has earned it."""
        entered = self.entered
        one_each = (entered[:, 0, 0] & entered[:, 1, 1]) | (entered[:, 0, 1] & entered[:, 1, 0])
        reward = np.where(one_each, 1.0, np.where(entered.any((1, 2)), 0.5, 0.0))
        rows = np.arange(self.num_envs)[:, None]
        result = entered[rows, [0, 1], self.asked].mean(axis=1)
        now = self.in_squares()
        straight, crossed = now[:, 0, 0] & now[:, 1, 1], now[:, 0, 1] & now[:, 1, 0]
        assignment = np.where(straight, 0, np.where(crossed, 1, -1))
        return {
            "reward": reward,
            "result": result,
            "first": self.first.copy(),
            "assignment": assignment,
        }

    @staticmethod
    def measures(traces: Sequence[Mapping[str, Sequence[NDArray[Any]]]]) -> dict[str, Any]:
        """What the episodes came to beside success.

        Args:
            traces: the info of each episode, one entry per step.

        Returns:
            mean `reward` and `result`; `first_modes`: episodes per first entry, numbered 2 * block
            + square, and their spread, see sim.modes; `assignments`: episodes that ended with the
            red block in square 0 and in square 1.
        """
        end = {key: np.array([trace[key][-1] for trace in traces]) for key in traces[0]}
        first = [int((end["first"] == k).sum()) for k in range(4)]
        return {
            "reward": round(float(end["reward"].mean()), 4),
            "result": round(float(end["result"].mean()), 4),
            "first_modes": first,
            **spread(first),
            "assignments": [int((end["assignment"] == k).sum()) for k in range(2)],
        }

    def observe(self) -> Observation:
        """State, contact, place and goal, (N, 32)."""
        target = self.state[:, 8:]
        offsets = [target - self.state[:, start : start + 2] for start in (0, 3)]
        contact = [part for v in offsets for part in (v, np.tanh(v / FINE_RANGE_M))]
        place = np.tanh(self._from_squares(self.state) / FINE_RANGE_M).reshape(-1, 4)
        return np.concatenate([self.state, *contact, place, self.goal], axis=1).astype(np.float32)

    def achieved(self) -> Observation:
        """The present state as a goal, (N, 10)."""
        return self.state.astype(np.float32)

    def set_goal(self, goal: NDArray[np.floating[Any]], ids: Rows) -> None:
        """Asks for other states (n, 10) in simulations `ids` (n,).

        Raises:
            ValueError: another shape, or a state without one block in each square.
        """
        goal = np.asarray(goal, dtype=float)
        if goal.shape != (len(ids), 10):
            raise ValueError(f"goal: got shape {goal.shape}, expected ({len(ids)}, 10)")
        squares = np.array(self.table.squares_m)
        blocks = np.stack([goal[:, 0:2], goal[:, 3:5]], axis=1)
        asked = np.linalg.norm(blocks[:, :, None] - squares, axis=-1).argmin(axis=2)
        if (asked[:, 0] == asked[:, 1]).any():
            raise ValueError("goal: got two blocks in one square, expected one in each")
        self.goal[ids], self.asked[ids] = goal, asked

    def render(self, i: int = 0, size: int = 360) -> NDArray[np.uint8]:
        """Table `i` from above, (size, size, 3) RGB: x to the right, y up."""
        cv2: Any = importlib.import_module("cv2")
        t = self.table
        picture = np.full((size, size, 3), 245, dtype=np.uint8)
        scale = size / (2.2 * t.reach_m)

        def pixel(xy: Array) -> tuple[int, int]:
            return round(size / 2 + scale * float(xy[0])), round(size / 2 - scale * float(xy[1]))

        for square in t.squares_m:
            corner = np.full(2, t.inside_m)
            low, high = pixel(np.array(square) - corner), pixel(np.array(square) + corner)
            cv2.rectangle(picture, low, high, (190, 190, 190), 2)
        for state, filled in ((self.goal[i], False), (self.state[i], True)):
            for k, colour in enumerate(((205, 60, 50), (50, 150, 70))):
                x, y, yaw = state[3 * k : 3 * k + 3]
                turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
                corners = t.block_m / 2 * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) @ turn.T
                points = np.array([pixel(corner + (x, y)) for corner in corners])
                if filled:
                    cv2.fillConvexPoly(picture, points, colour, cv2.LINE_AA)
                else:
                    cv2.polylines(picture, [points], True, colour, 1, cv2.LINE_AA)
        radius = round(scale * t.effector_radius_m)
        cv2.circle(picture, pixel(self.state[i, 6:8]), radius, (60, 60, 60), -1, cv2.LINE_AA)
        return picture
