"""What the machine must bring, checked before anything is downloaded."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# The wheels from PyPI, of this checkout or another one whose env.sh was sourced, are no such ROS 2.
SOURCED_PROBE = (
    "import importlib.util, sys, rclpy;"
    "sys.exit(importlib.util.find_spec('ros_wheels_bootstrapper') is not None)"
)

UNSUPPORTED_DISTROS = ("foxy", "galactic", "humble", "iron")


def find_problems(root: Path, ros_is_sourced: bool = False) -> list[str]:
    """One sentence for each thing that is missing, with what to install; empty if all is there."""
    problems = []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        problems.append(
            f"machine: got {platform.system()} {platform.machine()}, expected Linux x86_64"
        )
    if any(character in ":;" for character in str(root)):
        problems.append(f"folder: got '{root}', expected a path without ':' and ';'")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if importlib.util.find_spec("venv") is None or not (has_ensurepip() or has_pip()):
        problems.append(
            f"Python {version} has neither ensurepip nor pip: apt install python{version}-venv"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        problems.append(f"{header} is missing: apt install python{version}-dev")
    for tool, package in (("gcc", "gcc"), ("make", "make"), ("g++", "g++")):
        if shutil.which(tool) is None:
            problems.append(f"{tool} is missing: apt install {package}")
    # Without a sourced ROS 2 both come with its wheels.
    if ros_is_sourced and not runs("import colcon_core", dict(os.environ)):
        problems.append("colcon is missing: apt install python3-colcon-common-extensions")
    if ros_is_sourced and shutil.which("cmake") is None:
        problems.append("cmake is missing: apt install cmake")
    return problems


def has_ensurepip() -> bool:
    """Whether this Python can put pip into an environment by itself (Debian splits that off)."""
    return importlib.util.find_spec("ensurepip") is not None


def has_pip() -> bool:
    """Whether this Python has a pip that can work on another environment."""
    if importlib.util.find_spec("pip") is None:
        return False
    from pip import __version__

    return tuple(int(part) for part in __version__.split(".")[:2]) >= (22, 3)


def runs(code: str, environment: dict[str, str]) -> bool:
    """Whether this interpreter, unlike the set-up not isolated, runs the code and exits with 0."""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True
    )
    return result.returncode == 0


def sourced_ros(environment: dict[str, str]) -> str | None:
    """The name of the ROS 2 distribution that is sourced and that this Python can import, or None.

    Raises:
        ValueError: it is older than Jazzy.
    """
    distro = environment.get("ROS_DISTRO")
    if not distro or not environment.get("AMENT_PREFIX_PATH"):
        return None
    if not runs(SOURCED_PROBE, environment):
        return None
    if distro in UNSUPPORTED_DISTROS:
        raise ValueError(
            f"ROS_DISTRO: got {distro}, expected jazzy or newer; "
            "a shell that has no ROS 2 sourced takes Jazzy from PyPI"
        )
    return distro


def has_numpy_1(environment: dict[str, str]) -> bool:
    """Whether the system's numpy is older than 2, against which its ROS messages were compiled."""
    return runs("import sys, numpy; sys.exit(int(numpy.__version__[0]) > 1)", environment)


def without_numpy_2(lock: str) -> str:
    """A lock file's text without numpy and what demands numpy 2; the system's own stays in use.

    OpenCV is only for drawing; nothing that a robot runs imports it.
    """
    kept = [line for line in lock.splitlines() if not line.startswith(("numpy==", "opencv-python"))]
    return "\n".join(kept) + "\n"
