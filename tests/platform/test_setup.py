"""What the set-up says about a machine that lacks something, and when it does its work again."""

import os
import re
import subprocess
import sys
from pathlib import Path

import install
import prerequisites
import pytest
import steps

ROOT = Path(__file__).resolve().parents[2]


def test_this_machine_has_everything() -> None:
    assert prerequisites.find_problems(ROOT) == []


@pytest.mark.parametrize("tool", ["gcc", "g++", "make"])
def test_missing_tool_is_named_with_its_package(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        prerequisites.shutil, "which", lambda name: None if name == tool else f"/usr/bin/{name}"
    )
    assert prerequisites.find_problems(ROOT) == [f"{tool} is missing: apt install {tool}"]


def test_missing_headers_and_pip_are_named_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prerequisites.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(prerequisites, "has_ensurepip", lambda: False)
    monkeypatch.setattr(prerequisites, "has_pip", lambda: False)
    problems = prerequisites.find_problems(ROOT)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(problems) == 2
    assert problems[0].endswith(f"apt install python{version}-venv")
    assert problems[1] == f"{tmp_path}/Python.h is missing: apt install python{version}-dev"


def test_sourced_ros_brings_no_colcon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites, "runs", lambda code, environment: False)
    problems = prerequisites.find_problems(ROOT, ros_is_sourced=True)
    assert problems == ["colcon is missing: apt install python3-colcon-common-extensions"]


def test_folder_that_splits_search_paths_is_refused() -> None:
    (problem,) = prerequisites.find_problems(Path("/home/some:one/dovetail"))
    assert problem == "folder: got '/home/some:one/dovetail', expected a path without ':' and ';'"


def test_scripts_start_from_a_path_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    script = tmp_path / "install/package/lib/package/node"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!"{folder}/python"\n# as setuptools writes it\nprint("runs")\n')
    script.chmod(0o755)
    install.mend_scripts(tmp_path / "install")
    result = subprocess.run([script], capture_output=True, text=True, check=True)
    assert result.stdout == "runs\n"


def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prerequisites.platform, "machine", lambda: "aarch64")
    assert prerequisites.find_problems(ROOT) == [
        "machine: got Linux aarch64, expected Linux x86_64"
    ]


def test_sourced_ros_counts_only_if_it_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", sys._base_executable)  # type: ignore[attr-defined]
    environment = {"PATH": os.environ["PATH"], "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}
    assert prerequisites.sourced_ros(environment) is None
    (tmp_path / "rclpy.py").touch()
    environment["PYTHONPATH"] = str(tmp_path)
    assert prerequisites.sourced_ros({**environment, "ROS_DISTRO": "rolling"}) == "rolling"
    with pytest.raises(ValueError, match="ROS_DISTRO: got humble, expected jazzy or newer"):
        prerequisites.sourced_ros({**environment, "ROS_DISTRO": "humble"})


def test_wheels_from_pypi_are_no_sourced_ros() -> None:
    environment = {**os.environ, "ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": str(ROOT / ".venv")}
    assert prerequisites.sourced_ros(environment) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho Python 3.9.2\nexit 1\n", "got '{path}' (Python 3.9.2), expected"),
        ("#!/bin/sh\necho broken shim >&2\nexit 127\n", "got '{path}' (broken shim), expected"),
    ],
)
def test_wrong_python_is_refused(tmp_path: Path, script: str, message: str) -> None:
    path = tmp_path / "python"
    path.write_text(script)
    path.chmod(0o755)
    result = subprocess.run(
        [ROOT / "ros_ws/setup/setup.sh"],
        env={**os.environ, "PYTHON": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert message.format(path=path) in result.stderr
    assert "a Python 3.11, 3.12 or 3.13" in result.stderr


def test_no_python_at_all_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    result = subprocess.run(
        ["/bin/sh", ROOT / "ros_ws/setup/setup.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "apt install python3 python3-venv python3-dev" in result.stderr


def test_failed_step_shows_the_end_of_its_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = steps.Progress(tmp_path / "build" / "setup.log", total=2)
    progress.run("First", [["true"]], os.environ, tmp_path)
    with pytest.raises(steps.SetupError, match="Second: `sh -c .* exited with 4; .*setup.log"):
        command = ["sh", "-c", "echo why it failed; exit 4"]
        progress.run("Second", [command], os.environ, tmp_path)
    captured = capsys.readouterr()
    assert "[1/2] First  done in " in captured.out
    assert "why it failed" in captured.err


def test_digest_sees_content_and_names_but_no_bytecode(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text("x = 1")
    before = steps.digest([source])
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "a.pyc").touch()
    assert steps.digest([source]) == before
    (source / "a.py").rename(source / "b.py")
    renamed = steps.digest([source])
    (source / "b.py").write_text("x = 2")
    assert len({before, renamed, steps.digest([source]), steps.digest([source], "3.12")}) == 4


def test_variables_of_the_callers_python_do_not_reach_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in steps.FOREIGN_VARIABLES:
        monkeypatch.setenv(name, "/somewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "kept")
    environment = steps.clean_environment()
    assert environment["PIP_INDEX_URL"] == "kept"
    assert not set(steps.FOREIGN_VARIABLES) & set(environment)


@pytest.mark.parametrize("stem", ["setup/runtime", "setup/training", "from_pypi/ros-jazzy"])
def test_every_requirement_is_locked_to_one_version(stem: str) -> None:
    def names(path: Path) -> list[str]:
        lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
        return [re.split(r"[<>=; ]", line)[0].lower() for line in lines]

    wanted, locked = (ROOT / f"ros_ws/{stem}{suffix}" for suffix in (".in", ".txt"))
    pins = [line for line in locked.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+( ; python_full_version .*)?", pin) for pin in pins)
    # A ros-jazzy-x only names ros-x.
    assert {name.replace("ros-jazzy-", "ros-") for name in names(wanted)} <= set(names(locked))


@pytest.mark.parametrize(("version", "old"), [("1.26.4", True), ("2.4.6", False)])
def test_a_sourced_ros_keeps_the_numpy_it_was_compiled_against(
    tmp_path: Path, version: str, old: bool
) -> None:
    (tmp_path / "numpy.py").write_text(f"__version__ = {version!r}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert prerequisites.has_numpy_1(environment) is old
    lock = (install.HERE / "runtime.txt").read_text()
    kept = prerequisites.without_numpy_2(lock)
    dropped = {line.split("==")[0] for line in set(lock.splitlines()) - set(kept.splitlines())}
    assert dropped == {"numpy", "opencv-python-headless"}
