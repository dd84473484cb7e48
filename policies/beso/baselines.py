"""Baselines on the same trunk, data and interface as BESO: regression, a mixture of Gaussians, and
the discrete-time diffusion of Diffusion Policy.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from policies.beso.network import SIGMA_DATA, NetworkSettings, ResidualMLP
from policies.beso.policy import ChunkPolicy, ScorePolicy, draw_towards


class RegressionPolicy(ChunkPolicy):
    """Behaviour cloning by least squares: the trunk without noise returns the chunk."""

    method = "bc"

    def regress(self, observation: Tensor, like: Tensor) -> Tensor:
        """The chunk (N, R, A), normalised; `like` gives the shape and keeps the graph's inputs."""
        context = self.network.encode(observation)
        output: Tensor = self.network(0 * like, like.new_zeros(1), context)
        return SIGMA_DATA * output

    def loss(self, observation: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """See ChunkPolicy; `level` and `noise` are not used."""
        del level
        return (self.regress(observation, noise) - action).square().mean(dim=(1, 2))

    def sample(
        self, observation: Tensor, noise: Tensor, previous: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """See ChunkPolicy."""
        return draw_towards(self.regress(observation, noise), previous, weight)


class MixturePolicy(ChunkPolicy):
    """Behaviour cloning with a mixture head (as robomimic's BC-GMM): `components` Gaussians with
    diagonal covariance over the whole chunk. A component is drawn, and its mean returned: robomimic
    too evaluates with next to no noise about the mean.
    """

    method = "gmm"
    components = 5
    least_std = 0.01

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        if not isinstance(self.network, ResidualMLP):
            raise ValueError(f"network.kind: got {settings.kind!r}, expected mlp for a mixture")
        size = self.components * settings.rows * settings.action_size
        # In place of the trunk's own output, which stays for its shape alone.
        self.network.output.requires_grad_(False)
        self.logits = nn.Linear(settings.width, self.components)
        self.mean = nn.Linear(settings.width, size)
        self.scale = nn.Linear(settings.width, size)

    def mixture(self, observation: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (N, K), means and standard deviations (N, K, R * A), normalised."""
        context = self.network.encode(observation)
        hidden = self.network.features(0 * like, like.new_zeros(1), context)
        shape = (-1, self.components, self.settings.rows * self.settings.action_size)
        std = nn.functional.softplus(self.scale(hidden)) + self.least_std
        log_weight = nn.functional.log_softmax(self.logits(hidden), dim=-1)
        return log_weight, SIGMA_DATA * self.mean(hidden).reshape(shape), std.reshape(shape)

    def loss(self, observation: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Negative log likelihood per number, (N,)."""
        del level
        log_weight, mean, std = self.mixture(observation, noise)
        residual = (action.flatten(1)[:, None] - mean) / std
        log_density = -(0.5 * residual.square() + std.log()).sum(dim=-1)
        log_density = log_density - 0.5 * math.log(2 * math.pi) * mean.shape[-1]
        return -torch.logsumexp(log_weight + log_density, dim=-1) / mean.shape[-1]

    def sample(
        self, observation: Tensor, noise: Tensor, previous: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """See ChunkPolicy; the noise's first number chooses the component."""
        log_weight, mean, _ = self.mixture(observation, noise)
        uniform = 0.5 * (1.0 + torch.erf(noise[:, 0, :1] / math.sqrt(2.0)))
        below = (log_weight.exp().cumsum(dim=-1)[:, :-1] < uniform).sum(dim=-1)
        chosen = nn.functional.one_hot(below, self.components).to(mean.dtype)
        chunk = (chosen[:, :, None] * mean).sum(dim=1)
        return draw_towards(chunk.reshape(noise.shape), previous, weight)


class DDPMPolicy(ChunkPolicy):
    """Diffusion Policy's diffusion (Chi et al. 2023): 100 discrete steps, cosine schedule (Nichol
    and Dhariwal 2021), the network predicts the noise; sampled with 100 ancestral steps (DDPM) or
    fewer deterministic ones (DDIM).

    The trunk is the one of the other methods, in place of the paper's U-Net or transformer.

    Attributes:
        sampling_steps: 100 for DDPM; fewer for DDIM.
    """

    method = "ddpm"
    training_steps = 100

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__(settings)
        self.sampling_steps = self.training_steps
        self.limit: Tensor
        self.register_buffer("limit", torch.ones(settings.action_size))
        self.alpha_bar = cosine_alpha_bar(self.training_steps)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the noise of one chunk; the ancestral sampler draws some per step."""
        draws = self.training_steps if self.sampling_steps == self.training_steps else 1
        return draws * self.settings.rows, self.settings.action_size

    def fit(self, observation: Tensor, action: Tensor) -> None:
        """Takes the statistics, and the largest actions, to which estimates are clipped."""
        super().fit(observation, action)
        self.limit.copy_(self.normaliser.action(action).abs().amax(dim=0))

    def draw_level(self, uniform: Tensor) -> Tensor:
        """Diffusion steps 0..99 (N,)."""
        return (uniform * self.training_steps).long().clamp(max=self.training_steps - 1)

    def predict(self, x: Tensor, step: Tensor, context: Tensor) -> Tensor:
        """The noise in x (N, R, A) at diffusion steps (N,) or (1,)."""
        alpha_bar = self.alpha_bar[step]
        output: Tensor = self.network(x, ((1 - alpha_bar) / alpha_bar).log() / 8.0, context)
        return output

    def loss(self, observation: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the predicted noise (N,)."""
        alpha_bar = self.alpha_bar[level].reshape(-1, 1, 1)
        x = alpha_bar.sqrt() * action + (1 - alpha_bar).sqrt() * noise
        predicted = self.predict(x, level, self.network.encode(observation))
        return (predicted - noise).square().mean(dim=(1, 2))

    def sample(
        self, observation: Tensor, noise: Tensor, previous: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """See ChunkPolicy."""
        context = self.network.encode(observation)
        draws = noise.reshape(len(noise), -1, self.settings.rows, self.settings.action_size)
        stride = self.training_steps // self.sampling_steps
        steps = [stride * i for i in reversed(range(self.sampling_steps))]
        x = draws[:, 0]
        for i, step in enumerate(steps):
            now, before = self.alpha_bar[step], self._alpha_bar_before(step - stride)
            estimate = self.predict(x, torch.tensor([step]), context)
            clean = (x - (1 - now).sqrt() * estimate) / now.sqrt()
            clean = draw_towards(clean.clamp(-self.limit, self.limit), previous, weight)
            if draws.shape[1] == 1:
                x = before.sqrt() * clean + (1 - before).sqrt() * estimate
                continue
            alpha = now / before
            mean = before.sqrt() * (1 - alpha) * clean + alpha.sqrt() * (1 - before) * x
            x = mean / (1 - now)
            if step > 0:
                x = x + ((1 - before) / (1 - now) * (1 - alpha)).sqrt() * draws[:, i + 1]
        return x

    def _alpha_bar_before(self, step: int) -> Tensor:
        return self.alpha_bar[step] if step >= 0 else torch.ones(())


def cosine_alpha_bar(steps: int) -> Tensor:
    """Share of the signal's variance left after each of `steps`, (steps,); betas are capped."""

    def remaining(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    beta = [min(1 - remaining((i + 1) / steps) / remaining(i / steps), 0.999) for i in range(steps)]
    return (1.0 - torch.tensor(beta)).cumprod(dim=0)


METHODS = {
    policy.method: policy for policy in (ScorePolicy, RegressionPolicy, MixturePolicy, DDPMPolicy)
}


def make_policy(method: str, settings: NetworkSettings) -> ChunkPolicy:
    """An untrained policy.

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    return METHODS[method](settings)
