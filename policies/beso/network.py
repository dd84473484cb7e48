"""Networks of the score-based policy, with the normalisation that belongs to them.

`ScorePolicy` owns everything between a raw observation and a raw action: statistics, noise
network, sampler. Exporting it therefore gives one graph that takes sensor values in SI units and
returns actions in SI units.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policies.beso.diffusion import SamplerSettings, denoise, denoising_loss

SIGMA_DATA = 0.5


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the network; enough to rebuild it before loading weights."""

    kind: str
    """"mlp", "transformer" (noise networks) or "bc" (the same trunk as a plain regression)."""
    input_size: int
    """Length of the flat input: observation fields, then goal fields."""
    goal_size: int
    """How many of its last entries are the goal (0: none)."""
    action_size: int
    """Length of one action."""
    horizon: int
    """Actions per chunk."""
    width: int = 384
    """Width of the trunk."""
    blocks: int = 3
    """Residual blocks, or transformer layers."""
    heads: int = 4
    """Attention heads (transformer only)."""

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers and strings."""
        return asdict(self)


class Normaliser(nn.Module):
    """Observation statistics and action scaling, kept as buffers so that they travel with the
    weights and the graph.

    Observations become (o - mean) / std, clamped at `limit` standard deviations, which bounds what
    a sensor fault can feed to the network. Each action dimension is shifted and scaled to mean 0
    and standard deviation SIGMA_DATA: the preconditioning assumes just that. Scaling by the
    largest action instead leaves dimensions whose range is set by a few fast moves far below it,
    and the fine motions in them below the smallest noise level.
    """

    limit = 10.0

    def __init__(self, input_size: int, action_size: int) -> None:
        super().__init__()
        self.observation_mean: Tensor
        self.observation_std: Tensor
        self.action_mean: Tensor
        self.action_scale: Tensor
        self.register_buffer("observation_mean", torch.zeros(input_size))
        self.register_buffer("observation_std", torch.ones(input_size))
        self.register_buffer("action_mean", torch.zeros(action_size))
        self.register_buffer("action_scale", torch.ones(action_size))

    def fit(self, observation: Tensor, action: Tensor) -> None:
        """Takes the statistics of observations (T, D) and actions (T, A); a constant dimension
        keeps unit scale.
        """
        std = observation.double().std(dim=0)
        self.observation_mean.copy_(observation.double().mean(dim=0))
        self.observation_std.copy_(torch.where(std > 1e-6, std, 1.0))
        scale = action.double().std(dim=0) / SIGMA_DATA
        self.action_mean.copy_(action.double().mean(dim=0))
        self.action_scale.copy_(torch.where(scale > 1e-6, scale, 1.0))

    def observation(self, raw: Tensor) -> Tensor:
        """Raw (N, D) to normalised."""
        return ((raw - self.observation_mean) / self.observation_std).clamp(-self.limit, self.limit)

    def action(self, raw: Tensor) -> Tensor:
        """Raw (..., A) to normalised."""
        return (raw - self.action_mean) / self.action_scale

    def raw_action(self, normalised: Tensor) -> Tensor:
        """Normalised (..., A) to raw."""
        return normalised * self.action_scale + self.action_mean


class ResidualBlock(nn.Module):
    """x + W2 silu(FiLM(W1 norm(x))): one normalised, noise-conditioned residual step."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.film = nn.Linear(width // 8, 2 * width)
        self.down = nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x (N, W), level (N or 1, W / 8)."""
        scale, shift = self.film(level).chunk(2, dim=-1)
        hidden = nn.functional.silu(self.up(self.norm(x)) * (1 + scale) + shift)
        output: Tensor = x + self.down(hidden)
        return output


class ResidualMLP(nn.Module):
    """The noise network as an MLP over (noisy chunk, observation, noise level): fast to train on a
    CPU core.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.chunk_shape = (settings.horizon, settings.action_size)
        chunk_size = settings.horizon * settings.action_size
        width = settings.width
        self.level = nn.Sequential(
            nn.Linear(1, width // 8), nn.SiLU(), nn.Linear(width // 8, width // 8)
        )
        self.input = nn.Linear(chunk_size + settings.input_size, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, chunk_size)

    def forward(self, x: Tensor, c_noise: Tensor, observation: Tensor) -> Tensor:
        """x (N, H, A), c_noise (N or 1,), observation (N, D), normalised; returns F (N, H, A)."""
        level = self.level(c_noise[:, None])
        hidden = self.input(torch.cat([x.flatten(1), observation], dim=-1))
        for block in self.blocks:
            hidden = block(hidden, level)
        output: Tensor = self.output(self.norm(hidden))
        return output.reshape(-1, *self.chunk_shape)


class CausalBlock(nn.Module):
    """Pre-norm decoder layer: causal self-attention, then a GELU MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, W)."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.query_key_value(self.norm_attention(x)).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        output: Tensor = x + self.mlp(self.norm_mlp(x))
        return output


class CausalTransformer(nn.Module):
    """The noise network as a causal decoder over the tokens [sigma, goal, state, a_1, ..., a_H].

    One linear layer embeds states and goals alike in the paper; here the two have sizes of their
    own, so each has its own. A goal token is there only if the spec has goal fields.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width = settings.width
        self.goal_size = settings.goal_size
        self.horizon = settings.horizon
        self.level = nn.Linear(1, width)
        self.state = nn.Linear(settings.input_size - settings.goal_size, width)
        self.goal = nn.Linear(settings.goal_size, width) if settings.goal_size else None
        self.action = nn.Linear(settings.action_size, width)
        self.position = nn.Parameter(0.02 * torch.randn(settings.horizon, width))
        self.blocks = nn.ModuleList(
            CausalBlock(width, settings.heads) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, settings.action_size)

    def forward(self, x: Tensor, c_noise: Tensor, observation: Tensor) -> Tensor:
        """x (N, H, A), c_noise (N or 1,), observation (N, D), normalised; returns F (N, H, A)."""
        split = observation.shape[1] - self.goal_size
        state = self.state(observation[:, :split])
        tokens = [(self.level(c_noise[:, None]) + 0 * state)[:, None]]
        if self.goal is not None:
            tokens.append(self.goal(observation[:, split:])[:, None])
        # The paper shares a position between a state and its action; the one state here belongs to
        # the first action.
        tokens += [(state + self.position[0])[:, None], self.action(x) + self.position]
        hidden = torch.cat(tokens, dim=1)
        for block in self.blocks:
            hidden = block(hidden)
        output: Tensor = self.output(self.norm(hidden[:, -self.horizon :]))
        return output


def build_network(settings: NetworkSettings) -> nn.Module:
    """The noise network named by `settings.kind`.

    Raises:
        ValueError: unknown kind.
    """
    if settings.kind in ("mlp", "bc"):
        return ResidualMLP(settings)
    if settings.kind == "transformer":
        return CausalTransformer(settings)
    raise ValueError(f"network.kind: got {settings.kind!r}, expected mlp, transformer or bc")


class ScorePolicy(nn.Module):
    """Observation and noise in, chunk of actions out, in SI units.

    With kind "bc" the network sees no noise and regresses the chunk: the baseline that shows what
    the diffusion adds.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.normaliser = Normaliser(settings.input_size, settings.action_size)
        self.network = build_network(settings)
        self.sampler = SamplerSettings()

    @property
    def is_regression(self) -> bool:
        """True for the baseline without noise."""
        return self.settings.kind == "bc"

    def drop_goal(self, observation: Tensor, dropped: Tensor) -> Tensor:
        """Sets the goal entries to their mean where `dropped` (N,) is 1: a whole goal per sample,
        never single elements.
        """
        if not self.settings.goal_size:
            return observation
        split = self.settings.input_size - self.settings.goal_size
        kept = 1.0 - dropped[:, None]
        return torch.cat([observation[:, :split], observation[:, split:] * kept], dim=1)

    def loss(self, observation: Tensor, action: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Training loss of each sample (N,).

        Args:
            observation: normalised (N, D), goals already dropped where they should be.
            action: normalised chunks (N, H, A).
            sigma: noise levels (N,); unused by the regression.
            noise: unit normal (N, H, A); unused by the regression.
        """
        if self.is_regression:
            return (self.regress(observation, noise) - action).square().mean(dim=(1, 2))

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            output: Tensor = self.network(x, c_noise, observation)
            return output

        return denoising_loss(network, action, sigma, noise, SIGMA_DATA)

    def regress(self, observation: Tensor, like: Tensor) -> Tensor:
        """The baseline's chunk (N, H, A) in normalised units; `like` gives the shape and keeps the
        graph's inputs alike.
        """
        output: Tensor = self.network(0 * like, like.new_zeros(1), observation)
        return SIGMA_DATA * output

    def denoise(self, x: Tensor, sigma: float, observation: Tensor) -> Tensor:
        """D(x, sigma) with classifier-free guidance: D_u + lambda (D_c - D_u), both branches in
        one batch.

        Args:
            x: noisy chunks (N, H, A), normalised.
            sigma: one level for the batch.
            observation: normalised (N, D).
        """
        guided = self.settings.goal_size > 0 and self.sampler.cfg_lambda != 1.0
        if guided:
            blind = self.drop_goal(observation, torch.ones_like(observation[:, 0]))
            observation, x = torch.cat([observation, blind]), torch.cat([x, x])

        def network(x: Tensor, c_noise: Tensor) -> Tensor:
            output: Tensor = self.network(x, c_noise, observation)
            return output

        denoised = denoise(network, x, x.new_full((1,), sigma), SIGMA_DATA)
        if not guided:
            return denoised
        conditional, unconditional = denoised.reshape(2, -1, *denoised.shape[1:])
        guidance: Tensor = self.sampler.cfg_lambda * (conditional - unconditional)
        combined: Tensor = unconditional + guidance
        return combined

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Raw observation (N, D) and unit normal noise (N, H, A) to raw actions (N, H, A)."""
        normalised = self.normaliser.observation(observation)
        if self.is_regression:
            chunk = self.regress(normalised, noise)
        else:
            chunk = self.sampler.sample(lambda x, sigma: self.denoise(x, sigma, normalised), noise)
        return self.normaliser.raw_action(chunk)
