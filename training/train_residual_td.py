"""Trains a residual policy off-policy over a frozen base, for who has few samples to spend.

    python -m training.train_residual_td --base peg_base --data build/data/peg_calm.npz --name r

After ResFiT (Ankile et al. 2025): a deterministic residual actor and an ensemble of critics with
layer normalisation, n-step returns, several updates per simulated step, half of each batch from
demonstrations (Ball et al. 2023, RLPD), whose residual is what the demonstrator did beyond the
base. Environment, reward, residual, evaluation, run folder and bundle are those of
training.train_residual.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from policies.residual.network import ResidualPolicy
from policies.runtime import Policy
from training import residual_run
from training.dataset import Demonstrations, concatenate, load
from training.residual_run import RunArgs


@dataclass(frozen=True)
class Args(RunArgs):
    """Trains a residual policy off-policy over a frozen base."""

    data: tuple[Path, ...] = ()
    """Demonstrations for half of each batch; only stretches without disturbance are taken."""

    # Temporal differences
    capacity: int = 500_000
    """Transitions in the replay buffer."""
    batch_size: int = 256
    """Transitions per update, half of them demonstrations if there are any."""
    updates_per_step: float = 0.5
    """Updates per simulated policy step; they cost more than the simulation."""
    gamma: float = 0.99
    """Discount."""
    n_step: int = 5
    """Rewards summed before the critics are asked."""
    critics: int = 4
    """Critics in the ensemble; a target is the least of two of them."""
    rate: float = 3e-4
    """Learning rates (Adam)."""
    target_rate: float = 0.005
    """Share of the critics that enters their slow copies at each update."""
    noise: float = 0.2
    """Standard deviation of the exploration, of residuals in -1..1."""
    smoothing: float = 0.1
    """Standard deviation of the noise on target actions, clipped at twice that (Fujimoto 2018)."""
    penalty: float = 0.1
    """Weight of the mean squared residual in the actor's loss: where the critics see no difference
    it stays near the base. Without it the residual saturates and the base is lost.
    """
    actor_every: int = 2
    """Updates of the critics for one of the actor."""
    warm_up: int = 20_000
    """Policy steps of noise on the base alone, and then as many updates of the critics alone."""
    report_every: int = 6_400
    """Policy steps between two lines of metrics."""


class Ensemble(nn.Module):
    """E critics evaluated together: (features, residual) to values (E, N)."""

    def __init__(self, critics: int, features: int, actions: int, width: int) -> None:
        super().__init__()
        sizes = (features + actions, width, width, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in zip(sizes[:-1], sizes[1:], strict=True):
            weight = torch.empty(critics, before, after)
            for each in weight:
                nn.init.orthogonal_(each, 2.0**0.5 if after > 1 else 1.0)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(critics, 1, after)))

    def forward(self, features: Tensor, residual: Tensor) -> Tensor:
        """Values (E, N)."""
        x = torch.cat([features, residual], dim=-1).expand(len(self.weights[0]), -1, -1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.weights) - 1:
                x = nn.functional.layer_norm(x, x.shape[-1:]).relu()
        return x[..., 0]


class Buffer:
    """Transitions of n steps: features, residual, return, discount of what follows, features."""

    def __init__(self, capacity: int, features: int, actions: int) -> None:
        self.columns = [torch.zeros(capacity, size) for size in (features, actions, 1, 1, features)]
        self.capacity, self.count = capacity, 0

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def add(self, *rows: Tensor) -> None:
        """Adds (n, size) rows of each column over the oldest ones."""
        at = (self.count + torch.arange(len(rows[0]))) % self.capacity
        for column, row in zip(self.columns, rows, strict=True):
            column[at] = row
        self.count += len(rows[0])

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Random rows."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        return [column[chosen] for column in self.columns]


def demonstrations(
    data: Demonstrations, base: Policy, policy: ResidualPolicy, args: Args
) -> Buffer:
    """The demonstrations as transitions, with the residual that would have made them of the base.

    The base is asked anew at every row. What lies beyond the bound is clipped: a demonstration the
    residual cannot follow is only nearly what happened.
    """
    acted = []
    rng = np.random.default_rng(args.seed)
    for rows in np.array_split(np.arange(len(data.observation)), len(data.observation) // 512 + 1):
        acted.append(base.infer(data.observation[rows], rng=rng)[:, 0])
    base_action = torch.from_numpy(np.concatenate(acted))
    observation = torch.from_numpy(data.observation)
    features = policy.features(observation, base_action)
    residual = ((torch.from_numpy(data.action) - base_action) / policy.bound).clamp(-1.0, 1.0)
    last = torch.from_numpy(data.last_row)
    rows = torch.arange(len(observation))
    disturbed = np.concatenate([[0], np.cumsum(data.disturbed)])
    ahead = torch.minimum(rows + args.n_step, last + 1)
    calm = torch.from_numpy(disturbed[ahead.numpy()] == disturbed[:-1])
    # An episode ends with its last row's step, whose success is the reward.
    ends = ahead > last
    returned = torch.where(ends, args.gamma ** (last - rows).float(), torch.zeros(()))
    discount = torch.where(ends, torch.zeros(()), torch.tensor(args.gamma**args.n_step))
    following = features[ahead.clamp_max(len(rows) - 1)]
    buffer = Buffer(int(calm.sum()), features.shape[1], residual.shape[1])
    columns = (features, residual, returned[:, None], discount[:, None], following)
    buffer.add(*(column[calm] for column in columns))
    return buffer


def main(args: Args) -> None:
    """Trains and leaves the run's folder behind."""
    if args.base_gain != 1.0:
        raise ValueError(f"--base-gain: got {args.base_gain}, expected 1: it corrects a base")
    run = residual_run.start(args, "resfit", sys.argv[1:])
    env, policy, generator = run.env, run.policy, run.generator
    sizes = args.critics, policy.features_size, policy.settings.action_size, args.width
    critic, slow = Ensemble(*sizes), Ensemble(*sizes)
    slow.load_state_dict(critic.state_dict())
    actor_optimiser = torch.optim.Adam(policy.actor.parameters(), args.rate)
    critic_optimiser = torch.optim.Adam(critic.parameters(), args.rate)
    run.keep(
        critic=critic,
        slow=slow,
        actor_optimiser=actor_optimiser,
        critic_optimiser=critic_optimiser,
    )
    observation, base_action = run.begin()
    experience = Buffer(args.capacity, *sizes[1:3])
    shown = None
    if args.data:
        shown = demonstrations(concatenate([load(p) for p in args.data]), run.base, policy, args)
        print(f"{len(shown)} transitions of demonstrations", flush=True)

    # The last n steps of every simulation, oldest first: features, residual, reward.
    recent: list[list[tuple[Tensor, Tensor, float]]] = [[] for _ in range(args.num_envs)]
    owed, updates, began = 0.0, 0, run.steps
    reported, losses = run.steps, [0.0, 0.0]
    while run.steps < args.steps:
        with torch.no_grad():
            base = torch.from_numpy(base_action)
            features = policy.features(torch.from_numpy(observation), base)
            noise = args.noise * torch.randn(args.num_envs, sizes[2], generator=generator)
            residual = (policy.act(features) + noise).clamp(-1.0, 1.0)
            step = env.step(policy.apply_residual(base, residual).numpy())
            final = policy.features(
                torch.from_numpy(step.final_observation), torch.from_numpy(step.final_base_action)
            )
        run.count(step)
        rows: list[tuple[Tensor, Tensor, float, float, Tensor]] = []
        for i, past in enumerate(recent):
            past.append((features[i], residual[i], float(step.success[i])))
            full = len(past) == args.n_step
            for k in range(len(past) if step.done[i] else int(full)):
                gained = sum(args.gamma**j * past[k + j][2] for j in range(len(past) - k))
                discount = 0.0 if step.done[i] else args.gamma**args.n_step
                rows.append((past[k][0], past[k][1], gained, discount, final[i]))
            if step.done[i]:
                past.clear()
            elif full:
                past.pop(0)
        if rows:
            first, acted, gains, discounts, after = zip(*rows, strict=True)
            experience.add(
                torch.stack(first),
                torch.stack(acted),
                torch.tensor(gains)[:, None],
                torch.tensor(discounts)[:, None],
                torch.stack(after),
            )
        observation, base_action = step.observation, step.base_action

        if run.steps - began > args.warm_up:
            owed += args.num_envs * args.updates_per_step
        while owed >= 1.0:
            owed, updates = owed - 1.0, updates + 1
            batch = experience.draw(args.batch_size // (2 if shown else 1), generator)
            if shown:
                half = shown.draw(args.batch_size // 2, generator)
                batch = [torch.cat(pair) for pair in zip(batch, half, strict=True)]
            now, acted_now, gained_now, discount_now, then = batch
            with torch.no_grad():
                spread = torch.randn(acted_now.shape, generator=generator) * args.smoothing
                limit = 2.0 * args.smoothing
                next_residual = (policy.act(then) + spread.clamp(-limit, limit)).clamp(-1.0, 1.0)
                pair = torch.randperm(args.critics, generator=generator)[:2]
                least = slow(then, next_residual)[pair].min(dim=0).values
                target = gained_now[:, 0] + discount_now[:, 0] * least
            critic_loss = (critic(now, acted_now) - target).square().mean(-1).sum()
            critic_optimiser.zero_grad(set_to_none=True)
            critic_loss.backward()
            critic_optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(slow.parameters()), list(critic.parameters()), args.target_rate
                )
            losses[0] += float(critic_loss.detach()) / args.critics
            losses[1] += 1.0
            if updates > args.warm_up * args.updates_per_step and updates % args.actor_every == 0:
                critic.requires_grad_(False)
                residual_now = policy.act(now)
                size = residual_now.square().mean()
                actor_loss = args.penalty * size - critic(now, residual_now).mean()
                actor_optimiser.zero_grad(set_to_none=True)
                actor_loss.backward()
                actor_optimiser.step()
                critic.requires_grad_(True)
        if run.steps - reported >= args.report_every:
            reported = run.steps
            with torch.no_grad():
                rms = float(policy.act(features).square().mean().sqrt())
            run.update(
                gradient_steps=updates,
                critic_loss=losses[0] / max(losses[1], 1.0),
                residual_rms=rms,
            )
            losses = [0.0, 0.0]
    run.finish()


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
