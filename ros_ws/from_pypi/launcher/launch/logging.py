"""What the launcher says: to the screen and to a log file, each line marked with who says it."""

import os
import socket
import sys
import time
from pathlib import Path
from typing import IO

from .refusal import refuse_names

__all__ = ["get_logger"]

_log_file: IO[str] | None = None


def open_log_file() -> Path:
    """Opens this run's launch.log below ROS_LOG_DIR, ROS_HOME/log or ~/.ros/log."""
    global _log_file
    home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
    base = Path(os.environ.get("ROS_LOG_DIR") or home / "log")
    stamp = time.strftime("%Y-%m-%d-%H-%M-%S")
    folder = (
        base
        / f"{stamp}-{time.time_ns() // 1000 % 1_000_000:06d}-{socket.gethostname()}-{os.getpid()}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    _log_file = (folder / "launch.log").open("w")
    return folder


def write(line: str, screen: bool = True, file: bool = True) -> None:
    """Writes one line; a closed terminal is no reason to leave processes behind."""
    if screen:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # Nobody reads any more; from here on the lines go to the log file only.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if file and _log_file is not None:
        _log_file.write(f"{time.time():.7f} {line}\n")
        _log_file.flush()


class Logger:
    """Writes marked lines."""

    def __init__(self, name: str) -> None:
        """``name`` marks the lines."""
        self.name = name

    def info(self, message: object) -> None:
        """Something to know."""
        write(f"[INFO] [{self.name}]: {message}")

    def warning(self, message: object) -> None:
        """Something to look at."""
        write(f"[WARNING] [{self.name}]: {message}")

    def error(self, message: object) -> None:
        """Something that went wrong."""
        write(f"[ERROR] [{self.name}]: {message}")


def get_logger(name: str = "launch") -> Logger:
    """A logger whose lines carry the name."""
    return Logger(name)


__getattr__ = refuse_names("launch.logging")
