"""Score-based diffusion in the EDM parametrisation: preconditioning, training loss, noise levels,
samplers.

Follows Karras et al. 2022 (EDM) and Reuss et al. 2023 (BESO). Data are corrupted as x = a + sigma
* n with n ~ N(0, 1), and a denoiser D(x, sigma) estimates E[a | x]. A sampler integrates the
probability flow

    dx / d sigma = (x - D(x, sigma)) / sigma

from sigma_max down to 0. Everything here is a plain function over a denoiser callable, so that the
same loop runs in training, in tests against closed forms and, unrolled, inside the exported ONNX
graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

# D(x, sigma) with x (N, H, A) and sigma a plain number shared by the batch.
Denoise = Callable[[Tensor, float], Tensor]
# The network inside the denoiser: F(c_in * x, c_noise) with c_noise (N,) or (1,).
Network = Callable[[Tensor, Tensor], Tensor]


def precondition(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """EDM's scalings (table 1 of the paper) which keep the network's input and target at unit
    variance.

    Args:
        sigma: noise levels, any shape, positive.
        sigma_data: standard deviation of the clean data.

    Returns:
        c_skip, c_out, c_in, c_noise, each of sigma's shape; c_noise = ln(sigma) / 4.
    """
    total = (sigma**2 + sigma_data**2).sqrt()
    return (sigma_data / total) ** 2, sigma * sigma_data / total, 1.0 / total, sigma.log() / 4.0


def denoise(network: Network, x: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """Evaluates D(x, sigma) = c_skip x + c_out F(c_in x, c_noise).

    Args:
        network: F.
        x: noisy chunks (N, H, A).
        sigma: (N,) or (1,).
        sigma_data: standard deviation of the clean data.
    """
    c_skip, c_out, c_in, c_noise = precondition(sigma, sigma_data)
    c_skip, c_out, c_in = (c.reshape(-1, 1, 1) for c in (c_skip, c_out, c_in))
    return c_skip * x + c_out * network(c_in * x, c_noise)


def denoising_loss(
    network: Network, action: Tensor, sigma: Tensor, noise: Tensor, sigma_data: float
) -> Tensor:
    """Squared error of F against its target (a - c_skip x) / c_out, which weighs every noise level
    alike.

    Args:
        network: F.
        action: clean chunks (N, H, A), normalised.
        sigma: one noise level per sample (N,).
        noise: unit normal, of action's shape.
        sigma_data: standard deviation of the clean data.

    Returns:
        The loss of each sample (N,), so that a caller can average it or look at it by noise level.
    """
    c_skip, c_out, c_in, c_noise = precondition(sigma, sigma_data)
    c_skip, c_out, c_in = (c.reshape(-1, 1, 1) for c in (c_skip, c_out, c_in))
    x = action + sigma.reshape(-1, 1, 1) * noise
    target = (action - c_skip * x) / c_out
    return (network(c_in * x, c_noise) - target).square().mean(dim=(1, 2))


def log_logistic_sigma(
    uniform: Tensor, loc: float, scale: float, sigma_min: float, sigma_max: float
) -> Tensor:
    """Noise levels from a log-logistic density truncated to [sigma_min, sigma_max], by its inverse
    CDF.

    ln(sigma) is logistic with mean `loc` and scale `scale`. With the published 0.5 around ln(0.5)
    only 2 % of the samples fall below 0.07 and one in ten thousand below 0.005: samplers that
    spend many steps there then run on a network that never saw those levels. A wider scale covers
    them.

    Args:
        uniform: numbers in [0, 1).
        loc: mean of ln(sigma).
        scale: scale of ln(sigma).
        sigma_min: lower bound.
        sigma_max: upper bound.
    """

    def cdf(sigma: float) -> float:
        return 1.0 / (1.0 + math.exp(-(math.log(sigma) - loc) / scale))

    low, high = cdf(sigma_min), cdf(sigma_max)
    quantile = (low + (high - low) * uniform.double()).clamp(1e-12, 1.0 - 1e-12)
    sigma = (loc + scale * torch.logit(quantile)).exp().clamp(sigma_min, sigma_max)
    return sigma.to(uniform.dtype)


def exponential_schedule(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Geometric from sigma_max to sigma_min, then 0: (steps + 1) numbers."""
    if steps == 1:
        return [sigma_max, 0.0]
    ratio = math.log(sigma_min / sigma_max) / (steps - 1)
    return [sigma_max * math.exp(ratio * i) for i in range(steps)] + [0.0]


def linear_schedule(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Evenly spaced from sigma_max to sigma_min, then 0."""
    if steps == 1:
        return [sigma_max, 0.0]
    return [sigma_max + (sigma_min - sigma_max) * i / (steps - 1) for i in range(steps)] + [0.0]


def karras_schedule(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Evenly spaced in sigma^(1/7) from sigma_max to sigma_min, then 0 (EDM, equation 5)."""
    if steps == 1:
        return [sigma_max, 0.0]
    high, low = sigma_max ** (1 / 7), sigma_min ** (1 / 7)
    return [(high + (low - high) * i / (steps - 1)) ** 7 for i in range(steps)] + [0.0]


SCHEDULES: dict[str, Callable[[int, float, float], list[float]]] = {
    "exponential": exponential_schedule,
    "linear": linear_schedule,
    "karras": karras_schedule,
}


def sample_ddim(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DDIM: first-order exponential integrator in ln(sigma); the last step returns the denoised
    value.

    With D held over a step the flow has the solution x' = (sigma'/sigma) x + (1 - sigma'/sigma) D.
    In this parametrisation an explicit Euler step in sigma gives the very same expression, so
    "euler" names this function too.
    """
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, sigma)
        x = denoised if following == 0.0 else denoised + (following / sigma) * (x - denoised)
    return x


def sample_euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Sequence[float],
    fresh_noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Euler steps to a lower level sigma_down followed by fresh noise sigma_up that restores the
    level (k-diffusion's form).

    Args:
        denoise: D(x, sigma). x: start (N, H, A) at sigmas[0]. sigmas: decreasing levels ending in
            0. fresh_noise: unit normal noise of x's shape for step i; drawn from torch's generator
            when absent.
    """
    for i, (sigma, following) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma)
        if following == 0.0:
            return denoised
        up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
        down = math.sqrt(following**2 - up**2)
        noise = torch.randn_like(x) if fresh_noise is None else fresh_noise(i)
        x = denoised + (down / sigma) * (x - denoised) + up * noise
    return x


def sample_heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Heun's second-order method (EDM, algorithm 1 without churn): two evaluations a step, one in
    the last.
    """
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, sigma)
        if following == 0.0:
            return denoised
        slope = (x - denoised) / sigma
        predicted = x + (following - sigma) * slope
        corrected = (predicted - denoise(predicted, following)) / following
        x = x + (following - sigma) * 0.5 * (slope + corrected)
    return x


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """DPM-Solver++(2M): second-order multistep in ln(sigma), one evaluation a step (Lu et al.
    2022, algorithm 2).
    """
    previous: Tensor | None = None
    previous_h = 0.0
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoise(x, sigma)
        if following == 0.0:
            return denoised
        h = math.log(sigma / following)
        if previous is None:
            extrapolated = denoised
        else:
            ratio = previous_h / h
            extrapolated = (1 + 1 / (2 * ratio)) * denoised - (1 / (2 * ratio)) * previous
        x = (following / sigma) * x + (1 - following / sigma) * extrapolated
        previous, previous_h = denoised, h
    return x


# Samplers that need no further noise than the start.
DETERMINISTIC: dict[str, Callable[[Denoise, Tensor, Sequence[float]], Tensor]] = {
    "ddim": sample_ddim,
    "euler": sample_ddim,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
}
ANCESTRAL = "euler_ancestral"
SAMPLERS = (*DETERMINISTIC, ANCESTRAL)


@dataclass(frozen=True)
class SamplerSettings:
    """How a chunk is drawn; written into the bundle beside the graph that was unrolled from it.

    `noise_scale` multiplies the starting noise, a temperature. At 1 the chunk is a sample of p(a |
    observation), with the demonstrator's own spread and, from few steps, the noise that the last
    network evaluation left over. At 0 the flow starts at the centre: its first evaluation returns
    E[a | observation], the later ones pull that towards the data, and the result is deterministic.
    That is the precise choice where one answer is right. It is the wrong one where several are:
    between two equal modes (close the fingers now or come closer first) the centre is a fixed point
    of the flow, 0 returns their average, and a state that asks for it again is never left. A value
    between keeps most of the precision and still decides.
    """

    name: str = "ddim"
    schedule: str = "exponential"
    steps: int = 3
    sigma_min: float = 0.005
    sigma_max: float = 1.0
    noise_scale: float = 1.0
    cfg_lambda: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError on a setting that no sampler can run with."""
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler.name: got {self.name!r}, expected one of {sorted(SAMPLERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"sampler.schedule: got {self.schedule!r}, expected one of {sorted(SCHEDULES)}"
            )
        if self.steps < 1:
            raise ValueError(f"sampler.steps: got {self.steps}, expected at least 1")
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sampler.sigma_min: got {self.sigma_min}, "
                f"expected between 0 and sigma_max {self.sigma_max}"
            )
        if not (math.isfinite(self.noise_scale) and self.noise_scale >= 0.0):
            raise ValueError(f"sampler.noise_scale: got {self.noise_scale}, expected 0 or more")

    def check_trained(self, option: str, sigma_max: float) -> None:
        """Raises ValueError, naming `option`, if the sampler starts above the largest level that a
        network was trained on.
        """
        if self.sigma_max > sigma_max:
            raise ValueError(
                f"{option}: got {self.sigma_max}, expected at most {sigma_max}: "
                "the network knows no more noise than that"
            )

    @property
    def draws(self) -> int:
        """Unit normal arrays that one chunk needs: the start, and one a step but the last where the
        sampler is stochastic.
        """
        return self.steps if self.name == ANCESTRAL else 1

    @property
    def sigmas(self) -> list[float]:
        """The noise levels that will be visited, ending in 0."""
        return SCHEDULES[self.schedule](self.steps, self.sigma_min, self.sigma_max)

    def sample(self, denoise: Denoise, noise: Tensor) -> Tensor:
        """Draws chunks (N, R, A) from unit normal noise (N, draws, R, A); `noise_scale` acts on the
        start alone.
        """
        sigmas = self.sigmas
        start = noise[:, 0] * (self.noise_scale * sigmas[0])
        if self.name == ANCESTRAL:
            return sample_euler_ancestral(denoise, start, sigmas, lambda i: noise[:, i + 1])
        return DETERMINISTIC[self.name](denoise, start, sigmas)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and strings, for a manifest."""
        return asdict(self)
