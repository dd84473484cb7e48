"""Task kitchen: a Franka arm does four of seven things in a kitchen, in whichever order.

FrankaKitchen-v1 of gymnasium-robotics (Gupta et al. 2019, relay policy learning; Fu et al. 2020,
D4RL), the second benchmark of BESO (Reuss et al. 2023, section V). Model, physics, start, noise,
commands, and what counts as done are its own; what is added here is a batch, a spec and goals. A
policy sees the published thirty numbers, nine of the robot and 21 of what can be moved; it commands
the published nine joint velocities at 12.5 Hz; a goal is a state of what can be moved. `reward`
counts the things done, whichever they are, four at most, and `result` those that were asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from policies.spec import Field, Spec
from sim.modes import spread

Array = NDArray[np.float64]
Observation = NDArray[np.float32]
Rows = NDArray[np.int_]

ENVIRONMENT = "FrankaKitchen-v1"
POLICY_HZ = 12.5
ASKED = 4
# Of a goal's numbers, rad or m: what is asked for moves farther.
MOVED = 0.01
# The published start is no rest: the kettle's quaternion has not even unit length.
SETTLING_STEPS = 5
JOINTS = 9
SUBTASKS = (
    "microwave",
    "kettle",
    "bottom burner",
    "top burner",
    "light switch",
    "slide cabinet",
    "hinge cabinet",
)
_JOINT_NAMES = (*(f"joint_{k}" for k in range(1, 8)), "right_finger", "left_finger")
_OBJECT_NAMES = (
    *(f"{part}_{k}" for k in range(1, 5) for part in ("knob", "burner")),
    *("light_switch", "light", "slide_cabinet", "left_hinge_cabinet", "right_hinge_cabinet"),
    *("microwave", *(f"kettle_{part}" for part in ("x", "y", "z", "qw", "qx", "qy", "qz"))),
)
KITCHEN_SPEC = Spec(
    observation=(
        Field("observation.state.joints", (JOINTS,), "rad,m", "none", _JOINT_NAMES),
        Field("observation.state.objects", (21,), "rad,m,1", "world", _OBJECT_NAMES),
    ),
    goal=(Field("goal.objects", (21,), "rad,m,1", "world", _OBJECT_NAMES),),
    # Shares of 2 rad/s, or of 2 m/s for the fingers.
    action=(Field("action", (JOINTS,), "1", "none", tuple(f"{n}_velocity" for n in _JOINT_NAMES)),),
    rate_hz=POLICY_HZ,
)


def load_kitchen() -> tuple[Any, Any]:
    """The published environment with all seven sub-tasks, and the module that defines them.

    Raises:
        ValueError: gymnasium-robotics is not installed.
    """
    try:
        # At import it would print, to whoever runs whatever, a notice about the rewards of hands.
        importlib.import_module("farama_notifications").notifications.pop("gymnasium_robotics", "")
        package = "gymnasium_robotics.envs.franka_kitchen"
        definition = importlib.import_module(f"{package}.kitchen_env")
        robot: Any = importlib.import_module(f"{package}.franka_env")
    except ImportError:
        raise ValueError(
            "gymnasium-robotics: not installed, expected it: `make setup-train`"
        ) from None
    # It looks joint types up in tuples of MuJoCo's enumeration, which since MuJoCo 3.12 finds no
    # number of the model's arrays there. The robot's joints come first, one number each.
    robot.robot_get_obs = _robot_readings
    kitchen = definition.KitchenEnv(
        terminate_on_tasks_completed=False, remove_task_when_completed=False
    )
    return kitchen, definition


def _robot_readings(
    model: mujoco.MjModel, data: mujoco.MjData, joint_names: Sequence[str]
) -> tuple[Array, Array]:
    """Positions and velocities (9,) of the robot's joints."""
    del model
    count = sum(name.startswith("robot") for name in joint_names)
    return data.qpos[:count].copy(), data.qvel[:count].copy()


class KitchenBatch:
    """N kitchens.

    One published environment is loaded and the state of each simulation put into it in turn: a
    model is 50 MB of meshes. The info of a step has `reward` and `result` (N,), sub-tasks done of
    any four and of those asked for; `completed` and `asked` (N, 7), in the order of SUBTASKS;
    `first` (N,), the sub-task that was done first, -1 before.

    Args:
        num_envs: N.
        level: only "med", the environment's own noise.
        nthread: not used; a kitchen is one thread's work.

    Attributes:
        start_seed: where set, every episode has the start and the goal of this seed; noise of
            readings still follows the episode's own.

    Raises:
        ValueError: gymnasium-robotics is not installed, or another level.
    """

    spec = KITCHEN_SPEC
    control_hz = POLICY_HZ

    def __init__(self, num_envs: int, level: str = "med", nthread: int = 0) -> None:
        del nthread
        if level != "med":
            raise ValueError(f"level: got {level!r}, expected med: kitchen has but one")
        self.kitchen, definition = load_kitchen()
        self.model: mujoco.MjModel = self.kitchen.model
        self.num_envs = num_envs
        self.start_seed: int | None = None
        registered = importlib.import_module("gymnasium").spec(ENVIRONMENT)
        self.max_steps: int = registered.max_episode_steps
        self.threshold: float = definition.BONUS_THRESH
        # Indices into the 21 numbers, and the values at which each is done.
        self.columns: dict[str, Rows] = {
            name: definition.OBS_ELEMENT_INDICES[name] - JOINTS for name in SUBTASKS
        }
        self.done_at: dict[str, Array] = {
            name: np.array(definition.OBS_ELEMENT_GOALS[name], dtype=float) for name in SUBTASKS
        }
        content = {name: value.tolist() for name, value in self.done_at.items()}
        described = json.dumps([ENVIRONMENT, self.max_steps, content], sort_keys=True)
        self.hardware_hash = hashlib.sha256(described.encode()).hexdigest()
        self.kitchen.reset(seed=0)
        for _ in range(SETTLING_STEPS):
            self.kitchen.step(np.zeros(JOINTS))
        self._at_rest: Array = self.kitchen.data.qpos[JOINTS:].copy()
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._states = np.zeros((num_envs, mujoco.mj_stateSize(self.model, self._kind)))
        self._rngs: list[Any] = [None] * num_envs
        self.qpos = np.zeros((num_envs, self.model.nq))
        self.qvel = np.zeros((num_envs, self.model.nv))
        self.readings = np.zeros((num_envs, JOINTS + 21))
        self.goal = np.zeros((num_envs, 21))
        self.asked = np.zeros((num_envs, len(SUBTASKS)), dtype=bool)
        self.completed = np.zeros((num_envs, len(SUBTASKS)), dtype=bool)
        self.first = np.full(num_envs, -1)
        self.steps = np.zeros(num_envs, dtype=int)
        self.seeds = np.zeros(num_envs, dtype=np.int64)
        self.reset(np.arange(num_envs))

    def reset(self, seeds: Rows, ids: Rows | None = None) -> Observation:
        """Starts an episode in each simulation of `ids` (all when None), one seed each.

        The start is always the published one. Which four sub-tasks are asked for is drawn.

        Returns:
            The observation (N, 51) of all simulations.
        """
        ids = np.arange(self.num_envs) if ids is None else np.asarray(ids)
        seeds = np.asarray(seeds)
        if seeds.shape != ids.shape:
            raise ValueError(f"seeds: got shape {seeds.shape}, expected {ids.shape}")
        for i, seed in zip(ids, seeds, strict=True):
            observation = self.kitchen.reset(seed=int(seed))[0]["observation"]
            self._rngs[i] = self.kitchen.robot_env.np_random
            self._leave(int(i), observation)
            draw = np.random.default_rng(
                [int(seed) if self.start_seed is None else self.start_seed, 3]
            )
            chosen = draw.permutation(len(SUBTASKS))[:ASKED]
            self._ask(int(i), self.goal_of([SUBTASKS[k] for k in chosen]))
            self.completed[i] = False
            self.first[i], self.steps[i], self.seeds[i] = -1, 0, seed
        return self.observe()

    def goal_of(self, subtasks: Sequence[str]) -> Array:
        """The state (21,) in which `subtasks` are done and all else is as it comes to rest.

        Where the published values contradict what a mechanism couples, a knob and its burner, the
        mechanism holds; a kettle keeps its orientation, and what they move by less than MOVED stays
        at rest.
        """
        goal = self._at_rest.copy()
        for name in subtasks:
            columns, values = self.columns[name][:3], self.done_at[name][:3]
            moved = np.abs(values - goal[columns]) > MOVED
            goal[columns[moved]] = values[moved]
        for joint, other, ratio in self._couplings():
            goal[other] = goal[joint] / ratio
        return np.asarray(goal)

    def _couplings(self) -> list[tuple[int, int, float]]:
        """Pairs of columns of the 21 of which the first is `ratio` times the second."""
        model = self.model
        return [
            (
                int(model.jnt_qposadr[model.eq_obj1id[k]]) - JOINTS,
                int(model.jnt_qposadr[model.eq_obj2id[k]]) - JOINTS,
                float(model.eq_data[k, 1]),
            )
            for k in range(model.neq)
        ]

    def step(
        self, actions: NDArray[np.floating[Any]]
    ) -> tuple[Observation, NDArray[np.bool_], NDArray[np.bool_], dict[str, NDArray[Any]]]:
        """One policy step in every simulation.

        Args:
            actions: (N, 9), joint velocities as shares of 2 rad/s, for the fingers of 2 m/s;
                clipped to +-1.

        Returns:
            Observation (N, 51), success (N,), done (N,) and info; see the class.
        """
        actions = np.asarray(actions, dtype=float)
        if actions.shape != (self.num_envs, JOINTS):
            raise ValueError(
                f"actions: got shape {actions.shape}, expected ({self.num_envs}, {JOINTS})"
            )
        for i in range(self.num_envs):
            self._enter(i)
            observation, _, _, _, info = self.kitchen.step(actions[i])
            self._leave(i, observation["observation"])
            for name in info["step_task_completions"]:
                if not self.completed[i].any():
                    self.first[i] = SUBTASKS.index(name)
                self.completed[i, SUBTASKS.index(name)] = True
        self.steps += 1
        success = np.asarray((self.completed | ~self.asked).all(axis=1))
        done = success | (self.steps >= self.max_steps)
        return self.observe(), success, done, self._info()

    def _enter(self, i: int) -> None:
        """Puts simulation `i` into the environment: physics, noise, and its last reading, from
        which it takes a commanded velocity to be meant.
        """
        robot = self.kitchen.robot_env
        mujoco.mj_setState(self.model, self.kitchen.data, self._states[i], self._kind)
        robot.np_random = self._rngs[i]
        robot._last_robot_qpos = self.readings[i, :JOINTS].copy()

    def _leave(self, i: int, observation: Array) -> None:
        data = self.kitchen.data
        mujoco.mj_getState(self.model, data, self._states[i], self._kind)
        self.qpos[i], self.qvel[i] = data.qpos, data.qvel
        # Of its 59 numbers the velocities are left out, as in the paper.
        nv = self.model.nv
        self.readings[i, :JOINTS] = observation[:JOINTS]
        self.readings[i, JOINTS:] = observation[2 * JOINTS : len(observation) - (nv - JOINTS)]

    def _info(self) -> dict[str, NDArray[Any]]:
        return {
            "reward": np.minimum(self.completed.sum(axis=1), ASKED).astype(float),
            "result": (self.completed & self.asked).sum(axis=1).astype(float),
            "completed": self.completed.copy(),
            "asked": self.asked.copy(),
            "first": self.first.copy(),
        }

    @staticmethod
    def measures(traces: Sequence[Mapping[str, Sequence[NDArray[Any]]]]) -> dict[str, Any]:
        """What the episodes came to beside success.

        Args:
            traces: the info of each episode, one entry per step.

        Returns:
            mean `reward` and `result`, of 4; `subtasks`: by name, how often it was done and how
            often it was asked for, [done when asked, asked]; `unasked`: sub-tasks done per episode
            that were not asked for; `first_modes`: episodes per first sub-task, in the order of
            SUBTASKS, and their spread, see sim.modes.
        """
        end = {key: np.array([trace[key][-1] for trace in traces]) for key in traces[0]}
        completed, asked = end["completed"], end["asked"]
        first = [int((end["first"] == k).sum()) for k in range(len(SUBTASKS))]
        return {
            "reward": round(float(end["reward"].mean()), 4),
            "result": round(float(end["result"].mean()), 4),
            "subtasks": {
                name: [int((completed & asked)[:, k].sum()), int(asked[:, k].sum())]
                for k, name in enumerate(SUBTASKS)
            },
            "unasked": round(float((completed & ~asked).sum(axis=1).mean()), 4),
            "first_modes": first,
            **spread(first),
        }

    def observe(self) -> Observation:
        """The published thirty numbers, and the goal, (N, 51)."""
        return np.concatenate([self.readings, self.goal], axis=1).astype(np.float32)

    def achieved(self) -> Observation:
        """What can be moved, as it is read, as a goal, (N, 21)."""
        return self.readings[:, JOINTS:].astype(np.float32)

    def signals(self, noisy: bool = False) -> KitchenBatch:
        """What the scripted expert acts on: the simulations themselves, as they truly are."""
        del noisy
        return self

    def set_goal(self, goal: NDArray[np.floating[Any]], ids: Rows) -> None:
        """Asks for other states (n, 21) in simulations `ids` (n,): for the sub-tasks done there.

        Raises:
            ValueError: another shape, or a state in which nothing is done.
        """
        states: Array = np.asarray(goal, dtype=np.float64)
        if states.shape != (len(ids), 21):
            raise ValueError(f"goal: got shape {states.shape}, expected ({len(ids)}, 21)")
        if not self.done_in(states).any(axis=1).all():
            raise ValueError("goal: got a state in which nothing is done, expected one to reach")
        for i, state in zip(ids, states, strict=True):
            self._ask(int(i), state)

    def _ask(self, i: int, goal: Array) -> None:
        self.goal[i], self.asked[i] = goal, self.done_in(goal)

    def done_in(self, objects: Array) -> NDArray[np.bool_]:
        """Which sub-tasks (..., 7) are done in states (..., 21), by the published distances."""
        distances = [
            np.linalg.norm(objects[..., self.columns[name]] - self.done_at[name], axis=-1)
            for name in SUBTASKS
        ]
        return np.asarray(np.stack(distances, axis=-1) < self.threshold)
