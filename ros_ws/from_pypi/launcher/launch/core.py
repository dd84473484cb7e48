"""What a launch description is made of, and the context it is carried out in."""

import os
from collections import deque
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any


class SubstitutionFailure(RuntimeError):
    """A substitution has no value."""


class Substitution:
    """A piece of text that is known only when the launch file runs."""

    def describe(self) -> str:
        """What ``--show-args`` prints for it."""
        return f"{type(self).__name__}()"

    def perform(self, context: "LaunchContext") -> str:
        """The text in this context."""
        raise NotImplementedError


SomeText = str | Substitution | Iterable[str | Substitution]


class LaunchDescriptionEntity:
    """Something that a launch description may contain."""

    def visit(self, context: "LaunchContext") -> "list[LaunchDescriptionEntity] | None":
        """Carries the entity out; returns further entities to visit."""
        raise NotImplementedError

    def sub_entities(self) -> "Iterable[LaunchDescriptionEntity]":
        """The entities known to be inside before anything runs, for listing the arguments."""
        return ()


class Event:
    """Something that happened, for event handlers."""

    name = "launch.Event"


class Condition:
    """Decides whether an action is carried out."""

    def __init__(self, *, predicate: "Callable[[LaunchContext], bool]") -> None:
        """``predicate`` is asked each time the action is visited."""
        self._predicate = predicate

    def evaluate(self, context: "LaunchContext") -> bool:
        """Whether the condition holds in this context."""
        return self._predicate(context)


class Action(LaunchDescriptionEntity):
    """An entity that does something, on a condition."""

    def __init__(self, *, condition: Condition | None = None) -> None:
        """Without a condition the action is always carried out."""
        if condition is not None and not isinstance(condition, Condition):
            raise TypeError(f"condition: got {condition!r}, expected a launch.Condition")
        self.condition = condition

    def visit(self, context: "LaunchContext") -> list[LaunchDescriptionEntity] | None:
        """Executes the action if its condition holds."""
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)
        return None

    def execute(self, context: "LaunchContext") -> list[LaunchDescriptionEntity] | None:
        """Does what the action is for; returns further entities to visit."""
        raise NotImplementedError


class LaunchDescription(LaunchDescriptionEntity):
    """An ordered list of entities."""

    def __init__(self, initial_entities: Iterable[LaunchDescriptionEntity] | None = None) -> None:
        """The entities are visited in order."""
        self.entities = list(initial_entities or ())

    def add_action(self, action: Action) -> None:
        """Appends an action."""
        self.entities.append(action)

    def add_entity(self, entity: LaunchDescriptionEntity) -> None:
        """Appends an entity."""
        self.entities.append(entity)

    def visit(self, context: "LaunchContext") -> list[LaunchDescriptionEntity]:
        """Returns the entities."""
        return self.entities

    def sub_entities(self) -> Iterable[LaunchDescriptionEntity]:
        """The entities."""
        return self.entities


class EventHandler:
    """Answers the events that its matcher accepts with entities to visit."""

    def __init__(
        self,
        *,
        matcher: Callable[[Event], bool],
        entities: "Iterable[LaunchDescriptionEntity] | None" = None,
        handle_once: bool = False,
    ) -> None:
        """``handle_once`` removes the handler after its first event."""
        self._matcher = matcher
        self.entities = entities
        self.handle_once = handle_once

    def matches(self, event: Event) -> bool:
        """Whether the handler wants this event."""
        return self._matcher(event)

    def handle(self, event: Event, context: "LaunchContext") -> Any:
        """Answers an event; returns entities to visit, one or several, or None."""
        context.extend_locals({"event": event})
        if self.handle_once:
            context.unregister_event_handler(self)
        return self.answer(event, context)

    def answer(self, event: Event, context: "LaunchContext") -> Any:
        """The entities for this event."""
        return self.entities


class _Locals:
    """Reads the context's local variables as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class LaunchContext:
    """Launch configurations, environment, event handlers and the queue of events."""

    def __init__(self, *, argv: Iterable[str] | None = None, noninteractive: bool = False) -> None:
        """``argv`` are the launch arguments as given."""
        self.argv = list(argv or ())
        self.noninteractive = noninteractive
        self.launch_configurations: dict[str, str] = {}
        self.is_shutdown = False
        self.event_handlers: deque[EventHandler] = deque()
        self.events: deque[Event] = deque()
        self.wake: Callable[[], None] = lambda: None
        self.processes: list[Any] = []
        self._locals: list[dict[str, Any]] = [{}]
        self._saved_configurations: list[dict[str, str]] = []
        self._saved_environments: list[dict[str, str]] = []

    @property
    def environment(self) -> MutableMapping[str, str]:
        """The environment that processes started from now on get."""
        return os.environ

    @property
    def locals(self) -> Any:
        """What an event handler or the launch file being visited left for its entities."""
        return _Locals(self._locals[-1])

    def get_locals_as_dict(self) -> dict[str, Any]:
        """The local variables by name."""
        return dict(self._locals[-1])

    def extend_locals(self, extensions: dict[str, Any]) -> None:
        """Adds local variables until the next pop."""
        self._locals[-1].update(extensions)

    def push_locals(self) -> None:
        """Opens a scope for local variables."""
        self._locals.append(dict(self._locals[-1]))

    def pop_locals(self) -> None:
        """Closes the scope for local variables."""
        self._locals.pop()

    def push_scope(self) -> None:
        """Saves launch configurations and environment."""
        self._saved_configurations.append(dict(self.launch_configurations))
        self._saved_environments.append(dict(os.environ))

    def pop_scope(self) -> None:
        """Restores launch configurations and environment."""
        self.launch_configurations = self._saved_configurations.pop()
        os.environ.clear()
        os.environ.update(self._saved_environments.pop())

    def perform_substitution(self, substitution: Substitution) -> str:
        """The substitution's text."""
        return substitution.perform(self)

    def register_event_handler(self, event_handler: EventHandler) -> None:
        """The handler registered last is asked first, as upstream does."""
        self.event_handlers.appendleft(event_handler)

    def unregister_event_handler(self, event_handler: EventHandler) -> None:
        """Removes a handler."""
        self.event_handlers.remove(event_handler)

    def emit_event_sync(self, event: Event) -> None:
        """Queues an event."""
        self.events.append(event)
        self.wake()


def as_substitutions(value: SomeText) -> list[Substitution]:
    """Text, a substitution, or several of them, as a list of substitutions.

    Raises:
        TypeError: something else is among them (numbers have to be given as text, as upstream
        demands).
    """
    from .substitutions import TextSubstitution

    items = [value] if isinstance(value, (str, Substitution)) else value
    if not isinstance(items, Iterable):
        raise TypeError(f"got {value!r}, expected text or launch substitutions")
    result: list[Substitution] = []
    for item in items:
        if not isinstance(item, (str, Substitution)):
            raise TypeError(f"got {item!r}, expected text or a launch substitution")
        result.append(TextSubstitution(text=item) if isinstance(item, str) else item)
    return result


def perform(context: LaunchContext, substitutions: Iterable[Substitution]) -> str:
    """The texts of the substitutions, joined."""
    return "".join(substitution.perform(context) for substitution in substitutions)
