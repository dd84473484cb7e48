"""What the trainers of residual policies share: settings, the run's folder, curves, evaluation."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch

from hardware_configs import load as load_config
from policies.bundle import load_bundle
from policies.manifest import GRAPH
from policies.residual.network import ResidualPolicy, ResidualSettings
from policies.runtime import Policy
from sim import tasks
from training.residual_env import ResidualEnv, Setting, Step
from training.rollout import Actor, Refine, bundle_actor, run_episodes, wilson_interval

Floats = npt.NDArray[np.floating]

# Seeds of the evaluations while training; below are those of the evaluation proper.
VALIDATION_SEED0 = 900_000
# Base alone, before training, for the statistics, its own success and the pools of starts:
# simulated steps, in units of the longest episode, so that every one is seen to its end.
FIT_EPISODES = 1.2
# Steps between two states of one simulation that are kept as starts.
KEEP_EVERY = 4


@dataclass(frozen=True)
class RunArgs:
    """Settings of every trainer of residual policies."""

    # Run
    base: str = "peg_beso"
    """Frozen base: a bundle of the zoo, or a folder's path."""
    task: str = "peg_insert"
    """Task of the cell."""
    settings: tuple[str, ...] = ("med:0.5",)
    """Kinds of episodes, level:clearance in mm or level:clearance:force limit in N; the
    simulations are dealt out to them evenly.
    """
    name: str = "peg_resip"
    """Run name; results go to <runs>/<name>/."""
    runs: Path = Path("build/runs")
    """Folder of all runs."""
    resume: bool = False
    """Continue from the run's last checkpoint."""
    seed: int = 0
    """Seed of initialisation, episodes and exploration."""
    steps: int = 1_000_000
    """Policy steps of all simulations together."""
    num_envs: int = 64
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads; torch has one."""

    # Residual
    width: int = 256
    """Units of each of the two hidden layers of actor and critic."""
    scale: float = 0.1
    """Largest correction in normalised action space; an action's standard deviation is 0.5 there.
    """
    sees_base: bool = True
    """Show the base's action to the residual."""
    per_step: bool = False
    """The base plans anew on every step, and only its chunk's first action is executed."""
    base_gain: float = 1.0
    """Share of the base's action that is executed: 0 trains from scratch."""
    pool_share: float = 0.0
    """Share of the training episodes that begin where the base alone held the part in its first
    steps, instead of at home; evaluations always begin at home.
    """
    reading_age_ms: float = 0.0
    """Readings of a training episode are late by up to so much, a multiple of the control period;
    each episode draws its own delay. Evaluations are punctual.
    """
    command_delay_ms: float = 0.0
    """Commands reach the servos late by up to so much, likewise."""
    force_limit_n: float = 0.0
    """An episode is over, and lost, when part and base press harder than this, like a robot's
    protective stop; 0 for none. Settings that name a limit have that one.
    """

    # Watching
    evaluate_every: int = 200_000
    """Policy steps between two evaluations without exploration (0: only at the end)."""
    evaluate_episodes: int = 64
    """Episodes of each for every setting, seeds 900,000 and up."""


class Run:
    """A run in progress.

    Attributes:
        args: its settings.
        env: the simulations.
        policy: the residual.
        generator: of torch's random numbers.
        steps: policy steps simulated so far, all simulations together.
        updates: updates so far.
    """

    def __init__(self, args: RunArgs, method: str, command: str) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(args.seed)
        self.args = args
        self.folder = args.runs / args.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base = Policy(load_bundle(args.base, hardware_hash=load_config("panda").hash))
        if self.base.refines:
            raise ValueError(f"--base: got {args.base}, expected a bundle that is not refined yet")
        self.kinds = [Setting.parse(text) for text in args.settings]
        resumed = torch.load(self.folder / "last.pt", weights_only=False) if args.resume else None
        self.steps = resumed["steps"] if resumed else 0
        self.updates = resumed["updates"] if resumed else 0
        self.metrics: list[dict[str, Any]] = resumed["metrics"] if resumed else []
        # A resumed run goes on with other episodes than it began with.
        self.env = ResidualEnv(
            args.task,
            self.kinds,
            args.num_envs,
            self.base,
            args.seed + 1000 * self.updates,
            args.force_limit_n,
            args.threads,
            args.per_step,
            args.pool_share,
            1e-3 * args.reading_age_ms,
            1e-3 * args.command_delay_ms,
        )
        spec = self.env.spec
        self.policy = ResidualPolicy(
            ResidualSettings(
                spec.input_size,
                spec.action_size,
                args.width,
                args.scale,
                args.sees_base,
                squash=method == "resfit",
                base_gain=args.base_gain,
            )
        )
        self.generator = torch.Generator().manual_seed(args.seed + 1000 * self.updates)
        self._resumed = resumed
        self._kept: dict[str, Any] = {"policy": self.policy}
        self._ended: list[bool] = []
        self._evaluated = self.steps
        config = json.loads(json.dumps(asdict(args), default=str)) | {
            "method": method,
            "base_sha256": self.base.bundle.manifest.files[GRAPH],
            "network": self.policy.settings.to_dict(),
            "commands": [*(resumed["commands"] if resumed else []), command],
        }
        self.commands = config["commands"]
        (self.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    def keep(self, **what: Any) -> None:
        """Names networks and optimisers that belong in the checkpoint; a resumed run loads them."""
        self._kept |= what
        if self._resumed:
            for name, thing in self._kept.items():
                thing.load_state_dict(self._resumed["kept"][name])

    def begin(self) -> tuple[Floats, Floats]:
        """Starts the episodes. The base's own steps come first: statistics and pools are from them.

        Returns:
            Observations (N, D) and base actions (N, A).
        """
        share, self.env.pool_share = self.env.pool_share, 0.0
        observation, base_action = self.env.reset()
        seen, acted, ended = [observation], [base_action], []
        for k in range(round(FIT_EPISODES * self.env.max_steps)):
            step = self.env.step(base_action)
            observation, base_action = step.observation, step.base_action
            seen.append(observation)
            acted.append(base_action)
            ended += list(step.success[step.done])
            if share and k % KEEP_EVERY == 0:
                self.env.keep_states()
        self.env.pool_share = share
        if not self._resumed:
            self.policy.normaliser.fit(
                torch.from_numpy(np.concatenate(seen)), torch.from_numpy(np.concatenate(acted))
            )
            print(f"base alone: {sum(ended)} of the first {len(ended)} episodes", flush=True)
            self._evaluate()
        self._started, self._first = time.monotonic(), self.steps
        return observation, base_action

    def count(self, step: Step) -> None:
        """Notes what a step of all simulations came to."""
        self.steps += len(step.done)
        self._ended += list(step.success[step.done])

    def update(self, **measured: float) -> None:
        """Ends an update: prints and writes its metrics, evaluates when it is time, saves."""
        self.updates += 1
        recent = self._ended
        record: dict[str, Any] = {
            "steps": self.steps,
            "episodes": len(recent),
            "success": round(float(np.mean(recent)), 4) if recent else None,
            "steps_per_s": round(
                (self.steps - self._first) / (time.monotonic() - self._started), 1
            ),
        } | {name: float(f"{value:.4g}") for name, value in measured.items()}
        self._ended = []
        self.metrics.append(record)
        print(json.dumps(record), flush=True)
        every = self.args.evaluate_every
        if every and self.steps - self._evaluated >= every and self.steps < self.args.steps:
            self._evaluate()
        self._save()

    def finish(self) -> None:
        """Evaluates a last time."""
        self._evaluate()
        self._save()

    def _evaluate(self) -> None:
        """Success without exploration, on the same seeds every time."""
        self._evaluated = self.steps
        rates = {}
        # Settings that are there twice, for more simulations, are measured once.
        for kind in {str(kind): kind for kind in self.kinds}.values():
            size = self.args.evaluate_episodes
            env = tasks.make(
                self.args.task, min(32, size), kind.level, kind.clearance_mm, self.args.threads
            )
            actor = refined_actor(self.base, self.args.task, self.refine, self.args.per_step)
            seeds = range(VALIDATION_SEED0, VALIDATION_SEED0 + size)
            episodes = run_episodes(env, actor, seeds)
            won = sum(episode.success for episode in episodes)
            forces = [np.max(episode.trace["force_n"]) for episode in episodes]
            rates[str(kind)] = {
                "success": won / size,
                "ci95": [round(bound, 4) for bound in wilson_interval(won, size)],
                "peak_force_p95_n": round(float(np.percentile(forces, 95)), 1),
            }
        record = {"steps": self.steps, "evaluation": rates}
        self.metrics.append(record)
        print(json.dumps(record), flush=True)

    def refine(self, observation: Floats, base_action: Floats) -> Floats:
        """Refined actions (N, A) without exploration."""
        with torch.no_grad():
            base = torch.from_numpy(np.asarray(base_action, dtype=np.float32))
            refined = self.policy(torch.from_numpy(observation), base)
        return np.asarray(refined.numpy(), dtype=float)

    def _save(self) -> None:
        checkpoint = {
            "kept": {name: thing.state_dict() for name, thing in self._kept.items()},
            "steps": self.steps,
            "updates": self.updates,
            "metrics": self.metrics,
            "commands": self.commands,
        }
        torch.save(checkpoint, self.folder / "partial.pt")
        (self.folder / "partial.pt").replace(self.folder / "last.pt")
        lines = "".join(json.dumps(record) + "\n" for record in self.metrics)
        (self.folder / "metrics.jsonl").write_text(lines)
        plot(self.metrics, self.folder / "curve.png")


def refined_actor(base: Policy, task: str, refine: Refine, per_step: bool) -> Actor:
    """The base with its corrections, timed as in ResidualEnv."""
    actor = bundle_actor(base, 0 if per_step else tasks.LATENCY_STEPS[task], refine=refine)
    return replace(actor, execute_steps=1) if per_step else actor


def start(args: RunArgs, method: str, arguments: Sequence[str]) -> Run:
    """Begins a run, or takes one up again, of the script that `method` is trained by."""
    script = {"resip": "train_residual", "resfit": "train_residual_td"}[method]
    return Run(args, method, f"python -m training.{script} " + " ".join(arguments))


def plot(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """Success over simulated steps: while exploring, and without."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # slow to import

    figure, axes = plt.subplots(figsize=(7, 4))
    trained = [m for m in metrics if m.get("success") is not None]
    steps = [m["steps"] for m in trained]
    axes.plot(steps, [m["success"] for m in trained], color="0.7", label="while exploring")
    evaluated = [m for m in metrics if "evaluation" in m]
    # A resumed run may go on with other settings.
    for kind in dict.fromkeys(kind for m in evaluated for kind in m["evaluation"]):
        found = [m for m in evaluated if kind in m["evaluation"]]
        rows = [m["evaluation"][kind] for m in found]
        rate = np.array([row["success"] for row in rows])
        low, high = np.array([row["ci95"] for row in rows]).T
        error = np.abs([rate - low, high - rate])
        axes.errorbar(
            [m["steps"] for m in found], rate, yerr=error, marker="o", capsize=3, label=kind
        )
    axes.set(xlabel="policy steps", ylabel="success", ylim=(0, 1.02))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
