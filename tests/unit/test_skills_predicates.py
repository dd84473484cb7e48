"""The predicates over the world state, case by case, and the catalogue they look sizes up in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from policies.objects import ObjectsError, load_objects
from policies.skills import Pose, World
from policies.skills.predicates import (
    at_home,
    base_empty,
    fits,
    gripper_empty,
    held,
    part_free,
    parts_free,
    seated,
    socket_empty,
    toppled,
)

OBJECTS = load_objects()
FLOOR_M = 0.01
PEG, SOCKET = "square_peg", "socket_a"


def tilted(x_m: float, y_m: float, z_m: float, tilt_deg: float = 0.0, yaw_deg: float = 0.0) -> Pose:
    """A pose turned by yaw about the base's z after a tilt about its own x."""
    half_tilt, half_yaw = np.deg2rad([tilt_deg, yaw_deg]) / 2
    (ct, st), (cy, sy) = (
        (np.cos(half_tilt), np.sin(half_tilt)),
        (np.cos(half_yaw), np.sin(half_yaw)),
    )
    return Pose((x_m, y_m, z_m), (cy * st, sy * st, sy * ct, cy * ct))


def world(
    peg: Pose | None = None,
    tool_m: tuple[float, float, float] = (0.5, 0.0, 0.4),
    width_m: float = 0.08,
    home_error_rad: float = 0.0,
    socket: Pose | None = None,
) -> World:
    return World(
        parts={PEG: peg or tilted(0.4, -0.2, 0.0)},
        sockets={
            SOCKET: socket or tilted(0.5, 0.2, FLOOR_M),
            "socket_b": tilted(0.56, 0.2, FLOOR_M),
        },
        tool_position_m=tool_m,
        gripper_width_m=width_m,
        home_error_rad=home_error_rad,
        objects=OBJECTS,
    )


SEATED = tilted(0.5, 0.2, FLOOR_M)


@pytest.mark.parametrize(
    ("pose", "free"),
    [
        (tilted(0.4, 0, 0), True),
        (tilted(0.4, 0, 0.004, tilt_deg=4.5, yaw_deg=70), True),
        (tilted(0.4, 0, 0.006), False),
        (tilted(0.4, 0, -0.006), False),
        (tilted(0.4, 0, 0.001, tilt_deg=5.5), False),
        (tilted(0.4, 0, 0.01, tilt_deg=90), False),
        (tilted(0.4, 0, 0.08, tilt_deg=180), False),
        (SEATED, False),
    ],
)
def test_part_free(pose: Pose, free: bool) -> None:
    assert part_free(world(pose), PEG) is free
    assert parts_free(world(pose)) is free


def test_a_part_in_a_socket_is_not_free_even_when_the_floor_is_the_table() -> None:
    low = tilted(0.5, 0.2, 0.0)
    assert not part_free(world(low, socket=low), PEG)


@pytest.mark.parametrize(
    ("pose", "is_seated"),
    [
        (SEATED, True),
        (tilted(0.5013, 0.2013, FLOOR_M + 0.0025, tilt_deg=2.5, yaw_deg=90), True),
        (tilted(0.5021, 0.2, FLOOR_M), False),
        (tilted(0.5, 0.2, FLOOR_M + 0.0035), False),
        (tilted(0.5, 0.2, FLOOR_M - 0.0035), False),
        (tilted(0.5, 0.2, FLOOR_M, tilt_deg=3.5), False),
    ],
)
def test_seated(pose: Pose, is_seated: bool) -> None:
    assert seated(world(pose), PEG, SOCKET) is is_seated


def test_seated_is_measured_in_the_frame_of_a_turned_socket() -> None:
    socket = tilted(0.5, 0.2, FLOOR_M, tilt_deg=20, yaw_deg=30)
    along = socket.position + 0.002 * socket.rotation[:, 2]
    x_m, y_m, z_m = along
    within = Pose((x_m, y_m, z_m), socket.quaternion_xyzw)
    assert seated(world(within, socket=socket), PEG, SOCKET)
    assert not seated(world(SEATED, socket=socket), PEG, SOCKET)


@pytest.mark.parametrize(
    ("pose", "is_toppled"),
    [
        (tilted(0.4, 0, 0), False),
        (tilted(0.4, 0, 0.01, tilt_deg=90), True),
        (tilted(0.4, 0, 0.08, tilt_deg=180), True),
        (tilted(0.5, 0.2, 0.02, tilt_deg=20), True),
    ],
)
def test_toppled(pose: Pose, is_toppled: bool) -> None:
    assert toppled(world(pose), PEG) is is_toppled


@pytest.mark.parametrize(
    ("pose", "tool_m", "width_m", "is_held"),
    [
        (tilted(0.4, 0, 0.1), (0.4, 0.0, 0.165), 0.0200, True),
        (tilted(0.4, 0, 0.1), (0.4, 0.03, 0.2), 0.0200, True),
        (tilted(0.4, 0, 0.1), (0.4, 0.0, 0.23), 0.0200, False),
        (tilted(0.4, 0, 0.1), (0.4, 0.0, 0.165), 0.0300, False),
        (tilted(0.4, 0, 0.0), (0.4, 0.0, 0.065), 0.0200, False),
        (tilted(0.4, 0, 0.01, tilt_deg=90), (0.4, -0.04, 0.02), 0.0200, False),
        (tilted(0.4, 0, 0.1, tilt_deg=30), (0.4, -0.03, 0.15), 0.0210, True),
    ],
    ids=["held", "near", "far", "open", "on the table", "lying", "held askew"],
)
def test_held(
    pose: Pose, tool_m: tuple[float, float, float], width_m: float, is_held: bool
) -> None:
    state = world(pose, tool_m, width_m)
    assert held(state, PEG) is is_held
    assert gripper_empty(state) is not is_held
    if is_held:
        assert not toppled(state, PEG)


@pytest.mark.parametrize(
    ("pose", "empty"),
    [
        (tilted(0.4, 0, 0), True),
        (SEATED, False),
        (tilted(0.514, 0.2, 0.039), False),
        (tilted(0.516, 0.2, 0.02), True),
        (tilted(0.5, 0.2, 0.041), True),
    ],
    ids=["away", "seated", "at the rim", "beside", "above"],
)
def test_socket_empty(pose: Pose, empty: bool) -> None:
    state = world(pose)
    assert socket_empty(state, SOCKET) is empty
    assert socket_empty(state, "socket_b")
    assert base_empty(state) is empty


def test_what_is_not_perceived_is_not_true() -> None:
    blind = dataclasses.replace(world(), parts={}, sockets={})
    assert not part_free(blind, PEG)
    assert not toppled(blind, PEG)
    assert not held(blind, PEG)
    assert not seated(blind, PEG, SOCKET)
    assert not socket_empty(blind, SOCKET)
    assert not parts_free(blind)
    assert not base_empty(blind)
    assert gripper_empty(blind)


def test_fits_and_at_home() -> None:
    assert fits(world(), PEG, SOCKET)
    assert not fits(world(), PEG, "socket_b")
    assert not fits(world(), "nut", "socket_b")
    assert not fits(world(), "nut", "post")
    assert at_home(world(home_error_rad=0.04))
    assert not at_home(world(home_error_rad=0.06))
    assert not at_home(world(home_error_rad=float("nan")))


def test_world_refuses_unknown_names_and_bad_poses() -> None:
    with pytest.raises(ValueError, match="world:parts: got 'nut', expected one of square_peg"):
        dataclasses.replace(world(), parts={"nut": SEATED})
    with pytest.raises(ValueError, match="world:sockets: got 'post', expected one of socket_a"):
        dataclasses.replace(world(), sockets={"post": SEATED})
    with pytest.raises(ValueError, match="expected a position and a quaternion"):
        Pose((0.0, 0.0, float("nan")))
    with pytest.raises(ValueError, match="expected a position and a quaternion"):
        Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("symmetry: 4", "symmetry: 0.5", "kinds.square.symmetry: got 0.5, expected a whole number"),
        ("symmetry: 4, ", "", "kinds.square.symmetry: got nothing, expected a whole number"),
        ("socket_b: round", "socket_b: hex", "sockets.socket_b: got 'hex', expected one of square"),
        ("sockets:", "socket:", "sockets: got nothing, expected a mapping"),
    ],
)
def test_bad_catalogue_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[2] / "policies" / "objects.yaml").read_text()
    assert old in text
    path = tmp_path / "objects.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ObjectsError) as error:
        load_objects(path)
    assert message in str(error.value)
