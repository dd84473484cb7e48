"""What ``ros2 launch`` does with our kinds of launch files, ours and upstream's alike.

``DOVETAIL_TEST_ROS2=/path/to/upstream/ros2`` runs these tests on that one instead.
"""

import os
import signal
from pathlib import Path

import pytest
import yaml
from launching import Launch, launch

# Says that it is ready, and why it ends.
PATIENT = """
PATIENT = '''
import os, signal, sys, threading
ended = threading.Event()
def end(number, frame):
    # print() must not be interrupted by itself.
    os.write(1, b"got " + signal.Signals(number).name.encode() + bytes([10]))
    ended.set()
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
ended.wait()
sys.exit(int(sys.argv[1]))
'''
import sys
def patient(code="0", **keywords):
    return ExecuteProcess(
        cmd=[sys.executable, "-c", PATIENT, code], name="patient", output="screen", **keywords
    )
"""


def test_output_is_marked_and_the_exit_code_of_a_process_does_not_count(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """
        entities = [ExecuteProcess(
            cmd=["sh", "-c", "echo out; echo err >&2; printf unfinished; exit 3"], name="p",
            output="screen",
        )]
        """,
    )
    assert code == 0
    for line in ("[p-1] out", "[p-1] err", "[p-1] unfinished"):
        assert line in output.splitlines()
    assert "[ERROR] [p-1]: process has died" in output and "exit code 3" in output


def test_output_log_keeps_stdout_off_the_screen(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """entities = [ExecuteProcess(cmd=["sh", "-c", "echo quiet; echo loud >&2"], name="p")]""",
    )
    assert code == 0
    assert "[p-1] loud" in output and "[p-1] quiet" not in output
    (log,) = (tmp_path / "log").rglob("launch.log")
    assert "[p-1] quiet" in log.read_text()


def test_exception_in_an_exit_handler_ends_everything_with_1(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        PATIENT
        + """
def exited(event, context):
    if event.returncode:
        raise RuntimeError(f"{event.process_name} died with {event.returncode}")
first = patient()
def die(event, context):
    return [ExecuteProcess(cmd=["sh", "-c", "kill -9 $$"], name="victim")]
entities = [
    first,
    RegisterEventHandler(OnProcessExit(on_exit=exited)),
    RegisterEventHandler(OnProcessStart(target_action=first, on_start=die)),
]
""",
    )
    assert code == 1
    assert "Caught exception in launch" in output and "victim-2 died with -9" in output
    assert "[patient-1]: process has" in output


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(context): raise ValueError('7')\nentities = [OpaqueFunction(function=f)]", ": 7"),
        ("entities = [LogInfo(msg=LaunchConfiguration('absent'))]", "'absent' does not exist"),
        ("entities = [LogInfo(msg='x', condition=IfCondition('maybe'))]", "maybe"),
        ("raise RuntimeError('broken file')", "broken file"),
        ("entities = [ExecuteProcess(cmd=['true'], sigterm_timeout=2)]", "launch"),
        ("entities = [DeclareLaunchArgument('needed')]", "'needed'"),
    ],
)
def test_errors_of_the_launch_file_give_1(tmp_path: Path, body: str, message: str) -> None:
    code, output = launch(tmp_path, body)
    assert code == 1
    assert "Caught exception in launch" in output and message in output


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("products=2", "malformed launch argument 'products=2'"),
        (":=2", "malformed launch argument ':=2'"),
        ("level:=odd", 'Argument "level" provided value "odd" is not valid'),
    ],
)
def test_wrong_arguments_give_1(tmp_path: Path, argument: str, message: str) -> None:
    body = "entities = [DeclareLaunchArgument('level', default_value='a', choices=['a', 'b'])]"
    code, output = launch(tmp_path, body, argument)
    assert code == 1
    assert message in output


def test_arguments_and_their_defaults(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """
        entities = [
            DeclareLaunchArgument("a", default_value="one"),
            DeclareLaunchArgument("b", default_value=["of ", LaunchConfiguration("a")]),
            LogInfo(msg=[LaunchConfiguration("a"), " ", LaunchConfiguration("b")]),
            LogInfo(msg=PathJoinSubstitution([ThisLaunchFileDir(), LaunchConfiguration("c")])),
            LogInfo(msg=LaunchConfiguration("d", default="fallback")),
        ]
        """,
        "a:=first",
        "a:=last",
        "c:=x:=y",
    )
    assert code == 0
    assert "last of last" in output
    assert f"{tmp_path}/x:=y" in output
    assert "fallback" in output


def test_show_args(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """
        entities = [
            DeclareLaunchArgument(
                "a", description="the first", default_value=["x", TextSubstitution(text="y")]
            ),
            DeclareLaunchArgument("b", choices=["1", "2"]),
            DeclareLaunchArgument("d", description="Two", choices=["1"]),
            DeclareLaunchArgument("c", default_value="z", condition=IfCondition("true")),
        ]
        """,
        "-s",
    )
    assert code == 0
    assert output.splitlines() == [
        "Arguments (pass arguments as '<name>:=<value>'):",
        "",
        "    'a':",
        "        the first",
        "        (default: 'x' + 'y')",
        "",
        "    'b':",
        "        One of: ['1', '2']",
        "",
        "    'd':",
        "        Two. Valid choices are: ['1']",
        "",
        "    'c':*",
        "        no description given",
        "        (default: 'z')",
        "",
        "* argument(s) which are only used if specific conditions occur",
    ]


def test_environment_and_scopes(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """
        def show(name):
            cmd = ["sh", "-c", "echo v=$V w=$W x=${X-unset}"]
            return ExecuteProcess(cmd=cmd, name=name, output="screen")
        entities = [
            SetEnvironmentVariable("V", "1"),
            AppendEnvironmentVariable("V", "2"),
            AppendEnvironmentVariable("V", "0", prepend=True),
            SetEnvironmentVariable("X", "1"),
            UnsetEnvironmentVariable("X"),
            GroupAction([SetEnvironmentVariable("W", "in"), show("inner")]),
            show("outer"),
            GroupAction([LogInfo(msg="left out")], condition=UnlessCondition("1")),
        ]
        """,
    )
    assert code == 0
    assert "[inner-1] v=0:1:2 w=in x=unset" in output
    assert "[outer-2] v=0:1:2 w= x=unset" in output
    assert "left out" not in output


def test_included_file(tmp_path: Path) -> None:
    (tmp_path / "inner.launch.py").write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import DeclareLaunchArgument, LogInfo\n"
        "from launch.substitutions import LaunchConfiguration\n"
        "def generate_launch_description():\n"
        "    said = LogInfo(msg=LaunchConfiguration('n'))\n"
        "    return LaunchDescription([DeclareLaunchArgument('n'), said])\n"
    )
    code, output = launch(
        tmp_path,
        """
        from launch.launch_description_sources import PythonLaunchDescriptionSource
        path = PathJoinSubstitution([ThisLaunchFileDir(), "inner.launch.py"])
        source = PythonLaunchDescriptionSource([path])
        entities = [IncludeLaunchDescription(source, launch_arguments=[("n", "inside")])]
        """,
    )
    assert code == 0, output
    assert "[launch.user]: inside" in output


def test_handlers_registered_later_answer_first_and_once_means_once(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        """
        def say(text):
            return lambda event, context: [LogInfo(msg=text)]
        def say_why(event, context):
            return [LogInfo(msg=event.reason)]
        entities = [
            RegisterEventHandler(OnShutdown(on_shutdown=say_why)),
            RegisterEventHandler(OnProcessExit(on_exit=say("early"))),
            RegisterEventHandler(OnProcessExit(on_exit=say("late"))),
            RegisterEventHandler(OnProcessExit(on_exit=say("once"), handle_once=True)),
            ExecuteProcess(cmd=["true"], on_exit=say("own")),
            ExecuteProcess(cmd=["true"]),
        ]
        """,
    )
    said = [line.rsplit(" ", 1)[1] for line in output.splitlines() if "[launch.user]" in line]
    assert code == 0
    assert [word for word in said if word in ("early", "late")] == ["late", "early"] * 2
    assert said.count("own") == said.count("once") == 1
    assert said[-1] == "idle"


def test_shutdown_action_ends_the_others(tmp_path: Path) -> None:
    code, output = launch(
        tmp_path,
        PATIENT
        + """
def after_start(event, context):
    return [ExecuteProcess(cmd=["true"], name="job", on_exit=Shutdown(reason="all done"))]
waiting = patient()
entities = [
    waiting,
    RegisterEventHandler(OnProcessStart(target_action=waiting, on_start=after_start)),
]
""",
    )
    assert code == 0
    assert "process[job-2] was required: shutting down launched system" in output
    assert "sending signal 'SIGINT' to process[patient-1]" in output


@pytest.mark.parametrize(("child_code", "expected"), [("0", 0), ("4", 1)])
def test_ctrl_c_is_passed_on_and_the_handlers_judge(
    tmp_path: Path, child_code: str, expected: int
) -> None:
    run = Launch(
        tmp_path,
        PATIENT
        + f"""
def exited(event, context):
    if event.returncode:
        raise RuntimeError(f"{{event.process_name}} ended with {{event.returncode}}")
entities = [patient({child_code!r}), RegisterEventHandler(OnProcessExit(on_exit=exited))]
""",
    )
    run.wait_for("ready")
    assert run.finish(signal.SIGINT) == expected
    assert "user interrupted with ctrl-c (SIGINT)" in run.output
    assert "[patient-1] got SIGINT" in run.output


def test_escalation_to_sigterm_and_sigkill(tmp_path: Path) -> None:
    run = Launch(
        tmp_path,
        """
        entities = [ExecuteProcess(
            cmd=["sh", "-c", "trap 'echo int' INT; trap 'echo term' TERM; echo ready; "
                 "while :; do read line < pipe; done"],
            name="deaf", output="screen", sigterm_timeout="0.2", sigkill_timeout="0.2",
        )]
        """,
    )
    os.mkfifo(tmp_path / "pipe")
    run.wait_for("ready")
    assert run.finish(signal.SIGINT) == 0
    for word in ("escalating to 'SIGTERM'", "escalating to 'SIGKILL'", "exit code -9"):
        assert word in run.output


NODE = """
from launch_ros.actions import *
from launch_ros.parameter_descriptions import ParameterValue
"""


def test_node_gets_its_name_parameters_and_remappings(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("/**: {ros__parameters: {z: 1}}\n")
    show = tmp_path / "show"
    show.write_text(
        '#!/bin/sh\nfor a; do case $a in */launch_params_*) cat $a;; esac; done; echo "$@"\n'
    )
    show.chmod(0o755)
    code, output = launch(
        tmp_path,
        NODE
        + f"""
parameters = [
    {{
        "seed": LaunchConfiguration("seed"),
        "label": ParameterValue(LaunchConfiguration("seed"), value_type=str),
        "nested": {{"flag": True, "limits": [1, 2.5]}},
        "names": ["a", "b"],
    }},
    "{tmp_path}/more.yaml",
]
entities = [LifecycleNode(
    executable="{show}", name="n", namespace="cell", exec_name="shown", output="screen",
    parameters=parameters, remappings=[("a", "/b")], arguments=["--plain"],
    ros_arguments=["--log-level", "warn"],
)]
""",
        "seed:=7",
    )
    assert code == 0, output
    lines = [line.split("] ", 1)[1] for line in output.splitlines() if line.startswith("[shown-1]")]
    assert lines[-1].startswith("--plain --ros-args --log-level warn --ros-args -r __node:=n")
    assert "-r __ns:=/cell --params-file" in lines[-1]
    assert lines[-1].endswith(f"--params-file {tmp_path}/more.yaml -r a:=/b")
    # Upstream marks texts in lists as Python tuples, which ROS overlooks.
    written = "\n".join(lines[:-1]).replace("!!python/tuple", "")
    (values,) = yaml.safe_load(written).values()
    assert values["ros__parameters"] == {
        "seed": 7,
        "label": "7",
        "nested.flag": True,
        "nested.limits": [1.0, 2.5],
        "names": ["a", "b"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("package='no_such_package', executable='x'", "no_such_package"),
        ("package='rclpy', executable='no_such_node'", "libexec directory"),
    ],
)
def test_missing_package_or_executable_gives_1(
    tmp_path: Path, arguments: str, message: str
) -> None:
    code, output = launch(tmp_path, NODE + f"entities = [Node({arguments})]")
    assert code == 1
    assert message in output
