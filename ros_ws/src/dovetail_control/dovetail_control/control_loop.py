"""What the control node does, without ROS: chunks and joint readings in, joint commands out.

The loop counts the policy steps it has really consumed, asks the chunk buffer for the action of the
next one and lets the one controller turn it into joint commands. It holds when there is no action
for the step, when the chunk or the joint readings are stale, or before anything has come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware_configs import HardwareConfig
from policies.chunks import Chunk, ChunkBuffer
from policies.control import Controller, JointCommand

Array = NDArray[np.float64]

RATE_TOLERANCE = 1e-3
# A policy step is corrected from the readings of the moment it began with, so the correction comes
# when it is under way. Until then the step has hardly turned to its target; later it is too late.
CORRECTION_S = 0.03


class ChunkRefused(ValueError):
    """A chunk that must not be executed, and why."""


@dataclass(frozen=True)
class Joints:
    """A joint reading: angles and velocities (n,), gripper width, robot time of the reading."""

    q_rad: Array
    dq_rad_s: Array
    gripper_width_m: float
    stamp_s: float


@dataclass(frozen=True)
class ChunkMessage:
    """A chunk as it comes over the wire; see dovetail_interfaces/msg/ActionChunk."""

    goal_id: str
    first_step: int
    stamp_s: float
    step_s: float
    action_names: tuple[str, ...]
    horizon: int
    data: Array
    hardware_hash: str


class ControlLoop:
    """One robot's control loop.

    Args:
        config: the robot.
        action_names: names of the action's columns, in order.
        action_hz: policy steps per second.

    Attributes:
        hold_reason: why the robot is held; empty while a chunk is executed.
        goal_id: skill goal of the newest chunk.
        rejected_chunks: chunks refused so far.
        late_corrections: corrections of an action that came too late for it.
        boundary: whether the last cycle began a policy step, or a hold, or kept one at its rate.
    """

    def __init__(
        self, config: HardwareConfig, action_names: tuple[str, ...], action_hz: float
    ) -> None:
        self._config = config
        self._names = action_names
        self._action_hz = action_hz
        self._joints_stale_s = config.topics["joint_states"].stale_s
        self.controller = Controller(config, action_hz)
        self._buffer = ChunkBuffer(execute_steps=1, stale_s=config.safety.chunk_stale_s)
        self.goal_id = ""
        self.hold_reason = "not started"
        self.rejected_chunks = 0
        self.late_corrections = 0
        self.boundary = True
        self._correction_ticks = max(round(CORRECTION_S * config.rates.control_hz), 1)
        self._tick = 0
        self._action: NDArray[np.floating] | None = None
        self._anchored = False
        self._chunk_stamp_s = -math.inf
        self._counted: dict[str, int] = {}

    @property
    def step(self) -> int:
        """Policy steps consumed so far."""
        return self._buffer.step

    @property
    def target(self) -> tuple[Array, Array]:
        """Tool pose (3,), (3, 3) that the next action starts from, in the base frame."""
        controller, held = self.controller, self.controller.filter
        if self.hold_reason:
            return held.tool_position_m[0], held.tool_rotation[0]
        return controller.target_position_m[0], controller.target_rotation[0]

    @property
    def interventions(self) -> dict[str, int]:
        """Safety interventions by kind since the start, over all anchorings."""
        present = {kind: int(n[0]) for kind, n in self.controller.interventions.items()}
        return {kind: n + self._counted.get(kind, 0) for kind, n in present.items()}

    def anchor(self, joints: Joints, now_s: float) -> None:
        """Takes the measured posture as the command to hold; forgets the chunk."""
        self._counted = self.interventions
        self.controller.reset(joints.q_rad[None], np.array([joints.gripper_width_m]))
        self.release("anchored", now_s)
        self._anchored = True

    def release(self, reason: str, now_s: float) -> None:
        """Forgets the chunk and holds; chunks of observations before now are not taken any more."""
        self._buffer.clear(now_s)
        self.goal_id = ""
        self._hold(reason)

    def push(self, message: ChunkMessage, now_s: float) -> None:
        """Takes a chunk for execution; an empty one ends the execution of the last.

        Raises:
            ChunkRefused: the chunk is not for this robot or not well formed; the robot holds.
        """
        if message.horizon == 0 and message.data.size == 0:
            self.release("skill ended", now_s)
            return
        try:
            chunk = self._read(message)
        except ValueError as problem:
            self.rejected_chunks += 1
            self.release("chunk refused", now_s)
            raise ChunkRefused(str(problem)) from None
        if self.goal_id and message.goal_id != self.goal_id:
            # What another goal left counts for nothing, whatever its steps are.
            self._buffer.clear(math.nextafter(min(now_s, chunk.stamp_s), -math.inf))
        if self._buffer.push(chunk):
            self.goal_id = message.goal_id
            self._chunk_stamp_s = chunk.stamp_s
            if chunk.first_step == self.step - 1 and not self.hold_reason:
                self._correct(chunk.actions[0])

    def begin_cycle(self, joints: Joints | None, now_s: float) -> bool:
        """Decides about this cycle before anything moves.

        Returns:
            Whether this is a boundary between two policy steps: the state is to be published now,
            before `command`.
        """
        problem = self._problem(joints, now_s)
        if not problem and not self._anchored and joints is not None:
            self.anchor(joints, now_s)
        ticks = self.controller.ticks_per_step
        waiting = bool(self.hold_reason)
        if not waiting and not problem and now_s - self._chunk_stamp_s > self._buffer.stale_s:
            # Not even the step in progress is finished on what has gone stale.
            problem = self._why_no_action()
        self._tick = (self._tick + 1) % ticks
        # A hold ends at once when a chunk has come, instead of at the old step's boundary.
        ready = waiting and self._buffer.action_at(self.step, now_s) is not None
        if problem and not waiting:
            self._hold(problem)
            self._tick = 0
        elif ready and not problem:
            self._tick = 0
        self.boundary = self._tick == 0
        return self.boundary

    def command(self, joints: Joints, now_s: float) -> JointCommand:
        """Finishes the cycle: begins the next policy step at a boundary, then one control tick."""
        if self.boundary and self._anchored and not self._problem(joints, now_s):
            action = self._buffer.take(now_s)
            if action is None:
                self._hold(self._why_no_action())
            else:
                self.hold_reason = ""
                self._action = action
                self.controller.begin_step(np.asarray(action, dtype=float)[None])
        return self.controller.tick(joints.q_rad[None])

    def _correct(self, action: NDArray[np.floating]) -> None:
        """Takes another action for the step in progress, if it has only begun."""
        if self._action is not None and np.array_equal(action, self._action):
            return
        if self._tick >= self._correction_ticks:
            self.late_corrections += 1
            return
        self._action = action
        self.controller.amend_step(np.asarray(action, dtype=float)[None])

    def _hold(self, reason: str) -> None:
        self.hold_reason = reason
        self.controller.hold()

    def _problem(self, joints: Joints | None, now_s: float) -> str:
        if joints is None:
            return "no joint states"
        age_s = now_s - joints.stamp_s
        if not abs(age_s) <= self._joints_stale_s:
            return f"joint states are {age_s:.3f} s old, stale after {self._joints_stale_s:g} s"
        return ""

    def _why_no_action(self) -> str:
        if not self.goal_id:
            return self.hold_reason or "no chunk"
        return f"no chunk for step {self.step} younger than {self._buffer.stale_s:g} s"

    def _read(self, message: ChunkMessage) -> Chunk:
        if message.hardware_hash != self._config.hash:
            raise ChunkRefused(
                f"chunk:hardware_hash: got {message.hardware_hash!r}, expected "
                f"{self._config.hash!r}, the hash of this robot's hardware config"
            )
        if message.action_names != self._names:
            raise ChunkRefused(
                f"chunk:action_names: got {list(message.action_names)}, "
                f"expected {list(self._names)}"
            )
        if not math.isclose(message.step_s * self._action_hz, 1.0, rel_tol=RATE_TOLERANCE):
            raise ChunkRefused(
                f"chunk:step_s: got {message.step_s:g}, expected {1.0 / self._action_hz:g}"
            )
        size = message.horizon * len(self._names)
        if message.horizon < 1 or message.data.shape != (size,):
            raise ChunkRefused(
                f"chunk:data: got {message.data.size} values, expected {size} "
                f"(horizon {message.horizon} x {len(self._names)} actions)"
            )
        actions = message.data.reshape(message.horizon, len(self._names))
        return Chunk(message.first_step, message.stamp_s, actions)
