"""What must not start does not start, and says why: at configure, by name, with the robot held."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_policy
from dovetail_control.control_node import ControlNode
from dovetail_drivers.driver_node import DriverNode
from dovetail_lifecycle import DovetailNode
from dovetail_skills.skill_node import SkillNode
from graph import ROOT, Graph, Launch
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros

PANDA = (ROOT / "hardware_configs" / "panda.yaml").read_text()


def reason(graph: Graph, kind: type[DovetailNode], **parameters: str) -> str:
    """Configures a node, which must refuse, and returns what it says is wrong."""
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    node = kind(context=graph.context, parameter_overrides=overrides)
    graph.executor.add_node(node)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        answer = graph.ask(Trigger, f"/{node.get_name()}/last_error", Trigger.Request())
    finally:
        graph.executor.remove_node(node)
        node.destroy_node()
    assert not answer.success
    return answer.message


def test_corrupted_graph(graph: Graph, tmp_path: Path) -> None:
    tiny_policy.write(tmp_path / "still")
    path = tmp_path / "still" / "policy.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    said = reason(graph, SkillNode, bundle=str(tmp_path / "still"))
    assert re.match(r"still:policy.onnx: got SHA-256 \w+, expected \w+ of the manifest", said)


def test_foreign_hash(graph: Graph, tmp_path: Path) -> None:
    path = tmp_path / "still" / "manifest.json"
    own = tiny_policy.write(tmp_path / "still").manifest.hardware_hash
    path.write_text(path.read_text().replace(own, "d" * 64))
    said = reason(graph, SkillNode, bundle=str(tmp_path / "still"))
    assert said.startswith("still/manifest.json:hardware_hash: got 'dddd"), said


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    velocity_max_rad_s: 2.175\n", "", r"velocity_max_rad_s: got .*, expected"),
        ("  - index: 1\n", "  - index: 2\n", r"joints\[0\].index: got 2, expected 1"),
        (
            "    velocity_max_rad_s: 2.175\n",
            '    velocity_max_rad_s: "2.175"\n',
            r"joints\[0\].velocity_max_rad_s: got '2.175', expected a finite number",
        ),
    ],
)
@pytest.mark.parametrize("kind", [DriverNode, ControlNode, SkillNode])
def test_bad_hardware_config(
    graph: Graph, tmp_path: Path, kind: type[DovetailNode], old: str, new: str, message: str
) -> None:
    assert old in PANDA
    path = tmp_path / "bad.yaml"
    path.write_text(PANDA.replace(old, new, 1))
    said = reason(graph, kind, robot=str(path))
    assert re.search(message, said) and "bad.yaml" in said, said


def test_unknown_driver(graph: Graph) -> None:
    assert "driver: got 'abacus', expected one of mujoco" in reason(
        graph, DriverNode, driver="abacus"
    )


@pytest.mark.slow
def test_launch_names_the_node_that_refused(launch: Callable[..., Launch], tmp_path: Path) -> None:
    tiny_policy.write(tmp_path / "still")
    (tmp_path / "still" / "policy.onnx").write_bytes(b"not a graph")
    run = launch(f"bundle:={tmp_path / 'still'}")
    assert run.wait() != 0
    assert re.search(
        r"\[manager\]: skills refused to configure: still:policy.onnx: got SHA-256", run.text
    ), run.text
    assert "activated" not in run.text
    assert run.alive() == []
    run.line("robot holding: max \\|dq\\| = 0.0000 rad/s")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("products:=none", "products: got 'none', expected a whole number of at least 1"),
        ("level:=extreme", "level"),
        ("robot:=no_such", "no_such"),
    ],
)
def test_launch_refuses_bad_arguments(
    launch: Callable[..., Launch], argument: str, message: str
) -> None:
    run = launch(argument)
    assert run.wait() != 0
    assert message in run.text
