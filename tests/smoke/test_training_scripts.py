"""Every training script runs end to end for a few steps, as its own process, the way a user starts
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.dataset import load

ROOT = Path(__file__).parents[2]


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"training.{module}", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "peg.npz"
    line = last_line(
        run("collect", "--level", "low", "--episodes", 6, "--num-envs", 6, "--out", path)
    )
    assert "sha256" in line and "of 6 episodes" in line
    return path


@pytest.mark.parametrize("method", ["beso", "gmm"])
def test_collect_train_export_evaluate(method: str, demonstrations: Path, tmp_path: Path) -> None:
    small = (
        "--data",
        demonstrations,
        "--runs",
        tmp_path,
        "--name",
        "run",
        "--method",
        method,
        "--width",
        32,
        "--blocks",
        1,
        "--batch-size",
        32,
        "--log-every",
        5,
        "--sampler.steps",
        2,
        "--validation-share",
        0.2,
    )
    assert "10 steps" in last_line(run("train_beso", *small, "--steps", 10))
    folder = tmp_path / "run"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [5, 10]
    assert {"dx_mm", "drx_deg", "gripper_width_mm"} <= set(metrics[-1]["first_action"])
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"

    last_line(run("train_beso", *small, "--steps", 15, "--resume"))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3

    bundle = tmp_path / "peg_small"
    assert "loads and checks" in last_line(run("export", "--run", folder, "--bundle", bundle))
    rounded = run("export", "--run", folder, "--bundle", tmp_path / "i8", "--precision", "int8")
    assert "loads and checks" in last_line(rounded) and "INFO" not in rounded.stderr
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["method"] == method
    kinds = [command.split()[2].removeprefix("training.") for command in manifest["commands"]]
    assert kinds == ["collect", "train_beso", "train_beso", "export"]

    report = tmp_path / "report.json"
    line = last_line(
        run(
            "evaluate",
            "--bundle",
            bundle,
            "--level",
            "low",
            "--episodes",
            2,
            "--num-envs",
            2,
            "--report",
            report,
            "--record",
        )
    )
    assert line.startswith(f"peg_insert {bundle} via sim, level low, 0.5 mm: ")
    result = json.loads(report.read_text())
    for key in (
        "task",
        "level",
        "bundle",
        "episodes",
        "successes",
        "success_rate",
        "ci95",
        "control_hz",
        "latency_ms",
        "penetration_p95_mm",
        "peak_force_max_n",
        "commit",
    ):
        assert key in result
    assert result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
    more = ("--level", "low", "--episodes", 3, "--num-envs", 3, "--takeover-probability", 0.02)
    again = last_line(run("collect", *more, "--bundle", bundle, "--out", tmp_path / "more.npz"))
    assert "of 3 episodes" in again
    (recorded,) = json.loads((bundle / "manifest.json").read_text())["evaluated"]
    assert recorded["episodes"] == 2


def test_the_papers_window_trains_exports_and_is_swept(
    demonstrations: Path, tmp_path: Path
) -> None:
    small = ("--width", 32, "--blocks", 1, "--batch-size", 32, "--steps", 3, "--heads", 2)
    where = ("--data", demonstrations, "--runs", tmp_path, "--validation-share", 0.2)
    window = ("--network", "transformer", "--window", 3, "--horizon", 1, "--execute-steps", 1)
    line = last_line(run("train_beso", *where, *window, *small, "--bf16", "--name", "paper"))
    assert "3 steps, held-out loss" in line
    flow = ("--reflow", tmp_path / "paper", "--reflow-pairs", 40, "--sampler.noise-scale", 0.2)
    last_line(run("train_beso", *where, *window, *small, *flow, "--name", "flow"))
    config = json.loads((tmp_path / "flow/config.json").read_text())
    assert (config["sigma_max"], config["sampler"]["sigma_max"]) == (1.0, 1.0)
    assert config["sampler"]["noise_scale"] == 1.0, "is in the pairs"
    assert ["--reflow" in command for command in config["commands"]] == [False, True]
    pieces = ("--reflow-windows", 3, "--reflow-rounds", 2, "--sampler.sigma-min", 0.2)
    more = ("--reflow-steps", 9, "--huber", 0.02, "--start-weight", 3)
    watched = ("--reflow-episodes", 2, "--rollout-episodes", 2, "--rollout-level", "low")
    pieced = run(
        "train_beso", *where, *window, *small, *flow, *pieces, *more, *watched, "--name", "pieces"
    )
    assert "2/2 episodes, " in pieced.stderr
    last_line(pieced)
    config = json.loads((tmp_path / "pieces/config.json").read_text())
    assert (config["sigma_max"], config["sampler"]["steps"]) == (10.0, 3)
    assert config["sampler"]["noise_scale"] == 0.2, "windows keep the noise"
    refused = run("train_beso", *where, *window, *small, "--huber", 0.02, "--name", "again")
    assert refused.stderr == "error: --huber: got 0.02, expected 0, or more with --reflow\n"
    refused = run("train_beso", *where, *window, *small, *flow, *watched, "--name", "again")
    assert refused.stderr == (
        "error: --reflow-episodes: got 2, expected 0 with fewer than two --reflow-rounds "
        "and no --start-from\n"
    )
    again = ("--reflow", tmp_path / "flow", "--reflow-pairs", 40)
    refused = run("train_beso", *where, *window, *small, *again, "--name", "again")
    assert refused.stderr.startswith("error: --sampler.sigma-max: got 10.0, expected at most 1.0")
    assert refused.returncode != 0 and not (tmp_path / "again/config.json").exists()
    other = ("--network", "transformer", "--horizon", 1, "--execute-steps", 1, *small)
    refused = run("train_beso", *where, *other, *flow, "--name", "again")
    assert refused.stderr == (
        "error: --reflow: got a network with window 1, expected its own, with window 3\n"
    )
    assert refused.returncode != 0 and not (tmp_path / "again/config.json").exists()
    bundle = tmp_path / "peg_paper"
    exported = run(
        "export", "--run", tmp_path / "paper", "--bundle", bundle, "--sampler", "euler_ancestral"
    )
    assert "loads and checks" in last_line(exported)
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert (manifest["window"], manifest["noise_shape"]) == (3, [9, 7]), "three draws of three"

    # The bundle's weights stand for the run: exported anew in int8, and swept.
    last_line(
        run("export", "--run", bundle, "--bundle", tmp_path / "peg_int8", "--precision", "int8")
    )
    assert json.loads((tmp_path / "peg_int8/manifest.json").read_text())["precision"] == "int8"
    louder = run("export", "--run", bundle, "--bundle", tmp_path / "loud", "--sigma-max", 90)
    assert "--sigma-max: got 90.0, expected at most" in louder.stderr and louder.returncode != 0
    assert not (tmp_path / "loud").exists()
    report = tmp_path / "sweep.json"
    few = ("--episodes", 2, "--num-envs", 2, "--level", "low", "--steps", 1, 2)
    swept = run(
        "sweep", "--runs", bundle, *few, "--report", report, "--picture", tmp_path / "s.png"
    )
    assert last_line(swept).startswith("| beso, noise 0.5, lambda 1 |")
    groups = json.loads(report.read_text())["groups"]
    assert [(g["steps"], g["runs"]) for g in groups] == [(1, 1), (2, 1)]
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("method", ["bc", "ddpm"])
def test_baselines_train_on_play_in_hindsight(method: str, tmp_path: Path) -> None:
    pytest.importorskip("pybullet", reason="no wheel beyond Python 3.11")
    data = tmp_path / "push.npz"
    last_line(run("collect_play", "--task", "block_push", "--episodes", 6, "--out", data))
    small = ("--width", 32, "--blocks", 1, "--batch-size", 32, "--steps", 3)
    where = ("--data", data, "--runs", tmp_path, "--validation-share", 0.2, "--name", "push")
    last_line(run("train_beso", *where, *small, "--method", method, "--hindsight-steps", 50))
    few = ("--task", "block_push", "--episodes", 2, "--num-envs", 2, "--steps", 10)
    swept = last_line(run("sweep", "--runs", tmp_path / "push", *few))
    assert swept.startswith(f"| {method} |")
    if method == "ddpm":
        return  # is measured in torch only
    bundle, picture = tmp_path / "push_bundle", tmp_path / "push.png"
    last_line(run("export", "--run", tmp_path / "push", "--bundle", bundle))
    shown = run("film", "--task", "block_push", "--bundle", bundle, "--out", picture)
    assert "after 200 policy steps" in last_line(shown)
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_kitchen_goes_from_demonstrations_to_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics", reason="comes with the training extra")
    data, bundle = tmp_path / "kitchen.npz", tmp_path / "kitchen_small"
    report, picture = tmp_path / "report.json", tmp_path / "kitchen.png"
    collected = run("collect_play", "--task", "kitchen", "--episodes", 2, "--out", data)
    assert "2 episodes" in last_line(collected)
    assert load(data).observation.shape[1] == 51
    small = ("--width", 32, "--blocks", 1, "--batch-size", 32, "--steps", 3, "--goal-drop", 0.1)
    where = ("--data", data, "--runs", tmp_path, "--validation-share", 0.5, "--name", "k")
    last_line(run("train_beso", *where, *small, "--hindsight-steps", 200, "--execute-steps", 4))
    assert "loads and checks" in last_line(
        run("export", "--run", tmp_path / "k", "--bundle", bundle)
    )
    one = ("--task", "kitchen", "--episodes", 1, "--num-envs", 1)
    last_line(run("evaluate", *one, "--bundle", bundle, "--report", report))
    measured = json.loads(report.read_text())
    assert 0.0 <= measured["result"] <= measured["reward"] <= 4.0
    assert sum(asked for _, asked in measured["subtasks"].values()) == 4
    swept = run("sweep", *one, "--runs", tmp_path / "k", "--steps", 1, "--cfg-lambda", 0)
    assert last_line(swept).startswith("| beso, noise 0.5, lambda 0 | 1 | 0.")
    shown = run("film", "--task", "kitchen", "--expert", "--out", picture, "--size", 96, 72)
    if "no GL library" not in shown.stderr:
        assert "success after" in last_line(shown)
        assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("script", ["train_residual", "train_residual_td"])
def test_a_residual_is_trained_resumed_exported_and_evaluated(
    script: str, demonstrations: Path, tmp_path: Path
) -> None:
    small = ["--width", 8, "--num-envs", 4, "--evaluate-episodes", 2, "--settings", "low:0.5"]
    small += ["--runs", tmp_path, "--name", "r", "--evaluate-every", 0, "--pool-share", 0.5]
    if script == "train_residual":
        small += ["--update-steps", 10, "--epochs", 2, "--anneal-from", 0.5]
        small += ["--reading-age-ms", 20, "--command-delay-ms", 10]
    else:
        small += ["--data", demonstrations, "--warm-up", 16, "--report-every", 40]
    last_line(run(script, *small, "--steps", 80))
    last_line(run(script, *small, "--steps", 120, "--resume"))
    folder, bundle = tmp_path / "r", tmp_path / "peg_small"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["steps"] for m in metrics if "evaluation" in m] == [0, 80, 120]
    if script == "train_residual":
        rates = [m["actor_rate"] for m in metrics if "actor_rate" in m]
        assert rates == pytest.approx([1e-3, 0.0, 0.0], abs=1e-9)
    assert (folder / "curve.png").read_bytes()[:4] == b"\x89PNG"
    again = run(script, *small, "--base", "peg_gone")
    assert again.returncode != 0 and "peg_gone" in again.stderr and "Traceback" not in again.stderr

    assert "base and residual" in last_line(run("export", "--run", folder, "--bundle", bundle))
    manifest = json.loads((bundle / "manifest.json").read_text())
    base = json.loads((ROOT / "policies/zoo/peg_beso/manifest.json").read_text())
    assert manifest["files"]["policy.onnx"] == base["files"]["policy.onnx"]
    assert manifest["residual"]["scale"] == 0.1 and len(manifest["residual"]["bound"]) == 7
    kinds = [c.split()[2].removeprefix("training.") for c in manifest["commands"][-3:]]
    assert kinds == [script, script, "export"]
    refused = run(script, *small, "--base", bundle, "--name", "twice")
    assert "expected a bundle that is not refined yet" in refused.stderr
    other = run("export", "--run", folder, "--bundle", bundle, "--steps", 5)
    assert "got settings of a new graph" in other.stderr and other.returncode != 0

    few = ("--bundle", bundle, "--level", "low", "--episodes", 2, "--num-envs", 2)
    report = tmp_path / "report.json"
    last_line(run("evaluate", *few, "--report", report))
    result = json.loads(report.read_text())
    assert 0.0 <= result["residual_share_max"] <= 1.0 + 1e-4
    assert result["residual_latency_ms"]["p50"] > 0.0
    changed = ("--residual", "off", "--friction", 1.5, "--reading-age-ms", 20)
    last_line(run("evaluate", *few, *changed, "--report", report))
    assert json.loads(report.read_text())["residual_share_max"] is None


def test_same_seed_trains_the_same_weights(demonstrations: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("a", "b"):
        last_line(
            run(
                "train_beso",
                "--data",
                demonstrations,
                "--runs",
                tmp_path,
                "--name",
                name,
                "--width",
                32,
                "--blocks",
                1,
                "--batch-size",
                32,
                "--steps",
                5,
                "--validation-share",
                0.2,
            )
        )
        losses.append(
            json.loads((tmp_path / name / "metrics.jsonl").read_text())["validation_loss"]
        )
    assert losses[0] == losses[1]


def test_the_expert_is_measured_by_the_same_code(tmp_path: Path) -> None:
    report = tmp_path / "expert.json"
    last_line(
        run(
            "evaluate",
            "--expert",
            "--level",
            "low",
            "--episodes",
            2,
            "--num-envs",
            2,
            "--report",
            report,
        )
    )
    result = json.loads(report.read_text())
    assert (result["bundle"], result["successes"], result["latency_ms"]) == ("expert", 2, None)


def test_play_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "play.npz"
    small = ("--task", "play_parts", "--episodes", 3, "--num-envs", 2)
    assert "3 episodes" in last_line(run("collect_play", *small, "--out", path))
    data = load(path)
    assert data.seed.tolist() == [1_000_000, 1_000_001, 1_000_002]
    # What a goal could ask for is the observed position of both pegs.
    assert (data.observation[:, -6:] == data.observation[:, -12:-6]).all()
    assert data.generator["hardware_hash"] and data.generator["clearance_mm"] is None
    assert data.generator["command"].startswith("python -m training.collect_play --task play_parts")
    assert data.disturbed.any() and not data.disturbed.all()
    taken = ("--bundle", "play_beso", "--takeover-probability", 0.2, "--out", path)
    assert "3 episodes" in last_line(run("collect_play", *small, *taken))
    assert load(path).disturbed.mean() > data.disturbed.mean() + 0.2

    small = ("--width", 32, "--blocks", 1, "--batch-size", 32, "--steps", 3, "--film")
    where = ("--data", path, "--runs", tmp_path, "--validation-share", 0.4, "--hindsight-steps", 95)
    other = ("--lead-noise", 0.006, "--scene-shift", 0.012, "--tool-shift", 0.008)
    last_line(run("train_beso", *where, *small, *other, "--name", "play"))
    flow = ("--reflow", tmp_path / "play", "--reflow-pairs", 40, "--reflow-windows", 3)
    last_line(run("train_beso", *where, *small, *other, *flow, "--name", "flow"))
    refused = run("train_beso", *where, *small, "--lead-noise", 0.006, "--window", 2)
    assert refused.stderr == (
        "error: --lead-noise: got 0.006, expected at least 0, and 0 with a --window above 1\n"
    )


def test_policy_latency_compares_every_network_in_one_run(tmp_path: Path) -> None:
    report, picture = tmp_path / "latency.json", tmp_path / "latency.png"
    few = ("--rounds", 2, "--calls", 1, "--report", report, "--picture", picture)
    done = run("benchmark", "policy-latency", *few)
    assert last_line(done).startswith("| bundle peg_beso fp32")
    content = json.loads(report.read_text())
    rows = {row["name"]: row for row in content["rows"]}
    # The published sizes: 9.38 M for the kitchen, 9 M for Diffusion Policy's transformer.
    assert rows["beso kitchen, onnx int8"]["parameters_m"] == pytest.approx(9.38, abs=0.01)
    peer = rows["Diffusion Policy transformer, DDIM 10, eager torch"]
    assert peer["parameters_m"] == pytest.approx(9.0, abs=0.1) and peer["times_peer"] == 1.0
    eager = rows["beso kitchen, eager torch"]["p50_ms"]
    fp32 = rows["beso kitchen, onnx fp32"]
    assert fp32["times_eager"] == pytest.approx(eager / fp32["p50_ms"])
    assert content["machine"]["cpu"] and picture.read_bytes().startswith(b"\x89PNG")


def test_rollouts_are_timed_against_the_same_physics(tmp_path: Path) -> None:
    report = tmp_path / "rollouts.json"
    few = ("--num-envs", 4, "--steps", 3, "--report", report)
    assert "of bare physics" in last_line(run("benchmark", "rollouts", *few))
    measured = json.loads(report.read_text())
    assert 0.0 < measured["share"] < 1.0


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("collect", ("--out", "x.npz", "--seed0", 5), "--seed0: got 5, expected at least 1000000"),
        ("train_beso", ("--data", "nothing.npz"), "nothing.npz: no such file"),
        ("export", ("--run", "nothing", "--bundle", "x"), "nothing: got no readable run"),
        ("sweep", ("--runs", "nothing"), "nothing: got no readable run"),
        ("benchmark", ("policy-latency", "--rounds", 0), "--rounds: got 0, expected at least 1"),
        ("benchmark", ("rollouts", "--steps", 0), "--steps: got 0, expected at least 1"),
        ("evaluate", ("--seed0", -1), "--seed0: got -1, expected at least 0"),
        (
            "evaluate",
            ("--reading-age-ms", 15),
            "reading delay: got 15 ms, expected a multiple of the control period, 10 ms",
        ),
        (
            "evaluate",
            ("--command-delay-ms", 10, "--via", "ros"),
            "got --via ros, expected --via sim for a change",
        ),
        (
            "collect_play",
            ("--task", "kitchen", "--out", "x.npz", "--level", "low"),
            "level: got 'low', expected med: kitchen has but one",
        ),
        (
            "collect_play",
            ("--task", "kitchen", "--out", "x.npz", "--seed0", 5),
            "--seed0: got 5, expected at least 1000000",
        ),
        (
            "collect_play",
            ("--task", "play_parts", "--out", "x.npz", "--bundle", "peg_beso"),
            "--bundle: got a policy for peg_insert, expected one for play_parts",
        ),
        (
            "collect_play",
            ("--task", "kitchen", "--out", "x.npz", "--bundle", "kitchen_beso"),
            "--bundle: got kitchen_beso, expected none: whoever plays kitchen does not go on",
        ),
        (
            "evaluate",
            (
                "--bundle",
                "nothing/here",
            ),
            "nothing/here",
        ),
    ],
)
def test_bad_input_is_named_and_fails(
    module: str, arguments: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    del tmp_path
    done = run(module, *arguments)
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert message.split("/")[-1] in done.stderr
