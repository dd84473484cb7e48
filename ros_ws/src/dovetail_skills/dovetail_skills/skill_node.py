"""The skill server: one action type for every skill, one skill at a time on the robot.

The node is driven by the control state: at each boundary between policy steps it judges the world,
corrects the action that begins there where the policy has a residual, and, when a chunk is due,
plans the next one in a thread of its own while the robot executes the last one. What it publishes
is indexed by the step count of the observation, never by time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from dovetail_interfaces.action import ExecuteSkill
from dovetail_interfaces.msg import ActionChunk, ControlState, WorldState
from dovetail_lifecycle import DovetailNode, Refusal, poses, run
from dovetail_lifecycle.world import make_world
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.task import Future
from sensor_msgs.msg import JointState

from dovetail_skills.planners import HomePlanner, LearnedModel, LearnedPlanner, Planner, Readings
from dovetail_skills.skill_run import SkillRun
from policies.bundle import load_bundle
from policies.features import ACTION, POLICY_HZ
from policies.objects import load_objects
from policies.skills.registry import ErrorCode, Skill, load_skills

WATCHDOG_S = 0.1
JOINT_HISTORY = 30
# Control holds as soon as its inputs are stale; only a lasting silence ends the skill.
SILENCE_S = 0.5
# Scripted controllers, and whether they open the fingers before they move.
SCRIPTS = {"go_home": False, "recover": True}


class SkillNode(DovetailNode):
    """ExecuteSkill goals in, action chunks out."""

    def __init__(self, **options: Any) -> None:
        super().__init__("skills", **options)
        self._bundle = str(self.setting("bundle", ""))
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="plan")
        self._run: SkillRun | None = None
        self._done: Future | None = None
        self._goal: ServerGoalHandle | None = None
        self._joints: deque[JointState] = deque(maxlen=JOINT_HISTORY)
        self._world: WorldState | None = None
        self._control: ControlState | None = None

    def configure(self) -> None:
        """Loads the skills and verifies and warms up their bundles."""
        self._objects = load_objects()
        self._skills = load_skills()
        self._models: dict[str, LearnedModel] = {}
        overridden = self._task_of(self._bundle) if self._bundle else ""
        for skill in self._skills.values():
            if skill.kind == "learned":
                bundle = self._bundle if skill.task == overridden else skill.bundle
                model = LearnedModel(bundle, skill.task, self.hardware)
                self._models[skill.name] = model
                self.get_logger().info(
                    f"{skill.name}: bundle {model.bundle.name} verified and warmed up, "
                    f"good for delays of up to {1e3 * model.longest_delay / POLICY_HZ:.0f} ms"
                    + (", each action refined" if model.policy.refines else "")
                )
            elif skill.kind == "scripted" and skill.controller not in SCRIPTS:
                raise Refusal(
                    f"{skill.name}:controller: got {skill.controller!r}, "
                    f"expected one of {', '.join(SCRIPTS)}"
                )
        self._chunks = self.create_publisher(
            ActionChunk, self.topic_name("action_chunk"), self.qos("action_chunk")
        )
        for kind, key, callback in (
            (JointState, "joint_states", self._on_joints),
            (WorldState, "world_state", self._on_world),
            (ControlState, "control_state", self._on_control),
        ):
            self.create_subscription(kind, self.topic_name(key), callback, self.qos(key))
        self._server = ActionServer(
            self,
            ExecuteSkill,
            "execute_skill",
            self._execute,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
        )
        self.create_timer(WATCHDOG_S, self._watch)

    def _task_of(self, bundle: str) -> str:
        """The task of a bundle that is to be used instead of the one its skill names."""
        task = load_bundle(bundle, hardware_hash=None).manifest.task
        tasks = [skill.task for skill in self._skills.values() if skill.kind == "learned"]
        if task not in tasks:
            raise Refusal(f"{bundle}:task: got {task!r}, expected one of {', '.join(tasks)}")
        return task

    def deactivate(self) -> None:
        """Ends the running skill; control holds."""
        self._end(ErrorCode.CANCELLED, "the skill server was deactivated")

    def stop(self, reason: str) -> None:
        """Ends the running skill; control holds."""
        self._end(ErrorCode.CANCELLED, f"the skill server was ended ({reason})")
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _execute(self, goal: ServerGoalHandle) -> ExecuteSkill.Result:
        request = goal.request
        skill = self._skills.get(request.skill)
        result = ExecuteSkill.Result(kind=skill.kind if skill else "")
        try:
            started = self._start(skill, goal)
        except ValueError as problem:
            result.error_code, result.error_msg = ErrorCode.REFUSED.value, str(problem)
            self.get_logger().warning(f"refused {request.skill}: {problem}")
            goal.abort()
            return result
        self._goal = goal
        assert self._done is not None
        await self._done
        outcome = started.outcome
        assert outcome is not None
        self._run = self._done = self._goal = None
        result.success = outcome.success
        result.error_code, result.error_msg = outcome.code.value, outcome.message
        result.seconds = self.robot_time_s() - started.started_s
        result.control_hz = self._control.control_hz if self._control else 0.0
        result.inferences = len(started.inference_ms)
        result.inference_ms = started.inference_ms
        result.refinement_ms = started.planner.refinement_ms
        if outcome.success:
            goal.succeed()
        elif goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    def _start(self, skill: Skill | None, goal: ServerGoalHandle) -> SkillRun:
        """Makes the run of a goal, or raises ValueError with the reason to refuse it."""
        request = goal.request
        if skill is None or skill.kind == "cell":
            known = ", ".join(s.name for s in self._skills.values() if s.kind != "cell")
            raise ValueError(f"skill: got {request.skill!r}, expected one of {known}")
        if not self.active:
            raise ValueError("the skill server is not active")
        if self._run is not None:
            raise ValueError(f"{self._run.skill.name} owns the robot")
        texts = {item.key: item.value for item in request.parameters}
        arguments = skill.read_arguments(texts, self._objects)
        self._run = SkillRun(
            skill=skill,
            arguments=arguments,
            planner=self._planner(skill, arguments, request.seed),
            goal_id=bytes(goal.goal_id.uuid).hex(),
            started_s=self.robot_time_s(),
            step_s=1.0 / POLICY_HZ,
        )
        self._done = Future()
        return self._run

    def _planner(self, skill: Skill, arguments: dict[str, Any], seed: int) -> Planner:
        if skill.kind == "learned":
            return LearnedPlanner(
                self._models[skill.name],
                self._objects,
                part=str(arguments["part"]),
                socket=str(arguments["socket"]),
                seed=seed,
                now_s=self.robot_time_s,
                grasp_shift_m=float(arguments.get("grasp_shift_m", 0.0)),
            )
        return HomePlanner(self.hardware, release=SCRIPTS[skill.controller])

    def _on_joints(self, message: JointState) -> None:
        self._joints.append(message)

    def _on_world(self, message: WorldState) -> None:
        self._world = message

    def _on_control(self, message: ControlState) -> None:
        self._control = message
        current = self._run
        if current is None or current.outcome is not None or self._world is None:
            return
        if self._goal is not None and self._goal.is_cancel_requested:
            self._end(ErrorCode.CANCELLED, "cancelled")
            return
        now_s = self.robot_time_s()
        try:
            world = make_world(self._world, message, self.hardware, self._objects)
            plan = current.on_step(message.step, message.holding, world, now_s)
            readings, stamp = self._read(message)
        except ValueError as problem:
            self._end(ErrorCode.STALE, str(problem))
        else:
            self._act(current, readings, stamp, plan)
        if current.outcome is not None:
            self._finish()
        elif self._goal is not None:
            self._goal.publish_feedback(
                ExecuteSkill.Feedback(
                    text=message.hold_reason or "moving",
                    seconds=now_s - current.started_s,
                    step=message.step,
                )
            )

    def _read(self, control: ControlState) -> tuple[Readings, Any]:
        """Readings of one moment: the joint state nearest in time to the perceived world."""
        world = self._world
        if world is None or not self._joints:
            raise ValueError("readings: got none, expected joint states and the world state")
        seen_ns = _nanoseconds(world.header.stamp)
        joints = min(self._joints, key=lambda j: abs(_nanoseconds(j.header.stamp) - seen_ns))
        names = [*self.hardware.joint_names, self.hardware.gripper.joint]
        if list(joints.name) != names:
            raise ValueError(f"joint_states:name: got {list(joints.name)}, expected {names}")
        readings = Readings(
            step=int(control.step),
            holding=control.holding,
            boundary_s=self.robot_time_s(control.header.stamp),
            q_rad=np.array(joints.position[:-1]),
            dq_rad_s=np.array(joints.velocity[:-1]),
            gripper_width_m=float(joints.position[-1]),
            gripper_target_m=control.gripper_target_m,
            target=poses.to_arrays(control.tool_target),
            parts={item.name: poses.to_arrays(item.pose) for item in world.parts},
            sockets={item.name: poses.to_arrays(item.pose) for item in world.sockets},
        )
        return readings, joints.header.stamp

    def _act(self, current: SkillRun, readings: Readings, stamp: Any, plan: bool) -> None:
        """Corrects what has begun and, if it is time, has the next chunk planned."""
        if current.outcome is not None:
            return
        try:
            readings = current.planner.see(readings)
            refined = current.planner.refine(readings)
        except Exception as problem:
            # Whatever goes wrong in a policy must end the skill, not the server.
            self._end(ErrorCode.POLICY, f"{type(problem).__name__}: {problem}")
            return
        if refined is not None:
            with self._lock:
                self._publish(current.goal_id, stamp, readings.step, refined)
        if plan:
            self._thread.submit(self._plan, current, readings, stamp)

    def _plan(self, current: SkillRun, readings: Readings, stamp: Any) -> None:
        """Plans and publishes one chunk; runs in the planning thread."""
        start_s = time.monotonic()
        try:
            actions = current.planner.plan(readings)
            took_ms = (time.monotonic() - start_s) * 1e3
            if actions is not None:
                with self._lock:
                    if current.outcome is None:
                        self._publish(current.goal_id, stamp, readings.step, actions)
            current.on_planned(self.robot_time_s(), took_ms)
        except Exception as problem:
            # Whatever goes wrong in a policy must end the skill, not the server.
            current.end(ErrorCode.POLICY, f"{type(problem).__name__}: {problem}")

    def _publish(self, goal_id: str, stamp: Any, step: int, actions: np.ndarray) -> None:
        chunk = ActionChunk(
            goal_id=goal_id,
            first_step=step,
            step_s=1.0 / POLICY_HZ,
            action_names=list(ACTION.names),
            horizon=len(actions),
            data=actions.ravel().tolist(),
            hardware_hash=self.hardware.hash,
        )
        chunk.header.stamp = stamp
        self._chunks.publish(chunk)

    def _watch(self) -> None:
        """Ends the run when its inputs stop; the callbacks that judge it would not come then."""
        current = self._run
        if current is None:
            return
        if current.outcome is not None:
            self._finish()
            return
        stale = self._stale(current.started_s)
        if stale:
            self._end(ErrorCode.STALE, stale)

    def _stale(self, started_s: float) -> str:
        now_s = self.robot_time_s()
        newest = {
            "joint_states": self._joints[-1] if self._joints else None,
            "world_state": self._world,
            "control_state": self._control,
        }
        for key, message in newest.items():
            limit_s = self.hardware.topics[key].stale_s + SILENCE_S
            stamp_s = self.robot_time_s(message.header.stamp) if message else started_s
            age_s = now_s - stamp_s
            if age_s > limit_s:
                return f"{key}: got nothing for {age_s:.2f} s, expected at most {limit_s:g} s"
        return ""

    def _end(self, code: ErrorCode, message: str) -> None:
        if self._run is not None:
            with self._lock:
                self._run.end(code, message)
            self._finish()

    def _finish(self) -> None:
        """Lets control hold and wakes the goal up."""
        with self._lock:
            self._publish("", self.get_clock().now().to_msg(), 0, np.zeros((0, len(ACTION.names))))
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _nanoseconds(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def main() -> None:
    """Runs the skill server."""
    run(SkillNode)
