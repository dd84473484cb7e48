"""Texts that are known only when the launch file runs."""

import os
from collections.abc import Iterable
from typing import Any

from .core import (
    LaunchContext,
    SomeText,
    Substitution,
    SubstitutionFailure,
    as_substitutions,
    perform,
)
from .refusal import refuse_names

__all__ = [
    "EnvironmentVariable",
    "LaunchConfiguration",
    "PathJoinSubstitution",
    "SubstitutionFailure",
    "TextSubstitution",
    "ThisLaunchFile",
    "ThisLaunchFileDir",
]


class TextSubstitution(Substitution):
    """Plain text."""

    def __init__(self, *, text: str) -> None:
        """``text`` is returned as it is."""
        if not isinstance(text, str):
            raise TypeError(f"TextSubstitution: got {text!r}, expected text")
        self.text = text

    def describe(self) -> str:
        """The text in quotes."""
        return f"'{self.text}'"

    def perform(self, context: LaunchContext) -> str:
        """The text."""
        return self.text


class LaunchConfiguration(Substitution):
    """The value of a launch configuration, such as a declared argument."""

    def __init__(self, variable_name: SomeText, *, default: Any = None) -> None:
        """``default`` is used where the configuration is not set; None makes that an error."""
        self.variable_name = as_substitutions(variable_name)
        if default is None:
            self._default = None
        else:
            items = (
                default
                if isinstance(default, Iterable) and not isinstance(default, str)
                else [default]
            )
            self._default = as_substitutions(
                [x if isinstance(x, (str, Substitution)) else str(x) for x in items]
            )

    def describe(self) -> str:
        """The name it looks up."""
        return f"LaunchConfig({' + '.join(part.describe() for part in self.variable_name)})"

    def perform(self, context: LaunchContext) -> str:
        """The value.

        Raises:
            SubstitutionFailure: not set, and there is no default.
        """
        name = perform(context, self.variable_name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self._default is None:
            raise SubstitutionFailure(f"launch configuration '{name}' does not exist")
        return perform(context, self._default)


class EnvironmentVariable(Substitution):
    """The value of an environment variable."""

    def __init__(self, name: SomeText, *, default_value: SomeText | None = None) -> None:
        """``default_value`` is used where the variable is not set; None makes that an error."""
        self._name = as_substitutions(name)
        self._default = None if default_value is None else as_substitutions(default_value)

    def describe(self) -> str:
        """The name it looks up."""
        return f"EnvVar({' + '.join(part.describe() for part in self._name)})"

    def perform(self, context: LaunchContext) -> str:
        """The value.

        Raises:
            SubstitutionFailure: not set, and there is no default.
        """
        name = perform(context, self._name)
        if name in context.environment:
            return context.environment[name]
        if self._default is None:
            raise SubstitutionFailure(f"environment variable '{name}' does not exist")
        return perform(context, self._default)


class PathJoinSubstitution(Substitution):
    """Path components joined by the system's separator."""

    def __init__(self, substitutions: Iterable[str | Substitution]) -> None:
        """One component for each substitution."""
        self.substitutions = as_substitutions(substitutions)

    def describe(self) -> str:
        """The components."""
        return f"PathJoin({' + '.join(part.describe() for part in self.substitutions)})"

    def perform(self, context: LaunchContext) -> str:
        """The path."""
        return os.path.join(*(part.perform(context) for part in self.substitutions))


class ThisLaunchFile(Substitution):
    """The absolute path of the launch file being carried out."""

    _local = "current_launch_file_path"

    def perform(self, context: LaunchContext) -> str:
        """The path.

        Raises:
            SubstitutionFailure: no launch file is being carried out.
        """
        if self._local not in context.get_locals_as_dict():
            raise SubstitutionFailure(f"{type(self).__name__} used outside of a launch file")
        return str(context.get_locals_as_dict()[self._local])


class ThisLaunchFileDir(ThisLaunchFile):
    """The absolute path of the folder of the launch file being carried out."""

    _local = "current_launch_file_directory"


__getattr__ = refuse_names("launch.substitutions")
