"""Runs the steps of the set-up: what a person sees, where the output goes, what is still fresh."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 15.0

# What a caller may have set for its own Python, or an outer make for its jobs.
FOREIGN_VARIABLES = (
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_USER",
    "PIP_REQUIRE_VIRTUALENV",
    "VIRTUAL_ENV",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)


class SetupError(Exception):
    """A step failed; the message says what to do about it."""


def clean_environment() -> dict[str, str]:
    """The caller's environment without what belongs to another Python."""
    return {name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES}


class Progress:
    """Prints one line per step with its seconds and keeps the commands' output in a log file."""

    def __init__(self, log_path: Path, total: int) -> None:
        """``total`` is the number of steps that will be announced."""
        self.log_path = log_path
        self.total = total
        self.number = 0
        self.live = sys.stdout.isatty()
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log_path.write_text("")

    def run(
        self,
        title: str,
        commands: Iterable[Sequence[str]],
        environment: Mapping[str, str],
        cwd: Path,
    ) -> None:
        """Runs a step's commands in order.

        Raises:
            SetupError: a command did not exit with 0; the end of the log has been printed.
        """
        self.number += 1
        label = f"[{self.number}/{self.total}] {title}"
        print(f"{label} ...", end="" if self.live else "\n", flush=True)
        begin = time.monotonic()
        for command in commands:
            code = self._run_one(label, command, environment, cwd, begin)
            if code != 0:
                if self.live:
                    print()
                self._print_tail()
                raise SetupError(
                    f"{title}: `{' '.join(command[:6])} ...` exited with {code}; "
                    f"all of it is in {self.log_path}"
                )
        seconds = time.monotonic() - begin
        print(
            f"\r\033[K{label}  {seconds:.1f} s"
            if self.live
            else f"{label}  done in {seconds:.1f} s",
            flush=True,
        )

    def _run_one(
        self,
        label: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        begin: float,
    ) -> int:
        with self.log_path.open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=cwd,
            )
            while True:
                try:
                    return process.wait(timeout=1.0 if self.live else HEARTBEAT_S)
                except subprocess.TimeoutExpired:
                    seconds = time.monotonic() - begin
                    if self.live:
                        print(f"\r\033[K{label} ... {seconds:.0f} s", end="", flush=True)
                    else:
                        print(f"    still at it, {seconds:.0f} s", flush=True)
                except BaseException:
                    process.terminate()
                    process.wait()
                    raise

    def _print_tail(self, lines: int = 25) -> None:
        for line in self.log_path.read_text(errors="replace").splitlines()[-lines:]:
            print(f"    {line}", file=sys.stderr)


def digest(paths: Iterable[Path], *texts: str) -> str:
    """SHA-256 over the texts and the files' names and contents; folders are walked."""
    total = hashlib.sha256()
    for text in texts:
        total.update(text.encode() + b"\0")
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" in file.parts or file.suffix == ".pyc":
                continue
            total.update(str(file.relative_to(path.parent)).encode() + b"\0")
            total.update(file.read_bytes() + b"\0")
    return total.hexdigest()


def is_fresh(stamp: Path, value: str) -> bool:
    """Whether the stamp was written for the same inputs."""
    return stamp.is_file() and stamp.read_text() == value
