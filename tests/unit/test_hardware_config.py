"""The hardware config: the Panda's file is right, and no wrong file gets past the loader."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware_configs import ConfigError, load
from hardware_configs.__main__ import main

PANDA_FILE = Path(__file__).parents[2] / "hardware_configs" / "panda.yaml"
PANDA: dict[str, Any] = yaml.safe_load(PANDA_FILE.read_text())


def write(folder: Path, data: object) -> Path:
    path = folder / "arm.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load(path)
    return str(error.value)


def test_panda_loads_by_name_and_by_path() -> None:
    config = load("panda")
    assert config == load(PANDA_FILE) == load(str(PANDA_FILE))
    assert config.robot == "panda"
    assert config.joint_names == tuple(f"panda_joint{i}" for i in range(1, 8))
    assert config.position_limits.shape == (7, 2)
    np.testing.assert_array_equal(config.position_limits[3], [-3.0718, -0.0698])
    np.testing.assert_array_equal(config.velocity_limits, [2.175] * 4 + [2.61] * 3)
    np.testing.assert_array_equal(config.acceleration_limits, [15, 7.5, 10, 12.5, 15, 20, 20])
    assert config.gripper.width_max_m == 0.08
    assert config.drivers["mujoco"]["timestep_s"] == 0.002
    assert config.topics["action_chunk"].stale_s == config.safety.chunk_stale_s


def rotation(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Fixed-axis roll, pitch, yaw as a matrix."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def transform(xyz_m: Any, matrix: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = matrix, xyz_m
    return result


def test_panda_kinematics_are_the_published_ones() -> None:
    """The chain of origins against Franka's Denavit-Hartenberg table, at random positions."""
    config = load("panda")
    quarter = np.pi / 2
    table = zip(
        [0, 0, 0, 0.0825, -0.0825, 0, 0.088],
        [0.333, 0, 0.316, 0, 0.384, 0, 0],
        [0, -quarter, quarter, quarter, -quarter, quarter, quarter],
        strict=True,
    )
    craig = list(table)
    rng = np.random.default_rng(0)
    for q_rad in rng.uniform(*config.position_limits.T, (20, 7)):
        ours, theirs = np.eye(4), np.eye(4)
        for angle, joint, (a_m, d_m, alpha) in zip(q_rad, config.joints, craig, strict=True):
            turn = transform(np.zeros(3), rotation(0, 0, angle))
            ours = ours @ transform(joint.origin_xyz_m, rotation(*joint.origin_rpy_rad)) @ turn
            link = transform([a_m, 0, 0], rotation(alpha, 0, 0))
            theirs = theirs @ link @ turn @ transform([0, 0, d_m], np.eye(3))
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_panda_points_down_inside_its_workspace_at_home() -> None:
    config = load("panda")
    pose = np.eye(4)
    for angle, joint in zip(config.home_rad, config.joints, strict=True):
        pose = pose @ transform(joint.origin_xyz_m, rotation(*joint.origin_rpy_rad))
        pose = pose @ transform(np.zeros(3), rotation(0, 0, angle))
    pose = pose @ transform(config.tool.origin_xyz_m, rotation(*config.tool.origin_rpy_rad))
    np.testing.assert_allclose(pose[:3, 2], [0, 0, -1], atol=1e-9)
    assert (pose[:3, 3] > config.safety.workspace_min_m).all()
    assert (pose[:3, 3] < config.safety.workspace_max_m).all()


def change(*keys_and_value: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = keys_and_value

    def apply(data: Any) -> None:
        for key in keys:
            data = data[key]
        data[last] = value

    return apply


def remove(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: Any) -> None:
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return apply


def swap_entries(data: dict[str, Any]) -> None:
    joints = data["joints"]
    joints[1], joints[2] = joints[2], joints[1]


def swap_names(data: dict[str, Any]) -> None:
    first, second = data["joints"][1:3]
    first["name"], second["name"] = second["name"], first["name"]


NAN, INF = float("nan"), float("inf")
BAD: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    (
        "missing limit",
        remove("joints", 2, "position_max_rad"),
        "joints[2].position_max_rad: got nothing, expected a finite number",
    ),
    (
        "text for a number",
        change("joints", 2, "velocity_max_rad_s", "2.1"),
        "joints[2].velocity_max_rad_s: got '2.1', expected a finite number above 0",
    ),
    ("bool for a number", change("joints", 0, "effort_max_nm", True), "effort_max_nm: got True"),
    ("NaN", change("joints", 0, "offset_rad", NAN), "joints[0].offset_rad: got nan, expected a"),
    ("infinity", change("safety", "lead_max_m", INF), "safety.lead_max_m: got inf, expected a"),
    (
        "swapped entries",
        swap_entries,
        "joints[1].index: got 3, expected 2, its place in the list (joints out of order)",
    ),
    (
        "swapped names",
        swap_names,
        "joints[2].name: got 'panda_joint2', expected a joint that comes after panda_joint3",
    ),
    (
        "repeated name",
        change("joints", 4, "name", "panda_joint4"),
        "joints[4].name: got 'panda_joint4', expected a name that no other joint has",
    ),
    (
        "limits the wrong way",
        change("joints", 3, "position_max_rad", -3.5),
        "joints[3].position_max_rad: got -3.5, expected more than position_min_rad -3.0718",
    ),
    ("sign", change("joints", 5, "sign", 2), "joints[5].sign: got 2, expected 1 or -1"),
    ("zero speed", change("joints", 5, "velocity_max_rad_s", 0), "got 0, expected a finite number"),
    (
        "short vector",
        change("joints", 0, "origin_xyz_m", [0.0, 0.0]),
        "joints[0].origin_xyz_m: got [0.0, 0.0], expected a list of 3 finite numbers",
    ),
    (
        "text in a vector",
        change("tool", "origin_xyz_m", [0.0, 0.0, "0.1"]),
        "tool.origin_xyz_m[2]: got '0.1', expected a finite number",
    ),
    ("unknown joint key", change("joints", 0, "colour", 1), "joints[0].colour: got an unknown key"),
    ("unknown section", change("safty", {}), "safty: got an unknown key, expected one of cameras"),
    ("missing section", remove("gripper"), "gripper: got nothing, expected a mapping"),
    ("no mapping", change("rates", 100), "rates: got 100, expected a mapping"),
    (
        "no joints",
        change("joints", []),
        "joints: got [], expected a list of at least 1 of mappings",
    ),
    (
        "joint no mapping",
        change("joints", 1, "panda_joint2"),
        "joints[1]: got 'panda_joint2', expected a mapping",
    ),
    (
        "home outside",
        change("home_rad", 3, 0.0),
        "home_rad[3]: got 0, expected -3.0718 to -0.0698, the limits of panda_joint4",
    ),
    ("home too short", change("home_rad", [0.0] * 6), "expected a list of 7 finite numbers"),
    (
        "gripper widths",
        change("gripper", "width_min_m", 0.08),
        "gripper.width_max_m: got 0.08, expected more than width_min_m 0.08",
    ),
    (
        "fractional rate",
        change("rates", "control_hz", 99.5),
        "rates.control_hz: got 99.5, expected",
    ),
    ("missing topic", remove("topics", "joint_command"), "topics.joint_command: got nothing"),
    (
        "unknown topic",
        change("topics", "odom", {}),
        "topics.odom: got an unknown key, expected one",
    ),
    (
        "topic twice",
        change("topics", "world_state", "name", "/joint_states"),
        "topics.world_state.name: got '/joint_states', expected a topic that no other key has",
    ),
    (
        "topic name",
        change("topics", "world_state", "name", "a b"),
        "got 'a b', expected a topic name",
    ),
    (
        "reliability",
        change("topics", "world_state", "reliability", "sure"),
        "topics.world_state.reliability: got 'sure', expected one of reliable, best_effort",
    ),
    (
        "camera twice",
        change("cameras", 1, "name", "front"),
        "cameras[1].name: got 'front', expected a name that no other camera has",
    ),
    ("camera size", change("cameras", 0, "width_px", 0), "cameras[0].width_px: got 0, expected a"),
    (
        "no driver",
        change("drivers", {}),
        "drivers: got {}, expected a mapping with at least one of",
    ),
    ("unknown driver", change("drivers", "gazebo", {}), "drivers.gazebo: got an unknown driver"),
    (
        "driver parameter",
        change("drivers", "mujoco", "timestep_s", "2 ms"),
        "drivers.mujoco.timestep_s: got '2 ms', expected a finite number above 0",
    ),
    (
        "time step",
        change("drivers", "mujoco", "timestep_s", 0.003),
        "drivers.mujoco.timestep_s: got 0.003, expected a whole fraction of the control period",
    ),
    (
        "workspace",
        change("safety", "workspace_max_m", [0.8, -0.6, 0.8]),
        "safety.workspace_max_m[1]: got -0.6, expected more than workspace_min_m[1] -0.5",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_bad_file_is_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    data = copy.deepcopy(PANDA)
    spoil(data)
    path = write(tmp_path, data)
    error = error_of(path)
    assert message in error
    assert all(line.startswith(f"{path}:") and ": got " in line for line in error.split("\n"))


def test_all_problems_are_named_at_once_and_no_others(tmp_path: Path) -> None:
    data = copy.deepcopy(PANDA)
    del data["joints"][0]["sign"]
    data["rates"]["state_hz"] = "100"
    data["safety"] = None
    path = write(tmp_path, data)
    assert error_of(path).split("\n") == [
        f"{path}:joints[0].sign: got nothing, expected a finite number",
        f"{path}:rates.state_hz: got '100', expected a whole number, at least 1",
        f"{path}:safety: got None, expected a mapping",
    ]


def test_repeated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arm.yaml"
    text = PANDA_FILE.read_text().replace("    sign: 1\n", "    sign: 1\n    sign: -1\n", 1)
    path.write_text(text)
    assert f"{path}:joints[0].sign: got the key again in line" in error_of(path)
    path.write_text("robot: other\n" + PANDA_FILE.read_text())
    assert f"{path}:robot: got the key again" in error_of(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"joints: [", ": got no YAML: while parsing"),
        (b"", ": got None, expected a mapping"),
        (b"- 1", ": got [1], expected a mapping"),
        (b"\xff\xfe\xff", ": got an unreadable file"),
        (b"&a [*a]", ": got [[...]], expected a mapping"),
        (b"!!python/object:os.system {}", ": got no YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "arm.yaml"
    path.write_bytes(content)
    assert f"{path}{message}" in error_of(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hardware_configs/ur99.yaml: got no such file"):
        load("ur99")
    assert "got an unreadable file" in error_of(tmp_path)


def test_hash_is_that_of_what_a_policy_depends_on(tmp_path: Path) -> None:
    panda = load("panda")
    for relevant in (
        change("robot", "other"),
        change("joints", 0, "effort_max_nm", 86.0),
        change("tool", "origin_xyz_m", [0.0, 0.0, 0.21]),
        change("gripper", "width_max_m", 0.07),
        change("rates", "control_hz", 250),
    ):
        data = copy.deepcopy(PANDA)
        relevant(data)
        assert load(write(tmp_path, data)).hash != panda.hash
    for irrelevant in (
        change("topics", "joint_states", "name", "/arm/joint_states"),
        change("cameras", []),
        change("drivers", "mujoco", "real_time_factor", 4),
        change("joints", 0, "offset_rad", -0.0),
        change("joints", 0, "effort_max_nm", 87),
    ):
        data = copy.deepcopy(PANDA)
        irrelevant(data)
        assert load(write(tmp_path, data)).hash == panda.hash


def test_config_cannot_be_changed() -> None:
    config = load("panda")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.joints[0].velocity_max_rad_s = 100.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.drivers["mujoco"]["timestep_s"] = 1.0  # type: ignore[index]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "panda"]) == 0
    assert capsys.readouterr().out == f"panda: OK {load('panda').hash}\n"
    bad = write(tmp_path, {**PANDA, "robot": 7})
    assert main(["check", str(bad), "panda"]) == 1
    printed = capsys.readouterr()
    assert f"{bad}:robot: got 7, expected a name" in printed.err
    assert "panda: OK" in printed.out
