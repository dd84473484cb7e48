"""Our own ``ros2 launch`` beyond upstream: refusals, ending signals, a killed launcher."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import OTHER_ROS2, ROOT, Launch, is_alive, launch

pytestmark = pytest.mark.skipif(OTHER_ROS2 is not None, reason="another ros2 is being tested")

# A process with a child of its own, both deaf to SIGINT if asked, which hold the pipe open.
FAMILY = """
import sys
CHILD = '''
import os, signal, subprocess, sys
if "deaf" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
pipe = open("alive", "w")
child = subprocess.Popen(["sleep", "1000"], pass_fds=[pipe.fileno()])
print("child", child.pid, flush=True)
signal.pause()
'''
def family(*words):
    return ExecuteProcess(
        cmd=[sys.executable, "-c", CHILD, *words], name="family", output="screen",
        sigterm_timeout="0.2", sigkill_timeout="0.2",
    )
"""


def wait_for_end_of(pipe: int) -> None:
    """Blocks until nobody holds the other end of the pipe open."""
    os.set_blocking(pipe, True)
    assert os.read(pipe, 1) == b""


@pytest.fixture
def pipe(tmp_path: Path) -> int:
    """The reading end of a pipe that the launched processes hold open while they live."""
    os.mkfifo(tmp_path / "alive")
    return os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_ending_signals_end_everything_in_order_with_1(
    tmp_path: Path, pipe: int, number: signal.Signals
) -> None:
    run = Launch(tmp_path, FAMILY + "entities = [family()]")
    child = int(run.wait_for("child").rsplit(" ", 1)[1])
    assert run.finish(number) == 1
    assert f"received {number.name}, shutting down" in run.output
    assert "sending signal 'SIGINT' to process[family-1]" in run.output
    wait_for_end_of(pipe)
    assert not is_alive(child)


def test_deaf_process_and_its_child_end_too(tmp_path: Path, pipe: int) -> None:
    run = Launch(tmp_path, FAMILY + "entities = [family('deaf')]")
    run.wait_for("child")
    assert run.finish(signal.SIGINT) == 0
    assert "escalating to 'SIGTERM'" in run.output
    wait_for_end_of(pipe)


def test_killed_launcher_leaves_no_process(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "alive")
    run = Launch(
        tmp_path,
        """
        cmd = ["sh", "-c", "exec sleep 1000 > alive"]
        entities = [ExecuteProcess(cmd=cmd, name="lonely")]
        """,
    )
    # Opens when the process has opened its end.
    pipe = os.open(tmp_path / "alive", os.O_RDONLY)
    run.process.kill()
    wait_for_end_of(pipe)
    assert run.process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("from launch.actions import TimerAction", "launch.actions.TimerAction"),
        ("from launch.substitutions import Command", "launch.substitutions.Command"),
        ("from launch.events.process import ProcessIO", "launch.events.process.ProcessIO"),
        ("from launch.event_handlers import OnProcessIO", "launch.event_handlers.OnProcessIO"),
        ("import launch.frontend", "launch.frontend"),
        ("from launch_ros.actions import SetParameter", "launch_ros.actions.SetParameter"),
        ("import launch_ros.events", "launch_ros.events"),
        (
            "from launch_ros.actions import Node\nentities = [Node(executable='x', respawn=True)]",
            "launch_ros.actions.Node(respawn=...)",
        ),
        ("entities = [ExecuteProcess(cmd=['x'], prefix='y')]", "ExecuteProcess(prefix=...)"),
        ("entities = [ExecuteProcess(cmd=['x'], output='full')]", "output='full'"),
        (
            "entities = [GroupAction([], forwarding=False)]",
            "launch.actions.GroupAction(forwarding=...)",
        ),
    ],
)
def test_what_is_not_here_is_refused_by_name(tmp_path: Path, body: str, name: str) -> None:
    code, output = launch(tmp_path, body)
    assert code == 1
    assert f"{name} is not provided by this launcher; install ros2launch for it" in output


def run_ros2(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs our ros2 command."""
    return subprocess.run(
        [sys.executable, str(ROOT / "ros_ws/from_pypi/ros2.py"), *arguments],
        env={**os.environ, "PATH": "/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_other_verbs_and_files_are_refused_by_name(tmp_path: Path) -> None:
    topic = run_ros2("topic", "list")
    assert (topic.returncode, topic.stderr) == (
        1,
        "ros2 topic is not provided by this ros2; install ros2cli for it\n",
    )
    (tmp_path / "x.launch.xml").write_text("<launch/>")
    xml = run_ros2("launch", str(tmp_path / "x.launch.xml"))
    assert xml.returncode == 1
    assert "a launch file other than Python" in xml.stdout
    missing = run_ros2("launch", str(tmp_path / "absent.launch.py"))
    assert missing.returncode == 1
    assert "absent.launch.py' not found" in missing.stderr


def test_real_command_on_path_is_preferred(tmp_path: Path) -> None:
    other = tmp_path / "ros2"
    other.write_text('#!/bin/sh\necho real "$@"\nexit 9\n')
    other.chmod(0o755)
    result = run_ros2("launch", "some file", PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (result.returncode, result.stdout) == (9, "real launch some file\n")


def test_real_packages_are_preferred(tmp_path: Path) -> None:
    for name in ("launch", "launch_ros", "ros2launch", "ros2cli"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "ros2cli" / "cli.py").write_text(
        "import sys\ndef main():\n    print('real', *sys.argv[1:])\n    return 8\n"
    )
    python_path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    result = run_ros2("launch", "x", PYTHONPATH=python_path)
    assert (result.returncode, result.stdout) == (8, "real launch x\n")
