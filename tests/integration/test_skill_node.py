"""The skill server with control and driver: one skill at a time, error codes, held at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_policy
from diagnostic_msgs.msg import KeyValue
from dovetail_control.control_node import ControlNode
from dovetail_drivers.driver_node import DriverNode
from dovetail_interfaces.action import ExecuteSkill
from dovetail_interfaces.msg import ActionChunk, ControlState
from dovetail_skills.skill_node import SkillNode
from graph import Graph
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

pytestmark = pytest.mark.ros

# Three nodes share this process's one thread, so the cell runs slower than a real one.
REAL_TIME_FACTOR = 0.4
INSERT = {"part": "round_peg", "socket": "socket_b"}


class Bench:
    """Driver, control and skills, active, with a policy that never moves."""

    def __init__(self, graph: Graph, bundle: Path) -> None:
        self.graph = graph
        self.nodes: dict[str, Any] = {}
        factor = Parameter("real_time_factor", value=REAL_TIME_FACTOR)
        policy = Parameter("bundle", value=str(bundle))
        for kind, overrides in (
            (DriverNode, [factor]),
            (ControlNode, [factor]),
            (SkillNode, [factor, policy]),
        ):
            node = kind(context=graph.context, parameter_overrides=overrides)
            graph.executor.add_node(node)
            self.nodes[node.get_name()] = node
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        self.states = graph.collect(ControlState, "/control_state")
        self.chunks = graph.collect(ActionChunk, "/action_chunk")
        for node in self.nodes.values():
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        self._client = ActionClient(graph.node, ExecuteSkill, "execute_skill")
        graph.until(self._client.server_is_ready, "the skill server appears")
        graph.until(lambda: self.states, "control runs")

    def start(self, skill: str, **parameters: str) -> ClientGoalHandle:
        """Sends a goal, which is accepted."""
        goal = ExecuteSkill.Goal(
            skill=skill, parameters=[KeyValue(key=k, value=v) for k, v in parameters.items()]
        )
        future = self._client.send_goal_async(goal)
        self.graph.until(future.done, "the goal is answered")
        assert future.result().accepted
        return future.result()

    def result(self, goal: ClientGoalHandle) -> ExecuteSkill.Result:
        """Waits for the result of a goal."""
        future = goal.get_result_async()
        self.graph.until(future.done, "the skill ends")
        return future.result().result

    def close(self) -> None:
        """Ends the nodes."""
        for node in self.nodes.values():
            self.graph.executor.remove_node(node)
            node.stop("test over")
            node.destroy_node()


@pytest.fixture
def bench(graph: Graph, tmp_path: Path) -> Iterator[Bench]:
    """Active nodes."""
    tiny_policy.write(tmp_path / "still")
    made = Bench(graph, tmp_path / "still")
    yield made
    made.close()


def test_scripted_skill_succeeds_and_control_holds(bench: Bench) -> None:
    result = bench.result(bench.start("go_home"))
    assert (result.success, result.error_code, result.kind) == (True, "OK", "scripted")
    assert result.inferences == 0
    assert bench.chunks[-1].horizon == 0
    bench.graph.until(lambda: bench.states[-1].holding, "control holds")


def test_one_skill_owns_the_robot_until_cancelled(bench: Bench) -> None:
    first = bench.start("insert_peg", **INSERT)
    bench.graph.until(lambda: not bench.states[-1].holding, "the policy is executed")
    second = bench.result(bench.start("go_home"))
    assert (second.success, second.error_code) == (False, "REFUSED")
    assert second.error_msg == "insert_peg owns the robot"
    first.cancel_goal_async()
    result = bench.result(first)
    assert (result.success, result.error_code, result.kind) == (False, "CANCELLED", "learned")
    assert result.inferences >= 1 and len(result.inference_ms) == result.inferences
    bench.graph.until(lambda: bench.states[-1].holding, "control holds")
    assert bench.result(bench.start("go_home")).success


def test_chunks_follow_the_consumed_steps(bench: Bench) -> None:
    goal = bench.start("insert_peg", **INSERT)
    bench.graph.until(lambda: len(bench.chunks) >= 5, "chunks come")
    goal.cancel_goal_async()
    bench.result(goal)
    steps = [chunk.first_step for chunk in bench.chunks if chunk.horizon]
    replans = [later - earlier for earlier, later in zip(steps, steps[1:], strict=False)]
    # Never before its time; later only when this one thread was late.
    assert all(gap >= tiny_policy.EXECUTE_STEPS or gap == 0 for gap in replans)
    assert tiny_policy.EXECUTE_STEPS in replans
    assert len({chunk.goal_id for chunk in bench.chunks if chunk.horizon}) == 1


def test_inference_of_more_than_a_step_is_expected_and_borne(bench: Bench) -> None:
    skills = bench.nodes["skills"]
    model = skills._models["insert_peg"]
    infer, over = model.policy.infer, threading.Event()

    def slow(*arguments: Any, **options: Any) -> Any:
        """Answers only after the next boundary, so that its chunk is two steps late."""
        # Of the observation: the bench itself may hear of that step only later.
        first = skills._control.step
        while bench.states[-1].step <= first and not bench.states[-1].holding:
            over.wait(0.005)
        late = bench.states[-1]
        boundary_s = skills.robot_time_s(late.header.stamp)
        while skills.robot_time_s() < boundary_s + 0.01 and not over.wait(0.005):
            pass
        return infer(*arguments, **options)

    model.policy.infer = slow
    goal = bench.start("insert_peg", **INSERT)
    bench.graph.until(lambda: not bench.states[-1].holding, "the policy is executed")
    planner = skills._run.planner
    begun, first = len(bench.states), bench.states[-1].step
    bench.graph.until(lambda: bench.states[-1].step >= first + 8, "eight steps are executed")
    assert not any(state.holding for state in bench.states[begun:])
    assert planner._delay.steps == model.longest_delay == 2
    over.set()
    goal.cancel_goal_async()
    assert bench.result(goal).error_code == "CANCELLED"


@pytest.mark.parametrize(
    ("skill", "parameters", "code", "message"),
    [
        ("juggle", {}, "REFUSED", "skill: got 'juggle', expected one of go_home, insert_peg"),
        ("feed_part", {"part": "round_peg"}, "REFUSED", "skill: got 'feed_part', expected"),
        ("insert_peg", {"part": "round_peg"}, "REFUSED", "insert_peg:socket: got nothing"),
        (
            "insert_peg",
            {"part": "round_peg", "socket": "socket_a"},
            "PRECONDITION",
            "not true: fits(part, socket)",
        ),
    ],
)
def test_refusals(
    bench: Bench, skill: str, parameters: dict[str, str], code: str, message: str
) -> None:
    result = bench.result(bench.start(skill, **parameters))
    assert (result.success, result.error_code) == (False, code)
    assert message in result.error_msg
    assert bench.states[-1].holding


def test_silent_driver_ends_the_skill(bench: Bench) -> None:
    goal = bench.start("insert_peg", **INSERT)
    bench.graph.until(lambda: not bench.states[-1].holding, "the policy is executed")
    bench.graph.executor.remove_node(bench.nodes["driver"])
    result = bench.result(goal)
    assert (result.success, result.error_code) == (False, "STALE")
    assert "joint_states: got nothing for" in result.error_msg
    assert bench.states[-1].holding
    bench.graph.executor.add_node(bench.nodes["driver"])


def test_deactivation_ends_the_skill(bench: Bench) -> None:
    goal = bench.start("insert_peg", **INSERT)
    bench.graph.until(lambda: not bench.states[-1].holding, "the policy is executed")
    assert bench.nodes["skills"].trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert bench.result(goal).error_code == "CANCELLED"
    bench.graph.until(lambda: bench.states[-1].holding, "control holds")
    assert bench.result(bench.start("go_home")).error_code == "REFUSED"
