"""Measures a policy's success on unseen seeds.

    python -m training.evaluate --task peg_insert --bundle peg_beso --level med --seed0 0
    --episodes 200 --report r.json

The same episodes run in the batch simulation, or with `--via ros` through the launched nodes. The
last line printed is the summary. Needs no torch: this is the serving environment's own check.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from hardware_configs import load
from policies.bundle import bundle_folder, check_task, load_bundle, record_evaluation
from policies.continuation import delay_steps
from policies.manifest import Evaluation, Manifest
from policies.runtime import Policy
from sim import tasks
from sim.tasks.cell_batch import CellBatch
from training.progress import Progress
from training.rollout import bundle_actor, expert_actor, run_episodes, wilson_interval

Floats = npt.NDArray[np.floating]

ROOT = Path(__file__).parents[1]
LATENCY_CALLS = 500
LEAST_RATE_KEPT = 0.95


@dataclass(frozen=True)
class Args:
    """Measures a policy's success on unseen seeds."""

    task: Literal[
        "peg_insert", "nut_on_post", "leg_screw", "play_parts", "block_push", "kitchen"
    ] = "peg_insert"
    """Task of the cell, or a public benchmark of BESO: block pushing, Franka Kitchen."""
    bundle: str = "peg_beso"
    """Name of a bundle in the zoo, or a folder's path."""
    expert: bool = False
    """Measure the scripted expert, from noisy readings, instead of a bundle."""
    level: Literal["low", "med", "high"] | None = None
    """Level of randomisation; the task's usual one when left out."""
    clearance_mm: float | None = None
    """Gap between part and socket on each side, mm; the task's own when left out."""
    seed0: int = 0
    """First seed; episode i has seed seed0 + i. Demonstrations have seeds from 1,000,000."""
    episodes: int = 200
    """Episodes to run."""
    report: Path | None = None
    """JSON file to write."""
    record: bool = False
    """Add the result to the bundle's manifest."""

    # What is changed
    residual: Literal["on", "off"] = "on"
    """Whether the residual of a bundle that has one corrects its actions (sim)."""
    friction: float = 1.0
    """Factor on the friction of part and base (sim)."""

    # How
    via: Literal["sim", "ros"] = "sim"
    """Run in the batch simulation, or through the launched ROS 2 nodes."""
    num_envs: int = 50
    """Simulations stepped together (sim)."""
    threads: int = 0
    """Physics threads, 0 for one per core (sim)."""
    delay_ms: float | None = None
    """Time from an observation to the arrival of its chunk (sim): it takes over at the next policy
    step. When left out as in the nodes, less than a step, or none where the task waits.
    """
    reading_age_ms: float = 0.0
    """Age of the readings that a step begins with, a multiple of the control period (sim, tasks of
    the cell). In the nodes it is a fraction of one.
    """
    command_delay_ms: float = 0.0
    """Time from a control command to the servos that follow it, likewise."""
    real_time_factor: float = 0.0
    """Speed of the simulated cell, 0 for the hardware config's (ros). Below 1 where the machine is
    too busy to keep the control rate.
    """

    @property
    def level_or_usual(self) -> str:
        """The level to run at."""
        return self.level or tasks.USUAL_LEVELS[self.task]

    @property
    def delays_control(self) -> bool:
        """Whether readings or commands are to be late."""
        return self.reading_age_ms != 0.0 or self.command_delay_ms != 0.0


def measure_latency_ms(call: Callable[[slice], object], rows: int) -> dict[str, float]:
    """Milliseconds of a call with one row of several, over several hundred calls."""
    times = np.empty(LATENCY_CALLS)
    for i in range(LATENCY_CALLS):
        row = slice(i % rows, i % rows + 1)
        start = time.perf_counter()
        call(row)
        times[i] = time.perf_counter() - start
    return {f"p{q}": round(1e3 * float(np.percentile(times, q)), 3) for q in (50, 99)}


class Refinement:
    """A policy's residual; it remembers the largest share of its bound that was used."""

    def __init__(self, policy: Policy) -> None:
        residual = policy.bundle.residual
        assert residual is not None
        self._policy, self._bound = policy, np.array(residual.bound)
        self.share_max = 0.0

    def __call__(self, observation: Floats, base_action: Floats) -> Floats:
        """Refined actions (n, A) from newest observations (n, D) and base actions (n, A)."""
        refined = self._policy.refine(observation, base_action)
        share = np.abs(refined - base_action) / self._bound
        self.share_max = max(self.share_max, float(share.max()))
        return refined


def current_commit() -> str:
    """Hash of the checked-out commit, or "unknown" outside a repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def warn_of_training_seeds(args: Args, manifest: Manifest) -> None:
    """Says on stderr that some of the episodes may have been trained on."""
    seeds = manifest.seeds
    first, last = seeds.get("data_first"), seeds.get("data_last")
    if first is None or last is None or args.seed0 > last or args.seed0 + args.episodes <= first:
        return
    print(
        f"warning: --seed0: got seeds {args.seed0} to {args.seed0 + args.episodes - 1}, "
        f"expected none of {first} to {last}, on which {manifest.name} was trained",
        file=sys.stderr,
    )


def latency_steps(args: Args, rate_hz: float) -> int:
    """Policy steps between an observation and the first use of its chunk."""
    if args.delay_ms is None:
        return tasks.LATENCY_STEPS[args.task]
    return delay_steps(1e-3 * args.delay_ms, rate_hz)


def evaluate_in_sim(args: Args) -> dict[str, Any]:
    """Runs the episodes in the batch simulation."""
    env = tasks.make(
        args.task,
        min(args.num_envs, args.episodes),
        args.level_or_usual,
        args.clearance_mm,
        nthread=args.threads,
        friction=args.friction,
    )
    if args.delays_control:
        if not isinstance(env, CellBatch):
            raise ValueError(
                f"--reading-age-ms, --command-delay-ms: got task {args.task}, "
                "expected one of the cell"
            )
        reading_s, command_s = 1e-3 * args.reading_age_ms, 1e-3 * args.command_delay_ms
        env.delay((reading_s, reading_s), (command_s, command_s))
    latency: dict[str, dict[str, float]] = {}
    refinement: Refinement | None = None
    if args.expert:
        if args.task not in tasks.EXPERTS:
            raise ValueError(f"--expert: got task {args.task}, expected {', '.join(tasks.EXPERTS)}")
        actor = expert_actor(args.task)
    else:
        bundle = load_bundle(args.bundle, hardware_hash=env.hardware_hash)
        check_task(bundle, "--bundle", args.task, env.spec)
        warn_of_training_seeds(args, bundle.manifest)
        policy = Policy(bundle)
        policy.warm_up()
        check = bundle.check
        latency["latency_ms"] = measure_latency_ms(
            lambda row: policy.infer(check.observation[row], check.noise[row]), len(check.noise)
        )
        actor = bundle_actor(policy, latency_steps(args, bundle.rate_hz))
        if policy.refines:
            latency["residual_latency_ms"] = measure_latency_ms(
                lambda row: policy.refine(check.newest[row], check.actions[row, 0]),
                len(check.noise),
            )
            refinement = Refinement(policy) if args.residual == "on" else None
            actor = replace(actor, refine=refinement)
        elif args.residual == "off":
            raise ValueError(f"--residual: got off, expected on: {bundle.name} has none")

    progress = Progress(args.episodes)

    def show(over: int, won: int) -> None:
        progress.show(over, f"{won} successes")

    episodes = run_episodes(env, actor, range(args.seed0, args.seed0 + args.episodes), show)
    steps = np.array([e.steps for e in episodes if e.success])
    return {
        "successes": sum(e.success for e in episodes),
        "failed_seeds": [e.seed for e in episodes if not e.success],
        "control_hz": env.control_hz,
        "latency_ms": None,
        **latency,
        "residual_share_max": refinement and round(refinement.share_max, 4),
        "steps_median": float(np.median(steps)) if len(steps) else None,
        **env.measures([e.trace for e in episodes]),
    }


def evaluate_via_ros(args: Args) -> dict[str, Any]:
    """Launches the nodes, lets them run the same seeds, and reads the report they leave.

    Raises:
        ValueError: the launch left no readable report of all the episodes.
    """
    if args.task not in tasks.CLEARANCE_MM:
        raise ValueError(f"--via: got ros, expected sim for {args.task}: no skill of the nodes")
    if args.residual == "off" or args.friction != 1.0 or args.delays_control:
        raise ValueError(
            "--residual, --friction, --reading-age-ms, --command-delay-ms: "
            "got --via ros, expected --via sim for a change"
        )
    if args.expert:
        raise ValueError("--expert: got --via ros, expected --via sim; the nodes run bundles")
    # The launch runs in the repository's root: a bundle's path has to mean the same there.
    bundle = args.bundle if len(Path(args.bundle).parts) == 1 else Path(args.bundle).resolve()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["ros2", "launch", str(ROOT / "launch" / "assembly.launch.py")]
        command += [
            f"task:={args.task}",
            f"episodes:={args.episodes}",
            f"seed0:={args.seed0}",
            f"level:={args.level_or_usual}",
            f"clearance:={args.clearance_mm or tasks.CLEARANCE_MM[args.task]}",
            f"bundle:={bundle}",
            f"real_time_factor:={args.real_time_factor}",
            f"report:={report}",
        ]
        if shutil.which("ros2") is None:
            command = ["bash", "-c", '. ros_ws/env.sh && exec "$@"', "bash", *command]
        environment = os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        # Its exit code says whether every episode succeeded, which is what is being measured here.
        code = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
        try:
            found = json.loads(report.read_text())
            results = {int(e["seed"]): bool(e["success"]) for e in found["episodes"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"ros2 launch: got exit code {code} and no usable report ({error!r})"
            ) from error
    wanted = range(args.seed0, args.seed0 + args.episodes)
    missing = [seed for seed in wanted if seed not in results]
    if missing:
        raise ValueError(
            f"ros2 launch: got no result for seeds {missing}, expected all {args.episodes}"
        )
    kept_hz, wanted_hz = found.get("control_hz") or 0.0, load("panda").rates.control_hz
    if kept_hz < LEAST_RATE_KEPT * wanted_hz:
        print(
            f"warning: control ran at {kept_hz:.0f} of {wanted_hz:g} Hz: this machine is too busy "
            "for real time; measure with less beside, or with --real-time-factor 0.5",
            file=sys.stderr,
        )
    measured = (
        "control_hz",
        "latency_ms",
        "penetration_p95_mm",
        "peak_force_p95_n",
        "peak_force_max_n",
        "deadline_misses",
        "late_corrections",
        "safety_interventions",
    )
    return {
        "successes": sum(results[seed] for seed in wanted),
        "failed_seeds": [seed for seed in wanted if not results[seed]],
    } | {key: found.get(key) for key in measured}


def main(args: Args) -> None:
    """Evaluates, prints the summary and writes the report."""
    if args.episodes < 1 or args.num_envs < 1:
        raise ValueError(
            f"--episodes, --num-envs: got {args.episodes}, {args.num_envs}, expected at least 1"
        )
    if args.seed0 < 0:
        raise ValueError(f"--seed0: got {args.seed0}, expected at least 0")
    clearance_mm = (
        tasks.CLEARANCE_MM.get(args.task) if args.clearance_mm is None else args.clearance_mm
    )
    if clearance_mm is not None and clearance_mm <= 0:
        raise ValueError(f"--clearance-mm: got {clearance_mm}, expected a positive number")
    if args.delay_ms is not None and (args.via == "ros" or args.expert):
        raise ValueError("--delay-ms: got a delay, expected none but for a bundle in simulation")
    if args.record and args.expert:
        raise ValueError("--record: got --expert, expected a bundle to record the result in")
    if args.record and (args.delay_ms is not None or args.delays_control):
        raise ValueError("--record: got a delay, expected the timing of the nodes")
    if args.record and (args.residual == "off" or args.friction != 1.0):
        raise ValueError("--record: got --residual off or --friction, expected the task as it is")
    if not 0.1 <= args.friction <= 10.0:
        raise ValueError(f"--friction: got {args.friction:g}, expected a factor of 0.1 to 10")
    started = time.monotonic()
    measured = evaluate_via_ros(args) if args.via == "ros" else evaluate_in_sim(args)
    successes = measured.pop("successes")
    low, high = wilson_interval(successes, args.episodes)
    result = {
        "task": args.task,
        "level": args.level_or_usual,
        "clearance_mm": clearance_mm,
        "bundle": "expert" if args.expert else args.bundle,
        "residual": args.residual,
        "friction": args.friction,
        "via": args.via,
        "delay_ms": args.delay_ms,
        "reading_age_ms": args.reading_age_ms,
        "command_delay_ms": args.command_delay_ms,
        "seed0": args.seed0,
        "episodes": args.episodes,
        "successes": successes,
        "success_rate": successes / args.episodes,
        "ci95": [round(low, 4), round(high, 4)],
        **measured,
        "seconds": round(time.monotonic() - started, 1),
        "commit": current_commit(),
    }
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(result, indent=2) + "\n")
    if args.record:
        evaluation = Evaluation(
            args.level_or_usual, clearance_mm, args.episodes, successes, (low, high)
        )
        record_evaluation(bundle_folder(args.bundle), evaluation)
    latency = result.get("latency_ms")
    gap = "" if clearance_mm is None else f", {clearance_mm:g} mm"
    shown = f", latency p50 {latency['p50']:.2f} p99 {latency['p99']:.2f} ms" if latency else ""
    print(
        f"{args.task} {result['bundle']} via {args.via}, level {args.level_or_usual}{gap}: "
        f"{successes}/{args.episodes} = {successes / args.episodes:.1%} "
        f"(95 % {low:.1%} to {high:.1%}){shown}"
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
