"""Carries out launch descriptions until every process has ended."""

import asyncio
import signal
import traceback
from collections.abc import Iterable
from typing import Any

from . import logging
from .core import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from .events import Shutdown

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class LaunchService:
    """Visits entities, answers events, and forwards the wish to stop."""

    def __init__(self, *, argv: Iterable[str] | None = None, noninteractive: bool = False) -> None:
        """``argv`` are the launch arguments as given."""
        self.context = LaunchContext(argv=argv, noninteractive=noninteractive)
        self._logger = logging.get_logger()
        self._descriptions: list[LaunchDescription] = []
        self._interrupted = False
        self._return_code = 0

    def include_launch_description(self, launch_description: LaunchDescription) -> None:
        """Adds a description to carry out."""
        self._descriptions.append(launch_description)

    def run(self) -> int:
        """Runs until every process has ended.

        Returns:
            0, or 1 if an entity or an event handler raised an exception or a signal other than
            SIGINT ended the run. A process's own exit code does not count: that is for the launch
            file's event handlers to judge.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        context = self.context
        wake = asyncio.Event()
        context.wake = wake.set
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt)
        for number in ENDING_SIGNALS:
            loop.add_signal_handler(number, self._on_ending_signal, number)
        try:
            self._guard(self._visit_all, self._descriptions)
            while True:
                while context.events:
                    self._guard(self._answer, context.events.popleft())
                running = {process.task for process in context.processes if not process.task.done()}
                if running or context.events:
                    wake.clear()
                    waker = asyncio.create_task(wake.wait())
                    if not context.events:
                        await asyncio.wait({*running, waker}, return_when=asyncio.FIRST_COMPLETED)
                    waker.cancel()
                elif context.is_shutdown:
                    break
                else:
                    self._shut_down("idle")
        finally:
            # What a process left behind in its group must not outlive the launcher.
            for process in context.processes:
                process.send_signal(signal.SIGKILL)
        return self._return_code

    def _guard(self, function: Any, *arguments: Any) -> None:
        """An exception ends everything with exit code 1; processes still get their time to end."""
        try:
            function(*arguments)
        except Exception as error:
            message = f"Caught exception in launch: {error}"
            self._logger.error(message)
            logging.write(traceback.format_exc(), screen=False)
            self._return_code = 1
            self._shut_down(message)

    def _visit_all(self, entities: Iterable[LaunchDescriptionEntity]) -> None:
        for entity in entities:
            self._visit_all(entity.visit(self.context) or ())

    def _answer(self, event: Any) -> None:
        if isinstance(event, Shutdown):
            # First of all, so that no handler's exception can keep a process from being told.
            self.context.is_shutdown = True
            for process in self.context.processes:
                process.end(self.context)
        for handler in tuple(self.context.event_handlers):
            if not handler.matches(event):
                continue
            self.context.push_locals()
            try:
                answer = handler.handle(event, self.context)
                if answer is not None:
                    entities = answer if isinstance(answer, Iterable) else [answer]
                    self._visit_all(entity for entity in entities if entity is not None)
            finally:
                self.context.pop_locals()

    def _shut_down(self, reason: str, due_to_sigint: bool = False) -> None:
        if not self.context.is_shutdown:
            self.context.is_shutdown = True
            self.context.emit_event_sync(Shutdown(reason=reason, due_to_sigint=due_to_sigint))

    def _on_interrupt(self) -> None:
        message = "user interrupted with ctrl-c (SIGINT)"
        if self._interrupted:
            self._logger.warning(f"{message} again, ignoring...")
            return
        self._interrupted = True
        self._logger.warning(message)
        self._shut_down("ctrl-c (SIGINT)", due_to_sigint=True)

    def _on_ending_signal(self, number: signal.Signals) -> None:
        self._logger.error(f"received {number.name}, shutting down")
        self._return_code = 1
        self._shut_down(number.name)
