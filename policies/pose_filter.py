"""Filters the perceived poses of a part and of its socket, by what is known of how they move.

A socket stands still. A part stands still too, until the gripper holds it; from then on it is still
in the tool's frame, but for slipping. Each object's pose is a random walk in the frame in which it
rests, observed with noise: a scalar Kalman filter for the position and one for the rotation, the
same gain for all axes (Bar-Shalom, Li, Kirubarajan: Estimation with Applications to Tracking and
Navigation, 2001, section 5.2). The noise of the readings is estimated from the innovations of what
stands still, so a better camera is trusted more without being told. A reading far from what is
expected, as of a part that fell over, starts the filter anew.

The simulator, the trainer and the skill node take one reading per policy step through this filter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.control import so3
from policies.features import Signals

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Pose = tuple[Array, Array]

# Commanded this far inside of what the fingers measure, they press on something.
PRESSING_M = 0.004
# Fingers that move less than this in a policy step stand.
STANDING_M = 0.0005


@dataclass(frozen=True)
class Axis:
    """What is assumed of positions (m) or rotations (rad): standard deviations.

    Attributes:
        noise: of a reading before any was compared with another.
        still: drift per policy step of what stands still.
        held: slipping per policy step of what is held.
        gripping: motion per policy step while the fingers close or open on it.
        least: of a reading, at the least.
    """

    noise: float
    still: float
    held: float
    gripping: float
    least: float


POSITION = Axis(noise=5e-4, still=1e-5, held=1.5e-4, gripping=3e-3, least=2e-5)
ROTATION = Axis(noise=5e-3, still=1e-4, held=1e-3, gripping=2e-2, least=2e-4)
# A reading this many standard deviations off is of something that has moved.
JUMP_SIGMAS = 6.0
# Readings that the first assumption about the noise counts for, and the most that are remembered.
NOISE_PRIOR, NOISE_MEMORY = 2.0, 40.0


class _Walk:
    """A random walk in N x 3 coordinates, observed with noise of unknown size."""

    def __init__(self, size: int, axis: Axis) -> None:
        self.axis = axis
        self.variance = np.full(size, np.inf)
        self.noise = np.full(size, axis.noise**2)
        self.weight = np.full(size, NOISE_PRIOR)

    def reset(self, ids: NDArray[np.int_]) -> None:
        self.variance[ids] = np.inf
        self.noise[ids] = self.axis.noise**2
        self.weight[ids] = NOISE_PRIOR

    @property
    def rows(self) -> list[Array]:
        return [self.variance, self.noise, self.weight]

    def predict(self, ids: NDArray[np.int_], held: Mask, gripping: Mask) -> None:
        drift = np.where(held, self.axis.held, self.axis.still)
        self.variance[ids] += np.where(gripping, self.axis.gripping, drift) ** 2

    def jumped(self, ids: NDArray[np.int_], innovation: Array) -> Mask:
        """Whether innovations (n, 3) are beyond belief; so is a first reading."""
        expected = self.variance[ids] + self.noise[ids]
        squares = (innovation**2).sum(-1)
        return np.asarray(np.isinf(expected) | (squares > 3.0 * JUMP_SIGMAS**2 * expected))

    def correct(self, ids: NDArray[np.int_], innovation: Array, jumped: Mask, still: Mask) -> Array:
        """Gains (n,) for the innovations, which are remembered."""
        variance, noise = self.variance[ids], self.noise[ids]
        variance = np.where(jumped, 0.0, variance)
        share = noise / (variance + noise)
        gain = np.where(jumped, 1.0, 1.0 - share)
        self.variance[ids] = gain * noise
        # An innovation has the variance of the estimate and that of the reading together.
        learn = still & ~jumped
        sample = share * (innovation**2).mean(-1)
        weight = self.weight[ids]
        updated = np.maximum((weight * noise + sample) / (weight + 1.0), self.axis.least**2)
        self.noise[ids] = np.where(learn, updated, noise)
        self.weight[ids] = np.where(learn, np.minimum(weight + 1.0, NOISE_MEMORY), weight)
        return np.asarray(gain)


class _Object:
    """One object's pose in N cells."""

    def __init__(self, size: int) -> None:
        self.position, self.rotation = np.zeros((size, 3)), np.tile(np.eye(3), (size, 1, 1))
        self._walks = _Walk(size, POSITION), _Walk(size, ROTATION)

    def reset(self, ids: NDArray[np.int_]) -> None:
        for walk in self._walks:
            walk.reset(ids)

    @property
    def rows(self) -> list[Array]:
        walks = [row for walk in self._walks for row in walk.rows]
        return [self.position, self.rotation, *walks]

    def follow(self, ids: NDArray[np.int_], before: Pose, now: Pose, held: Mask) -> None:
        """Carries what is held along with the tool, from its last pose to the present one."""
        turn = now[1] @ before[1].swapaxes(-1, -2)
        moved = now[0] + np.einsum("bij,bj->bi", turn, self.position[ids] - before[0])
        self.position[ids] = np.where(held[:, None], moved, self.position[ids])
        turned = np.where(held[:, None, None], turn @ self.rotation[ids], self.rotation[ids])
        self.rotation[ids] = turned

    def update(self, ids: NDArray[np.int_], reading: Pose, held: Mask, gripping: Mask) -> None:
        """Takes readings ((n, 3), (n, 3, 3)) of the cells `ids`."""
        innovations = (
            reading[0] - self.position[ids],
            so3.log(reading[1] @ self.rotation[ids].swapaxes(-1, -2)),
        )
        for walk in self._walks:
            walk.predict(ids, held, gripping)
        moved = [w.jumped(ids, i) for w, i in zip(self._walks, innovations, strict=True)]
        jumped, still = np.any(moved, axis=0), ~held & ~gripping
        gains = [
            walk.correct(ids, innovation, jumped, still)
            for walk, innovation in zip(self._walks, innovations, strict=True)
        ]
        self.position[ids] += gains[0][:, None] * innovations[0]
        self.rotation[ids] = so3.exp(gains[1][:, None] * innovations[1]) @ self.rotation[ids]


class PoseFilter:
    """Poses of the part and the socket of N cells from one reading per policy step.

    Args:
        size: N.
    """

    def __init__(self, size: int) -> None:
        self._part, self._socket = _Object(size), _Object(size)
        self._tool_position = np.zeros((size, 3))
        self._tool_rotation = np.tile(np.eye(3), (size, 1, 1))
        self._width = np.full(size, np.nan)

    def reset(self, ids: NDArray[np.int_]) -> None:
        """Forgets what was seen in the cells `ids`."""
        for each in (self._part, self._socket):
            each.reset(ids)
        self._width[ids] = np.nan

    def update(self, ids: NDArray[np.int_], signals: Signals) -> tuple[Pose, Pose]:
        """Takes the readings of one policy step.

        Args:
            ids: (n,) the cells that were read.
            signals: readings of all N cells, base frame; those of other cells are not looked at.

        Returns:
            Filtered poses of the part and of the socket of all N cells, (N, 3) and (N, 3, 3) each.
        """
        width = signals.gripper_width[ids]
        moving = np.abs(width - self._width[ids]) > STANDING_M
        pressing = width - signals.gripper_target[ids] > PRESSING_M
        held, gripping = pressing & ~moving, moving
        tool = signals.tool_position[ids], signals.tool_rotation[ids]
        before = self._tool_position[ids], self._tool_rotation[ids]
        self._part.follow(ids, before, tool, held)
        self._part.update(
            ids, (signals.part_position[ids], signals.part_rotation[ids]), held, gripping
        )
        nothing = np.zeros(len(ids), dtype=bool)
        self._socket.update(
            ids, (signals.socket_position[ids], signals.socket_rotation[ids]), nothing, nothing
        )
        self._tool_position[ids], self._tool_rotation[ids] = tool
        self._width[ids] = width
        return self.poses

    @property
    def rows(self) -> list[Array]:
        """Everything that is remembered, to read and write, with a leading axis of cells."""
        tool = [self._tool_position, self._tool_rotation, self._width]
        return [*self._part.rows, *self._socket.rows, *tool]

    @property
    def poses(self) -> tuple[Pose, Pose]:
        """Copies of the newest estimates: part and socket, (N, 3) and (N, 3, 3) each."""
        part, socket = (
            (each.position.copy(), each.rotation.copy()) for each in (self._part, self._socket)
        )
        return part, socket
