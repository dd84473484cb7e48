"""Brings the lifecycle nodes up in order, as Nav2's lifecycle manager does, and watches them.

All nodes are configured in order, then activated in order, so that nothing moves before everything
has been loaded and verified. A node that refuses is named together with its own reason. Afterwards
a node whose heartbeat stops (hung or dead) or that leaves its active state ends the manager with a
non-zero code, upon which the launch file ends everything.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger

from dovetail_lifecycle.node import DIAGNOSTICS, Refusal
from dovetail_lifecycle.process import POLL_S, StopRequest, start_rclpy

NODES = ["driver", "control", "skills", "scheduler"]


class Interrupted(Exception):
    """The manager was asked to stop while it waited."""


class Manager(Node):
    """See the module; parameters ``nodes``, ``start_timeout_s`` and ``silence_s``.

    Args:
        requested: ends every wait.
    """

    def __init__(self, requested: StopRequest) -> None:
        super().__init__("manager")
        self._requested = requested
        self._names: list[str] = list(self.declare_parameter("nodes", NODES).value)
        self._start_timeout_s = float(self.declare_parameter("start_timeout_s", 60.0).value)
        self._silence_s = float(self.declare_parameter("silence_s", 3.0).value)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self._changers = {
            name: self.create_client(ChangeState, f"/{name}/change_state") for name in self._names
        }
        self._reasons = {
            name: self.create_client(Trigger, f"/{name}/last_error") for name in self._names
        }
        self._heard_s: dict[str, float] = {}
        self._states: dict[str, tuple[str, str]] = {}
        self.create_subscription(DiagnosticArray, DIAGNOSTICS, self._on_diagnostics, 50)

    def bring_up(self) -> None:
        """Configures, then activates all nodes.

        Raises:
            Refusal: a node did not appear, or did not take a transition; says which and why.
            Interrupted: asked to stop meanwhile.
        """
        for transition, verb in (
            (Transition.TRANSITION_CONFIGURE, "configure"),
            (Transition.TRANSITION_ACTIVATE, "activate"),
        ):
            for name in self._names:
                started = time.monotonic()
                self._change(name, transition, verb)
                took_s = time.monotonic() - started
                self.get_logger().info(f"{name}: {verb}d in {took_s:.1f} s")

    def watch(self) -> None:
        """Returns when asked to stop.

        Raises:
            Refusal: a node fell silent or left its active state.
        """
        self._heard_s = dict.fromkeys(self._names, time.monotonic())
        self._states = {}
        while not self._requested:
            self._executor.spin_once(timeout_sec=POLL_S)
            now_s = time.monotonic()
            for name in self._names:
                silent_s = now_s - self._heard_s[name]
                if silent_s > self._silence_s:
                    raise Refusal(f"{name} has been silent for {silent_s:.1f} s: hung or dead")
                state, message = self._states.get(name, ("active", ""))
                if state not in ("active", "activating"):
                    raise Refusal(f"{name} is {state}, expected active: {message or 'no reason'}")

    def hold(self) -> None:
        """Asks the driver to hold, without waiting long: it also does so when it is ended."""
        if self._states.get(self._names[0], ("", ""))[0] != "active":
            return
        try:
            self._change(self._names[0], Transition.TRANSITION_DEACTIVATE, "deactivate", 1.0)
        except (Refusal, Interrupted) as problem:
            self.get_logger().warning(str(problem) or "interrupted")

    def _change(self, name: str, transition: int, verb: str, timeout_s: float = 0.0) -> None:
        request = ChangeState.Request()
        request.transition.id = transition
        deadline_s = time.monotonic() + (timeout_s or self._start_timeout_s)
        answer = self._call(name, self._changers[name], request, deadline_s)
        if not answer.success:
            reason = self._call(name, self._reasons[name], Trigger.Request(), deadline_s).message
            raise Refusal(f"{name} refused to {verb}: {reason or 'no reason given'}")

    def _call(self, name: str, client: Client, request: Any, deadline_s: float) -> Any:
        while not client.service_is_ready():
            self._wait(f"{name} did not appear", deadline_s)
        future = client.call_async(request)
        while not future.done():
            self._wait(f"{name} did not answer {client.srv_name}", deadline_s)
        return future.result()

    def _wait(self, problem: str, deadline_s: float) -> None:
        if self._requested:
            raise Interrupted
        if time.monotonic() > deadline_s:
            raise Refusal(f"{problem} in time")
        self._executor.spin_once(timeout_sec=POLL_S)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._heard_s[status.name] = time.monotonic()
            values = {item.key: item.value for item in status.values}
            self._states[status.name] = (values.get("state", ""), status.message)


def main() -> None:
    """Runs the manager; ends non-zero and says why when a node refuses or falls silent."""
    requested = start_rclpy()
    manager = Manager(requested)
    code = 0
    try:
        manager.bring_up()
        manager.get_logger().info("all nodes are active")
        manager.watch()
    except Interrupted:
        pass
    except Refusal as problem:
        manager.get_logger().error(str(problem))
        manager.hold()
        code = 1
    manager.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)
