"""Events of the launch system itself; those of processes are in ``launch.events.process``."""

from ..core import Event
from ..refusal import refuse_names

__all__ = ["Shutdown"]


class Shutdown(Event):
    """Everything is to end."""

    name = "launch.events.Shutdown"

    def __init__(self, *, reason: str = "reason not given", due_to_sigint: bool = False) -> None:
        """``due_to_sigint`` says that a person pressed Ctrl-C."""
        self.reason = reason
        self.due_to_sigint = due_to_sigint


__getattr__ = refuse_names("launch.events")
