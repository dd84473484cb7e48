"""The control node on a real graph: what it refuses, when it holds, what it publishes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from dovetail_control.control_node import ControlNode
from dovetail_interfaces.msg import ActionChunk, ControlState
from graph import Graph
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from hardware_configs import load
from policies.features import ACTION

pytestmark = pytest.mark.ros

CONFIG = load("panda")
NAMES = [*CONFIG.joint_names, CONFIG.gripper.joint]
HORIZON = 8
PERIOD_S = 1.0 / CONFIG.rates.control_hz


class Bench:
    """A control node with joint states from the test, which follow its commands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.node = ControlNode(context=graph.context)
        graph.executor.add_node(self.node)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self.states = graph.collect(ControlState, "/control_state")
        self.commands = graph.collect(JointTrajectory, "/joint_command")
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
        self.positions = [*CONFIG.home_rad, 0.08]
        self.feeding = True
        self._joints = graph.node.create_publisher(JointState, "/joint_states", 1)
        self._chunks = graph.node.create_publisher(ActionChunk, "/action_chunk", 1)
        self.readings: list[JointState] = []
        self._feeder = graph.node.create_timer(PERIOD_S, self._feed)
        graph.until(lambda: self._chunks.get_subscription_count(), "control listens")
        graph.until(lambda: self.states and self.commands, "control runs")

    def _feed(self) -> None:
        if not self.feeding:
            return
        if self.commands:
            self.positions = list(self.commands[-1].points[0].positions)
        message = JointState(name=NAMES, position=self.positions, velocity=[0.0] * 8)
        message.header.stamp = self.graph.node.get_clock().now().to_msg()
        self._joints.publish(message)
        self.readings.append(message)

    def shift_readings(self) -> None:
        """Begins the readings' period anew."""
        self._feeder.reset()

    def chunk(self, **changes: object) -> ActionChunk:
        """A valid chunk that rises 2 mm per step, for now; with changes."""
        rise = [0.0, 0.0, -0.002, 0.0, 0.0, 0.0, 0.08]
        chunk = ActionChunk(
            goal_id="goal",
            first_step=self.states[-1].step,
            step_s=0.1,
            action_names=list(ACTION.names),
            horizon=HORIZON,
            data=rise * HORIZON,
            hardware_hash=CONFIG.hash,
        )
        chunk.header.stamp = self.graph.node.get_clock().now().to_msg()
        for name, value in changes.items():
            setattr(chunk, name, value)
        return chunk

    def send(self, chunk: ActionChunk) -> None:
        """Publishes a chunk."""
        self._chunks.publish(chunk)


@pytest.fixture
def bench(graph: Graph) -> Iterator[Bench]:
    """An active control node."""
    made = Bench(graph)
    yield made
    graph.executor.remove_node(made.node)
    made.node.destroy_node()


def test_executes_a_chunk_and_holds_within_its_stale_age(bench: Bench) -> None:
    assert bench.states[-1].holding
    start_z_m = bench.states[-1].tool_measured.position.z
    chunk = bench.chunk()
    bench.send(chunk)
    sent_s = time.monotonic()
    bench.graph.until(lambda: not bench.states[-1].holding, "control moves")
    bench.graph.until(lambda: bench.states[-1].holding, "control holds again")
    held_s = time.monotonic() - sent_s
    # It took a control cycle to begin and takes one to notice; the rest is for a busy machine.
    assert held_s < CONFIG.safety.chunk_stale_s + 0.25
    state = bench.states[-1]
    assert f"younger than {CONFIG.safety.chunk_stale_s:g} s" in state.hold_reason
    consumed = state.step - chunk.first_step
    assert 0 < consumed <= math.ceil(CONFIG.safety.chunk_stale_s / 0.1)
    assert 0.0 < state.tool_measured.position.z - start_z_m < 0.002 * (consumed + 1)


def test_each_command_follows_its_reading_whatever_the_phase(bench: Bench) -> None:
    def stamps_s(messages: list[Any]) -> np.ndarray:
        stamps = [m.header.stamp for m in messages]
        return np.array([s.sec + 1e-9 * s.nanosec for s in stamps])

    for share in (0.0, 0.25, 0.5, 0.75):
        start_s = time.monotonic()
        bench.graph.until(lambda at=start_s + share * PERIOD_S: time.monotonic() > at, "a phase")
        bench.shift_readings()
        begun = len(bench.readings), len(bench.commands)
        bench.graph.until(lambda n=begun[1] + 40: len(bench.commands) > n, "control goes on")
        readings_s = stamps_s(bench.readings[begun[0] :])
        commands_s = stamps_s(bench.commands[begun[1] + 5 :])
        age_s = [c - readings_s[readings_s <= c].max() for c in commands_s]
        # A second clock of the control's own would give half a period in the mean of the phases.
        assert np.median(age_s) < 0.3 * PERIOD_S


def test_empty_chunk_ends_the_execution_at_once(bench: Bench) -> None:
    bench.send(bench.chunk())
    bench.graph.until(lambda: not bench.states[-1].holding, "control moves")
    bench.send(bench.chunk(horizon=0, data=[]))
    bench.graph.until(lambda: bench.states[-1].holding, "control holds")
    assert bench.states[-1].hold_reason == "skill ended"


def test_holds_without_fresh_joint_states(bench: Bench) -> None:
    bench.send(bench.chunk())
    bench.graph.until(lambda: not bench.states[-1].holding, "control moves")
    bench.feeding = False
    bench.graph.until(lambda: bench.states[-1].holding, "control holds")
    assert "joint states are" in bench.states[-1].hold_reason
    bench.feeding = True
    bench.send(bench.chunk())
    bench.graph.until(lambda: not bench.states[-1].holding, "control goes on")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hardware_hash": "f" * 64}, "chunk:hardware_hash: got 'ffff"),
        ({"action_names": list(reversed(ACTION.names))}, "chunk:action_names: got"),
        ({"data": [0.0] * 7 * HORIZON + [0.0]}, "chunk:data: got 57 values, expected 56"),
        ({"data": [math.nan] * 7 * HORIZON}, "chunk:actions: got values that are not finite"),
        ({"horizon": HORIZON - 1}, "chunk:data: got 56 values, expected 49"),
        ({"step_s": 0.2}, "chunk:step_s: got 0.2, expected 0.1"),
    ],
)
def test_refuses_and_holds(bench: Bench, changes: dict[str, object], message: str) -> None:
    bench.send(bench.chunk())
    bench.graph.until(lambda: not bench.states[-1].holding, "control moves")
    bench.send(bench.chunk(**changes))
    bench.graph.until(lambda: bench.states[-1].rejected_chunks == 1, "control refuses")
    assert bench.states[-1].holding and bench.states[-1].hold_reason == "chunk refused"

    def said() -> bool:
        return any(
            status.name == "control" and message in status.message
            for array in bench.diagnostics
            for status in array.status
        )

    bench.graph.until(said, message)


def test_anchor_takes_a_new_posture(bench: Bench) -> None:
    bench.commands.clear()
    moved = [q + 0.3 for q in CONFIG.home_rad[:1]] + list(CONFIG.home_rad[1:]) + [0.05]
    bench.positions = moved
    bench.feeding = False
    feed: Callable[[], None] = bench._feed

    def feed_moved() -> None:
        bench.feeding, kept = True, bench.commands[:]
        bench.commands.clear()
        bench.positions = moved
        feed()
        bench.commands.extend(kept)
        bench.feeding = False

    bench.graph.node.create_timer(0.01, feed_moved)
    answer = bench.graph.ask(Trigger, "/control/anchor", Trigger.Request())
    assert answer.success

    def there() -> bool:
        return bench.commands and abs(bench.commands[-1].points[0].positions[0] - moved[0]) < 1e-6

    bench.graph.until(there, "control commands the new posture")
