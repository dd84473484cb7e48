"""Sets everything up: python environments, ROS 2, the colcon workspace.

``install.py`` makes ``.venv`` (what a robot and the simulation run; never torch) and builds
``ros_ws``. ``install.py --training`` lays ``.venv-train`` over it for training and the tests. Run
through ``make setup``. What is up to date is left alone: each part carries a stamp of the lock
files and the interpreter it was made from.
"""

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import prerequisites  # noqa: E402
from steps import Progress, SetupError, clean_environment, digest, is_fresh  # noqa: E402

ROOT = HERE.parents[1]
VENV = ROOT / ".venv"
VENV_TRAIN = ROOT / ".venv-train"
WORKSPACE = ROOT / "ros_ws"
FROM_PYPI = WORKSPACE / "from_pypi"
BUILD = ROOT / "build"

# The caller may have a virtual environment active, even .venv itself.
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)

PIP = ["-m", "pip"]
PIP_INSTALL = ["install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]


def mend_scripts(install: Path) -> None:
    """Lets the nodes' scripts start where the path of their interpreter has a space in it.

    The kernel splits a script's first line there; a shell that hands over to Python does not.
    """
    quoted = '#!"'
    for script in install.glob("*/lib/*/*"):
        if script.is_file() and script.read_bytes().startswith(quoted.encode()):
            first, rest = script.read_text().split("\n", 1)
            interpreter = first[len(quoted) : -1]
            hand_over = f"'''exec' \"{interpreter}\" \"$0\" \"$@\"\n' '''"
            script.write_text(f"#!/bin/sh\n{hand_over}\n{rest}")


class Installation:
    """The parts to bring up to date and how."""

    def __init__(self, training: bool) -> None:
        """``training`` adds ``.venv-train``."""
        self.training = training
        self.ros = prerequisites.sourced_ros(dict(os.environ))
        self.environment = clean_environment()
        if self.ros:
            # What `setup.bash` of the sourced ROS 2 put there is wanted.
            self.environment["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        interpreter = f"{os.path.realpath(BASE_PYTHON)} {sys.version}"
        self.locks = [HERE / "runtime.txt"]
        if self.ros is None:
            self.locks += [FROM_PYPI / "ros-jazzy.txt", FROM_PYPI / "patch_wheels.py"]
        self.venv_stamp = digest(self.locks, interpreter, str(ROOT), str(self.ros))
        self.train_stamp = digest([HERE / "training.txt", HERE / "layer.py"], self.venv_stamp)
        source = WORKSPACE / "src"
        self.workspace_stamp = digest([source], self.venv_stamp) if source.is_dir() else None

    def stale_parts(self) -> list[str]:
        """The parts that are missing or made from something else, in the order to make them."""
        stale = []
        if not is_fresh(VENV / "dovetail.stamp", self.venv_stamp):
            stale.append("venv")
        if self.workspace_stamp and not is_fresh(
            WORKSPACE / "install" / "dovetail.stamp", self.workspace_stamp
        ):
            stale.append("workspace")
        if self.training and not is_fresh(VENV_TRAIN / "dovetail.stamp", self.train_stamp):
            stale.append("train")
        return stale

    def bring_up_to_date(self, stale: Sequence[str]) -> None:
        """Makes the stale parts, printing the progress.

        Raises:
            SetupError: a step failed.
        """
        steps = {"venv": 2 if self.ros else 4, "workspace": 1, "train": 2}
        progress = Progress(BUILD / "setup.log", sum(steps[part] for part in stale))
        for part in stale:
            {
                "venv": self.make_venv,
                "workspace": self.build_workspace,
                "train": self.make_venv_train,
            }[part](progress)

    def make_venv(self, progress: Progress) -> None:
        """Creates .venv with the runtime and, where no ROS 2 is sourced, with Jazzy's wheels."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        create = [BASE_PYTHON, "-m", "venv", str(VENV)]
        if self.ros:
            create.insert(3, "--system-site-packages")
        pip = [str(VENV / "bin" / "python"), *PIP]
        if not prerequisites.has_ensurepip():
            create.insert(3, "--without-pip")
            pip = [BASE_PYTHON, *PIP, "--python", str(VENV / "bin" / "python")]
        underlay = f"ROS 2 {self.ros} from the system" if self.ros else "ROS 2 Jazzy from PyPI"
        progress.run(
            f"Python {version} environment in .venv, {underlay}",
            [["rm", "-rf", str(VENV)], create],
            self.environment,
            ROOT,
        )
        lock = HERE / "runtime.txt"
        if self.ros and prerequisites.has_numpy_1(self.environment):
            lock = BUILD / "runtime-system-numpy.txt"
            lock.write_text(prerequisites.without_numpy_2((HERE / "runtime.txt").read_text()))
        runtime = [*pip, *PIP_INSTALL, "--no-deps", "-r", str(lock)]
        progress.run(
            "MuJoCo, ONNX Runtime, OpenCV and their kin", [runtime], self.environment, ROOT
        )
        if self.ros is None:
            wheels = [*pip, *PIP_INSTALL, "--no-deps", "-r", str(FROM_PYPI / "ros-jazzy.txt")]
            progress.run("ROS 2 Jazzy and colcon", [wheels], self.environment, ROOT)
            patch = [str(VENV / "bin" / "python"), str(FROM_PYPI / "patch_wheels.py")]
            progress.run(
                "ROS 2's build files and the ros2 command", [patch], self.environment, ROOT
            )
        (VENV / "dovetail.stamp").write_text(self.venv_stamp)

    def build_workspace(self, progress: Progress) -> None:
        """Builds ros_ws/src with colcon into ros_ws/install."""
        environment = dict(
            self.environment, PATH=f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        )
        # colcon's own choice hands out no work while the machine is busy with something else.
        environment["MAKEFLAGS"] = f"-j{os.cpu_count() or 1}"
        if self.ros is None:
            environment.pop("LD_LIBRARY_PATH", None)
            environment["AMENT_PREFIX_PATH"] = environment["CMAKE_PREFIX_PATH"] = str(VENV)
        python = str(VENV / "bin" / "python")
        # The interpreter that runs colcon is the one that the nodes will run with.
        colcon = "import sys; from colcon_core.command import main; sys.exit(main())"
        build = [python, "-c", colcon, "build", "--base-paths", "src"]
        build += ["--event-handlers", "console_direct+"]
        build += ["--cmake-args", "-DBUILD_TESTING=OFF", f"-DPython3_EXECUTABLE={python}"]
        # A build folder made by another interpreter keeps that one's headers in its cache.
        made_by = WORKSPACE / "build" / "dovetail.venv"
        if not is_fresh(made_by, self.venv_stamp):
            for folder in ("build", "install", "log"):
                shutil.rmtree(WORKSPACE / folder, ignore_errors=True)
        progress.run("ROS 2 workspace with colcon", [build], environment, WORKSPACE)
        mend_scripts(WORKSPACE / "install")
        made_by.write_text(self.venv_stamp)
        assert self.workspace_stamp is not None
        (WORKSPACE / "install" / "dovetail.stamp").write_text(self.workspace_stamp)

    def make_venv_train(self, progress: Progress) -> None:
        """Creates .venv-train, which sees all of .venv and adds torch, test tools and linters."""
        create = [BASE_PYTHON, "-m", "venv", "--without-pip", str(VENV_TRAIN)]
        if self.ros:
            create.insert(3, "--system-site-packages")
        title = "Environment for training and tests in .venv-train"
        progress.run(title, [["rm", "-rf", str(VENV_TRAIN)], create], self.environment, ROOT)
        python_dir = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = VENV_TRAIN / "lib" / python_dir / "site-packages"
        shutil.copy(HERE / "layer.py", packages / "dovetail_layer.py")
        lower = VENV / "lib" / python_dir / "site-packages"
        (packages / "dovetail_layer.pth").write_text(
            f"import dovetail_layer; dovetail_layer.lay({str(lower)!r})\n"
        )
        pip = (
            [str(VENV / "bin" / "python"), *PIP]
            if prerequisites.has_ensurepip()
            else [BASE_PYTHON, *PIP]
        )
        install = [*pip, "--python", str(VENV_TRAIN / "bin" / "python"), *PIP_INSTALL]
        install += ["-r", str(HERE / "training.txt")]
        progress.run("torch, diffusers, pytest and their kin", [install], self.environment, ROOT)
        (VENV_TRAIN / "dovetail.stamp").write_text(self.train_stamp)


def main() -> int:
    """Returns the exit code: 0 if everything is up to date now."""
    parser = argparse.ArgumentParser(
        description="Set up Dovetail's environments and its ROS 2 workspace."
    )
    parser.add_argument(
        "--training", action="store_true", help="also make .venv-train for training and the tests"
    )
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: waiting for another set-up of this folder to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            installation = Installation(arguments.training)
            stale = installation.stale_parts()
            if not stale:
                return 0
            problems = prerequisites.find_problems(ROOT, installation.ros is not None)
            if problems:
                raise SetupError(
                    "this machine lacks:\n" + "\n".join(f"  - {problem}" for problem in problems)
                )
            begin = time.monotonic()
            installation.bring_up_to_date(stale)
            print(f"Set-up complete in {time.monotonic() - begin:.0f} s.", flush=True)
        except (SetupError, ValueError) as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nsetup: interrupted; run it again to go on", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
