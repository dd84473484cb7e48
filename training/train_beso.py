"""Trains a score-based diffusion policy (BESO, Reuss et al. 2023), or its regression baseline, on
demonstrations.

    python -m training.train_beso --data build/data/peg_med.npz --name peg_beso

The whole data set lies in memory as two tensors; a step draws rows, corrupts their chunks at a
random noise level each and regresses EDM's target. Everything lands in build/runs/<name>/:
config.json, metrics.jsonl, curve.png, last.pt.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
import tyro

from policies.beso.diffusion import SamplerSettings, log_logistic_sigma
from policies.beso.network import NetworkSettings, ScorePolicy
from training.dataset import Demonstrations, concatenate, load
from training.rollout import policy_actor, run_episodes, wilson_interval


@dataclass(frozen=True)
class Args:
    """Trains a score-based diffusion policy on demonstrations."""

    # Run
    data: tuple[Path, ...]
    """Demonstrations from training.collect; several files are laid end to end."""
    name: str = "peg_beso"
    """Run name; results go to <runs>/<name>/."""
    runs: Path = Path("build/runs")
    """Folder of all runs."""
    resume: bool = False
    """Continue from the run's last checkpoint."""
    start_from: Path | None = None
    """Finished run whose weights and statistics to start from, when data were added since."""
    seed: int = 0
    """Seed of initialisation, batches and noise."""
    threads: int = 1
    """CPU threads of torch."""

    # Network
    method: Literal["mlp", "transformer", "bc"] = "mlp"
    """Noise network: residual MLP, causal transformer; or the MLP trained by plain regression."""
    width: int = 384
    """Width of the network."""
    blocks: int = 3
    """Residual blocks or transformer layers."""
    horizon: int = 8
    """Actions per chunk."""

    # Diffusion
    sigma_min: float = 0.005
    """Smallest noise level, in units of which an action's standard deviation is 0.5."""
    sigma_max: float = 1.0
    """Largest noise level."""
    density_loc: float = math.log(0.5)
    """Mean of ln(sigma) in training."""
    density_scale: float = 1.0
    """Scale of ln(sigma) in training (log-logistic)."""
    goal_drop: float = 0.0
    """Probability of hiding the goal of a sample, for classifier-free guidance."""
    sampler: SamplerSettings = SamplerSettings(noise_scale=0.0)
    """Sampler of validation and rollouts; it travels with the checkpoint and is the default at
    export.
    """

    # Optimisation
    steps: int = 20_000
    """Gradient steps."""
    batch_size: int = 512
    """Samples per step."""
    learning_rate: float = 1e-3
    """Largest learning rate (AdamW)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up."""
    warm_up: int = 500
    """Steps of linear warm-up."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones used."""

    # Watching
    validation_share: float = 0.05
    """Share of the episodes held out."""
    log_every: int = 1000
    """Steps between two lines of metrics; a checkpoint is written with each."""
    rollout_every: int = 0
    """Steps between two rollouts in simulation (0: none)."""
    rollout_episodes: int = 64
    """Episodes of a rollout, seeds 900,000 and up, at the clearance of the data."""
    rollout_level: Literal["low", "med", "high"] = "med"
    """Level of a rollout."""
    execute_steps: int = 2
    """Actions of a chunk executed in rollouts, and by default after export."""


ROLLOUT_SEED0 = 900_000


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 1 %."""
    if step < args.warm_up:
        return args.learning_rate * (step + 1) / args.warm_up
    if args.schedule == "constant":
        return args.learning_rate
    progress = (step - args.warm_up) / max(1, args.steps - args.warm_up)
    return args.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def action_errors(data: Demonstrations, error: torch.Tensor) -> dict[str, float]:
    """Root mean square error of each action component from errors (N, A), in mm, deg and mm."""
    rms = error.double().square().mean(dim=0).sqrt().tolist()
    units = [
        unit for field in data.spec.action for unit in _component_units(field.unit, field.size)
    ]
    names = [name for field in data.spec.action for name in (field.names or range(field.size))]
    factor = {"m": (1e3, "mm"), "rad": (180 / math.pi, "deg")}
    errors = {}
    for name, unit, value in zip(names, units, rms, strict=True):
        scale, shown = factor.get(unit, (1.0, unit))
        errors[f"{name}_{shown}"] = round(scale * value, 4)
    return errors


def _component_units(unit: str, size: int) -> list[str]:
    """One unit per component: "m,rad,m" over seven components is three, three and one."""
    parts = unit.split(",")
    if len(parts) == 1:
        return parts * size
    if len(parts) == 3 and size == 7:
        return [parts[0]] * 3 + [parts[1]] * 3 + [parts[2]]
    return ["1"] * size


def read_commands(run: Path) -> list[str]:
    """The training commands that led to a run, oldest first."""
    commands: list[str] = json.loads((run / "config.json").read_text())["commands"]
    return commands


def plot(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draws losses and rollout success over steps."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # after the backend is chosen

    figure, axes = plt.subplots(figsize=(7, 4))
    steps = [m["step"] for m in metrics]
    axes.semilogy(steps, [m["loss"] for m in metrics], label="training loss")
    axes.semilogy(steps, [m["validation_loss"] for m in metrics], label="held-out loss")
    axes.set_xlabel("gradient step")
    axes.set_ylabel("denoising loss")
    rolled = [m for m in metrics if "rollout_success" in m]
    if rolled:
        right = axes.twinx()
        right.plot(
            [m["step"] for m in rolled],
            [m["rollout_success"] for m in rolled],
            "k.-",
            label="success",
        )
        right.set_ylim(0, 1)
        right.set_ylabel("rollout success")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(args: Args) -> None:
    """Trains and leaves the run's folder behind."""
    if not 0.0 < args.sigma_min < args.sigma_max:
        raise ValueError(
            f"--sigma-min: got {args.sigma_min}, expected between 0 and {args.sigma_max}"
        )
    if not 0.0 < args.validation_share < 1.0:
        raise ValueError(
            f"--validation-share: got {args.validation_share}, expected between 0 and 1"
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    run = args.runs / args.name
    run.mkdir(parents=True, exist_ok=True)
    data = concatenate([load(path) for path in args.data])
    last = run / "last.pt"
    wanted = {"--resume": last if args.resume else None}
    wanted["--start-from"] = args.start_from / "last.pt" if args.start_from else None
    for option, checkpoint in wanted.items():
        if checkpoint and not checkpoint.exists():
            raise ValueError(f"{option}: got no checkpoint {checkpoint}, expected a run's")

    # Data: whole in memory, split by episode, normalised once.
    # Files may share seeds; an episode and its twin are held out together.
    seeds = np.unique(data.seed)
    held_out = max(1, round(args.validation_share * len(seeds)))
    held = np.random.default_rng(args.seed).permutation(seeds)[:held_out]
    is_training = torch.from_numpy(~np.isin(data.seed, held)[data.episode_index])
    # What is never executed need not be right; asking more of a chunk would throw rows away.
    is_fair = torch.from_numpy(data.undisturbed(args.execute_steps + 1))
    is_validation, is_training = ~is_training & is_fair, is_training & is_fair
    if not (is_training.any() and is_validation.any()):
        raise ValueError(
            f"--data: got {len(data.length)} episodes, expected enough to hold out {held_out} seeds"
        )
    observation = torch.from_numpy(data.observation)
    chunks = torch.from_numpy(data.chunks(args.horizon))
    settings = NetworkSettings(
        kind=args.method,
        input_size=data.spec.input_size,
        goal_size=data.spec.goal_size,
        action_size=data.spec.action_size,
        horizon=args.horizon,
        width=args.width,
        blocks=args.blocks,
    )
    policy, averaged = ScorePolicy(settings), ScorePolicy(settings)
    policy.normaliser.fit(observation[is_training], torch.from_numpy(data.action)[is_training])
    averaged.load_state_dict(policy.state_dict())
    averaged.requires_grad_(False).eval()
    averaged.sampler = args.sampler

    optimiser = torch.optim.AdamW(
        policy.parameters(), lr=0.0, weight_decay=args.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(args.seed)
    metrics: list[dict[str, Any]] = []
    commands = ["python -m training.train_beso " + " ".join(sys.argv[1:])]
    first = 0
    if args.start_from:
        policy.load_state_dict(
            torch.load(args.start_from / "last.pt", weights_only=True)["averaged"]
        )
        averaged.load_state_dict(policy.state_dict())
        commands = read_commands(args.start_from) + commands
    if args.resume:
        saved = torch.load(last, weights_only=True)
        commands = read_commands(run) + commands[-1:]
        policy.load_state_dict(saved["policy"])
        averaged.load_state_dict(saved["averaged"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        first, metrics = saved["step"], saved["metrics"]
    observation = policy.normaliser.observation(observation)
    target = policy.normaliser.action(chunks)
    train_observation, train_target = observation[is_training], target[is_training]
    validation_observation, validation_target = observation[is_validation], target[is_validation]

    # The same rows, levels and noise at every validation, so that its curve is smooth.
    fixed = torch.Generator().manual_seed(args.seed + 1)
    rows = torch.randperm(len(validation_target), generator=fixed)[:4096]
    validation_observation, validation_target = (
        validation_observation[rows],
        validation_target[rows],
    )
    validation_raw = {
        "observation": torch.from_numpy(data.observation)[is_validation][rows],
        "chunk": chunks[is_validation][rows],
    }
    validation_noise = torch.randn(validation_target.shape, generator=fixed)
    levels = (args.density_loc, args.density_scale, args.sigma_min, args.sigma_max)
    validation_sigma = log_logistic_sigma(torch.rand(len(rows), generator=fixed), *levels)

    config = json.loads(json.dumps(asdict(args), default=str)) | {
        "network": settings.to_dict(),
        "data_sha256": data.sha256,
        "generator": data.generator,
        "task": data.task,
        "spec": data.spec.to_dict(),
        "commands": commands,
    }
    (run / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    parameters = sum(p.numel() for p in policy.parameters())
    print(
        f"{args.name}: {parameters / 1e6:.2f} M parameters, {len(train_target)} rows, "
        f"{held_out} seeds held out",
        flush=True,
    )

    weights, shadow = list(policy.parameters()), list(averaged.parameters())
    running_loss, started = torch.zeros(()), time.monotonic()
    for step in range(first, args.steps):
        rows = torch.randint(len(train_target), (args.batch_size,), generator=generator)
        noise = torch.randn(args.batch_size, *train_target.shape[1:], generator=generator)
        sigma = log_logistic_sigma(torch.rand(args.batch_size, generator=generator), *levels)
        batch = train_observation[rows]
        if args.goal_drop > 0.0:
            dropped = (torch.rand(args.batch_size, generator=generator) < args.goal_drop).float()
            batch = policy.drop_goal(batch, dropped)
        loss = policy.loss(batch, train_target[rows], sigma, noise).mean()
        optimiser.param_groups[0]["lr"] = learning_rate(args, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        # A short average at first: the initial weights would otherwise stay in it for thousands of
        # steps.
        decay = min(args.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(shadow, weights, 1.0 - decay)
        running_loss += loss.detach()

        done = step + 1
        if done % args.log_every and done != args.steps:
            continue
        window = done % args.log_every or args.log_every
        with torch.no_grad():
            validation_loss = averaged.loss(
                validation_observation, validation_target, validation_sigma, validation_noise
            )
            sampled = (
                averaged(validation_raw["observation"], validation_noise) - validation_raw["chunk"]
            )
        record: dict[str, Any] = {
            "step": done,
            "loss": float(running_loss) / window,
            "validation_loss": float(validation_loss.mean()),
            "first_action": action_errors(data, sampled[:, 0]),
            "whole_chunk": action_errors(data, sampled.flatten(0, 1)),
            "steps_per_s": (done - first) / (time.monotonic() - started),
        }
        running_loss.zero_()
        if args.rollout_every and (done % args.rollout_every == 0 or done == args.steps):
            record["rollout_success"], record["rollout_ci95"] = rollout(args, data, averaged)
        metrics.append(record)
        print(json.dumps(record), flush=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
        checkpoint = {
            "policy": policy.state_dict(),
            "averaged": averaged.state_dict(),
            "optimiser": optimiser.state_dict(),
            "generator": generator.get_state(),
            "step": done,
            "metrics": metrics,
        }
        torch.save(checkpoint, run / "partial.pt")
        (run / "partial.pt").replace(last)
    plot(metrics, run / "curve.png")
    print(f"{run}: {args.steps} steps, held-out loss {metrics[-1]['validation_loss']:.4f}")


def rollout(
    args: Args, data: Demonstrations, policy: ScorePolicy
) -> tuple[float, tuple[float, float]]:
    """Success of the averaged weights in simulation, with its 95 % interval."""
    from sim.tasks.peg_insert import PegInsertBatch  # only a run with rollouts needs the simulator

    def infer(observation: Any, noise: Any) -> Any:
        with torch.no_grad():
            return policy(torch.from_numpy(observation), torch.from_numpy(noise)).numpy()

    env = PegInsertBatch(
        args.rollout_episodes,
        args.rollout_level,
        data.generator["clearance_mm"],
        nthread=args.threads,
    )
    shape = (args.horizon, data.spec.action_size)
    seeds = list(range(ROLLOUT_SEED0, ROLLOUT_SEED0 + args.rollout_episodes))
    episodes = run_episodes(env, policy_actor(infer, shape, args.execute_steps), seeds)
    successes = sum(e.success for e in episodes)
    return successes / len(episodes), wilson_interval(successes, len(episodes))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
