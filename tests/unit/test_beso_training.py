"""What a trained network does when the sampler takes more steps than it was meant for."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from policies.beso.diffusion import SamplerSettings, log_logistic_sigma
from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy

SPREAD = 0.01


def toy_batch(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Observations (N, 2) and the mean (N, 2, 2) about which the demonstrator's actions scatter."""
    observation = torch.rand(size, 2, generator=generator) * 2 - 1
    first = torch.stack([torch.sin(3 * observation[:, 0]), observation.prod(dim=1)], dim=1)
    return observation, torch.stack([first, 0.5 * first], dim=1)


@functools.cache
def train_toy(density_scale: float, steps: int = 1200) -> ScorePolicy:
    """A small policy trained for seconds with the log-logistic density of that scale."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    policy = ScorePolicy(NetworkSettings("mlp", 2, 0, 2, 2, width=64, blocks=2))
    observation, mean = toy_batch(5000, generator)
    policy.normaliser.fit(observation, mean.flatten(0, 1))
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.0)
    for step in range(steps):
        observation, mean = toy_batch(256, generator)
        action = mean + SPREAD * torch.randn(mean.shape, generator=generator)
        uniform = torch.rand(len(action), generator=generator)
        sigma = log_logistic_sigma(uniform, math.log(0.5), density_scale, 0.005, 1.0)
        loss = policy.loss(
            policy.normaliser.observation(observation),
            policy.normaliser.action(action),
            sigma,
            torch.randn(action.shape, generator=generator),
        ).mean()
        optimiser.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy.eval()


def rms_error(policy: ScorePolicy, steps: int, noise_scale: float) -> float:
    """Distance of sampled chunks from the demonstrator's mean."""
    generator = torch.Generator().manual_seed(1)
    observation, mean = toy_batch(2000, generator)
    noise = torch.randn(mean.shape, generator=generator)
    policy.sampler = SamplerSettings(steps=steps, noise_scale=noise_scale)
    with torch.no_grad():
        return float((policy(observation, noise) - mean).square().mean().sqrt())


@pytest.mark.parametrize("noise_scale", [0.0, 1.0])
def test_more_steps_do_no_harm_if_training_saw_small_noise_levels(noise_scale: float) -> None:
    """The default density keeps the error level from 3 to 50 steps; a narrow one lets it grow.

    A step at a level that training left out puts the network's error there into the chunk instead
    of taking noise out, so more steps in that range do worse, the more so from full noise.
    """
    wide, narrow = train_toy(1.0), train_toy(0.2)
    errors = {steps: rms_error(wide, steps, noise_scale) for steps in (1, 3, 10, 50)}
    assert errors[3] < errors[1]
    assert errors[10] < 1.25 * errors[3] and errors[50] < 1.25 * errors[3]
    assert rms_error(narrow, 50, noise_scale) > 1.5 * errors[50]
    assert rms_error(narrow, 50, noise_scale) > 1.2 * rms_error(narrow, 3, noise_scale)


def test_starting_noise_sets_the_spread_of_the_chunks() -> None:
    policy = train_toy(1.0)
    observation = torch.zeros(500, 2)
    noise = torch.randn(500, 2, 2, generator=torch.Generator().manual_seed(2))
    spread = []
    for noise_scale in (0.0, 0.5, 1.0):
        policy.sampler = SamplerSettings(steps=10, noise_scale=noise_scale)
        with torch.no_grad():
            spread.append(float(policy(observation, noise).std(dim=0).mean()))
    assert spread[0] == 0.0 and spread[0] < spread[1] < spread[2]
    assert spread[2] == pytest.approx(SPREAD, rel=0.6)
