"""The assembly cell: driver, control, skills, scheduler, their manager, and the operator.

    ros2 launch launch/assembly.launch.py products:=3 seed:=7 report:=report.json

The launch ends when the operator's task is over, with exit code 0 only if all of it was finished.
When any process dies before, the launch says which one, ends the others and exits non-zero.
"""

import os
import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    AppendEnvironmentVariable,
    DeclareLaunchArgument,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
    UnsetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

ROOT = Path(__file__).resolve().parents[1]
WHEELS_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
# A process that does not end by itself is ended, so that everything is gone within 5 seconds.
ENDING = {"sigterm_timeout": "1.5", "sigkill_timeout": "2.0"}

ARGUMENTS = (
    ("robot", "panda", "hardware config: a name from hardware_configs or a path"),
    ("driver", "mujoco", "driver of that config"),
    ("task", "assemble", "assemble (products), or peg_insert, nut_on_post or leg_screw (episodes)"),
    ("products", "3", "products to assemble"),
    ("seed", "0", "seed of the run"),
    ("episodes", "30", "episodes to evaluate"),
    ("seed0", "0", "seed of the first episode"),
    ("level", "low", "how much the cell varies: low, med or high"),
    ("clearance", "0.5", "gap between part and hole on each side, in mm"),
    ("bundle", "", "policy bundle, a name from policies/zoo or a path; empty: the skill's own"),
    ("report", "", "where to write the JSON report"),
    ("real_time_factor", "0", "speed of the simulated cell; 0 takes the hardware config's"),
    ("discovery", "localhost", "who may take part in the ROS graph: localhost or subnet"),
)


class Watch:
    """Judges the end of each process: the first one that matters decides about the launch."""

    def __init__(self):
        self.decided = False

    def on_operator_exit(self, event, context):
        """The task is over, well or not."""
        if self.decided:
            return None
        self.decided = True
        if event.returncode == 0:
            return Shutdown(reason="the task is over")
        if event.returncode < 0:
            raise RuntimeError(f"{event.process_name} died ({_end(event.returncode)})")
        raise RuntimeError(f"the task was not finished (operator: {_end(event.returncode)})")

    def on_node_exit(self, event, context):
        """A node must not end before the task is over."""
        if self.decided or context.is_shutdown:
            return None
        self.decided = True
        raise RuntimeError(f"{event.process_name} died ({_end(event.returncode)}), stopping all")


def _end(returncode):
    return f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"


def _environment(context):
    discovery = LaunchConfiguration("discovery").perform(context)
    actions = [
        SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", discovery.upper()),
        # The arrays here are small: threads of a linear algebra library would only get in the way.
        SetEnvironmentVariable("OMP_NUM_THREADS", "1"),
        AppendEnvironmentVariable("PYTHONPATH", str(ROOT)),
        # Nodes end when this process does, however it ends.
        SetEnvironmentVariable("DOVETAIL_LAUNCHER_PID", str(os.getpid())),
    ]
    if discovery == "localhost":
        actions.append(SetEnvironmentVariable("ROS_STATIC_PEERS", ""))
    if WHEELS_GUARD in os.environ:
        # Each node finds its own libraries; the guard would keep it from that.
        actions.append(UnsetEnvironmentVariable(WHEELS_GUARD))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = ROOT / ".venv" / "lib" / version / "site-packages"
    if ROOT / ".venv" != Path(sys.prefix) and packages.is_dir():
        # With an installed ROS 2 the nodes run its Python, and .venv holds what it lacks.
        actions.append(AppendEnvironmentVariable("PYTHONPATH", str(packages)))
    return actions


def _processes(context):
    text = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    problems = []

    def number(name, kind, least):
        try:
            value = kind(text[name])
        except ValueError:
            value = None
        if value is None or not value >= least:
            what = "a whole number" if kind is int else "a number"
            problems.append(f"{name}: got {text[name]!r}, expected {what} of at least {least}")
        return value

    assemble = text["task"] == "assemble"
    common = {
        "robot": text["robot"],
        "driver": text["driver"],
        "real_time_factor": number("real_time_factor", float, 0),
    }
    cell = {
        "seed": number("seed" if assemble else "seed0", int, 0),
        "level": text["level"],
        "clearance": number("clearance", float, 0),
    }
    driver = cell | {"task": "peg_insert" if assemble else text["task"]}
    task = {
        "task": text["task"],
        "count": number("products" if assemble else "episodes", int, 1),
        "bundle": text["bundle"],
        "report": text["report"],
        "robot": text["robot"],
    }
    if problems:
        raise RuntimeError("; ".join(problems))

    def lifecycle(package, name, parameters):
        return LifecycleNode(
            package=package,
            executable=name,
            name=name,
            namespace="",
            output="screen",
            parameters=[common | parameters],
            **ENDING,
        )

    def plain(package, name, parameters):
        return Node(
            package=package,
            executable=name,
            name=name,
            output="screen",
            parameters=[parameters],
            **ENDING,
        )

    nodes = [
        lifecycle("dovetail_drivers", "driver", driver),
        lifecycle("dovetail_control", "control", {}),
        lifecycle("dovetail_skills", "skills", {"bundle": text["bundle"]}),
        lifecycle("dovetail_scheduler", "scheduler", {}),
        plain("dovetail_lifecycle", "manager", {"start_timeout_s": 60.0}),
    ]
    operator = plain("dovetail_scheduler", "operator", cell | task)
    watch = Watch()
    handlers = [OnProcessExit(target_action=node, on_exit=watch.on_node_exit) for node in nodes]
    handlers.append(OnProcessExit(target_action=operator, on_exit=watch.on_operator_exit))
    return [*map(RegisterEventHandler, handlers), *nodes, operator]


def generate_launch_description():
    """See the module."""
    choices = {"level": ["low", "med", "high"], "discovery": ["localhost", "subnet"]}
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    name,
                    default_value=default,
                    description=description,
                    choices=choices.get(name),
                )
                for name, default, description in ARGUMENTS
            ),
            OpaqueFunction(function=_environment),
            OpaqueFunction(function=_processes),
        ]
    )
