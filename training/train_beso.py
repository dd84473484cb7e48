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
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import tyro

from policies.beso.baselines import DDPMPolicy, make_policy
from policies.beso.network import NetworkSettings
from policies.beso.policy import ChunkPolicy, ScorePolicy
from training.beso_args import Args, check, learning_rate
from training.beso_rollout import success
from training.beso_run import (
    action_errors,
    check_same_network,
    plot,
    read_commands,
    read_config,
    read_policy,
    start_weights,
)
from training.beso_samples import HeldOut, OfData, OfPairs, Source
from training.dataset import concatenate, load
from training.inputs import Inputs, achieved_entry, with_starts
from training.perturb import Perturbation, lead_answer
from training.reflow import ONE_WINDOW, straightened

LEAD_ROWS = 512
"""Rows on which it is looked at what a policy makes of the lead."""


def main(args: Args) -> None:
    """Trains and leaves the run's folder behind."""
    check(args)
    sampler = args.sampler
    levels: tuple[float, ...] = ONE_WINDOW
    if args.reflow:
        own, levels = straightened(args.sampler, args.reflow_windows)
        sampler = replace(
            sampler, name=args.reflow_sampler, steps=args.reflow_steps, sigma_min=args.sigma_min
        )
        args = replace(args, sigma_max=own.sigma_max, sampler=own)
    torch.set_num_threads(args.threads)
    # A trained network has products below the smallest normal number, which take the CPU far
    # longer: more than half of a step.
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    run = args.runs / args.name
    run.mkdir(parents=True, exist_ok=True)
    data = concatenate([load(path) for path in args.data])
    last = run / "last.pt"
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
    held_count = max(1, round(args.validation_share * len(seeds)))
    held = np.random.default_rng(args.seed).permutation(seeds)[:held_count]
    is_training = torch.from_numpy(~np.isin(data.seed, held)[data.episode_index])
    # What is never executed need not be right; asking more of a chunk would throw rows away.
    is_fair = torch.from_numpy(data.undisturbed(args.execute_steps + 1))
    is_validation, is_training = ~is_training & is_fair, is_training & is_fair
    if not (is_training.any() and is_validation.any()):
        raise ValueError(
            f"--data: got {len(data.length)} episodes, expected enough to hold out {held_count} "
            "seeds"
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
    perturbation = Perturbation.of(data.spec, args.lead_noise, args.scene_shift, args.tool_shift)
    source: Source
    if args.reflow:
        beginnings = torch.from_numpy(data.starts[~np.isin(data.seed, held)])
        teacher, _ = read_policy(args.reflow)
        teacher.sampler = sampler
        assert isinstance(teacher, ScorePolicy) and isinstance(averaged, ScorePolicy)
        source = OfPairs(
            args, data, inputs, train_rows, beginnings, teacher, averaged, levels, perturbation
        )
    else:
        source = OfData(args, inputs, chunks, train_rows, averaged, perturbation)
    held_out = source.held_out(torch.nonzero(is_validation).flatten())

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
        f"{held_count} seeds held out",
        flush=True,
    )

    weights, shadow = list(policy.parameters()), list(averaged.parameters())
    running_loss, started = torch.zeros(()), time.monotonic()
    for step in range(first, args.steps):
        samples = source.draw(step, generator)
        batch = policy.normaliser.observation(samples.observation)
        if args.goal_drop > 0.0:
            batch = policy.drop_goal(batch, samples.dropped)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss = policy.loss(batch, samples.action, samples.level, samples.noise)
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
        validation_loss, error = validate(averaged, held_out)
        record: dict[str, Any] = {
            "step": done,
            "loss": float(running_loss) / window,
            "validation_loss": validation_loss,
            "first_action": action_errors(data, error[:, 0]),
            "whole_chunk": action_errors(data, error.flatten(0, 1)),
            "steps_per_s": (done - first) / (time.monotonic() - started),
        }
        if args.window == 1:
            few = slice(LEAD_ROWS)
            seen, noise = held_out.samples.observation[few], held_out.noise[few]
            record["lead_answer"] = lead_answer(averaged, data.spec, seen, noise)
        running_loss.zero_()
        if args.rollout_every and (done % args.rollout_every == 0 or done == args.steps):
            record["rollout_success"], record["rollout_ci95"] = success(args, data, averaged)
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


def validate(policy: ChunkPolicy, held_out: HeldOut) -> tuple[float, torch.Tensor]:
    """Mean loss of samples held out, and the errors (N, H, A) of chunks sampled, raw."""
    shown = held_out.samples
    with torch.no_grad():
        normalised = policy.normaliser.observation(shown.observation)
        loss = policy.loss(normalised, shown.action, shown.level, shown.noise)
        sampled = policy(shown.observation, held_out.noise)
    return float(loss.mean()), sampled - held_out.chunk


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
