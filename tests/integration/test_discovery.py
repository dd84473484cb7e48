"""Nobody on the network commands the robot by accident: discovery stays local unless opened."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from graph import Graph, Launch

pytestmark = [pytest.mark.ros, pytest.mark.slow]

INHERITED = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_STATIC_PEERS": "192.0.2.1"}
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def test_local_even_if_the_environment_says_otherwise(launch: Callable[..., Launch]) -> None:
    run = launch("products:=1", **INHERITED)
    run.line("all nodes are active")
    for node in run.pids:
        environment = run.environment(node)
        assert environment[RANGE] == "LOCALHOST"
        assert environment["ROS_STATIC_PEERS"] == ""


def test_open_when_asked_to(launch: Callable[..., Launch], graph: Graph) -> None:
    run = launch("products:=1", "discovery:=subnet")
    graph.until(lambda: len(run.pids) == 6, "all processes start")
    graph.until(lambda: run.environment("driver").get(RANGE), "the driver starts")
    assert run.environment("driver")[RANGE] == "SUBNET"
