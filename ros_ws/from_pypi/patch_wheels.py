"""Makes this environment's ROS 2 wheels usable for building, and installs the ``ros2`` command.

The wheels' exported CMake files name the Python and NumPy headers where their builder had them. Run
by the environment's own Python after its wheels are installed; running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILDER_PREFIX = r"/opt/python/cp3\d+-cp3\d+"
REPLACEMENTS = (
    (BUILDER_PREFIX + r"/include/python3\.\d+", sysconfig.get_path("include")),
    (
        BUILDER_PREFIX + r"/lib/python3\.\d+/site-packages/numpy/(?:_core|core)/include",
        numpy.get_include(),
    ),
)


def patch_exports(prefix: Path) -> int:
    """Rewrites the builder's paths in all exported CMake files; returns how many it changed.

    Raises:
        SystemExit: a path of the builder is left over.
    """
    changed = 0
    for path in sorted(prefix.glob("share/*/cmake/*.cmake")):
        text = patched = path.read_text()
        for pattern, replacement in REPLACEMENTS:
            patched = re.sub(pattern, lambda _, to=replacement: to, patched)
        if re.search(BUILDER_PREFIX, patched):
            sys.exit(
                f"{path}: got an unknown path of the wheels' builder, "
                "expected that of the Python or the NumPy headers"
            )
        if patched != text:
            path.write_text(patched)
            changed += 1
    return changed


def install_command(prefix: Path) -> Path:
    """Writes the ``ros2`` command into the environment; returns its path."""
    source = Path(__file__).resolve().parent / "ros2.py"
    command = prefix / "bin" / "ros2"
    command.write_text(
        "#!/bin/sh\n"
        "# Dovetail's ros2 for environments whose ROS 2 comes from PyPI\n"
        f'exec "{prefix}/bin/python" "{source}" "$@"\n'
    )
    command.chmod(0o755)
    return command


if __name__ == "__main__":
    environment_prefix = Path(sys.prefix)
    print(f"{patch_exports(environment_prefix)} exported CMake files patched")
    print(f"{install_command(environment_prefix)} written")
