"""The spec: which named numbers a policy sees and which it commands.

One object says it for the simulator's observation, the data set's columns, the network's input and
the node's subscriptions, so that none of them orders or scales anything by its own lights. Names
follow LeRobot: ``observation.state``, ``observation.images.<camera>``, ``action``; a goal's are
``goal.<name>``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_configs.strict import Node, Problems

GROUPS = {
    "observation": r"observation(\.[a-z0-9_]+)+",
    "goal": r"goal(\.[a-z0-9_]+)+",
    "action": r"action(\.[a-z0-9_]+)*",
}

Float32Array = npt.NDArray[np.float32]


class SpecError(ValueError):
    """A spec, or a value that should follow one, is not valid."""


@dataclass(frozen=True)
class Field:
    """One named array of a policy's input or output.

    Attributes:
        name: LeRobot-style name, such as ``observation.state``.
        shape: shape of one sample, without the batch; at least one axis.
        unit: unit of the components, such as ``m``, ``rad`` or ``1``; ``m,rad`` where they differ.
        frame: frame in which they are given, such as ``base`` or ``tool``; ``none`` for what has no
            frame.
        names: one name per component in C order, or empty for arrays such as images.
    """

    name: str
    shape: tuple[int, ...]
    unit: str
    frame: str
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of components of one sample."""
        return math.prod(self.shape)

    def to_dict(self) -> dict[str, Any]:
        """Returns the field in JSON's types."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "unit": self.unit,
            "frame": self.frame,
            "names": list(self.names),
        }


@dataclass(frozen=True)
class Spec:
    """The input and output of a policy.

    The flat input is the observation fields and then the goal fields, each in C order, in the order
    given here.

    Attributes:
        observation: what the robot and the cell are like; at least one field.
        goal: what is asked for; may be empty.
        action: what is commanded per policy step; at least one field.
        rate_hz: policy steps per second.

    Raises:
        SpecError: a name, shape, unit or rate is not valid; the message has one line per problem.
    """

    observation: tuple[Field, ...]
    goal: tuple[Field, ...]
    action: tuple[Field, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        problems = Problems("spec")
        _read_spec(Node(self.to_dict(), "", problems))
        problems.raise_if_any(SpecError)

    @property
    def input_fields(self) -> tuple[Field, ...]:
        """The fields of the flat input in order."""
        return self.observation + self.goal

    @property
    def observation_size(self) -> int:
        """Components of the observation fields alone."""
        return sum(field.size for field in self.observation)

    @property
    def goal_size(self) -> int:
        """Components of the goal fields."""
        return sum(field.size for field in self.goal)

    @property
    def input_size(self) -> int:
        """Components of the flat input, D."""
        return self.observation_size + self.goal_size

    @property
    def action_size(self) -> int:
        """Components of one action, A."""
        return sum(field.size for field in self.action)

    def flatten_observation(self, values: Mapping[str, npt.ArrayLike]) -> Float32Array:
        """Puts named arrays into the policy's flat input.

        Args:
            values: an array (N, *shape) for each observation and goal field, and no others.

        Returns:
            (N, D) float32, D = ``input_size``.

        Raises:
            SpecError: a name, a shape or a type differs from the spec, or a value is not finite as
                float32.
        """
        problems = Problems("spec")
        fields = {field.name: field for field in self.input_fields}
        for name in values:
            if name not in fields:
                problems.add(str(name), "an unknown field", "one of " + ", ".join(fields))
        batch: int | None = None
        parts: list[Float32Array] = []
        for name, field in fields.items():
            if name not in values:
                problems.add(name, "nothing", _shape_text(batch, field.shape))
                continue
            array = np.asarray(values[name])
            shape_matches = array.ndim == len(field.shape) + 1 and array.shape[1:] == field.shape
            if not shape_matches or (batch is not None and len(array) != batch):
                problems.add(name, f"shape {array.shape}", _shape_text(batch, field.shape))
                continue
            if array.dtype.kind not in "fiu":
                problems.add(name, f"type {array.dtype}", "numbers")
                continue
            batch = len(array)
            with np.errstate(over="ignore"):
                part = array.reshape(batch, field.size).astype(np.float32)
            if not np.isfinite(part).all():
                row, component = np.argwhere(~np.isfinite(part))[0]
                place = f"{name}[{row},{component}]"
                problems.add(place, str(part[row, component]), "a finite value")
            parts.append(part)
        problems.raise_if_any(SpecError)
        return np.concatenate(parts, axis=1)

    def split_observation(self, flat: npt.ArrayLike) -> dict[str, npt.NDArray[Any]]:
        """Takes a flat input apart again: the inverse of ``flatten_observation``.

        Args:
            flat: (N, D).

        Returns:
            for each observation and goal field a view (N, *shape).

        Raises:
            SpecError: the shape is not (N, D).
        """
        array = np.asarray(flat)
        if array.ndim != 2 or array.shape[1] != self.input_size:
            raise SpecError(
                f"spec:observation: got shape {array.shape}, expected (N, {self.input_size})"
            )
        ends = np.cumsum([0] + [field.size for field in self.input_fields])
        return {
            field.name: array[:, start:end].reshape(len(array), *field.shape)
            for field, (start, end) in zip(self.input_fields, pairwise(ends), strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec in JSON's types."""
        return {
            "observation": [field.to_dict() for field in self.observation],
            "goal": [field.to_dict() for field in self.goal],
            "action": [field.to_dict() for field in self.action],
            "rate_hz": self.rate_hz,
        }

    @classmethod
    def from_dict(cls, data: object, file: str = "spec") -> Spec:
        """Makes a spec of what ``to_dict`` returned.

        Args:
            data: the mapping; unknown and missing keys are refused.
            file: the name used in messages.

        Raises:
            SpecError: the mapping is not a valid spec; the message has one line per problem.
        """
        problems = Problems(file)
        parts = _read_spec(Node(data, "", problems))
        problems.raise_if_any(SpecError)
        return cls(*parts)


def _shape_text(batch: int | None, shape: tuple[int, ...]) -> str:
    sizes = ["N" if batch is None else str(batch), *map(str, shape)]
    return f"shape ({', '.join(sizes)})"


def _read_spec(
    root: Node,
) -> tuple[tuple[Field, ...], tuple[Field, ...], tuple[Field, ...], float]:
    seen: set[str] = set()
    observation, goal, action = (_read_fields(root, group, seen) for group in GROUPS)
    rate_hz = root.number("rate_hz", above=0)
    root.finish()
    return observation, goal, action, rate_hz


def _read_fields(root: Node, group: str, seen: set[str]) -> tuple[Field, ...]:
    fields: list[Field] = []
    for node in root.nodes(group, at_least=0 if group == "goal" else 1):
        example = "action or action.<name>" if group == "action" else f"{group}.<name>"
        field = Field(
            name=node.text("name", GROUPS[group], f"a lower-case name like {example}"),
            shape=node.wholes("shape", 1),
            unit=node.text("unit"),
            frame=node.text("frame"),
            names=node.texts("names"),
        )
        node.finish()
        if field.name and field.name in seen:
            node.wrong("name", "a name that no other field has")
        seen.add(field.name)
        if node.values.get("shape") == []:
            node.wrong("shape", "at least one axis")
        if field.names and (len(field.names), len(set(field.names))) != (field.size, field.size):
            node.wrong("names", f"{field.size} different names, one per component, or none")
        fields.append(field)
    return tuple(fields)
