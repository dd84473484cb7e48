"""One way to run a node as a process: stop when asked, when orphaned or when broken.

A node that outlives its launcher would go on commanding a robot that nobody watches, so a changed
parent counts as a request to stop like SIGINT and SIGTERM do. Stopping means: the node's own
``stop`` (hold the robot), then a clean end of rclpy, within a second or two.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

POLL_S = 0.1
LAUNCHER_VARIABLE = "DOVETAIL_LAUNCHER_PID"


class StopRequest:
    """Whether this process was asked to end, and by what.

    Attributes:
        reason: name of the signal, or ``orphaned``; empty while nobody asked.
    """

    def __init__(self) -> None:
        self.reason = ""
        # The launch file says who started this process: the parent may be gone already.
        self._parent = int(os.environ.get(LAUNCHER_VARIABLE, os.getppid()))
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def __bool__(self) -> bool:
        if not self.reason and os.getppid() != self._parent:
            self.reason = "orphaned"
        return bool(self.reason)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.reason = self.reason or signal.Signals(number).name


class Stoppable(Protocol):
    """A node that ``run`` can end."""

    def stop(self, reason: str) -> None:
        """Leaves the robot safe; called once, from the thread that spins."""


def start_rclpy() -> StopRequest:
    """Initialises rclpy without its own signal handlers."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    return StopRequest()


def run(make_node: Callable[[], Node]) -> None:
    """Spins one node until it is asked to stop, then ends the process.

    Args:
        make_node: makes the node; it must have a ``stop``, see Stoppable.

    Raises:
        SystemExit: always; 0 after a request to stop, 1 when the node broke.
    """
    requested = start_rclpy()
    # Another thread (inference) must not keep the loop waiting for the interpreter lock.
    sys.setswitchinterval(0.001)
    node: Node | None = None
    code = 0
    try:
        node = make_node()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not requested:
            try:
                executor.spin_once(timeout_sec=POLL_S)
            except RCLError as problem:
                # A transition asked for in the wrong state is the asker's mistake.
                if "Transition is not registered" not in str(problem):
                    raise
                node.get_logger().warning("refused a transition that this state does not have")
    except ExternalShutdownException:
        pass
    except Exception:
        traceback.print_exc()
        code = 1
    if node is not None:
        try:
            node.stop(requested.reason or "internal error")  # type: ignore[attr-defined]
        except Exception:
            traceback.print_exc()
            code = 1
        node.destroy_node()
    rclpy.try_shutdown()
    raise SystemExit(code)
