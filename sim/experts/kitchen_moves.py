"""The seven sub-tasks of the kitchen as sequences of moves of the tool.

A move has an aim, a function of the present state of the kitchen and of where the tool was when the
move began, and an end. Knobs, lever and sliding door are pushed with closed fingers, the kettle
with open ones. Handles of hinged doors are gripped, the hand turned to one side: the spring of a
finger is weak, and a finger behind the handle pulls harder than two that hold it by friction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from policies.control import so3
from sim.experts.kitchen_arm import Arm, Array

OPEN_M, CLOSED_M = 0.04, 0.0
# From the middle of a knob's bar, or of the lever, to a finger that touches it.
KNOB_CONTACT_M, LEVER_CONTACT_M = 0.03, 0.035
# Hinges of the microwave's door, the cabinet's right door, and the lever, in the plane.
MICROWAVE_HINGE_M = np.array([-1.128, 0.455])
CABINET_HINGE_M = np.array([-0.224, 0.710])
LEVER_HINGE_M = np.array([-0.400, 0.691])
KETTLE_END_M = 0.715


class Aim(NamedTuple):
    """A pose of the tool, world, and the opening of each finger, m."""

    position: Array
    rotation: Array
    width_m: float


Goal = Callable[[Arm, Aim], Aim]


@dataclass(frozen=True)
class Move:
    """One move.

    Attributes:
        goal: where to, from the present state and the aim the tool had reached when it began.
        until: whether it is over; when left out it is over within `tolerance_m` of its goal.
        tolerance_m: see `until`.
        step_m: longest way of the tool in one policy step.
        steps: given up after so many policy steps.
        posture: where given, the joints go straight to those of the episode's start, or to "ready",
            where the sub-task begins: those that bring the tool to this move's goal at the start.
    """

    goal: Goal
    until: Callable[[Arm], bool] | None = None
    tolerance_m: float = 0.015
    step_m: float = 0.035
    steps: int = 40
    posture: Literal["start", "ready"] | None = None


def facing(pointing: ArrayLike, opening: ArrayLike) -> Array:
    """Rotation of a tool that points along one direction and opens its fingers along another."""
    z, across = np.asarray(pointing, dtype=float), np.asarray(opening, dtype=float)
    z = z / np.linalg.norm(z)
    y = across - z * (z @ across)
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z], axis=1)


def lowered(angle_rad: float, rotation: Array) -> Array:
    """A tool that points to the wall turned to point below it."""
    return so3.exp(np.array([-angle_rad, 0.0, 0.0])) @ rotation


# To the wall, the fingers opening sideways or up and down.
FLAT = facing((0, 1, 0), (1, 0, 0))
UPRIGHT = facing((0, 1, 0), (0, 0, 1))
KETTLE_TILT_RAD = 0.72


def _back_off(way: ArrayLike, along_m: float = 0.0) -> Move:
    """Away from where the tool is, by a way in the world and one against where it points."""

    def goal(arm: Arm, begun: Aim) -> Aim:
        del arm
        back = np.asarray(way) - along_m * begun.rotation[:, 2]
        return begun._replace(position=begun.position + back)

    return Move(goal, tolerance_m=0.05, steps=15)


def _pushing(
    contact: Callable[[Arm], tuple[Array, Array]],
    rotation: Array,
    clear_m: float,
    lead_m: float,
    depth_m: float,
    until: Callable[[Arm], bool],
    away: ArrayLike,
) -> list[Move]:
    """Go beside a thing, in beside it, push until it is done, and back off.

    Args:
        contact: where the finger touches, and the direction to push in, (3,) each.
        rotation: of the tool.
        clear_m: distance from the contact before the push.
        lead_m: how far beyond the contact the push aims.
        depth_m: of the tool behind the contact.
        until: when it is done.
        away: the way to back off.
    """

    def beside(lead_m: float, depth_m: float) -> Goal:
        def goal(arm: Arm, begun: Aim) -> Aim:
            del begun
            point, direction = contact(arm)
            position = point + lead_m * direction - depth_m * rotation[:, 2]
            return Aim(position, rotation, CLOSED_M)

        return goal

    return [
        Move(beside(-clear_m, depth_m + 0.1), posture="ready"),
        Move(beside(-clear_m, depth_m + 0.07), tolerance_m=0.012, steps=15),
        Move(beside(-clear_m, depth_m), tolerance_m=0.006, steps=20),
        Move(beside(lead_m, depth_m), until, step_m=0.06, steps=25),
        _back_off(away),
    ]


def _knob(site: str, joint: str, depth_m: float) -> list[Move]:
    """Turns a knob by pushing the upper end of its bar to the right.

    A few millimetres of `depth_m` decide: deeper, the tips rub on the disc behind the bar, and less
    deep they slip off it.
    """

    def contact(arm: Arm) -> tuple[Array, Array]:
        angle = -arm.joint(joint)
        bar = np.array([np.sin(angle), 0.0, np.cos(angle)])
        push = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        return arm.site(site) + 0.035 * bar - KNOB_CONTACT_M * push, push

    def over(arm: Arm) -> bool:
        return arm.joint(joint) < -0.83

    return _pushing(contact, UPRIGHT, 0.022, 0.07, depth_m, over, (-0.03, -0.1, 0))


def _tangent(arm: Arm, site: str, hinge_m: Array) -> Array:
    """Direction (3,) in which a site moves that turns clockwise about a hinge, seen from above."""
    x, y = arm.site(site)[:2] - hinge_m
    return np.asarray(np.array([y, -x, 0.0]) / np.hypot(x, y))


def _lever() -> list[Move]:
    def contact(arm: Arm) -> tuple[Array, Array]:
        push = _tangent(arm, "light_site", LEVER_HINGE_M)
        return arm.site("light_site") - LEVER_CONTACT_M * push, push

    def over(arm: Arm) -> bool:
        return arm.joint("light_switch") < -0.58

    return _pushing(contact, lowered(0.3, FLAT), 0.02, 0.06, 0.035, over, (0.03, -0.1, 0))


def _sliding_door() -> list[Move]:
    def contact(arm: Arm) -> tuple[Array, Array]:
        return arm.site("slide_site") - np.array([0.04, 0.0, 0.0]), np.array([1.0, 0.0, 0.0])

    def over(arm: Arm) -> bool:
        return arm.joint("slide_cabinet") > 0.35

    return _pushing(contact, UPRIGHT, 0.03, 0.08, 0.03, over, (-0.03, -0.1, 0))


def _hinged_door(
    site: str,
    rotation: Callable[[Arm], Array],
    depth_m: float,
    pull: Callable[[Arm], Array],
    until: Callable[[Arm], bool],
) -> list[Move]:
    """Grip a handle, pull the door open by it, let go and back off.

    Args:
        site: the handle.
        rotation: of the tool.
        depth_m: of the tool behind the handle.
        pull: how far from the handle the pull aims (3,).
        until: when it is open.
    """

    def at(depth_m: float, width_m: float, pulled: bool = False) -> Goal:
        def goal(arm: Arm, begun: Aim) -> Aim:
            del begun
            turned = rotation(arm)
            position = arm.site(site) - depth_m * turned[:, 2]
            return Aim(position + pull(arm) if pulled else position, turned, width_m)

        return goal

    def stay(arm: Arm, begun: Aim) -> Aim:
        del arm
        return begun._replace(width_m=OPEN_M)

    def never(arm: Arm) -> bool:
        del arm
        return False

    return [
        Move(at(depth_m + 0.1, OPEN_M), posture="ready"),
        Move(at(depth_m, OPEN_M), tolerance_m=0.012),
        Move(at(depth_m, CLOSED_M), never, steps=4),
        Move(at(depth_m, CLOSED_M, pulled=True), until, steps=60),
        Move(stay, never, steps=3),
        _back_off((0, 0, 0), 0.1),
    ]


def _microwave() -> list[Move]:
    return _hinged_door(
        "microhandle_site",
        lambda arm: so3.about_z(np.array(0.5 + 0.3 * arm.joint("microwave"))) @ lowered(0.7, FLAT),
        0.015,
        lambda arm: 0.08 * _tangent(arm, "microhandle_site", MICROWAVE_HINGE_M),
        lambda arm: arm.joint("microwave") < -0.7,
    )


def _cabinet() -> list[Move]:
    return _hinged_door(
        "hinge_site2",
        lambda arm: so3.about_z(np.array(0.4 * arm.joint("right_hinge_cabinet"))) @ FLAT,
        0.02,
        lambda arm: -0.08 * _tangent(arm, "hinge_site2", CABINET_HINGE_M),
        lambda arm: arm.joint("right_hinge_cabinet") > 1.38,
    )


def _kettle() -> list[Move]:
    """Pushes the kettle by its foot; two fingers apart keep it straight."""
    rotation = lowered(KETTLE_TILT_RAD, FLAT)

    def behind(distance_m: float, height_m: float) -> Goal:
        def goal(arm: Arm, begun: Aim) -> Aim:
            del begun
            at = arm.data.joint("kettle").qpos
            # Pushed off its middle it turns back.
            aside_m = -0.2 * at[6]
            return Aim(at[:3] + [aside_m, -distance_m, height_m], rotation, OPEN_M)

        return goal

    def over(arm: Arm) -> bool:
        return bool(arm.data.joint("kettle").qpos[1] > KETTLE_END_M)

    return [
        Move(behind(0.23, 0.13), posture="start"),
        Move(behind(0.23, 0.13), posture="ready"),
        Move(behind(0.17, 0.075), tolerance_m=0.014),
        Move(behind(0.05, 0.075), over, step_m=0.026, steps=50),
        _back_off((0, -0.1, 0.05)),
    ]


MOVES: dict[str, list[Move]] = {
    "microwave": _microwave(),
    "kettle": _kettle(),
    "bottom burner": _knob("knob2_site", "knob_Joint_2", 0.053),
    "top burner": _knob("knob4_site", "knob_Joint_4", 0.047),
    "light switch": _lever(),
    "slide cabinet": _sliding_door(),
    "hinge cabinet": _cabinet(),
}
