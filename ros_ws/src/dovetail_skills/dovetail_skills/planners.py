"""What decides a skill's next actions: a policy bundle, or a script that goes home.

Both answer the same question with the same thing, a chunk of actions from the present state, so
that a scripted skill passes through the same controller and the same limits as a learned one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.bundle import BundleError, Float32Array, load_bundle
from policies.continuation import DEFAULT, DelayEstimate, Handover, longest_delay
from policies.control import Chain, so3
from policies.features import ACTION, POLICY_HZ, Signals, observe
from policies.objects import Objects
from policies.pose_filter import PoseFilter
from policies.runtime import Policy

Array = NDArray[np.float64]
Pose = tuple[Array, Array]


@dataclass(frozen=True)
class Readings:
    """What a planner may look at, all of one moment, base frame; poses are (3,) and (3, 3).

    Attributes:
        step: policy steps that control has consumed.
        holding: whether control has no action to execute.
        boundary_s: robot time of that boundary between two policy steps.
        q_rad, dq_rad_s: measured joints (n,).
        gripper_width_m, gripper_target_m: measured and commanded opening.
        target: tool pose that the next action starts from.
        parts, sockets: poses by name, as perceived.
    """

    step: int
    holding: bool
    boundary_s: float
    q_rad: Array
    dq_rad_s: Array
    gripper_width_m: float
    gripper_target_m: float
    target: Pose
    parts: dict[str, Pose]
    sockets: dict[str, Pose]


class Planner(Protocol):
    """Plans chunks for one run of a skill.

    Attributes:
        execute_steps: steps to execute of a chunk before the next is due.
        refinement_ms: wall clock of each correction.
    """

    execute_steps: int
    refinement_ms: list[float]

    def see(self, readings: Readings) -> Readings:
        """Takes the readings of one policy step; those to act on, filtered where that is known."""

    def refine(self, readings: Readings) -> Array | None:
        """Actions (n, A) from the present step on, corrected, where a chunk is being executed.

        It has to be quick. None where there is nothing to correct.
        """

    def plan(self, readings: Readings) -> Array | None:
        """Actions (H, A) from the present state; may take as long as an inference takes.

        None when `refine` will hand them out.
        """

    @property
    def finished(self) -> bool:
        """Whether the planner itself has nothing left to do."""


class LearnedModel:
    """A verified, warmed-up bundle, shared by all runs of its skill.

    Args:
        bundle: name or path.
        task: the task it has to be trained for.
        config: the robot.

    Attributes:
        longest_delay: policy steps that a chunk may take without the robot having to hold.

    Raises:
        BundleError: the bundle cannot be used here, and why.
    """

    def __init__(self, bundle: str, task: str, config: HardwareConfig) -> None:
        self.bundle = load_bundle(bundle, hardware_hash=config.hash)
        name, manifest = self.bundle.name, self.bundle.manifest
        if manifest.task != task:
            raise BundleError(f"{name}:task: got {manifest.task!r}, expected {task!r}")
        names = tuple(n for field in self.bundle.spec.action for n in field.names)
        if names != ACTION.names:
            raise BundleError(
                f"{name}:spec.action: got {list(names)}, expected {list(ACTION.names)}"
            )
        if self.bundle.rate_hz != POLICY_HZ:
            raise BundleError(
                f"{name}:spec.rate_hz: got {self.bundle.rate_hz:g}, expected {POLICY_HZ:g}"
            )
        horizon, stale_s = self.bundle.horizon, config.safety.chunk_stale_s

        def longest(execute_steps: int) -> int:
            return longest_delay(horizon, execute_steps, POLICY_HZ, stale_s)

        # Inference takes a step at least: while the next chunk is made the last one is executed.
        self.longest_delay = longest(self.bundle.execute_steps)
        if self.longest_delay < 1:
            most = max((k for k in range(1, horizon) if longest(k) >= 1), default=0)
            raise BundleError(
                f"{name}:execute_steps: got {self.bundle.execute_steps}, expected at most {most} "
                f"(horizon {horizon}, chunk_stale_s {stale_s:g})"
            )
        self.policy = Policy(self.bundle)
        self.policy.warm_up()
        self.chain = Chain.from_config(config)


class LearnedPlanner:
    """Asks a policy for chunks that take over from the one in execution.

    Part and socket are filtered and chunks are timed as in simulation: a chunk takes over at the
    step after that of its observation. A policy with a residual has each action corrected from the
    readings of the moment it begins with.

    Args:
        model: the policy.
        objects: the catalogue, for symmetries and grasps.
        part: the part to handle.
        socket: where it belongs.
        seed: of the sampler's noise.
        now_s: robot time.
        handover: how chunks take over.
        grasp_shift_m: where the part is to be held, along its x from where the catalogue says.

    """

    finished = True

    def __init__(
        self,
        model: LearnedModel,
        objects: Objects,
        part: str,
        socket: str,
        seed: int,
        now_s: Callable[[], float],
        handover: Handover = DEFAULT,
        grasp_shift_m: float = 0.0,
    ) -> None:
        self._model = model
        self._part, self._socket = part, socket
        kind = objects.parts[part]
        self._symmetry, self._grasp_symmetry = kind.symmetry, kind.grasp_symmetry
        self._grasp_offset_m = np.array(kind.grasp_offset_m) + [grasp_shift_m, 0.0, 0.0]
        self._rng = np.random.default_rng(seed)
        self._filter = PoseFilter(1)
        self.execute_steps = model.bundle.execute_steps
        self.refinement_ms: list[float] = []
        self._now_s = now_s
        self._handover = handover.within(model.bundle.continues)
        self._delay = DelayEstimate(POLICY_HZ, model.longest_delay)
        # The last chunk and the step of its observation.
        self._last: tuple[Array, int] | None = None

    def see(self, readings: Readings) -> Readings:
        """See Planner."""
        if self._missing(readings):
            return readings
        part, socket = self._filter.update(np.array([0]), self._signals(readings))
        return replace(
            readings,
            parts=readings.parts | {self._part: (part[0][0], part[1][0])},
            sockets=readings.sockets | {self._socket: (socket[0][0], socket[1][0])},
        )

    def refine(self, readings: Readings) -> Array | None:
        """See Planner.

        Raises:
            ValueError: the policy answered nothing usable.
        """
        if readings.holding or self._missing(readings) or not self._model.policy.refines:
            return None
        rows = self._remaining(readings.step)
        if not len(rows):
            return None
        start_s = time.monotonic()
        refined = self._refined(rows, self._observe(readings))
        self.refinement_ms.append((time.monotonic() - start_s) * 1e3)
        return refined

    def plan(self, readings: Readings) -> Array | None:
        """See Planner.

        Raises:
            ValueError: part or socket is not perceived, or the policy answered nothing usable.
        """
        missing = self._missing(readings)
        if missing:
            raise ValueError(f"{missing}: not perceived")
        policy = self._model.policy
        observation = self._observe(readings)
        noise = self._rng.standard_normal((1, *policy.bundle.noise_shape), dtype=np.float32)
        moving = self._last is not None and not readings.holding
        last = [(self._last[0], readings.step - self._last[1]) if self._last and moving else None]
        chunks = self._handover.infer(policy.infer, observation, noise, last, self._delay.steps)
        chunk = np.asarray(chunks[0], dtype=float)
        if moving:
            # What is decided for the step of the observation stays, however soon this arrives.
            decided = self._remaining(readings.step)[:1]
            chunk[: len(decided)] = decided
        self._last = chunk, readings.step
        self._delay.add(self._now_s() - readings.boundary_s)
        if not policy.refines:
            return chunk
        return None if moving else self._refined(chunk, observation)

    def _missing(self, readings: Readings) -> str:
        if self._part not in readings.parts:
            return self._part
        return "" if self._socket in readings.sockets else self._socket

    def _remaining(self, step: int) -> Array:
        """What the last chunk has from a step on, (n, A)."""
        if self._last is None:
            return np.zeros((0, len(ACTION.names)))
        chunk, first_step = self._last
        return chunk[max(step - first_step, 0) :]

    def _refined(self, rows: Array, observation: Float32Array) -> Array:
        rows = rows.copy()
        rows[:1] = self._model.policy.refine(observation, rows[:1])
        return rows

    def _observe(self, readings: Readings) -> Float32Array:
        spec = self._model.bundle.spec
        return spec.flatten_observation(observe(spec, self._signals(readings)))

    def _signals(self, readings: Readings) -> Signals:
        position, rotation, jacobian = self._model.chain.forward_and_jacobian(readings.q_rad[None])
        part, socket = readings.parts[self._part], readings.sockets[self._socket]
        return Signals(
            tool_position=position,
            tool_rotation=rotation,
            tool_velocity=np.einsum("bij,bj->bi", jacobian, readings.dq_rad_s[None]),
            target_position=readings.target[0][None],
            target_rotation=readings.target[1][None],
            gripper_width=np.array([readings.gripper_width_m]),
            gripper_target=np.array([readings.gripper_target_m]),
            part_position=part[0][None],
            part_rotation=part[1][None],
            socket_position=socket[0][None],
            socket_rotation=socket[1][None],
            symmetry=np.array([self._symmetry]),
            grasp_offset_m=self._grasp_offset_m[None],
            grasp_symmetry=np.array([self._grasp_symmetry]),
        )


class HomePlanner:
    """Rises to the height of home, then goes home; with `release` it opens the fingers first.

    Args:
        config: the robot.
        release: whether to let go before moving.
    """

    execute_steps = 2
    HORIZON = 5
    STEP_M, STEP_RAD, STEP_CHANGE_M = 0.03, 0.15, 0.01
    GAIN = 0.5
    RELEASE_WIDTH_M = 0.045
    CLEAR_M, ARRIVED_M, ARRIVED_RAD = 0.03, 0.003, 0.02

    def __init__(self, config: HardwareConfig, release: bool) -> None:
        chain = Chain.from_config(config)
        position, rotation = chain.forward(np.array(config.home_rad)[None])
        self._home = position[0], rotation[0]
        self._open_m = config.gripper.width_max_m
        self._release = release
        self._last_m = np.zeros(3)
        self.refinement_ms: list[float] = []
        self.finished = False

    def see(self, readings: Readings) -> Readings:
        """See Planner."""
        return readings

    def refine(self, readings: Readings) -> Array | None:
        """See Planner."""
        return None

    def plan(self, readings: Readings) -> Array:
        """See Planner."""
        position, rotation = readings.target[0].copy(), readings.target[1].copy()
        self.finished = self._arrived(position, rotation) and (
            readings.gripper_width_m > self._open_m - 2 * self.ARRIVED_M
        )
        wait = self._release and readings.gripper_width_m < self.RELEASE_WIDTH_M - self.ARRIVED_M
        actions = np.zeros((self.HORIZON, 7))
        last_m = self._last_m
        for i, action in enumerate(actions):
            low = position[2] < self._home[0][2] - self.CLEAR_M
            # Open wide only when clear of what stands on the table.
            release_m = self.RELEASE_WIDTH_M if self._release else 0.0
            action[6] = max(release_m, readings.gripper_target_m) if low else self._open_m
            if wait:
                continue
            goal = np.array([*position[:2], self._home[0][2]]) if low else self._home[0]
            # Starts gently; the proportional part stops gently.
            wish_m = _limit(self.GAIN * (goal - position), self.STEP_M)
            last_m = last_m + _limit(wish_m - last_m, self.STEP_CHANGE_M)
            turn = np.zeros(3)
            if not low:
                turn = _limit(self.GAIN * so3.log(rotation.T @ self._home[1]), self.STEP_RAD)
            action[:3], action[3:6] = rotation.T @ last_m, turn
            position, rotation = position + last_m, rotation @ so3.exp(turn)
            if i + 1 == self.execute_steps:
                self._last_m = last_m
        return actions

    def _arrived(self, position: Array, rotation: Array) -> bool:
        turn = so3.log(rotation.T @ self._home[1])
        return bool(
            np.linalg.norm(position - self._home[0]) < self.ARRIVED_M
            and np.linalg.norm(turn) < self.ARRIVED_RAD
        )


def _limit(vector: Array, limit: float) -> Array:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-12))
