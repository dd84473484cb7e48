"""The ``ros2`` command of an environment whose ROS 2 comes from PyPI, which brings none.

It knows one verb, ``ros2 launch``, for the launch files of this repository. Where a better one is
installed, on PATH or as Python packages of this environment, it hands over to that.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

MARK = "Dovetail's ros2"
LAUNCHER = Path(__file__).resolve().parent / "launcher"


def find_other_command() -> str | None:
    """The first ``ros2`` on PATH that is not this one, nor this one of another checkout."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidate = Path(folder) / "ros2"
        try:
            if (
                os.access(candidate, os.X_OK)
                and MARK not in candidate.read_text(errors="replace")[:400]
            ):
                return str(candidate)
        except OSError:
            continue
    return None


def hand_over() -> int | None:
    """Runs a real ``ros2`` if there is one; returns its exit code, or None if there is none."""
    other = find_other_command()
    if other is not None:
        os.execv(other, [other, *sys.argv[1:]])
    if all(
        importlib.util.find_spec(name) for name in ("ros2cli", "ros2launch", "launch", "launch_ros")
    ):
        from ros2cli.cli import main as ros2cli_main

        return int(ros2cli_main() or 0)
    return None


def parse_launch_arguments(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of name and value; of several for the same name the last counts.

    Raises:
        RuntimeError: an argument is not of the form ``name:=value``.
    """
    values: dict[str, str] = {}
    for argument in arguments:
        name, separator, value = argument.partition(":=")
        if not separator or not name or not value:
            raise RuntimeError(
                f"malformed launch argument '{argument}', expected format '<name>:=<value>'"
            )
        values[name] = value
    return list(values.items())


def find_launch_file(file_or_package: str, rest: list[str]) -> str:
    """The launch file's path: the first argument, or the next one in the share folder of a package.

    Raises:
        RuntimeError: there is no such file or package.
    """
    if os.path.isfile(file_or_package):
        return file_or_package
    if os.path.sep in file_or_package or not rest or ":=" in rest[0]:
        raise RuntimeError(f"launch file '{file_or_package}' not found")
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    name = rest.pop(0)
    try:
        share = get_package_share_directory(file_or_package)
    except PackageNotFoundError as error:
        raise RuntimeError(f"Package '{file_or_package}' not found: {error}") from error
    found = sorted(Path(share).rglob(name))
    if len(found) != 1:
        raise RuntimeError(
            f"file '{name}': got {len(found)} of that name in '{share}', expected one"
        )
    return str(found[0])


def show_arguments(path: str) -> None:
    """Prints the arguments that a launch file declares."""
    from launch.actions import DeclareLaunchArgument, walk
    from launch.launch_description_sources import load_launch_file

    print("Arguments (pass arguments as '<name>:=<value>'):")
    declared = [
        (entity, conditional)
        for entity, conditional in walk(load_launch_file(path))
        if isinstance(entity, DeclareLaunchArgument)
    ]
    for argument, conditional in declared:
        print(
            f"\n    '{argument.name}':{'*' if conditional else ''}\n        {argument.description}"
        )
        if argument.default_value is not None:
            default = " + ".join(part.describe() for part in argument.default_value)
            print(f"        (default: {default})")
    if any(conditional for _, conditional in declared):
        print("\n* argument(s) which are only used if specific conditions occur")
    if not declared:
        print("\n  No arguments.")


def launch(path: str, arguments: Sequence[str], noninteractive: bool) -> int:
    """Carries a launch file out; returns its exit code."""
    from launch import LaunchDescription, LaunchService, logging
    from launch.actions import IncludeLaunchDescription

    pairs = parse_launch_arguments(arguments)
    logger = logging.get_logger()
    logger.info(f"All log files can be found below {logging.open_log_file()}")
    logger.info("Default logging verbosity is set to INFO")
    service = LaunchService(argv=arguments, noninteractive=noninteractive)
    include = IncludeLaunchDescription(
        [path], launch_arguments=[(name, value) for name, value in pairs]
    )
    service.include_launch_description(LaunchDescription([include]))
    return service.run()


def main() -> int:
    """Returns the exit code."""
    code = hand_over()
    if code is not None:
        return code
    if len(sys.argv) > 1 and sys.argv[1] not in ("launch", "-h", "--help"):
        print(
            f"ros2 {sys.argv[1]} is not provided by this ros2; install ros2cli for it",
            file=sys.stderr,
        )
        return 1
    parser = argparse.ArgumentParser(
        prog="ros2", description="The ros2 command of a ROS 2 from PyPI."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("launch", help="run a launch file")
    verb.add_argument("-n", "--noninteractive", action="store_true", help="there is no terminal")
    verb.add_argument(
        "-s", "--show-args", "--show-arguments", action="store_true", help="list the arguments"
    )
    verb.add_argument(
        "-a", "--show-all-subprocesses-output", action="store_true", help="all output to the screen"
    )
    verb.add_argument(
        "launch_file", help="path of a launch file, or a package followed by a file's name"
    )
    verb.add_argument("launch_arguments", nargs="*", help="'<name>:=<value>'")
    arguments = parser.parse_args()
    sys.path.insert(0, str(LAUNCHER))
    if arguments.show_all_subprocesses_output:
        os.environ["OVERRIDE_LAUNCH_PROCESS_OUTPUT"] = "both"
    try:
        path = find_launch_file(arguments.launch_file, arguments.launch_arguments)
        if arguments.show_args:
            show_arguments(path)
            return 0
        return launch(path, arguments.launch_arguments, arguments.noninteractive)
    except (RuntimeError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 2


if __name__ == "__main__":
    sys.exit(main())
