"""The driver node on a real graph: what it follows, what it refuses, when it holds."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from dovetail_drivers.driver_node import DriverNode
from dovetail_interfaces.msg import WorldState
from dovetail_interfaces.srv import CellTruth, FeedPart, LoadProduct, ResetCell
from graph import Graph
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from hardware_configs import load

pytestmark = pytest.mark.ros

CONFIG = load("panda")
NAMES = [*CONFIG.joint_names, CONFIG.gripper.joint]
STEP_RAD = 0.005
STEP_RAD_S = STEP_RAD * CONFIG.rates.control_hz


class Bench:
    """An active driver node and what it publishes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.node = DriverNode(context=graph.context)
        graph.executor.add_node(self.node)
        self.states = graph.collect(JointState, "/joint_states")
        self.worlds = graph.collect(WorldState, "/world_state")
        self.diagnostics = graph.collect(DiagnosticArray, "/diagnostics")
        self._commands = graph.node.create_publisher(JointTrajectory, "/joint_command", 1)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        graph.until(lambda: self._commands.get_subscription_count(), "the driver listens")
        graph.until(lambda: self.states and self.worlds, "the driver reports")
        self.target = [*CONFIG.home_rad, 0.08]

    def command(self, names: list[str] | None = None, **changes: object) -> None:
        """Publishes a command to go on by one step of the first joint; with changes."""
        self.target[0] += STEP_RAD
        point = JointTrajectoryPoint(
            positions=self.target, velocities=[STEP_RAD_S, *[0.0] * (len(NAMES) - 1)]
        )
        for name, value in changes.items():
            setattr(point, name, value)
        self._commands.publish(JointTrajectory(joint_names=names or NAMES, points=[point]))

    def speed_rad_s(self) -> float:
        """The fastest joint's speed in the newest joint states."""
        return max(abs(v) for v in self.states[-1].velocity[:7])

    def refused(self, text: str) -> bool:
        """Whether a refusal with the text was published."""
        return any(
            text in status.message
            for array in self.diagnostics
            for status in array.status
            if status.name == "driver"
        )


@pytest.fixture
def bench(graph: Graph) -> Iterator[Bench]:
    """An active driver node."""
    made = Bench(graph)
    yield made
    graph.executor.remove_node(made.node)
    made.node.destroy_node()


def test_follows_commands_and_holds_when_they_stop(bench: Bench) -> None:
    timer = bench.graph.node.create_timer(1.0 / CONFIG.rates.control_hz, bench.command)
    bench.graph.until(lambda: bench.speed_rad_s() > 0.3, "the arm moves")
    bench.graph.node.destroy_timer(timer)
    count = len(bench.states)
    bench.graph.until(lambda: bench.speed_rad_s() < 0.01, "the arm holds", 5.0)
    # Command stale after 0.1 s, then a stop within the acceleration limits.
    assert len(bench.states) - count < 100
    assert [part.name for part in bench.worlds[-1].parts] == ["square_peg", "round_peg"]
    assert bench.worlds[-1].header.stamp == bench.states[len(bench.worlds) - 1].header.stamp


@pytest.mark.parametrize(("prompt", "ticks"), [(15, 40), (0, 80)])
def test_waits_for_whoever_was_prompt_and_for_nobody_else(
    bench: Bench, prompt: int, ticks: int
) -> None:
    """Commands that come 1.6 periods after their reading: one tick each, or one each two ticks."""
    graph, period_s = bench.graph, 1.0 / CONFIG.rates.control_hz
    pending: list[Timer] = []
    sent = 0

    def command() -> None:
        nonlocal sent
        sent += 1
        bench.command()

    def answer() -> None:
        graph.node.destroy_timer(pending.pop())
        command()

    def on_reading(_reading: JointState) -> None:
        if sent < prompt:
            command()
        elif not pending:
            pending.append(graph.node.create_timer(1.6 * period_s, answer))

    subscription = graph.node.create_subscription(JointState, "/joint_states", on_reading, 1)
    graph.until(lambda: sent >= prompt + 5, "the arm moves")
    readings, commands = len(bench.states), sent
    graph.until(lambda: sent >= commands + 40, "it goes on")
    assert len(bench.states) - readings == pytest.approx(ticks, abs=0.15 * ticks)
    graph.node.destroy_subscription(subscription)
    graph.until(lambda: bench.speed_rad_s() < 0.01, "the arm holds", 5.0)


def test_brakes_when_deactivated(bench: Bench) -> None:
    bench.graph.node.create_timer(1.0 / CONFIG.rates.control_hz, bench.command)
    bench.graph.until(lambda: bench.speed_rad_s() > 0.3, "the arm moves")
    assert bench.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    bench.graph.until(lambda: bench.speed_rad_s() < 0.01, "the arm holds", 5.0)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ([NAMES[1], NAMES[0], *NAMES[2:]], {}, "command:joint_names: got"),
        (NAMES[:-1], {}, "command:joint_names: got"),
        (None, {"positions": [0.0] * 7}, "command:positions: got 7 values, expected 8"),
        (None, {"velocities": []}, "command:velocities: got 0 values, expected 8"),
        (None, {"positions": [math.nan] * 8}, "command:positions: got [nan"),
        (None, {"positions": [9.0] * 8}, "expected within the joint's limits"),
        (None, {"positions": [1.0, *CONFIG.home_rad[1:], 0.08]}, "got a jump of 1.0000 rad"),
        (None, {"positions": [*CONFIG.home_rad, 0.5]}, "command:positions[panda_finger]"),
        (None, {"velocities": [9.0] * 8}, "expected within the joint's velocity limit"),
    ],
)
def test_refuses(
    bench: Bench, names: list[str] | None, changes: dict[str, object], message: str
) -> None:
    bench.command(names, **changes)
    bench.graph.until(lambda: bench.refused(message), message)
    assert bench.speed_rad_s() < 0.01


def test_cell_services(bench: Bench) -> None:
    request = LoadProduct.Request(seed=1, index=0, level="low")
    loaded = bench.graph.ask(LoadProduct, "/cell/load_product", request)
    assert loaded.success
    bench.graph.until(lambda: bench.worlds[-1].load_count >= loaded.load_count, "it shows")
    request.level = "extreme"
    refused = bench.graph.ask(LoadProduct, "/cell/load_product", request)
    assert not refused.success and refused.message.startswith("level: got 'extreme', expected")

    fed = bench.graph.ask(FeedPart, "/cell/feed_part", FeedPart.Request(part="round_peg"))
    assert fed.success and fed.load_count == loaded.load_count + 1
    wrong = bench.graph.ask(FeedPart, "/cell/feed_part", FeedPart.Request(part="anvil"))
    assert not wrong.success and "expected one of" in wrong.message

    reset = ResetCell.Request(task="peg_insert", seed=7, level="low")
    first = bench.graph.ask(ResetCell, "/cell/reset", reset)
    bench.graph.until(lambda: bench.worlds[-1].load_count >= first.load_count, "it shows")
    again = bench.graph.ask(ResetCell, "/cell/reset", reset)
    assert (first.part, first.socket) == (again.part, again.socket)
    assert first.time_limit_s == 10.0
    truth = CellTruth.Request(part=first.part, socket=first.socket)
    told = bench.graph.ask(CellTruth, "/cell/truth", truth)
    assert told.success and not told.inserted
