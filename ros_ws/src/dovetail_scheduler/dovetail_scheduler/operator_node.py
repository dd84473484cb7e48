"""The operator: asks the scheduler for a task, shows its progress, and reports what came of it.

Its exit code is the job's: 0 only when everything that was asked for was finished.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from dovetail_interfaces.action import RunTask
from dovetail_lifecycle.node import DIAGNOSTICS
from dovetail_lifecycle.process import POLL_S, StopRequest, start_rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from dovetail_scheduler.summary import (
    bundle_facts,
    context,
    progress_lines,
    skill_bundle,
    summary,
)

INTERRUPTED = 130


class Interrupted(Exception):
    """The operator was asked to stop before the task was over."""


class OperatorNode(Node):
    """One task from request to report.

    Args:
        requested: ends every wait.
    """

    def __init__(self, requested: StopRequest) -> None:
        super().__init__("operator")
        self._requested = requested
        self._task = str(self.declare_parameter("task", "assemble").value)
        self._count = int(self.declare_parameter("count", 3).value)
        self._seed = int(self.declare_parameter("seed", 0).value)
        self._level = str(self.declare_parameter("level", "low").value)
        self._clearance_mm = float(self.declare_parameter("clearance", 0.5).value)
        self._bundle = str(self.declare_parameter("bundle", "").value)
        self._report = str(self.declare_parameter("report", "").value)
        self._robot = str(self.declare_parameter("robot", "panda").value)
        self._started_s = time.monotonic()
        self._ready = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)
        self.create_subscription(DiagnosticArray, DIAGNOSTICS, self._on_diagnostics, 50)
        self._client = ActionClient(self, RunTask, "run_task")

    def run(self) -> int:
        """Runs the task.

        Returns:
            0 when everything asked for was finished, 1 otherwise.

        Raises:
            Interrupted: asked to stop meanwhile.
        """
        while not (self._ready and self._client.server_is_ready()):
            self._spin()
        began_s = time.monotonic()
        goal = RunTask.Goal(task=self._task, count=self._count, seed=self._seed, level=self._level)
        handle = self._wait(self._client.send_goal_async(goal, feedback_callback=self._on_feedback))
        if not handle.accepted:
            self._say("the scheduler did not accept the task")
            return 1
        result = self._wait(handle.get_result_async()).result
        if not result.report:
            self._say(f"{result.error_code}: {result.error_msg}")
            return 1
        report = self._complete(json.loads(result.report), result, time.monotonic() - began_s)
        for line in summary(report):
            print(line, flush=True)
        if self._report:
            path = Path(self._report)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=2) + "\n")
            print(f"report    {path}", flush=True)
        return 0 if result.success else 1

    def _complete(
        self, body: dict[str, Any], result: RunTask.Result, took_s: float
    ) -> dict[str, Any]:
        return {
            "task": self._task,
            "success": result.success,
            "error": result.error_msg,
            "seed": self._seed,
            "level": self._level,
            "clearance_mm": self._clearance_mm,
            "robot": self._robot,
            "bundle": bundle_facts(self._bundle or skill_bundle(self._task)),
            **body,
            "wall_seconds": round(took_s, 1),
            **context(),
        }

    def _wait(self, future: Future) -> Any:
        while not future.done():
            self._spin()
        return future.result()

    def _spin(self) -> None:
        if self._requested:
            raise Interrupted
        self._executor.spin_once(timeout_sec=POLL_S)

    def _say(self, text: str) -> None:
        for line in progress_lines(time.monotonic() - self._started_s, text):
            print(line, flush=True)

    def _on_feedback(self, message: Any) -> None:
        self._say(message.feedback.text)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "scheduler":
                values = {item.key: item.value for item in status.values}
                self._ready = values.get("state") == "active"


def main() -> None:
    """Runs the operator."""
    requested = start_rclpy()
    node = OperatorNode(requested)
    try:
        code = node.run()
    except Interrupted:
        print(f"stopped before the task was over ({requested.reason})", flush=True)
        code = INTERRUPTED
    node.destroy_node()
    rclpy.try_shutdown()
    sys.exit(code)
