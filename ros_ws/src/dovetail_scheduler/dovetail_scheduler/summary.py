"""The report's context, and the summary that a person reads, in 66 columns for launch's prefix."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import hardware_configs
from policies.bundle import MANIFEST, bundle_folder
from policies.skills.registry import load_skills

ROOT = Path(hardware_configs.__file__).resolve().parents[1]
PACKAGES = ("mujoco", "numpy", "onnxruntime", "py-trees")
WIDTH = 66
INDENT = " " * 10
# Task of the skill that products are assembled with.
ASSEMBLED_BY = "peg_insert"


def context() -> dict[str, Any]:
    """What software ran: versions, commit, ROS distribution, discovery range."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": _commit(),
        "versions": versions,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
        "discovery_range": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "unknown"),
    }


def progress_lines(after_s: float, text: str) -> list[str]:
    """What happened so long after the start, with the time before it, wrapped to the width."""
    time = f"{after_s:6.1f} s  "
    return textwrap.wrap(text, WIDTH, initial_indent=time, subsequent_indent=INDENT)


def skill_bundle(task: str) -> str:
    """The bundle of the skill that a task is done with."""
    learned = {skill.task: skill.bundle for skill in load_skills().values() if skill.bundle}
    return learned.get(ASSEMBLED_BY if task == "assemble" else task, "")


def bundle_facts(name_or_path: str) -> dict[str, Any]:
    """Name and evaluated figures of a bundle; only the path when it has no readable manifest."""
    try:
        manifest = json.loads((bundle_folder(name_or_path) / MANIFEST).read_text())
        return {"name": manifest["name"], "evaluated": manifest["evaluated"]}
    except (OSError, ValueError, KeyError):
        return {"name": name_or_path, "evaluated": []}


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def summary(report: dict[str, Any]) -> list[str]:
    """The lines of the summary."""
    what = "products finished" if report["task"] == "assemble" else "episodes succeeded"
    head = f"{report['task']}: {report['completed']} of {report['requested']} {what}"
    where = f"seed {report['seed']}, {report['level']}, {report['clearance_mm']:g} mm"
    lines = ["-" * WIDTH, f"{head}{where:>{max(WIDTH - len(head), len(where) + 2)}}"]
    if report.get("error"):
        lines.append(f"ended early: {report['error']}")
    lines.append(f"{'skill':<14}{'kind':<10}{'ok/tries':>9}{'mean s':>8}  error codes")
    order = {"learned": 0, "scripted": 1, "cell": 2}
    skills = sorted(report["skills"].items(), key=lambda item: order.get(item[1]["kind"], 3))
    for name, skill in skills:
        tries = f"{skill['successes']}/{skill['attempts']}"
        mean_s = skill["seconds"] / max(skill["attempts"], 1)
        codes = " ".join(f"{code}:{count}" for code, count in skill["error_codes"].items())
        lines.append(f"{name:<14}{skill['kind']:<10}{tries:>9}{mean_s:>8.1f}  {codes}".rstrip())
    if "control_hz" in report:
        cycle = report["control_cycle_ms"]
        lines.append(
            f"control   {report['control_hz']:.1f} Hz, {report['deadline_misses']} of "
            f"{report['control_cycles']} cycles late, "
            f"p50 {cycle['p50']:.1f} p99 {cycle['p99']:.1f} ms"
        )
    lines += _policy_lines(report)
    found = {k: n for k, n in report.get("safety_interventions", {}).items() if n}
    kinds = ", ".join(f"{kind} {count}" for kind, count in found.items()) or "none"
    lines.append(f"safety    interventions (control cycles): {kinds}")
    if report["parts_refed"]:
        lines.append(f"feeder    {report['parts_refed']} parts fed anew")
    lines.append("-" * WIDTH)
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent=INDENT)]


def _policy_lines(report: dict[str, Any]) -> list[str]:
    bundle, latency = report["bundle"], report["latency_ms"]
    asked = "never asked"
    if latency:
        times = f"p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms"
        asked = f"{report['inferences']} inferences, {times}"
    lines = [f"policy    {bundle['name']}, {asked}"]
    residual = report.get("residual_latency_ms")
    if residual:
        times = f"p50 {residual['p50']:.1f} p99 {residual['p99']:.1f} ms"
        late = report.get("late_corrections", 0)
        lines.append(f"          each action refined, {times}, {late} too late")
    for e in bundle["evaluated"]:
        lines.append(
            f"          evaluated {100 * e['success_rate']:.1f} % at {e['level']}, "
            f"{e['clearance_mm']:g} mm, in {e['episodes']} episodes"
        )
    return lines
