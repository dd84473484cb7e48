"""Waiting on a real ROS graph: for messages, lines of a launch and ends of processes.

Everything waits for a condition up to a deadline; nothing sleeps for a guess.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "assembly.launch.py"
# Generous: other work may share the machine. What is fast is asserted by its own time.
DEADLINE_S = 60.0


class Graph:
    """A context, a node and an executor of the test's own.

    Args:
        domain: ROS domain.
        arguments: ROS arguments for the nodes made in this context.
    """

    def __init__(self, domain: int) -> None:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("test", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def collect(self, kind: Any, topic: str, depth: int = 100) -> list[Any]:
        """A list that grows with the topic's messages while the graph is spun."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, QoSProfile(depth=depth))
        return messages

    def until(
        self, condition: Callable[[], Any], what: str = "", deadline_s: float = DEADLINE_S
    ) -> Any:
        """Spins until the condition is true; returns its value."""
        end_s = time.monotonic() + deadline_s
        while not (value := condition()):
            assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        """Calls a service and returns its response."""
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, f"{service} appears")
        future = client.call_async(request)
        self.until(future.done, f"{service} answers")
        return future.result()

    def close(self) -> None:
        """Ends everything."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


class Launch:
    """A running ``ros2 launch launch/assembly.launch.py``.

    Args:
        arguments: ``name:=value``.
        environment: variables on top of this process's.
        folder: for the launcher's log files.

    Attributes:
        lines: what it has printed so far.
        pids: of the nodes by name.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], folder: Path) -> None:
        self.lines: list[str] = []
        self.pids: dict[str, int] = {}
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            ["ros2", "launch", str(LAUNCH_FILE), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ROS_LOG_DIR": str(folder / "log"), **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that was printed."""
        return "\n".join(self.lines)

    def line(self, pattern: str, deadline_s: float = DEADLINE_S) -> str:
        """Waits for a line that matches and returns it."""

        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._news:
            assert self._news.wait_for(found, deadline_s), f"no line {pattern!r} in:\n{self.text}"
        return found() or ""

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Waits for the launcher's end and returns its exit code."""
        code = self._process.wait(deadline_s)
        self._reader.join(deadline_s)
        return code

    def signal(self, number: signal.Signals, node: str = "") -> None:
        """Sends a signal to a node, or to the launcher."""
        os.kill(self.pids[node] if node else self._process.pid, number)

    def alive(self) -> list[str]:
        """Names of the nodes that still run."""
        return [name for name, pid in self.pids.items() if _runs(pid)]

    def environment(self, node: str) -> dict[str, str]:
        """The environment a node was started with."""
        items = Path(f"/proc/{self.pids[node]}/environ").read_text().split("\0")
        return dict(item.split("=", 1) for item in items if "=" in item)

    def close(self) -> None:
        """Ends what is left."""
        for pid in (self._process.pid, *self.pids.values()):
            if _runs(pid):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                found = re.search(r"\[(\w+)-\d+\]: process started with pid \[(\d+)\]", line)
                if found:
                    self.pids[found[1]] = int(found[2])
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
