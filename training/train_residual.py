"""Trains a residual policy by PPO on a sparse reward over a frozen base: ResiP (Ankile 2024).

    python -m training.train_residual --base peg_base --task peg_insert --settings med:0.5 --name r

The base acts in chunks, open loop; the residual sees the newest observation and the base's action
on every step and adds a small correction to it. The reward is 1 on the step the task succeeds and
0 otherwise. Everything lands in build/runs/<name>/: config.json, metrics.jsonl, curve.png, last.pt;
`python -m training.export --run build/runs/<name> --bundle ...` makes a bundle of it.

Hyper-parameters are the paper's but for: 64 simulations instead of 1,024, as two cores step no more
at once; minibatches instead of full batches, which take 4 times the gradient steps for the same
arithmetic; at most 10 epochs instead of 50, since on a CPU an epoch costs as much as 3 % of the
batch's simulation; a smaller learning rate of the critic, as it takes more steps, and a larger one
of the actor, as it takes fewer updates; and exploration of e^-2 instead of e^-1 of the bound: with
the latter no episode of a sub-millimetre fit succeeds while exploring, and nothing is learned.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from torch import nn

from policies.residual.network import mlp
from training import residual_run
from training.residual_run import RunArgs


@dataclass(frozen=True)
class Args(RunArgs):
    """Trains a residual policy by PPO over a frozen base."""

    # PPO
    update_steps: int = 100
    """Policy steps of every simulation between two updates."""
    gamma: float = 0.999
    """Discount."""
    gae_lambda: float = 0.95
    """Lambda of the advantages (Schulman et al. 2016)."""
    clip: float = 0.2
    """Clipping of the ratio."""
    epochs: int = 10
    """Passes over a batch, at most."""
    minibatches: int = 4
    """Minibatches a pass."""
    kl_limit: float = 0.1
    """No further pass once the policy has moved so far (mean KL divergence)."""
    actor_rate: float = 1e-3
    """Learning rate of the actor (AdamW); the paper's is 3e-4."""
    critic_rate: float = 1e-3
    """Learning rate of the critic (AdamW); the paper's 5e-3 goes with full batches."""
    anneal_from: float = 1.0
    """Share of the steps after which both learning rates fall, linearly, to nothing; 1: never."""
    log_std: float = -2.0
    """Logarithm of the exploration's standard deviation, fixed, of residuals in -1..1; -1 in the
    paper.
    """
    critic_warm_up: int = 1
    """Updates of the critic alone, before the actor moves."""
    shaping: float = 0.0
    """Weight of a potential (part to socket, of 0.3 m): 0 for the sparse reward alone."""


SHAPING_RANGE_M = 0.3


def main(args: Args) -> None:
    """Trains and leaves the run's folder behind."""
    if not 0.0 <= args.anneal_from <= 1.0:
        raise ValueError(f"--anneal-from: got {args.anneal_from}, expected 0 to 1")
    run = residual_run.start(args, "resip", sys.argv[1:])
    env, policy, generator = run.env, run.policy, run.generator
    critic = mlp((policy.features_size, args.width, args.width, 1))
    nn.init.constant_(critic[-1].bias, 0.25)
    actor_optimiser = torch.optim.AdamW(policy.actor.parameters(), args.actor_rate, eps=1e-5)
    critic_optimiser = torch.optim.AdamW(critic.parameters(), args.critic_rate, eps=1e-5)
    run.keep(critic=critic, actor_optimiser=actor_optimiser, critic_optimiser=critic_optimiser)
    rates = {actor_optimiser: args.actor_rate, critic_optimiser: args.critic_rate}
    shape, std = (args.update_steps, args.num_envs), float(np.exp(args.log_std))

    observation, base_action = run.begin()
    while run.steps < args.steps:
        features = torch.zeros(*shape, policy.features_size)
        residuals = torch.zeros(*shape, policy.settings.action_size)
        means = torch.zeros_like(residuals)
        rewards, dones, values = (torch.zeros(shape) for _ in range(3))
        potential = -env.distance_m() / SHAPING_RANGE_M
        simulating = time.monotonic()
        for t in range(args.update_steps):
            with torch.no_grad():
                base = torch.from_numpy(base_action)
                features[t] = policy.features(torch.from_numpy(observation), base)
                means[t] = policy.act(features[t])
                values[t] = critic(features[t])[:, 0]
                noise = torch.randn(means[t].shape, generator=generator)
                residuals[t] = means[t] + std * noise
                action = policy.apply_residual(base, residuals[t])
            step = env.step(action.numpy())
            run.count(step)
            rewards[t] = torch.from_numpy(step.success.astype(np.float32))
            dones[t] = torch.from_numpy(step.done.astype(np.float32))
            if args.shaping:
                # Potential-based: it leaves the best policy as it is (Ng et al. 1999).
                reached = np.where(step.done, 0.0, -step.distance_m / SHAPING_RANGE_M)
                shaped = args.shaping * (args.gamma * reached - potential)
                rewards[t] += torch.from_numpy(shaped.astype(np.float32))
                potential = -env.distance_m() / SHAPING_RANGE_M
            observation, base_action = step.observation, step.base_action
        simulating = time.monotonic() - simulating

        # The time limit is the task's own, so an episode's end is an end.
        with torch.no_grad():
            newest = policy.features(torch.from_numpy(observation), torch.from_numpy(base_action))
            following = critic(newest)[:, 0]
        advantages = generalised_advantages(
            rewards, values, dones, following, args.gamma, args.gae_lambda
        )
        returns = (advantages + values).flatten()
        flat = {
            "features": features.flatten(0, 1),
            "residuals": residuals.flatten(0, 1),
            "means": means.flatten(0, 1),
            "advantages": advantages.flatten(),
        }

        # Update: clipped policy gradient, squared error of the critic.
        samples, passes, divergence = len(returns), 0, 0.0
        learning = run.updates >= args.critic_warm_up
        for optimiser, rate in rates.items():
            optimiser.param_groups[0]["lr"] = rate * annealed(args, run.steps)
        for _ in range(args.epochs):
            order = torch.randperm(samples, generator=generator)
            for rows in order.tensor_split(args.minibatches):
                seen = flat["features"][rows]
                critic_loss = (critic(seen)[:, 0] - returns[rows]).square().mean()
                descend(critic_optimiser, critic, critic_loss)
                if not learning:
                    continue
                mean = policy.act(seen)
                before = flat["residuals"][rows] - flat["means"][rows]
                after = flat["residuals"][rows] - mean
                log_ratio = (before.square() - after.square()).sum(-1) / (2.0 * std**2)
                ratio = log_ratio.exp()
                advantage = flat["advantages"][rows]
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1.0 - args.clip, 1.0 + args.clip)
                actor_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
                descend(actor_optimiser, policy.actor, actor_loss)
            passes += 1
            with torch.no_grad():
                moved = policy.act(flat["features"]) - flat["means"]
                divergence = float((moved.square().sum(-1) / (2.0 * std**2)).mean())
            if divergence > args.kl_limit:
                break
        explained = 1.0 - (returns - values.flatten()).var() / returns.var().clamp_min(1e-8)
        run.update(
            kl=divergence,
            passes=passes,
            explained_variance=float(explained),
            residual_rms=float(means.square().mean().sqrt()),
            actor_rate=actor_optimiser.param_groups[0]["lr"],
            simulating_s=simulating,
        )
    run.finish()


def annealed(args: Args, steps: int) -> float:
    """What is left of the learning rates after so many policy steps, 0 to 1."""
    if args.anneal_from >= 1.0:
        return 1.0
    left = 1.0 - steps / args.steps
    return float(np.clip(left / (1.0 - args.anneal_from), 0.0, 1.0))


def generalised_advantages(
    rewards: torch.Tensor,
    values: torch.Tensor,
    dones: torch.Tensor,
    following: torch.Tensor,
    gamma: float,
    gae_lambda: float,
) -> torch.Tensor:
    """Advantages (T, N) by GAE (Schulman et al. 2016).

    Args:
        rewards, values: of each step and the state before it, (T, N).
        dones: 1 where the episode ended with the step, (T, N).
        following: values of the states after the last step, (N,).
        gamma: discount.
        gae_lambda: decay of later steps' share.
    """
    advantages, gained = torch.zeros_like(rewards), torch.zeros_like(following)
    for t in reversed(range(len(rewards))):
        alive = 1.0 - dones[t]
        delta = rewards[t] + gamma * following * alive - values[t]
        gained = delta + gamma * gae_lambda * alive * gained
        advantages[t], following = gained, values[t]
    return advantages


def descend(optimiser: torch.optim.Optimizer, network: nn.Module, loss: torch.Tensor) -> None:
    """One gradient step."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
