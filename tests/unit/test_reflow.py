"""Straightened paths: pairs belong together, and few steps then agree with many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from policies.beso.diffusion import SamplerSettings
from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy
from training.reflow import Pairs, draw_pairs

SAMPLER = SamplerSettings(steps=10, sigma_max=5.0, noise_scale=0.5)


def teacher(sampler: SamplerSettings = SAMPLER) -> ScorePolicy:
    torch.manual_seed(0)
    policy = ScorePolicy(NetworkSettings("mlp", 5, 2, 2, 3, width=32, blocks=1)).eval()
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    policy.sampler = sampler
    return policy


def observations(rows: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    return torch.stack([rows.float(), ahead, -rows.float(), ahead**2, ahead], dim=1) / 10


def draw(policy: ScorePolicy, count: int = 64, goal_drop: float = 0.0) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    return draw_pairs(policy, observations, torch.arange(20), count, goal_drop, generator)


def test_a_pair_is_noise_and_what_the_policy_makes_of_it() -> None:
    policy = teacher()
    pairs = draw(policy)
    with torch.no_grad():
        again = policy(observations(pairs.rows, pairs.ahead), pairs.noise)
    torch.testing.assert_close(policy.normaliser.raw_action(pairs.chunk), again)
    # The line from the chunk along `direction` is at the noise at level 1.
    torch.testing.assert_close(pairs.chunk + pairs.direction, pairs.noise)


def test_hidden_goals_stay_hidden() -> None:
    policy = teacher()
    pairs = draw(policy, goal_drop=0.5)
    assert 0.2 < pairs.dropped.mean() < 0.8
    blind = teacher(replace(SAMPLER, cfg_lambda=0.0))
    with torch.no_grad():
        unconditional = blind(observations(pairs.rows, pairs.ahead), pairs.noise)
    same = (unconditional - pairs.chunk).abs().amax(dim=(1, 2)) < 1e-5
    assert torch.equal(same, pairs.dropped.bool())


def test_one_step_then_does_what_the_many_did() -> None:
    """Two modes at +-0.5 for every observation: one step of the first flow lands between them."""

    def two_modes(x: torch.Tensor, sigma: float) -> torch.Tensor:
        # E[a | x] of the two points under noise, in closed form.
        return 0.5 * torch.tanh(0.5 * x / sigma**2)

    class Exact(ScorePolicy):
        def denoiser(self, observation: torch.Tensor):  # type: ignore[no-untyped-def]
            return two_modes

    exact = Exact(NetworkSettings("mlp", 5, 0, 1, 1, width=32, blocks=1)).eval()
    many = SamplerSettings(steps=50, sigma_max=4.0)
    one = SamplerSettings(steps=1)
    exact.sampler = many
    pairs = draw(exact, count=4096)
    exact.sampler = one
    with torch.no_grad():
        between = exact(observations(pairs.rows, pairs.ahead), pairs.noise)
    assert (pairs.chunk.abs() - 0.5).abs().median() < 0.02
    assert (between.abs() - 0.5).abs().median() > 0.1

    torch.manual_seed(0)
    student = ScorePolicy(NetworkSettings("mlp", 5, 0, 1, 1, width=64, blocks=2))
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    observation = observations(pairs.rows, pairs.ahead)
    for _ in range(300):
        chosen = torch.randint(len(pairs), (256,))
        level = student.draw_level(torch.rand(256))
        loss = student.loss(
            observation[chosen], pairs.chunk[chosen], level, pairs.direction[chosen]
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    student.eval().sampler = one
    with torch.no_grad():
        found = student(observation, pairs.noise)
    clear = pairs.noise.abs().flatten() > 0.2
    error = (found - pairs.chunk).abs().flatten()[clear]
    assert error.median() < 0.05


def test_a_stochastic_sampler_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="got euler_ancestral, expected a deterministic one"):
        draw(teacher(SamplerSettings(name="euler_ancestral")))
