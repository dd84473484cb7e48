"""Measures success against denoising steps, starting noise and guidance, over training seeds.

    python -m training.sweep --task peg_insert --runs build/runs/peg_beso_0 build/runs/peg_beso_1
    python -m training.sweep --runs policies/zoo/peg_beso --steps 3 50 --episodes 200

A run is a folder of training.train_beso or a bundle that keeps its weights. Every combination of
settings is rolled out in simulation with the timing of the nodes; runs of one method are one group.
Regression has no steps and is measured once. A DDPM is sampled by DDIM, or with 100 steps by its
own ancestral sampler.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import torch
import tyro

from policies.beso.baselines import DDPMPolicy
from policies.beso.policy import ScorePolicy
from sim import tasks
from training.beso_rollout import torch_actor
from training.evaluate import current_commit
from training.export import Run, load_run
from training.progress import Progress
from training.rollout import run_episodes, wilson_interval

MEASURES = ("reward", "result", "moved", "modes_covered", "modes_entropy")
"""Of what the tasks measure beside success, what a table shows: means over the runs."""


@dataclass(frozen=True)
class Args:
    """Measures success against denoising steps, starting noise and guidance."""

    # What
    runs: tuple[Path, ...]
    """Training runs, or bundles with weights."""
    task: str = "peg_insert"
    """Task to measure on."""
    level: Literal["low", "med", "high"] | None = None
    """Level of randomisation; the task's usual one when left out."""
    clearance_mm: float | None = None
    """Gap of peg_insert, mm; the task's own when left out."""
    seed0: int = 0
    """First seed."""
    episodes: int = 200
    """Episodes of each measurement."""
    starts: int | None = None
    """Deal the episodes out over so few starts, the same start and goal again and again: what
    differs between them is what the policy chose (tasks with goals).
    """
    execute_steps: int | None = None
    """Actions of a chunk to execute; the run's own when left out."""

    # Settings to go through: each with each
    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 50)
    """Denoising steps."""
    noise_scale: tuple[float, ...] = ()
    """Scales of the starting noise; the run's own when left out."""
    cfg_lambda: tuple[float, ...] = ()
    """Strengths of guidance; the run's own when left out."""
    sigma_min: tuple[float, ...] = ()
    """Smallest noise levels; the run's own when left out."""
    sigma_max: tuple[float, ...] = ()
    """Largest noise levels; the run's own when left out."""
    sampler: tuple[str, ...] = ()
    """Samplers; the run's own when left out."""
    schedule: tuple[str, ...] = ()
    """Schedules of the noise levels; the run's own when left out."""

    # Output
    report: Path | None = None
    """JSON file to write, after every measurement."""
    picture: Path | None = None
    """PNG to draw: success against steps."""
    num_envs: int = 50
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads."""


def settings_of(args: Args, run: Run) -> list[dict[str, Any]]:
    """The combinations that make sense for a run's method."""
    if isinstance(run.policy, DDPMPolicy):
        return [{"steps": steps} for steps in args.steps if 100 % steps == 0]
    if not isinstance(run.policy, ScorePolicy):
        return [{}]
    sampler = run.policy.sampler
    # What is not asked for stays as the run has it; noise and guidance are in the table even so.
    swept = {
        "steps": args.steps,
        "noise_scale": args.noise_scale or (sampler.noise_scale,),
        "cfg_lambda": args.cfg_lambda or (sampler.cfg_lambda,),
        "sigma_min": args.sigma_min,
        "sigma_max": args.sigma_max,
        "name": args.sampler,
        "schedule": args.schedule,
    }
    asked = {key: values for key, values in swept.items() if values}
    combinations = [
        dict(zip(asked, values, strict=True)) for values in itertools.product(*asked.values())
    ]
    for settings in combinations:
        replace(sampler, **settings).check_trained("--sigma-max", run.sigma_max)
    return combinations


def measure(args: Args, run: Run, settings: dict[str, Any], title: str) -> dict[str, Any]:
    """Rolls out one combination; successes and what the task measures besides."""
    policy = run.policy
    if isinstance(policy, DDPMPolicy):
        policy.sampling_steps = int(settings["steps"])
    elif settings:
        policy.sampler = replace(policy.sampler, **settings)
    env = tasks.make(
        args.task,
        min(args.num_envs, args.episodes),
        args.level,
        args.clearance_mm,
        nthread=args.threads,
    )
    if run.origin["spec"] != env.spec:
        raise ValueError(
            f"--runs: got a policy for {run.origin['task']}, expected {args.task} and its spec"
        )
    if args.starts and not hasattr(env, "start_seed"):
        raise ValueError(f"--starts: got {args.starts}, expected none for {args.task}")
    actor = torch_actor(
        policy,
        args.execute_steps or run.origin["execute_steps"],
        tasks.LATENCY_STEPS[args.task],
    )
    progress = Progress(args.episodes)
    seeds = list(range(args.seed0, args.seed0 + args.episodes))
    parts = args.starts or 1
    successes, measured = 0, []
    for part in range(parts):
        if args.starts:
            env.start_seed = args.seed0 + part
        before = len(seeds[: part * len(seeds) // parts])
        episodes = run_episodes(
            env,
            actor,
            seeds[before : (part + 1) * len(seeds) // parts],
            lambda over, won, before=before: progress.show(before + over, f"{title}: {won}"),
        )
        successes += sum(episode.success for episode in episodes)
        measured.append(env.measures([episode.trace for episode in episodes]))
    return {"successes": successes, "episodes": args.episodes, **average(measured)}


def average(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of numbers and the sum of counts over several measurements."""
    if len(measured) == 1:
        return measured[0]
    result: dict[str, Any] = {}
    for key, first in measured[0].items():
        values = [m[key] for m in measured]
        if isinstance(first, dict):
            result[key] = {name: sum(value[name] for value in values) for name in first}
        elif isinstance(first, list):
            result[key] = [sum(column) for column in zip(*values, strict=True)]
        elif all(isinstance(value, int | float) for value in values):
            result[key] = round(sum(values) / len(values), 4)
    return result


def label(row: dict[str, Any]) -> str:
    """The group of a measurement: its method and settings but the steps."""
    symbols = {
        "name": "",
        "schedule": "",
        "noise_scale": "noise ",
        "cfg_lambda": "lambda ",
        "sigma_max": "from ",
        "sigma_min": "to ",
    }
    named = [symbol + shown(row[key]) for key, symbol in symbols.items() if key in row]
    return ", ".join([row["method"], *named])


def shown(value: Any) -> str:
    """A setting as a table shows it."""
    return value if isinstance(value, str) else f"{value:g}"


def grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per group and steps: pooled success, its interval, and the span of the runs."""
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((label(row), row.get("steps")), []).append(row)
    lines = []
    for (name, steps), members in groups.items():
        successes = sum(row["successes"] for row in members)
        episodes = sum(row["episodes"] for row in members)
        rates = [row["successes"] / row["episodes"] for row in members]
        low, high = wilson_interval(successes, episodes)
        lines.append(
            {
                "group": name,
                "steps": steps,
                "runs": len(members),
                "success_rate": successes / episodes,
                "ci95": [round(low, 4), round(high, 4)],
                "lowest_run": min(rates),
                "highest_run": max(rates),
                "measures": {
                    key: round(sum(row[key] for row in members) / len(members), 4)
                    for key in MEASURES
                    if all(key in row for row in members)
                },
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """The groups as a table in Markdown: a row per group, a column per number of steps."""
    columns = sorted({line["steps"] or 0 for line in lines})
    heads = [f"{steps} steps" if steps else "no steps" for steps in columns]
    text = "| method | " + " | ".join(heads) + " |\n" + "|---" * (len(columns) + 1) + "|\n"
    for name in dict.fromkeys(line["group"] for line in lines):
        cells = {line["steps"] or 0: line for line in lines if line["group"] == name}
        text += f"| {name} |"
        for steps in columns:
            line = cells.get(steps)
            low, high = line["ci95"] if line else (0, 0)
            rate = f" {line['success_rate']:.1%} ({low:.1%} to {high:.1%})" if line else ""
            text += f"{rate} |"
        text += "\n"
    return text


def details(lines: list[dict[str, Any]]) -> str:
    """What a task measures beside success as a table in Markdown; nothing where it does not."""
    keys = [key for key in MEASURES if any(key in line["measures"] for line in lines)]
    if not keys:
        return ""
    heads = ("method", "steps", *(key.replace("_", " ") for key in keys))
    text = "\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|\n"
    for line in lines:
        cells = [f"{line['measures'][key]:.3f}" for key in keys]
        text += f"| {line['group']} | {line['steps'] or ''} | " + " | ".join(cells) + " |\n"
    return text


def draw(lines: list[dict[str, Any]], title: str, path: Path) -> None:
    """Success against steps, one curve per group; a line across for what has no steps."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # after the backend is chosen

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for i, name in enumerate(dict.fromkeys(line["group"] for line in lines)):
        members = [line for line in lines if line["group"] == name]
        rates = [line["success_rate"] for line in members]
        colour = f"C{i}"
        if members[0]["steps"] is None:
            axes.axhline(rates[0], color=colour, linestyle="--", label=name)
            axes.axhspan(*members[0]["ci95"], color=colour, alpha=0.1)
            continue
        errors = [
            [rate - line["ci95"][0] for rate, line in zip(rates, members, strict=True)],
            [line["ci95"][1] - rate for rate, line in zip(rates, members, strict=True)],
        ]
        steps = [line["steps"] for line in members]
        axes.errorbar(steps, rates, errors, color=colour, marker="o", capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 3, 5, 10, 50, 100], labels=["1", "2", "3", "5", "10", "50", "100"])
    axes.minorticks_off()
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("denoising steps")
    axes.set_ylabel("success")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(args: Args) -> None:
    """Measures every run at every setting."""
    if args.episodes < 1 or args.num_envs < 1:
        raise ValueError(
            f"--episodes, --num-envs: got {args.episodes}, {args.num_envs}, expected at least 1"
        )
    if args.starts is not None and not 0 < args.starts <= args.episodes:
        raise ValueError(f"--starts: got {args.starts}, expected 1 to {args.episodes} episodes")
    if args.seed0 < 0:
        raise ValueError(f"--seed0: got {args.seed0}, expected at least 0")
    torch.set_num_threads(1)
    started, rows = time.monotonic(), []
    for folder in args.runs:
        run = load_run(folder)
        for settings in settings_of(args, run):
            named = {"run": folder.name, "method": run.policy.method, **settings}
            title = " ".join([folder.name, *(f"{k} {shown(v)}" for k, v in settings.items())])
            rows.append({**named, **measure(args, run, settings, title)})
            result = {
                **json.loads(json.dumps(asdict(args), default=str)),
                "commit": current_commit(),
                "seconds": round(time.monotonic() - started, 1),
                "measurements": rows,
                "groups": grouped(rows),
            }
            if args.report:
                args.report.parent.mkdir(parents=True, exist_ok=True)
                args.report.write_text(json.dumps(result, indent=2) + "\n")
    lines = grouped(rows)
    if args.picture:
        level = args.level or tasks.USUAL_LEVELS[args.task]
        title = f"{args.task}, level {level}, {args.episodes} episodes a run"
        draw(lines, title, args.picture)
    print(table(lines) + details(lines), end="")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
