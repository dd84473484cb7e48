"""Answers to events."""

from collections.abc import Callable, Iterable
from typing import Any

from .core import Event, EventHandler, LaunchContext, LaunchDescriptionEntity
from .events import Shutdown
from .events.process import ProcessExited, ProcessStarted
from .refusal import refuse_keywords, refuse_names

__all__ = ["OnProcessExit", "OnProcessStart", "OnShutdown"]


class _Answer(EventHandler):
    """Answers with fixed entities, or with what a function of event and context returns."""

    def __init__(
        self, wants: Callable[[Event], bool], answer: Any, handle_once: bool, others: dict[str, Any]
    ) -> None:
        refuse_keywords(self, others)
        super().__init__(matcher=wants, handle_once=handle_once)
        if not callable(answer):
            several = isinstance(answer, Iterable) and not isinstance(
                answer, LaunchDescriptionEntity
            )
            self.entities = list(answer) if several else [answer]
        self._function = answer if callable(answer) else None

    def answer(self, event: Event, context: LaunchContext) -> Any:
        return self.entities if self._function is None else self._function(event, context)


def _of_process(kind: type[ProcessStarted], target: Any) -> Callable[[Event], bool]:
    def wants(event: Event) -> bool:
        # A ProcessExited is not a ProcessStarted for a handler, whatever they share.
        if type(event) is not kind:
            return False
        if target is None:
            return True
        if callable(target):
            return bool(target(event.action))  # type: ignore[attr-defined]
        return event.action is target  # type: ignore[attr-defined]

    return wants


class OnProcessExit(_Answer):
    """When a process ends."""

    def __init__(
        self, *, on_exit: Any, target_action: Any = None, handle_once: bool = False, **others: Any
    ) -> None:
        """``target_action`` is the process's action, a test on it, or None for any process."""
        super().__init__(_of_process(ProcessExited, target_action), on_exit, handle_once, others)


class OnProcessStart(_Answer):
    """When a process starts."""

    def __init__(
        self, *, on_start: Any, target_action: Any = None, handle_once: bool = False, **others: Any
    ) -> None:
        """``target_action`` is the process's action, a test on it, or None for any process."""
        super().__init__(_of_process(ProcessStarted, target_action), on_start, handle_once, others)


class OnShutdown(_Answer):
    """When everything is to end."""

    def __init__(self, *, on_shutdown: Any, handle_once: bool = False, **others: Any) -> None:
        """``on_shutdown`` gives the entities to visit."""
        super().__init__(
            lambda event: isinstance(event, Shutdown), on_shutdown, handle_once, others
        )


__getattr__ = refuse_names("launch.event_handlers")
