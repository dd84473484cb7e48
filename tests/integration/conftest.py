"""What the integration tests share: a private ROS graph, launches, and a tiny policy bundle.

Every test gets a ROS domain of its own on the local machine, so that neither tests nor anything
else that runs here can be heard.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 here: source ros_ws/env.sh")

from graph import Graph, Launch  # noqa: E402

_DOMAINS = itertools.cycle(random.SystemRandom().sample(range(1, 101), 100))


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A ROS domain that no other test of this run uses, with local discovery."""
    number = next(_DOMAINS)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number


@pytest.fixture
def graph(domain: int) -> Iterator[Graph]:
    """The test's own place on the graph."""
    place = Graph(domain)
    yield place
    place.close()


@pytest.fixture
def launch(domain: int, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Starts the assembly launch file; what is left of it is ended after the test."""
    started: list[Launch] = []

    def start(*arguments: str, **environment: str) -> Launch:
        started.append(Launch(arguments, environment, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.close()
