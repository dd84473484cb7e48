"""Where launch descriptions come from: Python files with ``generate_launch_description()``."""

import importlib.util
import os
from importlib.machinery import SourceFileLoader

from .core import LaunchContext, LaunchDescription, SomeText, as_substitutions, perform
from .refusal import NotProvidedError, refuse_names

__all__ = ["PythonLaunchDescriptionSource", "load_launch_file"]


class InvalidPythonLaunchFileError(RuntimeError):
    """The file has no ``generate_launch_description``."""


def load_launch_file(path: str) -> LaunchDescription:
    """The description that a launch file generates.

    Raises:
        NotProvidedError: the file is not a Python file.
        InvalidPythonLaunchFileError: it has no ``generate_launch_description``.
    """
    if not path.endswith(".py"):
        raise NotProvidedError(f"a launch file other than Python ({path})")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"launch file '{path}' not found")
    loader = SourceFileLoader("python_launch_file", path)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    generate = getattr(module, "generate_launch_description", None)
    if generate is None:
        raise InvalidPythonLaunchFileError(
            f"launch file '{path}' has no function generate_launch_description"
        )
    description = generate()
    if not isinstance(description, LaunchDescription):
        raise InvalidPythonLaunchFileError(
            f"{path}: got {description!r}, expected a launch.LaunchDescription"
        )
    return description


class PythonLaunchDescriptionSource:
    """A Python launch file."""

    def __init__(self, launch_file_path: SomeText) -> None:
        """The path may be a substitution."""
        self._path = as_substitutions(launch_file_path)
        self.location = " + ".join(part.describe() for part in self._path)

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """Loads the file; its path is in ``location`` afterwards."""
        self.location = perform(context, self._path)
        return load_launch_file(self.location)


__getattr__ = refuse_names("launch.launch_description_sources")
