"""The tree's port to the ROS graph: skills are action goals, the cell's skills are services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diagnostic_msgs.msg import KeyValue
from dovetail_interfaces.action import ExecuteSkill
from dovetail_interfaces.msg import ControlState, WorldState
from dovetail_interfaces.srv import CellTruth, FeedPart, LoadProduct, ResetCell
from dovetail_lifecycle import DovetailNode
from dovetail_lifecycle.world import make_world
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.task import Future
from std_srvs.srv import Trigger

from dovetail_scheduler.evaluation import EpisodeStart, EpisodeTruth
from dovetail_scheduler.journal import SkillOutcome
from dovetail_scheduler.tree import Call
from policies.objects import Objects
from policies.skills.registry import Argument, ErrorCode, Skill
from policies.skills.world import World

# The answer to a request that takes longer than this will not come.
ANSWER_TIMEOUT_S = 5.0


class SkillCall:
    """An ExecuteSkill goal under way.

    Args:
        client: of the skill server.
        goal: the goal.
        now_s: clock, robot time.
    """

    def __init__(
        self, client: ActionClient, goal: ExecuteSkill.Goal, now_s: Callable[[], float]
    ) -> None:
        self._now_s = now_s
        self._asked_s = now_s()
        self._accepted: Future = client.send_goal_async(goal)
        self._result: Future | None = None
        self._cancelled = False

    def poll(self) -> SkillOutcome | None:
        """See Call."""
        if self._result is None:
            if not self._accepted.done():
                waited_s = self._now_s() - self._asked_s
                if waited_s < ANSWER_TIMEOUT_S:
                    return None
                text = f"the skill server did not answer for {waited_s:.1f} s"
                return SkillOutcome(False, ErrorCode.STALE.value, text, waited_s)
            handle = self._accepted.result()
            if not handle.accepted:
                return SkillOutcome(False, ErrorCode.REFUSED.value, "goal rejected")
            self._result = handle.get_result_async()
            if self._cancelled:
                handle.cancel_goal_async()
        if not self._result.done():
            return None
        result = self._result.result().result
        return SkillOutcome(
            result.success,
            result.error_code,
            result.error_msg,
            result.seconds,
            tuple(result.inference_ms),
            tuple(result.refinement_ms),
        )

    def cancel(self) -> None:
        """See Call."""
        self._cancelled = True
        if self._result is not None:
            self._accepted.result().cancel_goal_async()


class ServiceAnswer:
    """A service call under way, turned into a value when its response has come.

    Args:
        client: of the service.
        request: its request.
        read: makes the value of a response, or None to go on waiting.
        now_s: clock, robot time.
    """

    def __init__(
        self,
        client: Client,
        request: Any,
        read: Callable[[Any], Any | None],
        now_s: Callable[[], float],
    ) -> None:
        self._name = client.srv_name
        self._future: Future = client.call_async(request)
        self._read, self._now_s = read, now_s
        self._asked_s = now_s()

    def poll(self) -> Any | None:
        """The value, or None while it is awaited.

        Raises:
            ValueError: the service refused, or did not answer in time.
        """
        if self._future.done():
            response = self._future.result()
            if not response.success:
                raise ValueError(f"{self._name}: {response.message or 'refused'}")
            value = self._read(response)
            if value is not None:
                return value
        if self._now_s() - self._asked_s > ANSWER_TIMEOUT_S:
            raise ValueError(f"{self._name}: no answer for {ANSWER_TIMEOUT_S:g} s")
        return None


class CellCall:
    """A skill of the cell under way, as a Call.

    Args:
        answer: of the service behind it.
        now_s: clock, robot time.
    """

    def __init__(self, answer: ServiceAnswer, now_s: Callable[[], float]) -> None:
        self._answer, self._now_s, self._asked_s = answer, now_s, now_s()

    def poll(self) -> SkillOutcome | None:
        """See Call."""
        try:
            value = self._answer.poll()
        except ValueError as problem:
            took_s = self._now_s() - self._asked_s
            return SkillOutcome(False, ErrorCode.CONTROLLER.value, str(problem), took_s)
        if value is None:
            return None
        return SkillOutcome(True, ErrorCode.OK.value, seconds=self._now_s() - self._asked_s)

    def cancel(self) -> None:
        """The feeder cannot be stopped half way."""


class Anchored:
    """A reset of the cell followed by control's taking the new posture as the one to hold."""

    def __init__(self, reset: ServiceAnswer, anchor: Callable[[], ServiceAnswer]) -> None:
        self._reset, self._make_anchor = reset, anchor
        self._start: EpisodeStart | None = None
        self._anchor: ServiceAnswer | None = None

    def poll(self) -> EpisodeStart | None:
        """See Answer."""
        if self._anchor is None:
            self._start = self._reset.poll()
            if self._start is None:
                return None
            self._anchor = self._make_anchor()
        return self._start if self._anchor.poll() else None


class RosPort:
    """Port and EpisodePort on a node.

    Args:
        node: a configured node.
        objects: the catalogue.
    """

    def __init__(self, node: DovetailNode, objects: Objects) -> None:
        self._node, self._objects = node, objects
        self._seen: WorldState | None = None
        self.control: ControlState | None = None
        self._starts = 0
        self._skills = ActionClient(node, ExecuteSkill, "execute_skill")
        self._load = node.create_client(LoadProduct, "/cell/load_product")
        self._feed = node.create_client(FeedPart, "/cell/feed_part")
        self._reset = node.create_client(ResetCell, "/cell/reset")
        self._truth = node.create_client(CellTruth, "/cell/truth")
        self._anchor = node.create_client(Trigger, "/control/anchor")
        for kind, key, callback in (
            (WorldState, "world_state", self._on_world),
            (ControlState, "control_state", self._on_control),
        ):
            node.create_subscription(kind, node.topic_name(key), callback, node.qos(key))

    def now_s(self) -> float:
        """Robot time."""
        return self._node.robot_time_s()

    def machine_s(self) -> float:
        """See EpisodePort."""
        cycles = int(self.control.cycles) if self.control is not None else 0
        return cycles / self._node.hardware.rates.control_hz

    def world(self) -> World | None:
        """The newest perceived world, or None when it is missing, stale or not usable."""
        if self._seen is None or self.control is None:
            return None
        for key, message in (("world_state", self._seen), ("control_state", self.control)):
            age_s = self.now_s() - self._node.robot_time_s(message.header.stamp)
            if age_s > self._node.hardware.topics[key].stale_s:
                return None
        try:
            return make_world(self._seen, self.control, self._node.hardware, self._objects)
        except ValueError as problem:
            self._node.report(str(problem))
            return None

    def start(
        self, skill: Skill, arguments: Mapping[str, Argument], seed: int | None = None
    ) -> Call:
        """Starts a skill: of the cell by its service, any other by the skill server."""
        if skill.kind == "cell":
            return CellCall(self._cell_service(skill.name, arguments), self.now_s)
        # Another attempt at the same thing must not draw the same noise again.
        self._starts += 1
        goal = ExecuteSkill.Goal(
            skill=skill.name,
            parameters=[KeyValue(key=k, value=str(v)) for k, v in arguments.items()],
            seed=self._starts if seed is None else seed,
        )
        return SkillCall(self._skills, goal, self.now_s)

    def reset(self, task: str, seed: int, level: str) -> Anchored:
        """See EpisodePort."""
        request = ResetCell.Request(task=task, seed=seed, level=level)

        def read(response: ResetCell.Response) -> EpisodeStart | None:
            parameters = {item.key: item.value for item in response.parameters}
            start = EpisodeStart(response.part, response.socket, response.time_limit_s, parameters)
            return start if self._shows(response) else None

        def anchor() -> ServiceAnswer:
            return ServiceAnswer(self._anchor, Trigger.Request(), lambda _: True, self.now_s)

        return Anchored(ServiceAnswer(self._reset, request, read, self.now_s), anchor)

    def truth(self, part: str, socket: str) -> ServiceAnswer:
        """See EpisodePort."""

        def read(response: CellTruth.Response) -> EpisodeTruth:
            return EpisodeTruth(
                response.inserted, tuple(response.penetration_m), response.peak_force_n
            )

        request = CellTruth.Request(part=part, socket=socket)
        return ServiceAnswer(self._truth, request, read, self.now_s)

    def _cell_service(self, name: str, arguments: Mapping[str, Argument]) -> ServiceAnswer:
        def read(response: Any) -> bool | None:
            return True if self._shows(response) else None

        if name == "load_product":
            client, request = self._load, LoadProduct.Request(**arguments)
        else:
            client, request = self._feed, FeedPart.Request(**arguments)
        return ServiceAnswer(client, request, read, self.now_s)

    def _shows(self, response: Any) -> bool:
        """Whether the world that is seen is already the one that the cell answered about."""
        return self._seen is not None and self._seen.load_count >= response.load_count

    def _on_world(self, message: WorldState) -> None:
        self._seen = message

    def _on_control(self, message: ControlState) -> None:
        self.control = message
