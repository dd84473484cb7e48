"""The baselines against the references they are named after: diffusers and torch.distributions."""

from __future__ import annotations

import diffusers
import pytest
import torch

from policies.beso.baselines import (
    METHODS,
    DDPMPolicy,
    MixturePolicy,
    RegressionPolicy,
    cosine_alpha_bar,
    make_policy,
)
from policies.beso.network import NetworkSettings
from policies.beso.policy import ChunkPolicy

SETTINGS = NetworkSettings("mlp", 6, 2, 3, 4, width=32, blocks=2)


def random_policy(method: str) -> ChunkPolicy:
    torch.manual_seed(0)
    policy = make_policy(method, SETTINGS)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    policy.fit(torch.randn(300, 6), 0.4 * torch.randn(300, 3))
    return policy.eval()


def reference_scheduler(kind: type) -> object:
    """Diffusion Policy's scheduler, but for the range of the clipping, which is of our units."""
    return kind(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="epsilon",
    )


def test_noise_schedule_is_that_of_diffusers() -> None:
    reference = reference_scheduler(diffusers.DDPMScheduler)
    torch.testing.assert_close(
        cosine_alpha_bar(100), reference.alphas_cumprod, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_agrees_with_diffusers(steps: int) -> None:
    policy = random_policy("ddpm")
    assert isinstance(policy, DDPMPolicy)
    policy.sampling_steps = steps
    policy.limit.fill_(1e9)
    reference = reference_scheduler(diffusers.DDIMScheduler)
    reference.set_timesteps(steps)
    observation, noise = torch.randn(5, 6), torch.randn(5, *policy.noise_shape)
    with torch.no_grad():
        context, x = policy.network.encode(observation), noise
        for step in reference.timesteps:
            predicted = policy.predict(x, step.reshape(1), context)
            x = reference.step(predicted, step, x).prev_sample
        found = policy.sample(observation, noise, None, None)
    # The first estimate divides by sqrt(alpha_bar) = 5e-5: rounding shows.
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_ddpm_step_agrees_with_diffusers() -> None:
    """One ancestral step from the middle: the same mean and variance, with the noise put in."""
    policy = random_policy("ddpm")
    assert isinstance(policy, DDPMPolicy)
    policy.limit.fill_(1e9)
    reference = reference_scheduler(diffusers.DDPMScheduler)
    observation = torch.randn(4, 6)
    noise = torch.randn(4, *policy.noise_shape)
    draws = noise.reshape(4, 100, 4, 3)
    with torch.no_grad():
        context, x = policy.network.encode(observation), draws[:, 0]
        for i, step in enumerate(range(99, -1, -1)):
            predicted = policy.predict(x, torch.tensor([step]), context)
            still = reference.step(predicted, step, x, generator=torch.Generator().manual_seed(i))
            own = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
            x = still.prev_sample
            if step > 0:
                draws[:, i + 1] = own
        found = policy.sample(observation, draws.reshape(noise.shape), None, None)
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_estimates_are_clipped_to_the_largest_actions() -> None:
    policy = random_policy("ddpm")
    action = 0.4 * torch.randn(300, 3)
    policy.fit(torch.randn(300, 6), action)
    chunks = policy(torch.randn(50, 6), torch.randn(50, *policy.noise_shape))
    reach = (action - action.mean(dim=0)).abs().amax(dim=0) + 1e-5
    assert ((chunks - action.mean(dim=0)).abs() <= reach).all()


def test_mixture_loss_is_the_negative_log_likelihood() -> None:
    policy = random_policy("gmm")
    assert isinstance(policy, MixturePolicy)
    observation, action = torch.randn(7, 6), 0.5 * torch.randn(7, 4, 3)
    log_weight, mean, std = policy.mixture(observation, action)
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=log_weight),
        torch.distributions.Independent(torch.distributions.Normal(mean, std), 1),
    )
    found = policy.loss(observation, action, torch.zeros(7), torch.randn(7, 4, 3))
    torch.testing.assert_close(found, -reference.log_prob(action.flatten(1)) / 12)


def test_mixture_draws_its_components_by_their_weights() -> None:
    policy = random_policy("gmm")
    assert isinstance(policy, MixturePolicy)
    observation = torch.randn(1, 6).repeat(20_000, 1)
    noise = torch.randn(20_000, 4, 3)
    with torch.no_grad():
        log_weight, mean, _ = policy.mixture(observation, noise)
        chunks = policy.sample(observation, noise, None, None)
        distance = (chunks.flatten(1)[:, None] - mean).abs().amax(dim=-1)
    assert float(distance.amin(dim=1).max()) < 1e-6, "every chunk is a component's mean"
    shares = torch.bincount(distance.argmin(dim=1), minlength=5) / 20_000
    torch.testing.assert_close(shares, log_weight[0].exp(), atol=0.015, rtol=0.0)


def test_regression_learns_the_mean_and_needs_no_noise() -> None:
    policy = random_policy("bc")
    assert isinstance(policy, RegressionPolicy)
    observation = torch.randn(3, 6)
    with torch.no_grad():
        first = policy(observation, torch.randn(3, 4, 3))
        torch.testing.assert_close(first, policy(observation, torch.randn(3, 4, 3)))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_weight_one_returns_the_chunk_in_execution(method: str) -> None:
    policy = random_policy(method)
    observation, noise = torch.randn(3, 6), torch.randn(3, *policy.noise_shape)
    previous, weight = 0.1 * torch.randn(3, 4, 3), torch.zeros(3, 4)
    if isinstance(policy, DDPMPolicy):
        policy.limit.fill_(1e3)
    with torch.no_grad():
        free = policy(observation, noise)
        torch.testing.assert_close(policy(observation, noise, previous, weight), free)
        weight[:, :2] = 1.0
        held = policy(observation, noise, previous, weight)
    torch.testing.assert_close(held[:, :2], previous[:, :2], rtol=1e-4, atol=1e-5)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method: got 'act', expected one of beso, bc, gmm, ddpm"):
        make_policy("act", SETTINGS)
