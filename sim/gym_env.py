"""Gymnasium's view of a task: one cell, or many stepped together by MuJoCo's batch.

Rewards are sparse: 1 on the step the part is found seated and released, 0 otherwise. An episode
terminates with success and is truncated at the task's last step.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from sim.render import Camera
from sim.tasks.peg_insert import PegInsertBatch

Array = NDArray[np.float32]
_CAMERAS = ("front", "wrist")


def _spaces(batch: PegInsertBatch) -> tuple[Any, Any]:
    safety, gripper = batch.config.safety, batch.config.gripper
    metres = safety.tool_speed_max_m_s / batch.spec.rate_hz
    radians = safety.tool_rotation_speed_max_rad_s / batch.spec.rate_hz
    low = [-metres] * 3 + [-radians] * 3 + [gripper.width_min_m]
    high = [metres] * 3 + [radians] * 3 + [gripper.width_max_m]
    observation = gym.spaces.Box(-np.inf, np.inf, (batch.spec.input_size,), np.float32)
    return observation, gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))


class PegInsertEnv(gym.Env[Array, Array]):
    """One cell with the task peg_insert.

    Args:
        level: low, med or high.
        clearance_mm: gap a side between peg and hole.
        render_mode: "rgb_array" or None.
        camera: front or wrist.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(
        self,
        level: str = "med",
        clearance_mm: float = 0.5,
        render_mode: str | None = None,
        camera: str = "front",
    ) -> None:
        if camera not in _CAMERAS:
            raise ValueError(f"camera: got {camera!r}, expected one of {', '.join(_CAMERAS)}")
        self.render_mode = render_mode
        self.batch = PegInsertBatch(1, level=level, clearance_mm=clearance_mm, nthread=1)
        self.observation_space, self.action_space = _spaces(self.batch)
        self._camera_name = camera
        self._camera: Camera | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts an episode; with a seed the cell is laid out as that seed says."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        return self.batch.reset(np.array([seed]))[0], {"episode_seed": seed}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """One policy step of 0.1 s; info has is_success and the step's largest penetration_m and
        force_n between part and base."""
        observation, success, done, info = self.batch.step(np.asarray(action)[None])
        solved = bool(success[0])
        depth = np.nan_to_num(info["penetration_m"][0]).max()
        details = {
            "is_success": solved,
            "penetration_m": float(depth),
            "force_n": float(info["force_n"][0].max()),
        }
        return observation[0], float(solved), solved, bool(done[0]) and not solved, details

    def render(self) -> NDArray[np.uint8] | None:
        """The picture of the chosen camera, (height, width, 3), with render_mode rgb_array."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            size = next(c for c in self.batch.config.cameras if c.name == self._camera_name)
            self._camera = Camera(self.batch.model, size.width_px, size.height_px)
        return self._camera.picture(self.batch.snapshot(0), self._camera_name)

    def close(self) -> None:
        """Frees the renderer."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


class PegInsertVectorEnv(gym.vector.VectorEnv[Array, Array, NDArray[Any]]):
    """N cells stepped on MuJoCo's thread pool; a finished one starts anew on its next step.

    Args:
        num_envs: N.
        level, clearance_mm: as for one cell.
        nthread: physics threads, 0 for one a core.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}

    def __init__(
        self, num_envs: int = 1, level: str = "med", clearance_mm: float = 0.5, nthread: int = 0
    ) -> None:
        self.num_envs = num_envs
        self.batch = PegInsertBatch(num_envs, level, clearance_mm, nthread)
        self.single_observation_space, self.single_action_space = _spaces(self.batch)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._finished = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Starts all episodes; an integer seeds simulation i with seed + i."""
        first = seed if isinstance(seed, int) else None
        super().reset(seed=first)
        if isinstance(seed, int):
            seeds = seed + np.arange(self.num_envs)
        else:
            seeds = self._draw(self.num_envs)
            for i, given in enumerate(seed or []):
                seeds[i] = seeds[i] if given is None else given
        self._finished[:] = False
        return self.batch.reset(seeds), {"episode_seed": seeds}

    def step(
        self, actions: Array
    ) -> tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One policy step everywhere; simulations that had finished are laid out anew instead."""
        restarting = np.flatnonzero(self._finished)
        observation, success, done, info = self.batch.step(actions)
        if len(restarting):
            observation = self.batch.reset(self._draw(len(restarting)), restarting)
            success[restarting] = done[restarting] = False
        self._finished = done
        details = {**info, "is_success": success}
        return observation, success.astype(float), success, done & ~success, details

    def _draw(self, count: int) -> NDArray[np.int_]:
        return self.np_random.integers(2**31, size=count)
