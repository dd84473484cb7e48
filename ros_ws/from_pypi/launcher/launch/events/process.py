"""Events of processes."""

from typing import Any

from ..core import Event
from ..refusal import refuse_names

__all__ = ["ProcessExited", "ProcessStarted"]


class ProcessStarted(Event):
    """A process runs."""

    name = "launch.events.process.ProcessStarted"

    def __init__(
        self,
        *,
        action: Any,
        name: str,
        cmd: list[str],
        cwd: str | None,
        env: dict[str, str] | None,
        pid: int,
    ) -> None:
        """``action`` is the one that started it, ``name`` the label that its output carries."""
        self.action = action
        self.process_name = name
        self.cmd = cmd
        self.cwd = cwd
        self.env = env
        self.pid = pid


class ProcessExited(ProcessStarted):
    """A process ended."""

    name = "launch.events.process.ProcessExited"

    def __init__(self, *, returncode: int, **details: Any) -> None:
        """``returncode`` is the exit code, or minus the number of the signal that ended it."""
        super().__init__(**details)
        self.returncode = returncode


__getattr__ = refuse_names("launch.events.process")
