"""The samplers against closed forms and against diffusers' schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from policies.beso.diffusion import (
    DETERMINISTIC,
    SAMPLERS,
    SamplerSettings,
    denoise,
    denoising_loss,
    exponential_schedule,
    karras_schedule,
    linear_schedule,
    log_logistic_sigma,
    precondition,
    sample_ddim,
    sample_dpmpp_2m,
    sample_euler_ancestral,
    sample_heun,
)
from policies.beso.network import SIGMA_DATA

diffusers = pytest.importorskip("diffusers")

MEAN, STD = 0.3, 0.4


def gaussian_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[a | x] for data N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def gaussian_flow(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Where the probability flow takes x from sigma to 0: deviations scale as sqrt(STD^2 +
    sigma^2).
    """
    return MEAN + (x - MEAN) * STD / math.sqrt(STD**2 + sigma**2)


def start(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 4, 3, generator=generator, dtype=dtype) * 2.0


def error_with(sampler: Callable[..., torch.Tensor], steps: int) -> float:
    x = start()
    sigmas = exponential_schedule(steps, 1e-4, 2.0)
    return float((sampler(gaussian_denoiser, x, sigmas) - gaussian_flow(x, 2.0)).abs().max())


@pytest.mark.parametrize(
    ("sampler", "order"), [(sample_ddim, 1), (sample_heun, 2), (sample_dpmpp_2m, 2)]
)
def test_order_of_convergence_on_gaussian_data(
    sampler: Callable[..., torch.Tensor], order: int
) -> None:
    coarse, fine = error_with(sampler, 81), error_with(sampler, 161)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert fine < 0.02


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_one_step_returns_the_denoised_value(name: str) -> None:
    x = start()
    settings = SamplerSettings(name=name, steps=1, sigma_max=2.0)
    torch.testing.assert_close(
        settings.sample(gaussian_denoiser, (x / 2.0)[:, None]), gaussian_denoiser(x, 2.0)
    )


def test_ddim_formula_is_an_euler_step_in_sigma() -> None:
    x, sigmas = start(), exponential_schedule(7, 0.01, 2.0)
    stepped = x
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (stepped - gaussian_denoiser(stepped, sigma)) / sigma
        stepped = stepped + (following - sigma) * slope
    torch.testing.assert_close(sample_ddim(gaussian_denoiser, x, sigmas), stepped)


def raw_network_output(x: torch.Tensor, sigma: float, sigma_data: float) -> torch.Tensor:
    """F for which the preconditioned denoiser is the Gaussian one, as diffusers wants it."""
    c_skip, c_out, _, _ = precondition(torch.tensor(sigma, dtype=x.dtype), sigma_data)
    return (gaussian_denoiser(x, sigma) - c_skip * x) / c_out


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_agrees_with_diffusers(name: str, schedule: str) -> None:
    steps, low, high = 12, 0.01, 2.0
    options = dict(sigma_min=low, sigma_max=high, sigma_data=0.5, sigma_schedule=schedule)
    if name == "euler":
        reference = diffusers.EDMEulerScheduler(**options)
    else:
        reference = diffusers.EDMDPMSolverMultistepScheduler(
            **options,
            solver_order=2,
            algorithm_type="dpmsolver++",
            solver_type="midpoint",
            final_sigmas_type="zero",
            lower_order_final=False,
            euler_at_final=True,
        )
    reference.set_timesteps(steps)
    ours = SamplerSettings(name=name, schedule=schedule, steps=steps, sigma_min=low, sigma_max=high)
    torch.testing.assert_close(
        torch.tensor(ours.sigmas, dtype=torch.float32), reference.sigmas, rtol=1e-5, atol=1e-6
    )
    x = start()
    stepped = x
    for i, timestep in enumerate(reference.timesteps):
        output = raw_network_output(stepped, ours.sigmas[i], 0.5)
        stepped = reference.step(output, timestep, stepped).prev_sample.double()
    torch.testing.assert_close(
        DETERMINISTIC[name](gaussian_denoiser, x, ours.sigmas), stepped, rtol=1e-4, atol=1e-5
    )


def test_ddim_agrees_with_diffusers_ddim_after_change_of_variables() -> None:
    """In diffusers' variance-preserving DDIM, x_vp = sqrt(alpha) x and sigma^2 = (1 - alpha) /
    alpha.
    """
    reference = diffusers.DDIMScheduler(
        num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=True, prediction_type="sample"
    )
    reference.set_timesteps(10)
    alphas = [float(reference.alphas_cumprod[t]) for t in reference.timesteps] + [1.0]
    sigmas = [math.sqrt((1 - a) / a) for a in alphas]
    x = start()
    scaled = x * math.sqrt(alphas[0])
    for i, timestep in enumerate(reference.timesteps):
        denoised = gaussian_denoiser(scaled / math.sqrt(alphas[i]), sigmas[i])
        scaled = reference.step(denoised, timestep, scaled).prev_sample
    torch.testing.assert_close(
        sample_ddim(gaussian_denoiser, x, sigmas), scaled, rtol=1e-4, atol=1e-5
    )


def test_euler_ancestral_agrees_with_diffusers() -> None:
    settings = SamplerSettings(name="euler_ancestral", schedule="karras", steps=6, sigma_max=3.0)
    reference = diffusers.EulerAncestralDiscreteScheduler()
    reference.set_timesteps(6)
    reference.sigmas = torch.tensor(settings.sigmas)
    x = start().float()
    noise = torch.randn(len(x), settings.draws, *x.shape[1:])
    noise[:, 0] = x / settings.sigmas[0]
    generator = torch.Generator()
    for i, timestep in enumerate(reference.timesteps):
        scaled = reference.scale_model_input(x, timestep)  # also finds the step
        assert scaled.shape == x.shape
        epsilon = (x - gaussian_denoiser(x, settings.sigmas[i])) / settings.sigmas[i]
        if i + 1 < settings.draws:
            noise[:, i + 1] = torch.randn(x.shape, generator=generator.manual_seed(i))
        generator.manual_seed(i)
        x = reference.step(epsilon, timestep, x, generator=generator).prev_sample
    found = settings.sample(gaussian_denoiser, noise)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


def test_guided_score_of_gaussians_has_the_closed_form() -> None:
    """For p(a) = N(0, 1) and p(a | g) = N(g, 1), guidance of strength l samples N(l g, 1)."""
    goal, strength, steps = 0.7, 1.5, 400

    def guided(x: torch.Tensor, sigma: float) -> torch.Tensor:
        free = x / (1 + sigma**2)
        asked = (x + sigma**2 * goal) / (1 + sigma**2)
        return free + strength * (asked - free)

    settings = SamplerSettings(steps=steps, sigma_min=1e-3, sigma_max=80.0)
    noise = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    low, high = settings.sample(guided, noise).flatten().tolist()
    # The flow scales distances from the mean by 1 / sqrt(1 + 80^2); it starts about 0, not l g.
    left = 1.0 / math.hypot(1.0, 80.0)
    assert (low + high) / 2 == pytest.approx(strength * goal * (1 - left), abs=0.01)
    assert (high - low) / 2 == pytest.approx(80.0 * left, abs=0.02)


@pytest.mark.parametrize(("sigma_max", "share"), [(1.0, 0.577), (10.0, 0.990)])
def test_the_largest_level_has_to_drown_a_chunk_not_an_action(
    sigma_max: float, share: float
) -> None:
    """Rows of a chunk say the same, and together they show through noise that hides each of them.

    Eight equal rows of standard deviation 0.5 have variance 2 along their common direction. The
    flow that starts there from noise alone, not from data and noise, ends with
    sigma_max / sqrt(sigma_max^2 + 2) of their spread: it has taken "nothing to be seen" for an
    answer.
    """
    rows, variance = 8, SIGMA_DATA**2

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        common = x.mean(dim=1, keepdim=True).expand_as(x)
        return common * rows * variance / (rows * variance + sigma**2)

    settings = SamplerSettings(steps=400, sigma_min=1e-3, sigma_max=sigma_max)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 1, rows, 1, dtype=torch.float64, generator=generator)
    drawn = settings.sample(denoiser, noise)
    assert float(drawn.std()) / SIGMA_DATA == pytest.approx(share, abs=0.02)


def test_euler_ancestral_keeps_the_spread_of_the_data() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 1, 1, dtype=torch.float64) * math.hypot(2.0, STD) + MEAN
    sampled = sample_euler_ancestral(gaussian_denoiser, x, exponential_schedule(60, 0.01, 2.0))
    assert float(sampled.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(sampled.std()) == pytest.approx(STD, rel=0.05)


@pytest.mark.parametrize("steps", [2, 3, 11])
@pytest.mark.parametrize("schedule", [exponential_schedule, linear_schedule, karras_schedule])
def test_schedules_fall_from_max_to_min_and_zero(
    schedule: Callable[[int, float, float], list[float]], steps: int
) -> None:
    sigmas = schedule(steps, 0.005, 1.0)
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-1]) == (pytest.approx(1.0), 0.0)
    assert sigmas[-2] == pytest.approx(0.005)
    assert sigmas == sorted(sigmas, reverse=True)


def test_exponential_schedule_of_the_paper() -> None:
    assert exponential_schedule(3, 0.005, 1.0) == pytest.approx(
        [1.0, 0.070711, 0.005, 0.0], rel=1e-4
    )


def test_preconditioning_gives_unit_variance() -> None:
    generator = torch.Generator().manual_seed(1)
    data = 0.5 * torch.randn(200_000, generator=generator)
    noise = torch.randn(200_000, generator=generator)
    for sigma in (0.01, 0.3, 5.0):
        c_skip, c_out, c_in, c_noise = precondition(torch.tensor(sigma), 0.5)
        x = data + sigma * noise
        assert float((c_in * x).std()) == pytest.approx(1.0, rel=0.01)
        assert float(((data - c_skip * x) / c_out).std()) == pytest.approx(1.0, rel=0.01)
        assert float(c_noise) == pytest.approx(math.log(sigma) / 4)


def test_loss_is_least_for_the_optimal_denoiser() -> None:
    generator = torch.Generator().manual_seed(2)
    action = MEAN + STD * torch.randn(20_000, 1, 1, generator=generator)
    noise = torch.randn(20_000, 1, 1, generator=generator)
    sigma = torch.full((20_000,), 0.6)

    def optimal(x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        del c_noise
        _, _, c_in, _ = precondition(torch.tensor(0.6), 0.5)
        return raw_network_output(x / c_in, 0.6, 0.5)

    best = float(denoising_loss(optimal, action, sigma, noise, 0.5).mean())
    for off in (-0.05, 0.05):
        worse = denoising_loss(lambda x, c, o=off: optimal(x, c) + o, action, sigma, noise, 0.5)
        assert float(worse.mean()) > best
    x = action + 0.6 * noise
    torch.testing.assert_close(denoise(optimal, x, sigma, 0.5), gaussian_denoiser(x, 0.6))


def test_noise_levels_follow_the_truncated_log_logistic() -> None:
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    loc, scale = math.log(0.5), 0.5
    sigma = log_logistic_sigma(uniform, loc, scale, 0.005, 1.0)
    assert float(sigma.min()) >= 0.005 and float(sigma.max()) <= 1.0

    def cdf(value: float) -> float:
        return 1 / (1 + math.exp(-(math.log(value) - loc) / scale))

    for level in (0.07, 0.3, 0.7):
        expected = (cdf(level) - cdf(0.005)) / (cdf(1.0) - cdf(0.005))
        assert float((sigma < level).double().mean()) == pytest.approx(expected, abs=1e-3)


def two_mode_denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """E[a | x] for data that are -1 or +1 with equal chance."""
    return torch.tanh(x / sigma**2)


def test_full_noise_covers_both_modes_and_none_averages_them() -> None:
    noise = torch.randn(1000, 1, 1, generator=torch.Generator().manual_seed(3))
    settings = SamplerSettings(steps=10, sigma_max=3.0, noise_scale=1.0)
    drawn = settings.sample(two_mode_denoiser, noise[:, None])
    assert float(drawn.abs().min()) > 0.95
    assert 0.4 < float((drawn > 0).double().mean()) < 0.6
    still = SamplerSettings(steps=10, sigma_max=3.0, noise_scale=0.0)
    assert float(still.sample(two_mode_denoiser, noise[:, None]).abs().max()) == 0.0


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"name": "nothing"}, "sampler.name"),
        ({"schedule": "nothing"}, "sampler.schedule"),
        ({"steps": 0}, "sampler.steps"),
        ({"sigma_min": 2.0}, "sampler.sigma_min"),
        ({"noise_scale": -1.0}, "sampler.noise_scale"),
        ({"noise_scale": math.nan}, "sampler.noise_scale"),
    ],
)
def test_bad_settings_name_their_key(change: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: got .*, expected"):
        SamplerSettings(**change)  # type: ignore[arg-type]
