"""The pose filter against what Gaussian statistics say of a mean, and against moving parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.control import so3
from policies.features import Signals
from policies.pose_filter import PoseFilter

N = 200
ALL = np.arange(N)


def signals(**values: object) -> Signals:
    """Signals of N cells with an open gripper far from everything."""
    still = {
        "tool_position": np.tile([0.4, 0.0, 0.3], (N, 1)),
        "tool_rotation": np.tile(np.diag([1.0, -1.0, -1.0]), (N, 1, 1)),
        "gripper_width": np.full(N, 0.08),
        "gripper_target": np.full(N, 0.08),
        "part_position": np.tile([0.5, -0.1, 0.0], (N, 1)),
        "part_rotation": np.tile(np.eye(3), (N, 1, 1)),
        "socket_position": np.tile([0.5, 0.2, 0.01], (N, 1)),
        "socket_rotation": np.tile(np.eye(3), (N, 1, 1)),
    }
    unused = dict.fromkeys(Signals.__dataclass_fields__, np.zeros(N))
    return Signals(**(unused | still | values))  # type: ignore[arg-type]


def noisy(clean: Signals, rng: np.random.Generator, noise_m: float, noise_rad: float) -> Signals:
    values = {}
    for name in ("part", "socket"):
        position, rotation = (getattr(clean, f"{name}_{x}") for x in ("position", "rotation"))
        values[f"{name}_position"] = position + rng.normal(scale=noise_m, size=(N, 3))
        turn = so3.exp(rng.normal(scale=noise_rad, size=(N, 3)))
        values[f"{name}_rotation"] = turn @ rotation
    return replace(clean, **values)


@pytest.mark.parametrize("noise_m", [1e-4, 1e-3])
def test_what_stands_still_is_averaged(noise_m: float) -> None:
    """After n readings the error is that of their mean: noise / sqrt(n)."""
    rng, clean, tracker = np.random.default_rng(0), signals(), PoseFilter(N)
    for _ in range(25):
        part, socket = tracker.update(ALL, noisy(clean, rng, noise_m, 5e-3))
    for name, pose in (("part", part), ("socket", socket)):
        error_m = (pose[0] - getattr(clean, f"{name}_position")).std()
        assert error_m == pytest.approx(noise_m / 5.0, rel=0.25)
        error_rad = so3.log(pose[1]).std()
        assert error_rad == pytest.approx(5e-3 / 5.0, rel=0.25)


def held_signals(k: int) -> Signals:
    """A tool that carries a part along and turns, the fingers pressing on it."""
    turn = so3.about_z(np.full(N, 0.05 * k))
    tool = np.array([0.4 + 0.02 * k, 0.01 * k, 0.3])
    offset = np.array([0.003, 0.0, -0.06])
    return signals(
        tool_position=np.tile(tool, (N, 1)),
        tool_rotation=turn @ np.diag([1.0, -1.0, -1.0]),
        gripper_width=np.full(N, 0.02),
        gripper_target=np.zeros(N),
        part_position=tool + turn @ offset,
        part_rotation=turn,
    )


def test_what_is_held_is_averaged_while_it_moves() -> None:
    """Carried 2 cm a step the part is known better than from one reading, and without lag."""
    rng, tracker = np.random.default_rng(1), PoseFilter(N)
    errors = []
    for k in range(30):
        clean = held_signals(k)
        part, _ = tracker.update(ALL, noisy(clean, rng, 1e-3, 5e-3))
        errors.append(part[0] - clean.part_position)
    late = np.array(errors[15:])
    assert late.std() < 5e-4
    assert np.abs(late.mean((0, 1))).max() < 1e-4


def test_a_precise_camera_is_followed_when_the_part_slips() -> None:
    """With little noise a slip of 0.5 mm in the hand is seen in two readings."""
    rng, tracker = np.random.default_rng(2), PoseFilter(N)
    for _ in range(20):
        tracker.update(ALL, noisy(signals(), rng, 5e-5, 5e-4))
    for k in range(8):
        tracker.update(ALL, noisy(held_signals(k), rng, 5e-5, 5e-4))
    slipped = held_signals(8)
    slipped = replace(slipped, part_position=slipped.part_position + [5e-4, 0.0, 0.0])
    for _ in range(2):
        part, _ = tracker.update(ALL, noisy(slipped, rng, 5e-5, 5e-4))
    assert np.abs(part[0] - slipped.part_position)[:, 0].mean() < 1e-4


def test_a_part_that_fell_is_found_at_once_and_cells_do_not_mix() -> None:
    """A jump starts the filter of that cell anew and leaves the others' averages alone."""
    rng, clean, tracker = np.random.default_rng(3), signals(), PoseFilter(N)
    for _ in range(25):
        before, _ = tracker.update(ALL, noisy(clean, rng, 1e-3, 5e-3))
    fallen = clean.part_position.copy()
    fallen[0] += [0.03, 0.0, 0.0]
    moved = noisy(replace(clean, part_position=fallen), rng, 1e-3, 5e-3)
    part, _ = tracker.update(ALL, moved)
    np.testing.assert_allclose(part[0][0], moved.part_position[0])
    assert (part[0][1:] - clean.part_position[1:]).std() < 3e-4
    tracker.reset(np.array([1]))
    again = noisy(clean, rng, 1e-3, 5e-3)
    part, _ = tracker.update(np.array([1]), again)
    np.testing.assert_allclose(part[0][1], again.part_position[1])
    assert np.abs(part[0][2:] - clean.part_position[2:]).mean() < 3e-4
