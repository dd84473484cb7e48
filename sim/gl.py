"""Which library draws: MuJoCo reads MUJOCO_GL when imported, and wants a display without it."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys

_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_CHOOSER = "mujoco.rendering.classic.gl_context"
ADVICE = "Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri, or libosmesa6"


def choose_backend() -> None:
    """Sets MUJOCO_GL to a library that draws without a display, where there is neither choice nor
    display. Without either library nothing is set; all but pictures still works."""
    if os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY"):
        return
    for backend, library in _LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        os.environ["MUJOCO_GL"] = backend
        if _CHOOSER in sys.modules:
            # MuJoCo came first: let it choose again.
            importlib.reload(sys.modules[_CHOOSER])
        return
