"""The whole: trained policy, nodes, launch file; one product and one evaluation episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from graph import Launch

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_one_product(launch: Callable[..., Launch], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = launch("products:=1", "seed:=11", f"report:={path}")
    assert run.wait(120.0) == 0, run.text
    assert run.alive() == []
    report = json.loads(path.read_text())
    assert (report["requested"], report["completed"], report["success"]) == (1, 1, True)
    assert [product["completed"] for product in report["products"]] == [True]
    insert = report["skills"]["insert_peg"]
    assert insert["kind"] == "learned" and insert["successes"] == 2
    assert report["skills"]["go_home"]["kind"] == "scripted"
    assert report["skills"]["load_product"] == report["skills"]["load_product"] | {
        "kind": "cell",
        "attempts": 1,
        "successes": 1,
    }
    assert report["inferences"] >= 2 and report["latency_ms"]["p50"] > 0.0
    assert 80.0 < report["control_hz"] < 110.0
    assert set(report) >= {
        "deadline_misses",
        "safety_interventions",
        "parts_refed",
        "seed",
        "level",
        "clearance_mm",
        "versions",
        "commit",
        "ros_distro",
        "bundle",
    }
    assert report["discovery_range"] == "LOCALHOST"
    printed = [line for line in run.lines if line.startswith("[operator") and "/" not in line[13:]]
    assert all(len(line) <= 80 for line in printed), printed
    assert "1 of 1 products finished" in run.text


@pytest.mark.parametrize(
    ("task", "skill", "longest_s"),
    [
        ("peg_insert", "insert_peg", 11.0),
        ("nut_on_post", "place_nut", 11.0),
        ("leg_screw", "screw_leg", 26.0),
    ],
)
def test_one_evaluation_episode(
    launch: Callable[..., Launch], tmp_path: Path, task: str, skill: str, longest_s: float
) -> None:
    path = tmp_path / "report.json"
    run = launch(f"task:={task}", "episodes:=1", "seed0:=3", "level:=low", f"report:={path}")
    code = run.wait(120.0)
    report = json.loads(path.read_text())
    (episode,) = report["episodes"]
    assert episode["seed"] == 3
    assert (code == 0) == episode["success"] == report["success"]
    assert 0.0 < episode["seconds"] < longest_s
    assert set(report["skills"]) == {skill}
