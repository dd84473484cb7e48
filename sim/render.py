"""Pictures of a cell on the CPU, without a display.

MuJoCo's renderer needs a GL context; without a display EGL or OSMesa gives it (see sim.gl).
"""

from __future__ import annotations

import os
from types import TracebackType

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim import gl


class Camera:
    """A renderer of fixed size; close it, or use it as a context.

    Args:
        model: the cell.
        width_px, height_px: size of a picture.
        shadows: slower by a factor of ten on a CPU.

    Raises:
        RuntimeError: the machine has no library to draw with.
    """

    def __init__(
        self, model: mujoco.MjModel, width_px: int, height_px: int, shadows: bool = False
    ) -> None:
        if not (os.environ.get("MUJOCO_GL") or os.environ.get("DISPLAY")):
            raise RuntimeError(
                f"rendering: got no display and no GL library, expected EGL or OSMesa ({gl.ADVICE})"
            )
        self._renderer = mujoco.Renderer(model, height=height_px, width=width_px)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = [1, 1, 1, 0, 0, 0]

    def picture(self, data: mujoco.MjData, camera: str | mujoco.MjvCamera) -> NDArray[np.uint8]:
        """The scene seen by a named or free camera, (height, width, 3) RGB."""
        self._renderer.update_scene(data, camera, self._options)
        return np.asarray(self._renderer.render())

    def close(self) -> None:
        """Frees the GL context."""
        self._renderer.close()

    def __enter__(self) -> Camera:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
