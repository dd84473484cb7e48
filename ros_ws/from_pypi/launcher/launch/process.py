"""The action that runs a process: its output, its end, and how it is made to end.

Each process leads a process group of its own, so that a signal to the launcher reaches it only
through the launcher, in order, and so that whatever it started ends with it. If the launcher itself
is killed, the kernel sends its processes SIGTERM.
"""

import asyncio
import ctypes
import os
import shlex
import signal
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import logging
from .core import (
    Action,
    LaunchContext,
    LaunchDescriptionEntity,
    SomeText,
    as_substitutions,
    perform,
)
from .event_handlers import OnProcessExit
from .events.process import ProcessExited, ProcessStarted
from .refusal import NotProvidedError, refuse_keywords
from .substitutions import LaunchConfiguration

PR_SET_PDEATHSIG = 1
DRAIN_S = 0.5
"""Seconds that are left for the last output after a process has ended."""

DEFAULT_SIGTERM_TIMEOUT = LaunchConfiguration("sigterm_timeout", default=5)
DEFAULT_SIGKILL_TIMEOUT = LaunchConfiguration("sigkill_timeout", default=5)

_libc = ctypes.CDLL(None)
_count = 0


def _begin_child(launcher_pid: int) -> Callable[[], None]:
    """What the child does before it becomes the program: ask for SIGTERM if the launcher dies."""

    def begin() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher_pid:
            os.kill(os.getpid(), signal.SIGTERM)

    return begin


class ExecuteProcess(Action):
    """Runs a process until it ends or everything is shut down."""

    def __init__(
        self,
        *,
        cmd: Iterable[SomeText],
        name: SomeText | None = None,
        cwd: SomeText | None = None,
        env: Mapping[SomeText, SomeText] | None = None,
        additional_env: Mapping[SomeText, SomeText] | None = None,
        output: SomeText = "log",
        log_cmd: bool = False,
        shell: bool = False,
        sigterm_timeout: SomeText = DEFAULT_SIGTERM_TIMEOUT,
        sigkill_timeout: SomeText = DEFAULT_SIGKILL_TIMEOUT,
        on_exit: Any = None,
        **others: Any,
    ) -> None:
        """Timeouts are seconds as text: from SIGINT to SIGTERM, and from there to SIGKILL.

        ``output`` is 'screen', 'log' (errors on the screen, all in the log file) or 'both'.
        ``on_exit`` answers the process's end like OnProcessExit.
        """
        super().__init__(condition=others.pop("condition", None))
        refuse_keywords(self, others)
        self._cmd = [as_substitutions(part) for part in cmd]
        self._name = None if name is None else as_substitutions(name)
        self._cwd = None if cwd is None else as_substitutions(cwd)
        self._env = env
        self._additional_env = additional_env
        self._output = as_substitutions(output)
        self._log_cmd = log_cmd
        self._shell = shell
        self._sigterm_timeout = as_substitutions(sigterm_timeout)
        self._sigkill_timeout = as_substitutions(sigkill_timeout)
        self._on_exit = on_exit
        self._executed = False
        self._ending = False
        self._timers: list[asyncio.TimerHandle] = []
        self._process: asyncio.subprocess.Process | None = None
        self.process_details: dict[str, Any] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str | None:
        """The label that the output carries, once the process is to start."""
        return self.process_details.get("name")

    @property
    def cmd(self) -> list[str] | None:
        """The command line, once the process is to start."""
        return self.process_details.get("cmd")

    @property
    def return_code(self) -> int | None:
        """The exit code, once the process has ended."""
        return None if self._process is None else self._process.returncode

    def sub_entities(self) -> Iterable[LaunchDescriptionEntity]:
        """What ``on_exit`` holds."""
        return self._on_exit if isinstance(self._on_exit, list) else ()

    def command_line(self, context: LaunchContext) -> list[str]:
        """The command line in this context."""
        return [perform(context, part) for part in self._cmd]

    def _environment(self, context: LaunchContext) -> dict[str, str]:
        environment = dict(context.environment) if self._env is None else {}
        for extra in (self._env, self._additional_env):
            for key, value in (extra or {}).items():
                environment[perform(context, as_substitutions(key))] = perform(
                    context, as_substitutions(value)
                )
        return environment

    def execute(self, context: LaunchContext) -> None:
        """Prepares the process and lets it start once the description has been visited.

        Raises:
            RuntimeError: the same action is executed a second time.
        """
        if self._executed:
            raise RuntimeError(f"{type(self).__name__} '{self.name}': executed more than once")
        self._executed = True
        cmd = self.command_line(context)
        global _count
        _count += 1
        label = os.path.basename(cmd[0]) if self._name is None else perform(context, self._name)
        self.process_details = {
            "action": self,
            "name": f"{label}-{_count}",
            "cmd": cmd,
            "cwd": None if self._cwd is None else perform(context, self._cwd),
            "env": self._environment(context),
        }
        output = os.environ.get("OVERRIDE_LAUNCH_PROCESS_OUTPUT") or perform(context, self._output)
        if output not in ("screen", "log", "both"):
            raise NotProvidedError(f"output='{output}'")
        if context.is_shutdown:
            return
        if self._on_exit is not None:
            context.register_event_handler(OnProcessExit(target_action=self, on_exit=self._on_exit))
        self.task = asyncio.get_running_loop().create_task(self._run(context, output))
        context.processes.append(self)

    async def _run(self, context: LaunchContext, output: str) -> None:
        logger = logging.get_logger(self.process_details["name"])
        cmd = self.process_details["cmd"]
        if context.is_shutdown:
            return
        if self._log_cmd:
            logger.info(
                f"process details: cmd='{' '.join(cmd)}', cwd='{self.process_details['cwd']}'"
            )
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(["/bin/sh", "-c", " ".join(cmd)] if self._shell else cmd),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self.process_details["cwd"],
                env=self.process_details["env"],
                process_group=0,
                preexec_fn=_begin_child(os.getpid()),
            )
        except Exception:
            logger.error(f"exception occurred while executing process:\n{traceback.format_exc()}")
            return
        process = self._process
        logger.info(f"process started with pid [{process.pid}]")
        self.process_details["pid"] = process.pid
        context.emit_event_sync(ProcessStarted(**self.process_details))
        if context.is_shutdown:
            # Everything was shut down while the process was being started.
            self.end(context)
        assert process.stdout is not None and process.stderr is not None
        readers = [
            asyncio.create_task(
                self._forward(process.stdout, screen=output != "log", file=output != "screen")
            ),
            asyncio.create_task(
                self._forward(process.stderr, screen=True, file=output != "screen")
            ),
        ]
        code = await process.wait()
        for timer in self._timers:
            timer.cancel()
        # A grandchild may hold the pipes open for as long as it lives.
        await asyncio.wait(readers, timeout=DRAIN_S)
        for reader in readers:
            reader.cancel()
        if code == 0:
            logger.info(f"process has finished cleanly [pid {process.pid}]")
        else:
            logger.error(
                f"process has died [pid {process.pid}, exit code {code}, cmd '{shlex.join(cmd)}']."
            )
        context.emit_event_sync(ProcessExited(returncode=code, **self.process_details))

    async def _forward(self, stream: asyncio.StreamReader, screen: bool, file: bool) -> None:
        """Passes on whole lines; a last one without an end counts too."""
        rest = b""
        try:
            while chunk := await stream.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(line, screen, file)
        finally:
            if rest:
                self._say(rest, screen, file)

    def _say(self, line: bytes, screen: bool, file: bool) -> None:
        logging.write(
            f"[{self.process_details['name']}] {line.decode(errors='replace')}", screen, file
        )

    def end(self, context: LaunchContext) -> None:
        """Sends SIGINT and arranges for SIGTERM and SIGKILL should that not be enough."""
        if self._process is None or self._process.returncode is not None or self._ending:
            return
        self._ending = True
        sigterm_s = float(perform(context, self._sigterm_timeout))
        sigkill_s = sigterm_s + float(perform(context, self._sigkill_timeout))
        self.send_signal(signal.SIGINT)
        loop = asyncio.get_running_loop()
        steps = (
            (sigterm_s, signal.SIGINT, signal.SIGTERM),
            (sigkill_s, signal.SIGTERM, signal.SIGKILL),
        )
        for seconds, sent, stronger in steps:
            self._timers.append(loop.call_later(seconds, self._escalate, seconds, sent, stronger))

    def _escalate(self, seconds: float, sent: signal.Signals, stronger: signal.Signals) -> None:
        logging.get_logger().error(
            f"process[{self.name}] failed to terminate '{seconds:g}' seconds "
            f"after receiving '{sent.name}', escalating to '{stronger.name}'"
        )
        self.send_signal(stronger)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and what it started, if there is still anything."""
        if self._process is None:
            return
        if self._process.returncode is None:
            logging.get_logger(self.process_details["name"]).info(
                f"sending signal '{number.name}' to process[{self.name}]"
            )
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass
