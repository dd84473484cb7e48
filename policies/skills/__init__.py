"""Skills: what the robot can be asked to do, when it may, and how its success is seen."""

from policies.skills.registry import (
    Condition,
    ErrorCode,
    Skill,
    SkillError,
    load_skill,
    load_skills,
)
from policies.skills.world import Pose, World

__all__ = [
    "Condition",
    "ErrorCode",
    "Pose",
    "Skill",
    "SkillError",
    "World",
    "load_skill",
    "load_skills",
]
