"""Chunk policies: everything between a raw observation and a raw chunk of actions.

A policy owns its statistics, its network and its sampler, so that exporting it gives one graph that
takes sensor values in SI units and returns actions in SI units. `ScorePolicy` is BESO (Reuss et al.
2023); the baselines beside it share the trunk, the data and the interface.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from policies.beso.decoder import CrossDecoder
from policies.beso.diffusion import (
    Denoise,
    SamplerSettings,
    denoise,
    denoising_loss,
    log_logistic_sigma,
)
from policies.beso.network import SIGMA_DATA, NetworkSettings, Normaliser, ResidualMLP
from policies.beso.transformer import CausalTransformer


def build_network(settings: NetworkSettings) -> Any:
    """The noise network named by `settings.kind`."""
    kinds = {"mlp": ResidualMLP, "transformer": CausalTransformer, "decoder": CrossDecoder}
    return kinds[settings.kind](settings)


class ChunkPolicy(nn.Module):
    """Observation and noise in, chunk of actions out, in SI units.

    Attributes:
        settings: shape of the network.
        normaliser: statistics of observations and actions.
        network: the trunk.
        sampler: how a chunk is drawn.
    """

    method = ""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.normaliser = Normaliser(settings.input_size, settings.action_size)
        self.network = build_network(settings)
        self.sampler = SamplerSettings()

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the noise that one chunk needs."""
        return self.settings.rows, self.settings.action_size

    def fit(self, observation: Tensor, action: Tensor) -> None:
        """Takes the statistics of raw observations (T, D) and actions (T, A)."""
        self.normaliser.fit(observation, action)

    def drop_goal(self, observation: Tensor, dropped: Tensor) -> Tensor:
        """Sets the goal entries to their mean where `dropped` (N,) is 1: a whole goal per sample,
        never single elements. observation: normalised (N, D) or (N, W, D).
        """
        if not self.settings.goal_size:
            return observation
        split = self.settings.observation_size
        kept = (1.0 - dropped).reshape(-1, *[1] * (observation.dim() - 1))
        return torch.cat([observation[..., :split], observation[..., split:] * kept], dim=-1)

    def draw_level(self, uniform: Tensor) -> Tensor:
        """Noise levels of training samples (N,) from numbers in [0, 1)."""
        return uniform

    def loss(self, observation: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Training loss of each sample (N,).

        Args:
            observation: normalised (N, D) or (N, W, D), goals already dropped where they should be.
            action: normalised actions (N, R, A).
            level: noise levels (N,) from `draw_level`.
            noise: unit normal (N, R, A).
        """
        raise NotImplementedError

    def sample(
        self, observation: Tensor, noise: Tensor, previous: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """Actions (N, R, A) from a normalised observation; all values normalised.

        Args:
            observation: (N, D) or (N, W, D).
            noise: unit normal, (N, *noise_shape).
            previous: actions (N, R, A) to stay near, or None.
            weight: (N, R, 1) how near: 1 keeps `previous`, 0 is free.
        """
        raise NotImplementedError

    def forward(
        self,
        observation: Tensor,
        noise: Tensor,
        previous: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Raw observation (N, D) or (N, W, D) and unit normal noise to raw actions (N, H, A).

        With `previous` (N, H, A), raw actions of the chunk in execution aligned to this one, and
        `weight` (N, H) in 0..1, the new chunk is in-painted: at every denoising step the estimate
        is drawn to `previous`, so that what is free continues what is frozen (after Black et al.
        2025, real-time chunking; by replacement instead of their gradient guidance).
        """
        normalised = self.normaliser.observation(observation)
        if previous is not None and weight is not None:
            previous, weight = self.normaliser.action(previous), weight[:, :, None]
            if self.settings.window > 1:
                past = (0, 0, self.settings.window - 1, 0)
                previous = nn.functional.pad(previous, past)
                weight = nn.functional.pad(weight, past)
        chunk = self.sample(normalised, noise, previous, weight)
        return self.normaliser.raw_action(chunk[:, -self.settings.horizon :])


def draw_towards(denoised: Tensor, previous: Tensor | None, weight: Tensor | None) -> Tensor:
    """A denoised estimate moved to `previous` by `weight`; see ChunkPolicy.sample."""
    if previous is None or weight is None:
        return denoised
    return denoised + weight * (previous - denoised)


class ScorePolicy(ChunkPolicy):
    """BESO: a denoiser in EDM's parametrisation, sampled in a few steps, with guidance.

    Attributes:
        density: loc, scale, smallest and largest noise level in training; see log_logistic_sigma.
    """

    method = "beso"
    density = (-0.6931471805599453, 1.0, 0.005, 1.0)

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of the noise of one chunk; a stochastic sampler draws some per step."""
        return self.sampler.draws * self.settings.rows, self.settings.action_size

    def draw_level(self, uniform: Tensor) -> Tensor:
        """Noise levels sigma (N,) of the training density."""
        return log_logistic_sigma(uniform, *self.density)

    def loss(self, observation: Tensor, action: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """See ChunkPolicy; `level` is sigma."""
        context = self.network.encode(observation)

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            output: Tensor = self.network(x, c_noise, context)
            return output

        return denoising_loss(network, action, level, noise, SIGMA_DATA)

    def denoiser(self, observation: Tensor) -> Denoise:
        """D(x, sigma) for a normalised observation, with classifier-free guidance: D_u + lambda
        (D_c - D_u), both branches in one batch.
        """
        strength = self.sampler.cfg_lambda
        # Without weight on a branch it need not be computed.
        guided = self.settings.goal_size > 0 and strength not in (0.0, 1.0)
        if self.settings.goal_size > 0 and strength != 1.0:
            blind = self.drop_goal(observation, observation.new_ones(observation.shape[:1]))
            observation = torch.cat([observation, blind]) if guided else blind
        context = self.network.encode(observation)

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            output: Tensor = self.network(x, c_noise, context)
            return output

        def evaluate(x: Tensor, sigma: float) -> Tensor:
            if guided:
                x = torch.cat([x, x])
            denoised = denoise(network, x, x.new_full((1,), sigma), SIGMA_DATA)
            if not guided:
                return denoised
            conditional, unconditional = denoised.reshape(2, -1, *denoised.shape[1:])
            combined: Tensor = unconditional + strength * (conditional - unconditional)
            return combined

        return evaluate

    def sample(
        self, observation: Tensor, noise: Tensor, previous: Tensor | None, weight: Tensor | None
    ) -> Tensor:
        """See ChunkPolicy."""
        evaluate = self.denoiser(observation)
        return self.sampler.sample(
            lambda x, sigma: draw_towards(evaluate(x, sigma), previous, weight),
            noise.reshape(-1, self.sampler.draws, self.settings.rows, self.settings.action_size),
        )
