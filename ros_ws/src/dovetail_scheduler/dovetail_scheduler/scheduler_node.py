"""The scheduler node: RunTask goals become a behaviour tree or evaluation episodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

from dovetail_interfaces.action import RunTask
from dovetail_lifecycle import DovetailNode, run
from py_trees.behaviour import Behaviour
from py_trees.common import Status
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future

from dovetail_scheduler.evaluation import Episodes, run_episodes
from dovetail_scheduler.journal import Journal
from dovetail_scheduler.recipe import FOLDER, load_recipe
from dovetail_scheduler.ros_port import RosPort
from dovetail_scheduler.tree import Assembly
from policies.objects import load_objects
from policies.skills.registry import LEVELS, load_skills

TICK_S = 0.05
COUNT_MAX = 10_000


class SchedulerNode(DovetailNode):
    """Runs one task at a time."""

    def __init__(self, **options: Any) -> None:
        super().__init__("scheduler", **options)
        self._recipe_name = str(self.setting("recipe", "peg_board"))
        self._work: Generator[None, None, None] | None = None
        self._goal: ServerGoalHandle | None = None
        self._done: Future | None = None
        self._problem = ""
        self._lines: list[str] = []

    def configure(self) -> None:
        """Reads skills and recipe and connects to the other layers."""
        self._objects = load_objects()
        self._skills = load_skills()
        self._recipe = load_recipe(FOLDER / f"{self._recipe_name}.yaml", self._objects)
        self._port = RosPort(self, self._objects)
        self._server = ActionServer(
            self,
            RunTask,
            "run_task",
            self._execute,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
        )
        self.create_timer(TICK_S, self._tick)

    def deactivate(self) -> None:
        """Cancels the running task."""
        self._end("the scheduler was deactivated")

    def stop(self, reason: str) -> None:
        """Cancels the running task."""
        self._end(f"the scheduler was ended ({reason})")

    async def _execute(self, goal: ServerGoalHandle) -> RunTask.Result:
        request, result = goal.request, RunTask.Result()
        problem = self._refusal(request)
        if problem:
            result.error_code, result.error_msg = "REFUSED", problem
            goal.abort()
            return result
        journal = Journal(self._lines.append)
        if request.task == "assemble":
            work, report = self._assembly(request, journal)
        else:
            work, report = self._episodes(request, journal)
        self._problem, self._goal, self._work, self._done = "", goal, work, Future()
        await self._done
        self._tell()
        body = report() | journal.to_dict() | self._control_report()
        self._goal = self._done = None
        result.success = not self._problem and body["completed"] == body["requested"]
        result.error_msg = self._problem
        result.report = json.dumps(body)
        if goal.is_cancel_requested:
            result.error_code = "CANCELLED"
            goal.canceled()
        elif result.success:
            result.error_code = "OK"
            goal.succeed()
        else:
            result.error_code = "FAILED"
            goal.abort()
        return result

    def _refusal(self, request: RunTask.Goal) -> str:
        if not self.active:
            return "the scheduler is not active"
        if self._work is not None:
            return "another task is running"
        tasks = ["assemble", *(s.task for s in self._skills.values() if s.task)]
        if request.task not in tasks:
            return f"task: got {request.task!r}, expected one of {', '.join(tasks)}"
        if request.level not in LEVELS:
            return f"level: got {request.level!r}, expected one of {', '.join(LEVELS)}"
        if not 1 <= request.count <= COUNT_MAX:
            return f"count: got {request.count}, expected 1 to {COUNT_MAX}"
        return ""

    def _assembly(
        self, request: RunTask.Goal, journal: Journal
    ) -> tuple[Generator[None, None, None], Callable[[], dict[str, Any]]]:
        tree = Assembly(self._port, journal, self._skills, self._recipe).tree(
            request.count, request.seed, request.level
        )

        def report() -> dict[str, Any]:
            return {
                "requested": int(request.count),
                "completed": journal.completed,
                "products": [product.to_dict() for product in journal.products],
            }

        return _tick_through(tree), report

    def _episodes(
        self, request: RunTask.Goal, journal: Journal
    ) -> tuple[Generator[None, None, None], Callable[[], dict[str, Any]]]:
        episodes = Episodes()
        skill = next(s for s in self._skills.values() if s.task == request.task)
        seeds = range(request.seed, request.seed + request.count)

        def report() -> dict[str, Any]:
            results = episodes.results
            return {
                "requested": int(request.count),
                "completed": episodes.successes,
                "episodes": results,
                "successes": episodes.successes,
                **episodes.measures(),
            }

        work = run_episodes(
            self._port, journal, skill, request.task, seeds, request.level, episodes
        )
        return work, report

    def _control_report(self) -> dict[str, Any]:
        control = self._port.control
        if control is None:
            return {}
        kinds = zip(control.intervention_kinds, control.intervention_counts, strict=True)
        return {
            "control_hz": round(control.control_hz, 2),
            "control_cycles": control.cycles,
            "deadline_misses": control.deadline_misses,
            "control_cycle_ms": {
                "p50": round(control.cycle_p50_ms, 3),
                "p99": round(control.cycle_p99_ms, 3),
            },
            "safety_interventions": dict(kinds),
            "rejected_chunks": control.rejected_chunks,
            "late_corrections": control.late_corrections,
        }

    def _tick(self) -> None:
        if self._work is None:
            return
        if self._goal is not None and self._goal.is_cancel_requested:
            self._end("cancelled")
            return
        try:
            next(self._work)
        except StopIteration:
            self._end("")
            return
        except ValueError as problem:
            self.report(str(problem))
            self._end(str(problem))
            return
        self._tell()

    def _tell(self) -> None:
        if self._goal is None:
            return
        for line in self._lines:
            self._goal.publish_feedback(RunTask.Feedback(text=line))
        self._lines.clear()

    def _end(self, problem: str) -> None:
        if self._work is None:
            return
        self._work.close()
        self._work = None
        self._problem = problem
        if self._done is not None:
            self._done.set_result(None)


def _tick_through(tree: Behaviour) -> Generator[None, None, None]:
    """Ticks a tree to its end; stops what it runs when it is closed before."""
    try:
        while True:
            tree.tick_once()
            if tree.status != Status.RUNNING:
                return
            yield
    finally:
        if tree.status == Status.RUNNING:
            tree.stop(Status.INVALID)


def main() -> None:
    """Runs the scheduler."""
    run(SchedulerNode)
