"""The skill registry: one YAML file per skill, read as strictly as a hardware config.

A skill is learned (a policy bundle), scripted (a controller of the skills node) or of the cell (a
device other than the robot). Its preconditions, effects and success are conditions over
``policies.skills.predicates``, such as ``seated(part, socket)`` or ``not toppled(part)``, whose
arguments are the skill's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from hardware_configs.strict import Node, read_yaml
from policies.objects import Objects
from policies.skills.predicates import PREDICATES
from policies.skills.world import World

FOLDER = Path(__file__).parent
NAME = r"[a-z][a-z0-9_]*"
CONDITION = rf"(not )?({NAME})\(((?:{NAME}(?:, {NAME})*)?)\)"
KINDS = ("learned", "scripted", "cell")
LEVELS = ("low", "med", "high")
TYPES = ("part", "socket", "whole", "metres", "level")
# What each of the types that are not listed by name is, and what its text looks like.
_WHOLE = "a whole number", r"[0-9]{1,19}"
_METRES = "a length in metres", r"-?[0-9]{1,6}(\.[0-9]{1,24})?(e-?[0-9]{1,3})?"

Argument = str | int | float


class SkillError(ValueError):
    """A skill's file or the arguments of a call are not valid; one problem per line."""


class ErrorCode(StrEnum):
    """How a skill ends; the scheduler chooses the recovery by it."""

    OK = "OK"
    REFUSED = "REFUSED"  # the arguments are not valid or the robot is not ready
    PRECONDITION = "PRECONDITION"  # a precondition does not hold
    TIMEOUT = "TIMEOUT"  # no success in time
    CANCELLED = "CANCELLED"
    STALE = "STALE"  # readings stopped coming
    POLICY = "POLICY"  # the policy gave no usable answer
    PART_TOPPLED = "PART_TOPPLED"
    PART_LOST = "PART_LOST"  # a part is out of reach or out of sight
    CONTROLLER = "CONTROLLER"  # the scripted controller or the cell's device failed


@dataclass(frozen=True)
class Condition:
    """A predicate applied to parameters of a skill, or its negation."""

    predicate: str
    parameters: tuple[str, ...]
    negated: bool

    def __str__(self) -> str:
        """Returns the condition as it is written in the skill's file."""
        text = f"{self.predicate}({', '.join(self.parameters)})"
        return f"not {text}" if self.negated else text

    def holds(self, world: World, arguments: Mapping[str, Argument]) -> bool:
        """Tells whether the condition is true with the arguments of a call."""
        values = [arguments[parameter] for parameter in self.parameters]
        return PREDICATES[self.predicate].function(world, *values) != self.negated


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        name: the name it is called by.
        kind: ``learned``, ``scripted`` or ``cell``.
        parameters: type of each: ``part``, ``socket``, ``whole``, ``metres`` or ``level``.
        preconditions: what has to hold before.
        effects: what will hold afterwards.
        success: what tells, while it runs, that it is done.
        task: the task of a learned skill's bundle; empty otherwise.
        bundle: the bundle of a learned skill; empty otherwise.
        controller: the controller of the other kinds; empty for a learned skill.
        timeout_s: longest time of one attempt.
        retries: attempts after the first.
        error_codes: how it can fail.
    """

    name: str
    kind: str
    parameters: Mapping[str, str]
    preconditions: tuple[Condition, ...]
    effects: tuple[Condition, ...]
    success: tuple[Condition, ...]
    task: str
    bundle: str
    controller: str
    timeout_s: float
    retries: int
    error_codes: tuple[ErrorCode, ...]

    def read_arguments(self, texts: Mapping[str, str], objects: Objects) -> dict[str, Argument]:
        """Turns the texts of a call into arguments of the right types.

        Args:
            texts: value of each parameter, as in an action goal.
            objects: the parts and sockets that there are.

        Raises:
            SkillError: a parameter is missing, unknown or of the wrong type.
        """
        options = {"part": tuple(objects.parts), "socket": tuple(objects.sockets), "level": LEVELS}
        lines: list[str] = []
        arguments: dict[str, Argument] = {}
        for name in texts:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "no parameters"
                lines.append(f"{self.name}:{name}: got an unknown parameter, expected {known}")
        for name, kind in self.parameters.items():
            text = texts.get(name)
            expected = _METRES[0] if kind == "metres" else _WHOLE[0]
            if kind in options:
                expected = "one of " + ", ".join(options[kind])
            got = "nothing" if text is None else repr(text)
            if kind == "whole" and text is not None and re.fullmatch(_WHOLE[1], text):
                arguments[name] = int(text)
            elif kind == "metres" and text is not None and re.fullmatch(_METRES[1], text):
                arguments[name] = float(text)
            elif text is not None and text in options.get(kind, ()):
                arguments[name] = text
            else:
                lines.append(f"{self.name}:{name}: got {got}, expected {expected}")
        if lines:
            raise SkillError("\n".join(lines))
        return arguments

    def unmet_preconditions(
        self, world: World, arguments: Mapping[str, Argument]
    ) -> tuple[Condition, ...]:
        """Returns the preconditions that do not hold."""
        return tuple(c for c in self.preconditions if not c.holds(world, arguments))

    def unmet_effects(
        self, world: World, arguments: Mapping[str, Argument]
    ) -> tuple[Condition, ...]:
        """Returns the effects that do not hold."""
        return tuple(c for c in self.effects if not c.holds(world, arguments))

    def succeeded(self, world: World, arguments: Mapping[str, Argument]) -> bool:
        """Tells whether the success detector fires."""
        return all(condition.holds(world, arguments) for condition in self.success)


def load_skills(folder: Path = FOLDER) -> dict[str, Skill]:
    """Reads every skill of a folder, by name.

    Raises:
        SkillError: a file is not valid; all problems of all files are named.
    """
    skills: dict[str, Skill] = {}
    errors: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            skills[path.stem] = load_skill(path)
        except SkillError as error:
            errors.append(str(error))
    if errors:
        raise SkillError("\n".join(errors))
    return skills


def load_skill(path: Path) -> Skill:
    """Reads one skill's file.

    Raises:
        SkillError: the file is not valid; the message has one line per problem.
    """
    root, problems = read_yaml(path, f"{path.parent.name}/{path.name}", SkillError)
    kind = root.choice("kind", KINDS)
    parameters = _read_parameters(root.node("parameters"))
    learned = kind == "learned"
    skill = Skill(
        name=root.text("name", NAME, "a lower-case name"),
        kind=kind,
        parameters=parameters,
        preconditions=_read_conditions(root, "preconditions", parameters),
        effects=_read_conditions(root, "effects", parameters),
        success=_read_conditions(root, "success", parameters),
        task=root.text("task", NAME, "a lower-case name") if learned else "",
        bundle=root.text("bundle", NAME, "a lower-case name") if learned else "",
        controller="" if learned else root.text("controller", NAME, "a lower-case name"),
        timeout_s=root.number("timeout_s", above=0),
        retries=root.whole("retries", 0),
        error_codes=_read_error_codes(root),
    )
    root.finish()
    if skill.name and skill.name != path.stem:
        root.wrong("name", f"{path.stem!r}, the name of the file")
    if root.has("success") and root.values["success"] == []:
        root.wrong("success", "at least one condition")
    problems.raise_if_any(SkillError)
    return skill


def _read_parameters(node: Node) -> Mapping[str, str]:
    parameters = {}
    for name in list(node.values):
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            node.problems.add(node.path(name), "a parameter's name", "a lower-case name")
        parameters[str(name)] = node.choice(name, TYPES)
    return MappingProxyType(parameters)


def _read_conditions(root: Node, key: str, parameters: Mapping[str, str]) -> tuple[Condition, ...]:
    conditions: list[Condition] = []
    for i, text in enumerate(root.texts(key)):
        place = f"{key}[{i}]"
        found = re.fullmatch(CONDITION, text)
        if not found:
            expected = "a condition like part_free(part) or not toppled(part)"
            root.problems.add(place, repr(text), expected)
            continue
        predicate, names = found[2], tuple(found[3].split(", ")) if found[3] else ()
        conditions.append(Condition(predicate, names, negated=bool(found[1])))
        if predicate not in PREDICATES:
            expected = "one of " + ", ".join(PREDICATES)
            root.problems.add(place, f"predicate {predicate!r}", expected)
        elif tuple(parameters.get(name) for name in names) != PREDICATES[predicate].types:
            types = ", ".join(PREDICATES[predicate].types) or "none"
            expected = f"parameters of the skill of the types: {types}"
            root.problems.add(place, repr(text), expected)
    return tuple(conditions)


def _read_error_codes(root: Node) -> tuple[ErrorCode, ...]:
    texts = root.texts("error_codes")
    known = [code.value for code in ErrorCode if code is not ErrorCode.OK]
    for i, text in enumerate(texts):
        if text not in known or text in texts[:i]:
            expected = "each once of " + ", ".join(known)
            root.problems.add(f"error_codes[{i}]", repr(text), expected)
    return tuple(ErrorCode(text) for text in texts if text in known)
