"""A policy of training.train_beso in simulation, before it is exported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from policies.beso.policy import ChunkPolicy
from policies.continuation import DEFAULT, Handover
from training.beso_args import Args
from training.dataset import Demonstrations
from training.progress import Progress
from training.rollout import Actor, Batch, policy_actor, run_episodes, wilson_interval

ROLLOUT_SEED0 = 900_000


def torch_actor(
    policy: ChunkPolicy,
    execute_steps: int,
    latency_steps: int,
    handover: Handover | None = None,
) -> Actor:
    """A policy that is not exported yet, with the timing and the handover of the nodes."""

    def infer(observation: Any, noise: Any, **continued: Any) -> Any:
        more = {name: torch.from_numpy(array).float() for name, array in continued.items()}
        with torch.no_grad():
            return policy(torch.from_numpy(observation), torch.from_numpy(noise), **more).numpy()

    settings = policy.settings
    return policy_actor(
        infer,
        policy.noise_shape,
        settings.horizon,
        execute_steps,
        settings.window,
        latency_steps,
        handover or DEFAULT,
    )


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


def success(
    args: Args, data: Demonstrations, policy: ChunkPolicy
) -> tuple[float, tuple[float, float]]:
    """Success of a policy in simulation, with its 95 % interval."""
    seeds = list(range(ROLLOUT_SEED0, ROLLOUT_SEED0 + args.rollout_episodes))
    successes = sum(e.success for e in run_episodes(*simulations(args, data, policy), seeds))
    return successes / len(seeds), wilson_interval(successes, len(seeds))


def visited_inputs(env: Batch, actor: Actor, seeds: list[int]) -> torch.Tensor:
    """Raw network inputs (n, D), or (n, W, D) with a window above 1, that `actor` planned from in
    episodes of `seeds` in the simulations `env`; goals included.
    """
    seen = []

    def plan(env: Any, observation: Any, rows: Any, rngs: Any, last: Any) -> Any:
        seen.append(observation[rows] if actor.window > 1 else observation[rows, -1])
        return actor.plan(env, observation, rows, rngs, last)

    progress = Progress(len(seeds), "episodes")
    run_episodes(
        env,
        replace(actor, plan=plan),
        seeds,
        lambda over, won: progress.show(over, f"{won} successes"),
    )
    return torch.from_numpy(np.concatenate(seen))
