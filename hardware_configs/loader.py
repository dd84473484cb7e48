"""The strict loader: reads a hardware config and says everything that is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from hardware_configs.schema import (
    Camera,
    Gripper,
    HardwareConfig,
    Joint,
    Rates,
    Safety,
    Tool,
    Topic,
    Vector3,
)
from hardware_configs.strict import Node, Problems, read_yaml

FOLDER = Path(__file__).parent
TOPIC_KEYS = ("joint_states", "joint_command", "world_state", "action_chunk", "control_state")
# The parameters of each driver; all of them are numbers above zero.
DRIVER_PARAMETERS = {"mujoco": ("timestep_s", "real_time_factor")}
NAME = r"[A-Za-z][A-Za-z0-9_]*"
TOPIC_NAME = r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"


class ConfigError(ValueError):
    """A hardware config is not valid; one ``file:key: got X, expected Y`` per line."""


def load(name_or_path: str | Path) -> HardwareConfig:
    """Reads and checks a hardware config.

    Args:
        name_or_path: the name of a robot of this folder, such as ``"panda"``, or the path of a YAML
            file.

    Raises:
        ConfigError: the file is missing or not valid; the message has one line per problem.
    """
    if isinstance(name_or_path, str) and re.fullmatch(NAME, name_or_path):
        path, file = FOLDER / f"{name_or_path}.yaml", f"{FOLDER.name}/{name_or_path}.yaml"
    else:
        path, file = Path(name_or_path), str(name_or_path)
    root, problems = read_yaml(path, file, ConfigError)
    config = _read_config(root, problems)
    problems.raise_if_any(ConfigError)
    return config


def _read_config(root: Node, problems: Problems) -> HardwareConfig:
    joints = _read_joints(root, problems)
    tool = root.node("tool")
    rates = root.node("rates")
    config = HardwareConfig(
        robot=root.text("robot", NAME, "a name of letters, digits and _"),
        joints=joints,
        tool=Tool(_vector3(tool, "origin_xyz_m"), _vector3(tool, "origin_rpy_rad")),
        home_rad=_read_home(root, joints, problems),
        gripper=_read_gripper(root, joints),
        rates=Rates(rates.whole("control_hz", 1), rates.whole("state_hz", 1)),
        topics=_read_topics(root),
        cameras=_read_cameras(root),
        drivers=_read_drivers(root),
        safety=_read_safety(root, problems),
    )
    for node in (tool, rates, root):
        node.finish()
    timestep_s = config.drivers.get("mujoco", {}).get("timestep_s")
    if timestep_s and not problems.lines:
        steps = 1.0 / (config.rates.control_hz * timestep_s)
        if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
            expected = f"a whole fraction of the control period {1 / config.rates.control_hz:g} s"
            problems.add("drivers.mujoco.timestep_s", f"{timestep_s:g}", expected)
    return config


def _vector3(node: Node, key: str) -> Vector3:
    x, y, z = node.numbers(key, 3)
    return x, y, z


def _read_joints(root: Node, problems: Problems) -> tuple[Joint, ...]:
    joints: list[Joint] = []
    for i, node in enumerate(root.nodes("joints", at_least=1)):
        index = node.whole("index", 1)
        if index != i + 1 and node.is_mapping:
            node.wrong("index", f"{i + 1}, its place in the list (joints out of order)")
        sign = node.number("sign")
        if not math.isnan(sign) and abs(sign) != 1:
            node.wrong("sign", "1 or -1")
        joint = Joint(
            name=node.text("name", NAME, "a name of letters, digits and _"),
            sign=-1 if sign < 0 else 1,
            offset_rad=node.number("offset_rad"),
            position_min_rad=node.number("position_min_rad"),
            position_max_rad=node.number("position_max_rad"),
            velocity_max_rad_s=node.number("velocity_max_rad_s", above=0),
            acceleration_max_rad_s2=node.number("acceleration_max_rad_s2", above=0),
            effort_max_nm=node.number("effort_max_nm", above=0),
            origin_xyz_m=_vector3(node, "origin_xyz_m"),
            origin_rpy_rad=_vector3(node, "origin_rpy_rad"),
        )
        node.finish()
        if joint.position_min_rad >= joint.position_max_rad:
            node.wrong("position_max_rad", f"more than position_min_rad {joint.position_min_rad:g}")
        _check_name(node, joint.name, joints)
        joints.append(joint)
    return tuple(joints)


def _check_name(node: Node, name: str, before: list[Joint]) -> None:
    """Refuses a repeated name, and a numbered name (``arm_joint2``) after a higher one."""
    stem, number = _split_number(name)
    for other in before:
        other_stem, other_number = _split_number(other.name)
        if name and other.name == name:
            node.wrong("name", "a name that no other joint has")
        elif stem == other_stem and 0 <= number <= other_number:
            node.wrong("name", f"a joint that comes after {other.name} (joints out of order)")


def _split_number(name: str) -> tuple[str, int]:
    """Returns a name without its trailing number, and that number or -1."""
    found = re.fullmatch(r"(.*?)(\d+)", name)
    return (found[1], int(found[2])) if found else (name, -1)


def _read_home(root: Node, joints: tuple[Joint, ...], problems: Problems) -> tuple[float, ...]:
    home_rad = root.numbers("home_rad", len(joints) or None)
    for i, (angle, joint) in enumerate(zip(home_rad, joints, strict=False)):
        if angle < joint.position_min_rad or angle > joint.position_max_rad:
            limits = f"{joint.position_min_rad:g} to {joint.position_max_rad:g}"
            problems.add(f"home_rad[{i}]", f"{angle:g}", f"{limits}, the limits of {joint.name}")
    return home_rad


def _read_gripper(root: Node, joints: tuple[Joint, ...]) -> Gripper:
    node = root.node("gripper")
    gripper = Gripper(
        joint=node.text("joint", NAME, "a name of letters, digits and _"),
        width_min_m=node.number("width_min_m", at_least=0),
        width_max_m=node.number("width_max_m", above=0),
        speed_max_m_s=node.number("speed_max_m_s", above=0),
        force_n=node.number("force_n", above=0),
    )
    node.finish()
    if gripper.width_min_m >= gripper.width_max_m:
        node.wrong("width_max_m", f"more than width_min_m {gripper.width_min_m:g}")
    if gripper.joint and gripper.joint in {joint.name for joint in joints}:
        node.wrong("joint", "a name that no joint of the arm has")
    return gripper


def _read_topics(root: Node) -> Mapping[str, Topic]:
    parent = root.node("topics")
    topics: dict[str, Topic] = {}
    for key in TOPIC_KEYS:
        node = parent.node(key)
        topic = Topic(
            name=node.text("name", TOPIC_NAME, "a topic name"),
            reliability=node.choice("reliability", ("reliable", "best_effort")),
            depth=node.whole("depth", 1),
            stale_s=node.number("stale_s", above=0),
        )
        node.finish()
        if topic.name and topic.name in {other.name for other in topics.values()}:
            node.wrong("name", "a topic that no other key has")
        topics[key] = topic
    parent.finish()
    return MappingProxyType(topics)


def _read_cameras(root: Node) -> tuple[Camera, ...]:
    cameras: list[Camera] = []
    for node in root.nodes("cameras"):
        camera = Camera(
            name=node.text("name", NAME, "a name of letters, digits and _"),
            width_px=node.whole("width_px", 1),
            height_px=node.whole("height_px", 1),
            rate_hz=node.number("rate_hz", above=0),
            topic=node.text("topic", TOPIC_NAME, "a topic name"),
        )
        node.finish()
        if camera.name and camera.name in {other.name for other in cameras}:
            node.wrong("name", "a name that no other camera has")
        cameras.append(camera)
    return tuple(cameras)


def _read_drivers(root: Node) -> Mapping[str, Mapping[str, float]]:
    parent = root.node("drivers")
    drivers: dict[str, Mapping[str, float]] = {}
    for name, parameters in DRIVER_PARAMETERS.items():
        if parent.has(name):
            node = parent.node(name)
            drivers[name] = MappingProxyType({k: node.number(k, above=0) for k in parameters})
            node.finish()
    known = "a mapping with at least one of " + ", ".join(DRIVER_PARAMETERS)
    if parent.is_mapping and not parent.values:
        root.wrong("drivers", known)
    for name in parent.values:
        if name not in DRIVER_PARAMETERS:
            parent.problems.add(parent.path(name), "an unknown driver", known)
    return MappingProxyType(drivers)


def _read_safety(root: Node, problems: Problems) -> Safety:
    node = root.node("safety")
    safety = Safety(
        workspace_min_m=_vector3(node, "workspace_min_m"),
        workspace_max_m=_vector3(node, "workspace_max_m"),
        lead_max_m=node.number("lead_max_m", above=0),
        chunk_stale_s=node.number("chunk_stale_s", above=0),
        barrier_gain_per_s=node.number("barrier_gain_per_s", above=0),
        tool_speed_max_m_s=node.number("tool_speed_max_m_s", above=0),
        tool_rotation_speed_max_rad_s=node.number("tool_rotation_speed_max_rad_s", above=0),
    )
    node.finish()
    corners = zip(safety.workspace_min_m, safety.workspace_max_m, strict=True)
    for i, (low_m, high_m) in enumerate(corners):
        if low_m >= high_m:
            key = node.path(f"workspace_max_m[{i}]")
            problems.add(key, f"{high_m:g}", f"more than workspace_min_m[{i}] {low_m:g}")
    return safety
