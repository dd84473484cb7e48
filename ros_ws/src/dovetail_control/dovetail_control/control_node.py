"""The control node: runs the control loop at the robot's own rate.

Where joint states come at a whole multiple of that rate, each cycle is set off by a reading, so
that a command follows its reading at once whatever the phase of the two clocks. A timer sets off
the cycle when no reading comes.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from dovetail_interfaces.msg import ActionChunk, ControlState
from dovetail_lifecycle import DovetailNode, poses, run
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.task import Future
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dovetail_control.control_loop import ChunkMessage, ChunkRefused, ControlLoop, Joints
from dovetail_control.timing import LoopTiming
from policies.control import JointCommand
from policies.features import ACTION, POLICY_HZ

BASE_FRAME = "base"
# So many periods after the last cycle the next does not wait for a reading any more. A busy
# computer is late by a few; a cycle too many would run ahead of the machine.
OVERDUE_PERIODS = 5.0


class ControlNode(DovetailNode):
    """Action chunks and joint states in; joint commands and the control state out."""

    def __init__(self, **options: Any) -> None:
        super().__init__("control", **options)
        self._loop: ControlLoop | None = None
        self._joints: Joints | None = None
        self._timer: Timer | None = None
        self._waiting: list[tuple[float, Future]] = []

    def configure(self) -> None:
        """Builds the loop and its topics."""
        config = self.hardware
        self._names = [*config.joint_names, config.gripper.joint]
        self._period_s = 1.0 / (config.rates.control_hz * self.real_time_factor)
        readings = config.rates.state_hz / config.rates.control_hz
        # Zero where readings and cycles do not go together: then the timer alone sets the pace.
        self._readings_per_cycle = round(readings) if readings == round(readings) else 0
        self._start_afresh()
        self._commands = self.create_publisher(
            JointTrajectory, self.topic_name("joint_command"), self.qos("joint_command")
        )
        self._states = self.create_publisher(
            ControlState, self.topic_name("control_state"), self.qos("control_state")
        )
        self.create_subscription(
            JointState, self.topic_name("joint_states"), self._on_joints, self.qos("joint_states")
        )
        self.create_subscription(
            ActionChunk, self.topic_name("action_chunk"), self._on_chunk, self.qos("action_chunk")
        )
        # It waits for a reading, which must not wait for it.
        group = ReentrantCallbackGroup()
        self.create_service(Trigger, "~/anchor", self._on_anchor, callback_group=group)

    def activate(self) -> None:
        """Starts from the measured posture."""
        self._start_afresh()
        self._timer = self.create_timer(self._period_s, self._on_timer)

    def deactivate(self) -> None:
        """Stops commanding; the driver holds."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def stop(self, reason: str) -> None:
        """Stops commanding; the driver holds."""
        self.deactivate()

    def diagnostics(self) -> dict[str, str]:
        """Whether the loop holds, and how punctual it is."""
        if self._loop is None:
            return {}
        return {
            "hold_reason": self._loop.hold_reason,
            "rejected_chunks": str(self._loop.rejected_chunks),
            "late_corrections": str(self._loop.late_corrections),
            "deadline_misses": str(self._timing.misses),
        }

    @property
    def _running(self) -> ControlLoop:
        assert self._loop is not None
        return self._loop

    def _start_afresh(self) -> None:
        self._loop = ControlLoop(self.hardware, ACTION.names, POLICY_HZ)
        self._timing = LoopTiming(self._period_s)
        # Readings since the last cycle, and when that was.
        self._readings, self._cycle_s = 0, time.monotonic()

    def _on_joints(self, message: JointState) -> None:
        if list(message.name) != self._names:
            self.report(f"joint_states:name: got {list(message.name)}, expected {self._names}")
            return
        values = np.array([message.position, message.velocity])
        if values.shape != (2, len(self._names)) or not np.isfinite(values).all():
            self.report(
                f"joint_states: got values {values.tolist()}, expected "
                f"{len(self._names)} finite positions and velocities"
            )
            return
        stamp_s = self.robot_time_s(message.header.stamp)
        self._joints = Joints(values[0, :-1], values[1, :-1], float(values[0, -1]), stamp_s)
        for asked_s, future in self._waiting:
            if stamp_s > asked_s and not future.done():
                future.set_result(self._joints)
        if self._timer is not None and self._readings_per_cycle:
            self._readings += 1
            if self._readings >= self._readings_per_cycle:
                self._cycle()

    def _on_chunk(self, message: ActionChunk) -> None:
        if not self.active:
            return
        try:
            self._running.push(
                ChunkMessage(
                    goal_id=message.goal_id,
                    first_step=message.first_step,
                    stamp_s=self.robot_time_s(message.header.stamp),
                    step_s=message.step_s,
                    action_names=tuple(message.action_names),
                    horizon=message.horizon,
                    data=np.array(message.data),
                    hardware_hash=message.hardware_hash,
                ),
                self.robot_time_s(),
            )
        except ChunkRefused as problem:
            self.report(str(problem))
            self._publish_state()

    async def _on_anchor(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Takes a posture measured after the request as the one to hold."""
        if not self.active:
            response.message = "control is not active"
            return response
        entry = (self.robot_time_s(), Future())
        self._waiting.append(entry)
        try:
            self._running.anchor(await entry[1], self.robot_time_s())
        finally:
            self._waiting.remove(entry)
        response.success = True
        return response

    def _on_timer(self) -> None:
        since_s = time.monotonic() - self._cycle_s
        if not self._readings_per_cycle or since_s > OVERDUE_PERIODS * self._period_s:
            self._cycle()

    def _cycle(self) -> None:
        start_s = time.monotonic()
        self._readings, self._cycle_s = 0, start_s
        loop, now_s = self._running, self.robot_time_s()
        if loop.begin_cycle(self._joints, now_s):
            self._publish_state()
        joints = self._joints
        if joints is not None:
            held = bool(loop.hold_reason)
            self._publish_command(loop.command(joints, now_s))
            if loop.hold_reason and not held:
                self._publish_state()
        self._timing.record(start_s, time.monotonic())

    def _publish_command(self, command: JointCommand) -> None:
        message = JointTrajectory()
        message.header.stamp = self.get_clock().now().to_msg()
        message.joint_names = self._names
        message.points = [
            JointTrajectoryPoint(
                positions=[*command.q_rad[0].tolist(), float(command.gripper_width_m[0])],
                velocities=[*command.dq_rad_s[0].tolist(), 0.0],
            )
        ]
        self._commands.publish(message)

    def _publish_state(self) -> None:
        loop, joints, timing = self._running, self._joints, self._timing
        if joints is None:
            return
        controller = loop.controller
        measured, rotation = controller.chain.forward(joints.q_rad[None])
        state = ControlState()
        state.header.stamp = self.get_clock().now().to_msg()
        state.header.frame_id = BASE_FRAME
        state.step = loop.step
        state.hold_reason = loop.hold_reason
        state.holding = bool(loop.hold_reason)
        state.goal_id = loop.goal_id
        state.tool_target = poses.to_message(*loop.target)
        state.tool_measured = poses.to_message(measured[0], rotation[0])
        state.q_measured_rad = joints.q_rad.tolist()
        state.gripper_target_m = float(controller.gripper_target_m[0])
        state.gripper_width_m = joints.gripper_width_m
        interventions = loop.interventions
        state.intervention_kinds = list(interventions)
        state.intervention_counts = list(interventions.values())
        state.rejected_chunks = loop.rejected_chunks
        state.late_corrections = loop.late_corrections
        state.cycles = timing.cycles
        state.deadline_misses = timing.misses
        state.control_hz = timing.rate_hz / self.real_time_factor
        state.cycle_p50_ms, state.cycle_p99_ms = timing.cost_ms()
        self._states.publish(state)


def main() -> None:
    """Runs the control node."""
    run(ControlNode)
