"""What happens when something dies: the robot holds, everything ends, and it is said who died."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable

import pytest
from graph import Graph, Launch
from sensor_msgs.msg import JointState

pytestmark = [pytest.mark.ros, pytest.mark.slow]

MOVING_RAD_S, RESTING_RAD_S = 0.1, 0.02
GONE_S = 5.0


def speed_rad_s(state: JointState) -> float:
    return max(abs(v) for v in state.velocity[:7])


def moving(graph: Graph, run: Launch) -> list[JointState]:
    """Waits until the arm moves; returns the growing list of joint states."""
    states = graph.collect(JointState, "/joint_states")
    run.line("insert_peg .* \\.\\.\\.")
    graph.until(lambda: states and speed_rad_s(states[-1]) > MOVING_RAD_S, "the arm moves")
    return states


def came_to_rest(graph: Graph, states: list[JointState]) -> None:
    """Waits for the last joint states: some may be unread when whoever sent them has ended."""
    graph.until(lambda: speed_rad_s(states[-1]) < RESTING_RAD_S, "the arm rests", GONE_S)


@pytest.mark.parametrize(
    "node", ["driver", "control", "skills", "scheduler", "manager", "operator"]
)
def test_killed_node(node: str, launch: Callable[..., Launch], graph: Graph) -> None:
    run = launch("products:=1")
    states = moving(graph, run)
    run.signal(signal.SIGKILL, node)
    killed_s = time.monotonic()
    graph.until(lambda: not run.alive(), "all processes end", GONE_S)
    assert run.wait(GONE_S) != 0
    assert time.monotonic() - killed_s < GONE_S
    assert re.search(rf"\b{node}-\d died \(signal 9\)", run.text), run.text
    if node != "driver":
        held = run.line("robot holding: max \\|dq\\| = ")
        assert float(re.findall(r"= ([0-9.]+) rad/s", held)[0]) < RESTING_RAD_S
        came_to_rest(graph, states)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_launcher(
    number: signal.Signals, launch: Callable[..., Launch], graph: Graph
) -> None:
    run = launch("products:=1")
    states = moving(graph, run)
    run.signal(number)
    graph.until(lambda: not run.alive(), "all processes end", GONE_S)
    assert run.wait(GONE_S) != 0
    assert "robot holding: max |dq| = " in run.text
    came_to_rest(graph, states)


def test_killed_launcher_leaves_nobody_behind(launch: Callable[..., Launch], graph: Graph) -> None:
    run = launch("products:=1")
    states = moving(graph, run)
    run.signal(signal.SIGKILL)
    graph.until(lambda: not run.alive(), "all processes end", GONE_S)
    assert speed_rad_s(states[-1]) < RESTING_RAD_S


def test_hung_node_is_noticed(launch: Callable[..., Launch], graph: Graph) -> None:
    run = launch("products:=1")
    states = moving(graph, run)
    run.signal(signal.SIGSTOP, "skills")
    graph.until(lambda: not run.alive(), "all processes end", 2 * GONE_S)
    assert run.wait(GONE_S) != 0
    assert re.search(r"skills has been silent for .* s: hung or dead", run.text), run.text
    assert speed_rad_s(states[-1]) < RESTING_RAD_S
