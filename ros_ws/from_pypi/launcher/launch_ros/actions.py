"""Actions that run ROS 2 nodes."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from launch import logging
from launch.actions import ExecuteProcess
from launch.core import LaunchContext, SomeText, SubstitutionFailure, as_substitutions, perform
from launch.refusal import refuse_names

from .parameter_descriptions import evaluate, flatten
from .substitutions import FindPackagePrefix

__all__ = ["LifecycleNode", "Node"]


class Node(ExecuteProcess):
    """Runs a node's executable with its name, parameters and remappings."""

    def __init__(
        self,
        *,
        executable: SomeText,
        package: SomeText | None = None,
        name: SomeText | None = None,
        namespace: SomeText | None = None,
        exec_name: SomeText | None = None,
        parameters: list[Any] | None = None,
        remappings: Iterable[tuple[SomeText, SomeText]] | None = None,
        arguments: Iterable[SomeText] | None = None,
        ros_arguments: Iterable[SomeText] | None = None,
        **others: Any,
    ) -> None:
        """Without a package the executable is a path; parameters are mappings and YAML files."""
        if parameters is not None and not isinstance(parameters, list):
            raise TypeError(f"Node(parameters): got {parameters!r}, expected a list")
        super().__init__(cmd=[executable], name=exec_name, **others)
        self._package = None if package is None else as_substitutions(package)
        self._node_name = None if name is None else as_substitutions(name)
        self._namespace = None if namespace is None else as_substitutions(namespace)
        self._parameters = parameters or []
        self._remappings = [
            (as_substitutions(old), as_substitutions(new)) for old, new in remappings or ()
        ]
        self._arguments = [as_substitutions(argument) for argument in arguments or ()]
        self._ros_arguments = [as_substitutions(argument) for argument in ros_arguments or ()]

    def command_line(self, context: LaunchContext) -> list[str]:
        """The executable with its arguments and those of ROS.

        Raises:
            SubstitutionFailure: package or executable not found.
        """
        cmd = [
            self._find_executable(context),
            *(perform(context, argument) for argument in self._arguments),
        ]
        if self._ros_arguments:
            cmd += ["--ros-args", *(perform(context, argument) for argument in self._ros_arguments)]
        cmd.append("--ros-args")
        if self._node_name is not None:
            cmd += ["-r", f"__node:={perform(context, self._node_name)}"]
        if self._namespace is not None:
            cmd += ["-r", f"__ns:=/{perform(context, self._namespace).lstrip('/')}"]
        for parameters in self._parameters:
            path = self._parameter_file(context, parameters)
            if os.path.isfile(path):
                cmd += ["--params-file", path]
            else:
                logging.get_logger("launch_ros.actions.node").warning(
                    f"Parameter file path is not a file: {path}"
                )
        for old, new in self._remappings:
            cmd += ["-r", f"{perform(context, old)}:={perform(context, new)}"]
        return cmd

    def _find_executable(self, context: LaunchContext) -> str:
        name = perform(context, self._cmd[0])
        if self._package is None:
            return name
        package = perform(context, self._package)
        folder = os.path.join(FindPackagePrefix(package).perform(context), "lib", package)
        path = shutil.which(name, path=folder)
        if path is None:
            raise SubstitutionFailure(
                f"executable '{name}' not found on the libexec directory '{folder}'"
            )
        return path

    def _parameter_file(self, context: LaunchContext, parameters: Any) -> str:
        """The path of a YAML file; a mapping is written into one."""
        if not isinstance(parameters, Mapping):
            text = os.fspath(parameters) if isinstance(parameters, os.PathLike) else parameters
            return perform(context, as_substitutions(text))
        values = {
            perform(context, as_substitutions(name)): value
            for name, value in flatten(parameters).items()
        }
        evaluated = {name: evaluate(context, value) for name, value in values.items()}
        with tempfile.NamedTemporaryFile("w", prefix="launch_params_", delete=False) as file:
            yaml.dump({"/**": {"ros__parameters": evaluated}}, file, default_flow_style=False)
        return file.name


class LifecycleNode(Node):
    """A node with a life cycle, which a manager node leads through its states."""

    def __init__(self, *, name: SomeText, namespace: SomeText, **others: Any) -> None:
        """Name and namespace are required, as upstream has it."""
        super().__init__(name=name, namespace=namespace, **others)


__getattr__ = refuse_names("launch_ros.actions")
