"""Runs launch files in a process of their own and waits for what they say."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Names a command such as upstream's ros2, whose behaviour is then tested in place of ours.
OTHER_ROS2 = os.environ.get("DOVETAIL_TEST_ROS2")
ROS2 = [OTHER_ROS2] if OTHER_ROS2 else [sys.executable, str(ROOT / "ros_ws/from_pypi/ros2.py")]

HEADER = """
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import *
from launch.event_handlers import *
from launch.events import Shutdown as ShutdownEvent
from launch.substitutions import *
"""


class Launch:
    """A running ``ros2 launch`` whose output is read line by line."""

    def __init__(self, folder: Path, body: str, *arguments: str, header: str = HEADER) -> None:
        """``body`` is Python that defines ``entities``, the list to launch."""
        path = folder / "test.launch.py"
        path.write_text(
            header
            + textwrap.dedent(body)
            + "\ndef generate_launch_description():\n    return LaunchDescription(entities)\n"
        )
        environment = dict(os.environ, ROS_LOG_DIR=str(folder / "log"))
        if not OTHER_ROS2:
            # A ros2 that somebody has on PATH would be preferred.
            environment["PATH"] = "/usr/bin:/bin"
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [*ROS2, "launch", "-n", str(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=folder,
        )

    def wait_for(self, text: str) -> str:
        """Reads until a line holds the text; returns that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"ended without '{text}':\n" + "\n".join(self.lines))

    def finish(self, number: signal.Signals | None = None) -> int:
        """Sends a signal, if given, reads the rest and returns the exit code."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdout is not None
        self.lines += [line.rstrip("\n") for line in self.process.stdout]
        return self.process.wait()

    @property
    def output(self) -> str:
        """All that has been read."""
        return "\n".join(self.lines)

    def pid_of(self, line: str) -> int:
        """The number in brackets at the end of 'process started with pid [...]'."""
        return int(line.rsplit("[", 1)[1].rstrip("]"))


def launch(folder: Path, body: str, *arguments: str, header: str = HEADER) -> tuple[int, str]:
    """Runs a launch file to its end; returns exit code and output."""
    run = Launch(folder, body, *arguments, header=header)
    code = run.finish()
    return code, run.output


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
