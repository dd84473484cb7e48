"""Rotations as matrices, batched: the exponential, the logarithm and the interpolation.

Follows Lynch and Park, Modern Robotics (2017), section 3.2.3. Every function takes and returns
arrays of shape (..., 3) for rotation vectors in rad and (..., 3, 3) for rotation matrices.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SMALL_ANGLE_RAD = 1e-8


def skew(vector: Array) -> Array:
    """The matrix that takes the cross product with `vector`, (..., 3) -> (..., 3, 3)."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = np.zeros_like(x)
    rows = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1)
    return rows.reshape(*vector.shape[:-1], 3, 3)


def exp(rotation_vector_rad: Array) -> Array:
    """Rotation matrix of a rotation vector (Rodrigues' formula)."""
    angle = np.linalg.norm(rotation_vector_rad, axis=-1)[..., None, None]
    safe = np.where(angle < _SMALL_ANGLE_RAD, 1.0, angle)
    a = np.where(angle < _SMALL_ANGLE_RAD, 1.0, np.sin(safe) / safe)
    b = np.where(angle < _SMALL_ANGLE_RAD, 0.5, (1.0 - np.cos(safe)) / safe**2)
    k = skew(rotation_vector_rad)
    return np.eye(3) + a * k + b * (k @ k)


def log(rotation: Array) -> Array:
    """Rotation vector of a rotation matrix, its norm in [0, pi].

    Goes through the quaternion, which keeps the full precision both near zero and near pi.
    """
    q = quaternion(rotation)
    vector, scalar = q[..., 1:], q[..., :1]
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    safe = np.where(norm < _SMALL_ANGLE_RAD, 1.0, norm)
    scale = np.where(norm < _SMALL_ANGLE_RAD, 2.0, 2.0 * np.arctan2(norm, scalar) / safe)
    return scale * vector


def quaternion(rotation: Array) -> Array:
    """Unit quaternion (w, x, y, z), w >= 0, of a rotation matrix (Shepperd's method)."""
    m = rotation
    diagonal = np.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], axis=-1)
    trace = diagonal.sum(-1)
    # 4 q_i^2 for each component: the largest one is divided by, so that nothing is lost.
    squares = np.concatenate(
        [(1.0 + trace)[..., None], 1.0 + 2.0 * diagonal - trace[..., None]], axis=-1
    )
    largest = np.argmax(squares, axis=-1)
    w = np.stack(
        [
            squares[..., 0],
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        ],
        axis=-1,
    )
    sums = [m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]]
    x = np.stack([w[..., 1], squares[..., 1], sums[0], sums[1]], axis=-1)
    y = np.stack([w[..., 2], sums[0], squares[..., 2], sums[2]], axis=-1)
    z = np.stack([w[..., 3], sums[1], sums[2], squares[..., 3]], axis=-1)
    candidates = np.stack([w, x, y, z], axis=-2)
    chosen = np.take_along_axis(candidates, largest[..., None, None], axis=-2)[..., 0, :]
    chosen = chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)
    return np.asarray(np.where(chosen[..., :1] < 0.0, -chosen, chosen))


def matrix(quaternion_wxyz: Array) -> Array:
    """Rotation matrix of a quaternion (w, x, y, z), normalised first."""
    q = quaternion_wxyz / np.linalg.norm(quaternion_wxyz, axis=-1, keepdims=True)
    w, vector = q[..., 0, None, None], q[..., 1:]
    k = skew(vector)
    return np.asarray(np.eye(3) + 2.0 * (w * k + k @ k))


def from_rpy(rpy_rad: Array) -> Array:
    """Rotation matrix (3, 3) of fixed-axis roll, pitch, yaw in rad (the URDF convention)."""
    roll, pitch, yaw = np.diag(np.asarray(rpy_rad, dtype=float))
    return exp(yaw) @ exp(pitch) @ exp(roll)


def about_z(angle_rad: Array) -> Array:
    """Rotation matrices about z, (...,) -> (..., 3, 3)."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    out = np.zeros((*np.shape(angle_rad), 3, 3))
    out[..., 0, 0] = c
    out[..., 0, 1] = -s
    out[..., 1, 0] = s
    out[..., 1, 1] = c
    out[..., 2, 2] = 1.0
    return out
