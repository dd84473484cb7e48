"""Where things lie in the cell: three levels of randomness, each draw a function of its seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.fixtures.fixture import Fixture

Array = NDArray[np.float64]

# Region on the table the robot reaches with the tool pointing down, for level high.
REACH_MIN_M, REACH_MAX_M = (0.33, -0.34), (0.66, 0.34)


@dataclass(frozen=True)
class Level:
    """How much varies.

    Attributes:
        shift_m, yaw_rad: parts and base lie within +- these of their nominal poses.
        anywhere: parts and base lie anywhere in reach instead, at any yaw.
        noise_m, noise_rad: standard deviation of each reading of a position coordinate and of a
            rotation vector's component.
        start_rad: standard deviation of the joints' start about home.
    """

    shift_m: float
    yaw_rad: float
    noise_m: float
    noise_rad: float
    start_rad: float
    anywhere: bool = False


LEVELS = {
    "low": Level(0.015, np.deg2rad(8.0), 0.0001, np.deg2rad(0.05), 0.01),
    "med": Level(0.04, np.deg2rad(25.0), 0.0002, np.deg2rad(0.1), 0.02),
    "high": Level(0.0, np.pi, 0.001, np.deg2rad(0.3), 0.03, anywhere=True),
}


@dataclass(frozen=True)
class Layout:
    """Poses on the table, base frame: xy in m, yaw in rad. seated: part -> socket, already in."""

    base_xy_m: Array
    base_yaw_rad: float
    part_xy_m: dict[str, Array]
    part_yaw_rad: dict[str, float]
    seated: dict[str, str]


def level_of(name: str) -> Level:
    """The level of that name.

    Raises:
        ValueError: no such level.
    """
    if name not in LEVELS:
        raise ValueError(f"level: got {name!r}, expected one of {', '.join(LEVELS)}")
    return LEVELS[name]


def sample(
    level: Level,
    rng: np.random.Generator,
    fixture: Fixture,
    seated: dict[str, str] | None = None,
) -> Layout:
    """Draws a layout; parts in `seated` stand in their sockets instead of on the table."""
    seated = seated or {}
    free = [name for name in fixture.parts if name not in seated]
    if level.anywhere:
        base, parts = _anywhere(rng, fixture, free)
    else:
        base = np.array(fixture.base_nominal_m) + rng.uniform(-level.shift_m, level.shift_m, 2)
        parts = {
            name: np.array(fixture.parts_nominal_m[name])
            + rng.uniform(-level.shift_m, level.shift_m, 2)
            for name in free
        }
    return Layout(
        base_xy_m=base,
        base_yaw_rad=float(rng.uniform(-level.yaw_rad, level.yaw_rad)),
        part_xy_m=parts,
        part_yaw_rad={name: float(rng.uniform(-level.yaw_rad, level.yaw_rad)) for name in free},
        seated=dict(seated),
    )


def sample_part(
    level: Level, rng: np.random.Generator, fixture: Fixture, name: str, taken: list[Array]
) -> tuple[Array, float]:
    """A fresh place for one part away from what is `taken` ((2,) centres: base first)."""
    while True:
        if level.anywhere:
            xy = rng.uniform(REACH_MIN_M, REACH_MAX_M)
        else:
            shift = rng.uniform(-level.shift_m, level.shift_m, 2)
            xy = np.array(fixture.parts_nominal_m[name]) + shift
        if _apart(fixture, xy, taken):
            return xy, float(rng.uniform(-level.yaw_rad, level.yaw_rad))


def _apart(fixture: Fixture, xy: Array, taken: list[Array]) -> bool:
    spacings = [fixture.base_spacing_m] + [fixture.part_spacing_m] * (len(taken) - 1)
    return all(np.linalg.norm(xy - t) >= s for t, s in zip(taken, spacings, strict=True))


def _anywhere(
    rng: np.random.Generator, fixture: Fixture, free: list[str]
) -> tuple[Array, dict[str, Array]]:
    # A placement can leave no room for the next one, so a failed draw starts over.
    while True:
        taken = [rng.uniform(REACH_MIN_M, REACH_MAX_M)]
        for _ in range(50):
            if len(taken) > len(free):
                return taken[0], dict(zip(free, taken[1:], strict=True))
            candidate = rng.uniform(REACH_MIN_M, REACH_MAX_M)
            if _apart(fixture, candidate, taken):
                taken.append(candidate)
