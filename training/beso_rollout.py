"""A policy of training.train_beso in simulation, before it is exported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from policies.beso.policy import ChunkPolicy
from policies.continuation import DEFAULT, Handover
from training.progress import Progress
from training.rollout import Actor, policy_actor, run_episodes


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


def visited_inputs(env: Any, actor: Actor, seeds: list[int]) -> torch.Tensor:
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
