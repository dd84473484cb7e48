"""Parameters with a type that must not be guessed from their text."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from launch.core import LaunchContext, Substitution, as_substitutions, perform
from launch.refusal import NotProvidedError, refuse_names

__all__ = ["ParameterValue"]

PLAIN_TYPES = (bool, int, float)


class ParameterValue:
    """A value whose text is read as the given type, not as what it looks like."""

    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        """``value_type`` is str, int, float or bool; None guesses like a YAML file."""
        if value_type not in (None, str, *PLAIN_TYPES):
            raise NotProvidedError(
                f"launch_ros.parameter_descriptions.ParameterValue(value_type={value_type!r})"
            )
        self.value = value
        self.value_type = value_type


def evaluate(context: LaunchContext, value: Any) -> Any:
    """A parameter's value: texts are read like YAML, so that 'seed:=7' gives a number.

    Raises:
        TypeError: the value cannot be a ROS parameter.
    """
    kind = None
    if isinstance(value, ParameterValue):
        kind, value = value.value_type, value.value
    if isinstance(value, PLAIN_TYPES) and not isinstance(value, str):
        result = value
    elif isinstance(value, (str, Substitution)):
        text = perform(context, as_substitutions(value))
        result = text if kind is str else yaml.safe_load(text)
    elif isinstance(value, Iterable) and not isinstance(value, Mapping):
        return _evaluate_several(context, list(value), kind)
    else:
        raise TypeError(
            f"parameter: got {value!r}, expected a number, a text, a substitution or a list of them"
        )
    if not isinstance(result, (str, *PLAIN_TYPES, list)):
        # ROS has no parameter type for nothing or a mapping: it stays the text that it was.
        result = text
    if kind is float and type(result) is int:
        result = float(result)
    if kind is not None and type(result) is not kind:
        raise TypeError(f"parameter: got {result!r}, expected {kind.__name__}")
    return result


def _evaluate_several(context: LaunchContext, values: list[Any], kind: Any) -> Any:
    if any(isinstance(value, Substitution) for value in values):
        # As upstream has it, a list with a substitution in it is one text in pieces.
        text = perform(context, as_substitutions(values))
        return text if kind is str else yaml.safe_load(text)
    if any(type(value) is float for value in values) and all(
        type(value) in (int, float) for value in values
    ):
        return [float(value) for value in values]
    kinds = {type(value) for value in values}
    if len(kinds) > 1 or not kinds <= {str, *PLAIN_TYPES}:
        raise TypeError(
            f"parameter: got {values!r}, expected texts, integers, floats or booleans, all alike"
        )
    return values


def flatten(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


__getattr__ = refuse_names("launch_ros.parameter_descriptions")
