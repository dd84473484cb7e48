"""Trains a score-based diffusion policy (BESO, Reuss et al. 2023), or one of its baselines, on
demonstrations or play.

    python -m training.train_beso --data build/data/peg_med.npz --name peg_beso

The whole data set lies in memory as two tensors; a step draws rows, corrupts their chunks at a
random noise level each and regresses EDM's target. With --hindsight-steps the goal of a row is what
was achieved some steps later in the same episode, whatever its maker was after. Everything lands in
build/runs/<name>/: config.json, metrics.jsonl, curve.png, last.pt.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from policies.beso.baselines import DDPMPolicy, make_policy
from policies.beso.diffusion import SamplerSettings
from policies.beso.network import NetworkSettings
from policies.beso.policy import ChunkPolicy, ScorePolicy
from training.beso_rollout import torch_actor, visited_inputs
from training.beso_run import (
    action_errors,
    check_same_network,
    plot,
    read_commands,
    read_config,
    read_policy,
    start_weights,
)
from training.dataset import Demonstrations, concatenate, load
from training.inputs import Inputs, achieved_entry, with_starts
from training.reflow import ONE_WINDOW, Pairs, draw_pairs, straightened
from training.rollout import Actor, Batch, run_episodes, wilson_interval


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

    # Method and network
    method: Literal["beso", "bc", "gmm", "ddpm"] = "beso"
    """Score-based diffusion; or a baseline: regression, mixture of Gaussians, DDPM."""
    network: Literal["mlp", "transformer", "decoder"] = "mlp"
    """Residual MLP, BESO's causal transformer, or Diffusion Policy's decoder."""
    width: int = 384
    """Width of the network."""
    blocks: int = 3
    """Residual blocks or transformer layers."""
    heads: int = 4
    """Attention heads (transformers)."""
    film: bool = False
    """The observation scales and shifts every block (MLP), see NetworkSettings: where several
    answers are right.
    """
    horizon: int = 8
    """Actions per chunk."""
    window: int = 1
    """Observations in the input; --window 5 --horizon 1 is the paper's setting for block-push."""
    order: Literal["paper", "prefix"] = "paper"
    """Order of the transformer's tokens; "prefix" is computed faster, see NetworkSettings."""

    # Goals
    goal_states: int = 1
    """Future states that make up a goal."""
    hindsight_steps: int = 0
    """Goals are what was achieved up to so many steps later (0: the goals of the file)."""
    hindsight_draws: int = 1
    """How far ahead is the furthest of so many even draws: more than 1 where it is goals that take
    long that will be asked for.
    """
    start_weight: int = 1
    """How often a row among the first ones of its episode counts. There every choice is still open,
    and whoever runs a policy begins there.
    """
    start_rows: int | None = None
    """How many rows are the first ones; the horizon's when left out."""

    # Diffusion
    sigma_min: float = 0.005
    """Smallest noise level, in units of which an action's standard deviation is 0.5."""
    sigma_max: float = 10.0
    """Largest noise level. It has to drown a whole chunk, whose rows say much the same: see
    policies/beso/README.md.
    """
    density_loc: float = math.log(0.5)
    """Mean of ln(sigma) in training."""
    density_scale: float = 1.0
    """Scale of ln(sigma) in training (log-logistic)."""
    goal_drop: float = 0.0
    """Probability of hiding the goal of a sample, for classifier-free guidance."""
    sampler: SamplerSettings = SamplerSettings(sigma_min=0.05, sigma_max=10.0, noise_scale=0.5)
    """Sampler of validation and rollouts; it travels with the checkpoint and is the default at
    export.
    """

    # Few steps
    reflow: Path | None = None
    """Finished run whose own samples become the targets, each with the noise it came from; few
    steps then do as well as many. Starts from its weights, or from those of --start-from; see
    training.reflow. Noise and guidance of those samples are those of --sampler.sigma-max,
    --sampler.noise-scale and --sampler.cfg-lambda; the new network's own are 1: it has learned
    them.
    """
    reflow_sampler: str = "ddim"
    """Sampler of those samples; a deterministic one."""
    reflow_steps: int = 10
    """Denoising steps of those samples."""
    reflow_windows: int = 1
    """Pieces of the path that are straightened each by itself, between the levels that so many
    steps of --sampler visit. With one the whole path is; more, for as many steps, are learned
    better where several answers are right. The new network then keeps levels and noise.
    """
    reflow_pairs: int = 200_000
    """How many of them."""
    reflow_asked: float = 0.0
    """Share of them whose goal is what some episode of the data begins with, things at rest, in
    place of hindsight: the first network can be asked for what no one was seen to do.
    """
    reflow_rounds: int = 1
    """Times in the course of the training that they are drawn. Half of the later ones begin where
    the new network's own steps lead, with --start-from those of the first round too; with one
    window they are only fresh.
    """
    reflow_episodes: int = 0
    """Episodes in simulation that the new network acts in before each such round. Half of the
    pairs are of what it saw there: its own mistakes lead to places that the data do not know (Ross
    et al. 2011, DAgger; the first network is the expert).
    """

    # Optimisation
    huber: float = 0.0
    """Root mean square error of a sample from which the loss is linear in it, not quadratic
    (pseudo-Huber; 0: quadratic throughout). For --reflow where several answers are right: between
    two the mean is none of them, the median is one. Without pairs it would not learn a score.
    """
    steps: int = 20_000
    """Gradient steps."""
    batch_size: int = 512
    """Samples per step."""
    learning_rate: float | None = None
    """Largest learning rate (AdamW); 3e-3 for the MLP, the papers' 1e-4 for the transformers when
    left out.
    """
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
REFLOW_SEED0 = 800_000
LEARNING_RATES = {"mlp": 3e-3, "transformer": 1e-4, "decoder": 1e-4}


def learning_rate(args: Args, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to 1 %."""
    largest = LEARNING_RATES[args.network] if args.learning_rate is None else args.learning_rate
    if step < args.warm_up:
        return largest * (step + 1) / args.warm_up
    if args.schedule == "constant":
        return largest
    progress = (step - args.warm_up) / max(1, args.steps - args.warm_up)
    return largest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def main(args: Args) -> None:
    """Trains and leaves the run's folder behind."""
    if not 0.0 < args.sigma_min < args.sigma_max:
        raise ValueError(
            f"--sigma-min: got {args.sigma_min}, expected between 0 and {args.sigma_max}"
        )
    if args.method == "beso":
        args.sampler.check_trained("--sampler.sigma-max", args.sigma_max)
    sampler = args.sampler
    levels = ONE_WINDOW
    if args.reflow:
        for name in ("reflow_windows", "reflow_rounds"):
            if getattr(args, name) < 1:
                shown = name.replace("_", "-")
                raise ValueError(f"--{shown}: got {getattr(args, name)}, expected at least 1")
        own, levels = straightened(args.sampler, args.reflow_windows)
        sampler = replace(
            sampler, name=args.reflow_sampler, steps=args.reflow_steps, sigma_min=args.sigma_min
        )
        args = replace(args, sigma_max=own.sigma_max, sampler=own)
    if args.reflow_asked and not args.hindsight_steps:
        raise ValueError(
            f"--reflow-asked: got {args.reflow_asked} without --hindsight-steps, expected 0"
        )
    if args.reflow_episodes and not args.start_from and args.reflow_rounds < 2:
        raise ValueError(
            f"--reflow-episodes: got {args.reflow_episodes}, expected 0 with fewer than two "
            "--reflow-rounds and no --start-from"
        )
    if args.huber < 0.0 or (args.huber > 0.0 and args.method == "beso" and not args.reflow):
        raise ValueError(f"--huber: got {args.huber}, expected 0, or more with --reflow")
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
    if args.reflow and args.method != "beso":
        raise ValueError(f"--method: got {args.method}, expected beso for --reflow")
    origin = args.start_from or args.reflow
    option = "--start-from" if args.start_from else "--reflow"
    starts = {
        "--resume": last if args.resume else None,
        "--start-from": args.start_from / "last.pt" if args.start_from else None,
        "--reflow": args.reflow / "last.pt" if args.reflow else None,
    }
    for name, checkpoint in starts.items():
        if checkpoint and not checkpoint.exists():
            raise ValueError(f"{name}: got no checkpoint {checkpoint}, expected a run's")
    if args.reflow:
        # The samples are the first network's, which knows its own levels.
        sampler.check_trained("--sampler.sigma-max", read_config(args.reflow)["sigma_max"])

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
    chunks = torch.from_numpy(data.chunks(args.horizon, args.window))
    settings = NetworkSettings(
        kind=args.network,
        input_size=data.spec.input_size,
        goal_size=data.spec.goal_size,
        action_size=data.spec.action_size,
        horizon=args.horizon,
        width=args.width,
        blocks=args.blocks,
        heads=args.heads,
        window=args.window,
        goal_states=args.goal_states,
        achieved=achieved_entry(data.spec) if args.hindsight_steps else -1,
        film=args.film,
        order=args.order,
    )
    for name, folder in ((option, origin), ("--resume", run if args.resume else None)):
        if folder:
            theirs = read_config(folder)["network"]
            check_same_network(name, settings, theirs, may_grow=name != "--resume")
    inputs = Inputs(data, settings, args.hindsight_steps, args.hindsight_draws)
    policy, averaged = make_policy(args.method, settings), make_policy(args.method, settings)
    for model in (policy, averaged):
        if isinstance(model, ScorePolicy):
            model.density = (args.density_loc, args.density_scale, args.sigma_min, args.sigma_max)
    policy.fit(inputs.observation[is_training], torch.from_numpy(data.action)[is_training])
    averaged.load_state_dict(policy.state_dict())
    averaged.requires_grad_(False).eval()
    averaged.sampler = args.sampler
    if isinstance(averaged, DDPMPolicy):
        # All of its steps would make a validation last longer than what it watches.
        averaged.sampling_steps = 10

    optimiser = torch.optim.AdamW(
        policy.parameters(), lr=0.0, weight_decay=args.weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(args.seed)
    metrics: list[dict[str, Any]] = []
    commands = ["python -m training.train_beso " + " ".join(sys.argv[1:])]
    first = 0
    if origin:
        start_weights(policy, read_policy(origin)[0].state_dict())
        averaged.load_state_dict(policy.state_dict())
        commands = read_commands(origin) + commands
    if args.resume:
        saved = torch.load(last, weights_only=True)
        commands = read_commands(run) + commands[-1:]
        policy.load_state_dict(saved["policy"])
        averaged.load_state_dict(saved["averaged"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        first, metrics = saved["step"], saved["metrics"]
    train_rows = torch.nonzero(is_training).flatten()
    start_rows = args.horizon if args.start_rows is None else args.start_rows
    train_rows = with_starts(train_rows, data, start_rows, args.start_weight)
    target = policy.normaliser.action(chunks)

    # The same rows, levels and noise at every validation, so that its curve is smooth.
    fixed = torch.Generator().manual_seed(args.seed + 1)
    rows = torch.nonzero(is_validation).flatten()
    rows = rows[torch.randperm(len(rows), generator=fixed)[:4096]]
    validation_observation = inputs(rows, torch.rand(len(rows), generator=fixed))
    validation_target, validation_chunk = target[rows], chunks[rows, args.window - 1 :]
    validation_noise = torch.randn(validation_target.shape, generator=fixed)
    validation_level = averaged.draw_level(torch.rand(len(rows), generator=fixed))
    sampling_noise = torch.randn(len(rows), *averaged.noise_shape, generator=fixed)
    pairs: Pairs | None = None
    if args.reflow:
        beginnings = torch.from_numpy(data.starts[~np.isin(data.seed, held)])
        teacher, _ = read_policy(args.reflow)
        teacher.sampler = sampler
        assert isinstance(teacher, ScorePolicy) and isinstance(averaged, ScorePolicy)

        def pairs_of(rows: torch.Tensor, count: int, seed: int, own: bool = False) -> Pairs:
            drawn = torch.Generator().manual_seed(seed)
            student = averaged if own and args.reflow_windows > 1 else None
            return draw_pairs(
                teacher,
                inputs,
                rows,
                count,
                args.goal_drop,
                drawn,
                levels,
                student,
                (args.reflow_asked, beginnings),
            )

        held_pairs = pairs_of(rows, len(rows), args.seed + 2)
        chosen, validation_level = held_pairs.towards_tops(
            torch.arange(len(held_pairs)), validation_level, fixed
        )
        validation_observation = inputs(*held_pairs.seen(chosen))
        validation_target, validation_noise = held_pairs.line(chosen, validation_level)
        sampling_noise = held_pairs.noise[chosen]
        validation_chunk = averaged.normaliser.raw_action(
            held_pairs.chunk[chosen, args.window - 1 :]
        )

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
        f"{args.name}: {parameters / 1e6:.2f} M parameters, {int(is_training.sum())} rows, "
        f"{held_out} seeds held out",
        flush=True,
    )

    weights, shadow = list(policy.parameters()), list(averaged.parameters())
    running_loss, started = torch.zeros(()), time.monotonic()
    for step in range(first, args.steps):
        round_ = step * args.reflow_rounds // args.steps
        before = (step - 1) * args.reflow_rounds // args.steps
        if args.reflow and (step == first or round_ != before):
            drawn_of, able = train_rows, round_ > 0 or args.start_from is not None
            if args.reflow_episodes and able:
                seed0 = REFLOW_SEED0 + round_ * args.reflow_episodes
                env, actor = simulations(args, data, averaged)
                inputs.visited = visited_inputs(
                    env, actor, list(range(seed0, seed0 + args.reflow_episodes))
                )
                visited = len(data.action) + torch.arange(len(inputs.visited))
                drawn_of = torch.cat(
                    [train_rows, visited.repeat(math.ceil(len(train_rows) / len(visited)))]
                )
            pairs = pairs_of(drawn_of, args.reflow_pairs, args.seed + 3 + round_, able)
        count = len(train_rows) if pairs is None else len(pairs)
        chosen = torch.randint(count, (args.batch_size,), generator=generator)
        level = policy.draw_level(torch.rand(args.batch_size, generator=generator))
        if pairs is None:
            rows, asked = train_rows[chosen], None
            noise = torch.randn(args.batch_size, *target.shape[1:], generator=generator)
            action = target[rows]
            ahead = torch.rand(args.batch_size, generator=generator)
            dropped = (torch.rand(args.batch_size, generator=generator) < args.goal_drop).float()
        else:
            chosen, level = pairs.towards_tops(chosen, level, generator)
            rows, ahead, asked = pairs.seen(chosen)
            dropped = pairs.dropped[chosen]
            action, noise = pairs.line(chosen, level)
        batch = policy.normaliser.observation(inputs(rows, ahead, asked))
        if args.goal_drop > 0.0:
            batch = policy.drop_goal(batch, dropped)
        loss = policy.loss(batch, action, level, noise)
        if args.huber > 0.0:
            loss = (loss + args.huber**2).sqrt() - args.huber
        loss = loss.mean()
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
            normalised = averaged.normaliser.observation(validation_observation)
            validation_loss = averaged.loss(
                normalised, validation_target, validation_level, validation_noise
            )
            sampled = averaged(validation_observation, sampling_noise) - validation_chunk
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
    args: Args, data: Demonstrations, policy: ChunkPolicy
) -> tuple[float, tuple[float, float]]:
    """Success of the averaged weights in simulation, with its 95 % interval."""
    seeds = list(range(ROLLOUT_SEED0, ROLLOUT_SEED0 + args.rollout_episodes))
    env, actor = simulations(args, data, policy)
    successes = sum(e.success for e in run_episodes(env, actor, seeds))
    return successes / len(seeds), wilson_interval(successes, len(seeds))


def simulations(args: Args, data: Demonstrations, policy: ChunkPolicy) -> tuple[Batch, Actor]:
    """Where a policy is tried while it is trained, and the policy acting there."""
    from sim import tasks  # only a run with rollouts needs the simulator

    env = tasks.make(
        data.task,
        args.rollout_episodes,
        args.rollout_level,
        data.generator["clearance_mm"],
        nthread=args.threads,
    )
    return env, torch_actor(policy, args.execute_steps, tasks.LATENCY_STEPS[data.task])


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
