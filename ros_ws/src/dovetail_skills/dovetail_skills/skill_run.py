"""One run of a skill, from goal to result, without ROS: what to do at each policy-step boundary."""

from __future__ import annotations

from dataclasses import dataclass, field

from dovetail_skills.planners import Planner
from policies.skills.predicates import toppled
from policies.skills.registry import Argument, ErrorCode, Skill
from policies.skills.world import World

# A part that tips over while it is let go may still fall into place.
LOST_AFTER_STEPS = 5


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: ErrorCode
    message: str = ""

    @property
    def success(self) -> bool:
        """Whether the skill did what it is for."""
        return self.code is ErrorCode.OK


@dataclass
class SkillRun:
    """A running skill.

    Attributes:
        skill: its registry entry.
        arguments: of the call.
        planner: decides the actions.
        goal_id: marks its chunks.
        started_s: robot time of its start.
        outcome: set once it has ended.
        inference_ms: wall clock of each planning of a learned skill.
    """

    skill: Skill
    arguments: dict[str, Argument]
    planner: Planner
    goal_id: str
    started_s: float
    step_s: float
    outcome: Outcome | None = None
    inference_ms: list[float] = field(default_factory=list)
    _checked: bool = False
    _planning: bool = False
    _first_step: int | None = None
    _planned_s: float = 0.0
    _bad_steps: int = 0

    def end(self, code: ErrorCode, message: str = "") -> None:
        """Ends the run, unless it has ended before."""
        if self.outcome is None:
            self.outcome = Outcome(code, message)

    def on_step(self, step: int, holding: bool, world: World, now_s: float) -> bool:
        """Judges the state at a boundary between policy steps.

        Args:
            step: policy steps that control has consumed.
            holding: whether control has no action to execute.
            world: newest perception.
            now_s: robot time.

        Returns:
            Whether to plan the next chunk now, from the observation of this moment.
        """
        if self.outcome is not None:
            return False
        if not self._checked:
            self._check_preconditions(world)
        elif self.planner.finished and self.skill.succeeded(world, self.arguments):
            self.end(ErrorCode.OK)
        elif now_s - self.started_s > self.skill.timeout_s:
            unmet = [str(c) for c in self.skill.success if not c.holds(world, self.arguments)]
            reason = ", ".join(unmet) or "the controller has not finished"
            self.end(ErrorCode.TIMEOUT, f"after {self.skill.timeout_s:g} s not true: {reason}")
        else:
            self._watch_parts(world)
        if self.outcome is not None or self._planning:
            return False
        due = self._first_step is None or step >= self._first_step + self.planner.execute_steps
        # Control fell into a hold although a chunk was sent: plan anew from where it stands.
        starved = holding and now_s > self._planned_s + self.step_s
        if not (due or starved):
            return False
        self._planning = True
        self._first_step = step
        return True

    def on_planned(self, now_s: float, took_ms: float) -> None:
        """Notes that the planning asked for by `on_step` is over."""
        self._planning = False
        self._planned_s = now_s
        if self.skill.kind == "learned":
            self.inference_ms.append(took_ms)

    def _check_preconditions(self, world: World) -> None:
        self._checked = True
        unmet = self.skill.unmet_preconditions(world, self.arguments)
        if unmet:
            self.end(ErrorCode.PRECONDITION, "not true: " + ", ".join(map(str, unmet)))

    def _watch_parts(self, world: World) -> None:
        """Ends a learned run whose part has fallen over or is out of sight for a while."""
        if self.skill.kind != "learned":
            return
        for name, kind in self.skill.parameters.items():
            if kind != "part":
                continue
            part = str(self.arguments[name])
            lost = part not in world.parts
            self._bad_steps = self._bad_steps + 1 if lost or toppled(world, part) else 0
            if self._bad_steps >= LOST_AFTER_STEPS:
                code = ErrorCode.PART_LOST if lost else ErrorCode.PART_TOPPLED
                self.end(code, f"{part} is " + ("out of sight" if lost else "toppled"))
