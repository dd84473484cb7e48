"""Actions on arguments, environment, events and other descriptions."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from . import logging
from .core import (
    Action,
    Event,
    EventHandler,
    LaunchContext,
    LaunchDescriptionEntity,
    SomeText,
    as_substitutions,
    perform,
)
from .events import Shutdown as ShutdownEvent
from .events.process import ProcessExited
from .launch_description_sources import PythonLaunchDescriptionSource
from .process import ExecuteProcess
from .refusal import refuse_keywords, refuse_names

__all__ = [
    "AppendEnvironmentVariable",
    "DeclareLaunchArgument",
    "EmitEvent",
    "ExecuteProcess",
    "GroupAction",
    "IncludeLaunchDescription",
    "LogInfo",
    "OpaqueFunction",
    "RegisterEventHandler",
    "SetEnvironmentVariable",
    "SetLaunchConfiguration",
    "Shutdown",
    "UnsetEnvironmentVariable",
]

Entities = list[LaunchDescriptionEntity]


class DeclareLaunchArgument(Action):
    """An argument that the launch file takes as ``name:=value``."""

    def __init__(
        self,
        name: str,
        *,
        default_value: SomeText | None = None,
        description: str | None = None,
        choices: Iterable[str] | None = None,
        **others: Any,
    ) -> None:
        """Without a default the argument is required; ``choices`` limits its values."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self.name = name
        self.default_value = None if default_value is None else as_substitutions(default_value)
        self.choices = None if choices is None else list(choices)
        valid = "" if self.choices is None else str(self.choices)
        if description is None:
            self.description = f"One of: {valid}" if valid else "no description given"
        else:
            self.description = (
                f"{description}. Valid choices are: {valid}" if valid else description
            )

    def execute(self, context: LaunchContext) -> None:
        """Sets the default where no value was given and checks the value.

        Raises:
            RuntimeError: required and not given, or not among the choices.
        """
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise RuntimeError(f'Required launch argument "{self.name}" was not provided.')
            context.launch_configurations[self.name] = perform(context, self.default_value)
        value = context.launch_configurations[self.name]
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(
                f'Argument "{self.name}" provided value "{value}" is not valid. '
                f"Valid options are: {self.choices}"
            )


class SetLaunchConfiguration(Action):
    """Sets a launch configuration."""

    def __init__(self, name: SomeText, value: SomeText, **others: Any) -> None:
        """Name and value may be substitutions."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self._name = as_substitutions(name)
        self._value = as_substitutions(value)

    def execute(self, context: LaunchContext) -> None:
        """Sets it."""
        context.launch_configurations[perform(context, self._name)] = perform(context, self._value)


class SetEnvironmentVariable(SetLaunchConfiguration):
    """Sets a variable for the processes started from now on."""

    def execute(self, context: LaunchContext) -> None:
        """Sets it."""
        context.environment[perform(context, self._name)] = perform(context, self._value)


class AppendEnvironmentVariable(Action):
    """Adds to a variable that is a list, for the processes started from now on."""

    def __init__(
        self,
        name: SomeText,
        value: SomeText,
        prepend: bool = False,
        separator: SomeText = os.pathsep,
        **others: Any,
    ) -> None:
        """``prepend`` puts the value first."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        if not isinstance(prepend, bool):
            raise TypeError(
                f"AppendEnvironmentVariable(prepend): got {prepend!r}, expected True or False"
            )
        self._name = as_substitutions(name)
        self._value = as_substitutions(value)
        self._prepend = prepend
        self._separator = as_substitutions(separator)

    def execute(self, context: LaunchContext) -> None:
        """Adds the value."""
        name = perform(context, self._name)
        parts = [perform(context, self._value)]
        if name in context.environment:
            parts.insert(1 if self._prepend else 0, context.environment[name])
        context.environment[name] = perform(context, self._separator).join(parts)


class UnsetEnvironmentVariable(Action):
    """Removes a variable for the processes started from now on."""

    def __init__(self, name: SomeText, **others: Any) -> None:
        """The name may be a substitution."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self._name = as_substitutions(name)

    def execute(self, context: LaunchContext) -> None:
        """Removes it if it is set."""
        context.environment.pop(perform(context, self._name), None)


class LogInfo(Action):
    """Says something."""

    def __init__(self, *, msg: SomeText, **others: Any) -> None:
        """The message may be a substitution."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self._message = as_substitutions(msg)

    def execute(self, context: LaunchContext) -> None:
        """Says it."""
        logging.get_logger("launch.user").info(perform(context, self._message))


class OpaqueFunction(Action):
    """Calls a function of the context; the entities it returns are visited."""

    def __init__(
        self,
        *,
        function: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """The function gets the context first."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        if not callable(function):
            raise TypeError(f"OpaqueFunction(function): got {function!r}, expected a function")
        self._function = function
        self._args = tuple(args or ())
        self._kwargs = dict(kwargs or {})

    def execute(self, context: LaunchContext) -> Entities | None:
        """Calls it."""
        result = self._function(context, *self._args, **self._kwargs)
        return None if result is None else list(result)


class RegisterEventHandler(Action):
    """Starts to answer events."""

    def __init__(self, event_handler: EventHandler, **others: Any) -> None:
        """The handler is asked before those registered earlier."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        """Registers the handler."""
        context.register_event_handler(self.event_handler)

    def sub_entities(self) -> Iterable[LaunchDescriptionEntity]:
        """The entities it answers with, if they are fixed."""
        return self.event_handler.entities or ()


class EmitEvent(Action):
    """Emits an event."""

    def __init__(self, *, event: Event, **others: Any) -> None:
        """The event is emitted each time."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        if not isinstance(event, Event):
            raise RuntimeError(f"EmitEvent(event): got {event!r}, expected a launch.Event")
        self.event = event

    def execute(self, context: LaunchContext) -> None:
        """Emits it."""
        context.emit_event_sync(self.event)


class Shutdown(EmitEvent):
    """Ends everything."""

    def __init__(self, *, reason: str = "reason not given", **others: Any) -> None:
        """``reason`` is told to the handlers of the event."""
        super().__init__(event=ShutdownEvent(reason=reason), **others)

    def execute(self, context: LaunchContext) -> None:
        """Emits the event, naming the process whose end brought it about."""
        cause = context.get_locals_as_dict().get("event")
        if isinstance(cause, ProcessExited):
            logging.get_logger().info(
                f"process[{cause.process_name}] was required: shutting down launched system"
            )
        super().execute(context)


class _Scope(Action):
    """Opens or closes a scope of launch configurations and environment."""

    def __init__(self, opens: bool) -> None:
        super().__init__()
        self._opens = opens

    def execute(self, context: LaunchContext) -> None:
        if self._opens:
            context.push_scope()
        else:
            context.pop_scope()


class GroupAction(Action):
    """Several actions with launch configurations and environment of their own."""

    def __init__(self, actions: Iterable[Action], *, scoped: bool = True, **others: Any) -> None:
        """``scoped`` undoes afterwards what the actions set."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self._actions: Entities = list(actions)
        self._scoped = scoped

    def execute(self, context: LaunchContext) -> Entities:
        """Returns the actions."""
        return [_Scope(True), *self._actions, _Scope(False)] if self._scoped else self._actions

    def sub_entities(self) -> Iterable[LaunchDescriptionEntity]:
        """The actions."""
        return self._actions


class IncludeLaunchDescription(Action):
    """Carries out another launch file."""

    def __init__(
        self,
        launch_description_source: PythonLaunchDescriptionSource | SomeText,
        *,
        launch_arguments: Iterable[tuple[SomeText, SomeText]] | None = None,
        **others: Any,
    ) -> None:
        """``launch_arguments`` are pairs of name and value."""
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        if not isinstance(launch_description_source, PythonLaunchDescriptionSource):
            launch_description_source = PythonLaunchDescriptionSource(launch_description_source)
        self._source = launch_description_source
        self._arguments = list(launch_arguments or ())

    def execute(self, context: LaunchContext) -> Entities:
        """Loads the file, checks that its required arguments are given and returns its description.

        Raises:
            RuntimeError: a required argument is missing.
        """
        description = self._source.get_launch_description(context)
        path = os.path.abspath(self._source.location)
        context.extend_locals(
            {
                "current_launch_file_path": path,
                "current_launch_file_directory": os.path.dirname(path),
            }
        )
        given = [perform(context, as_substitutions(name)) for name, _ in self._arguments]
        for entity, conditional in walk(description):
            if (
                isinstance(entity, DeclareLaunchArgument)
                and entity.default_value is None
                and not conditional
            ):
                if entity.name not in given:
                    raise RuntimeError(
                        f"Included launch description missing required argument '{entity.name}' "
                        f"(description: '{entity.description}'), given: [{', '.join(given)}]"
                    )
        settings: Entities = [
            SetLaunchConfiguration(name, value) for name, value in self._arguments
        ]
        return [*settings, description]


def walk(entity: LaunchDescriptionEntity) -> Iterator[tuple[LaunchDescriptionEntity, bool]]:
    """Every entity known before anything runs, and whether a condition or event decides on it."""
    for inner in entity.sub_entities():
        conditional = (
            isinstance(entity, RegisterEventHandler)
            or getattr(inner, "condition", None) is not None
        )
        yield inner, conditional
        for deeper, deeper_conditional in walk(inner):
            yield deeper, conditional or deeper_conditional


__getattr__ = refuse_names("launch.actions")
