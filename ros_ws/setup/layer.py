"""Lays one virtual environment over another; copied into the upper one by install.py.

The upper environment's ``.pth`` file imports this module at start and calls :func:`lay`. Packages
of the lower one become importable. The ROS wheels of the lower one find their libraries through
LD_LIBRARY_PATH, which the loader reads only at start, so the interpreter is re-executed once with
it set; their own bootstrapper, which would look in the upper environment, is told that this has
been done.
"""

import os
import site
import sys
from pathlib import Path


def lay(lower_site_packages: str) -> None:
    """Makes the lower packages importable, re-executing once if ROS libraries must be found."""
    packages = Path(lower_site_packages)
    if (packages / "ros_wheels_bootstrapper").is_dir():
        prefix_lib = str(packages.parents[1])
        present = [part for part in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if part]
        if prefix_lib not in present:
            libraries = [prefix_lib, *sorted(map(str, packages.glob("ros_*.libs")))]
            environment = dict(
                os.environ,
                LD_LIBRARY_PATH=os.pathsep.join([*present, *libraries]),
                _ROS_WHEELS_BOOTSTRAP_COMPLETE="1",
            )
            os.execve(sys.executable, sys.orig_argv, environment)
        os.environ["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    site.addsitedir(lower_site_packages)
