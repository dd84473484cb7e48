"""The trunk networks of chunk policies and the normalisation that belongs to them.

Every noise network has two parts: `encode(observation)` computes what depends neither on the noisy
chunk nor on the noise level, and `forward(x, c_noise, context)` the rest. A sampler calls the
first once and the second at every denoising step, and so does the exported graph.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

SIGMA_DATA = 0.5
KINDS = ("mlp", "transformer", "decoder")
ORDERS = ("paper", "prefix")


@dataclass(frozen=True)
class NetworkSettings:
    """Shape of the network; enough to rebuild it before loading weights.

    Raises:
        ValueError: a setting that no network can be built with.
    """

    kind: str
    """"mlp", "transformer" (BESO's) or "decoder" (Diffusion Policy's)."""
    input_size: int
    """Length of the flat input: observation fields, then goal fields."""
    goal_size: int
    """How many of its last entries are the goal (0: none)."""
    action_size: int
    """Length of one action."""
    horizon: int
    """Actions per chunk, H."""
    width: int = 384
    """Width of the trunk."""
    blocks: int = 3
    """Residual blocks, or transformer layers."""
    heads: int = 4
    """Attention heads (transformers only)."""
    window: int = 1
    """Observations in the input, W, the newest last. The network denoises the actions of the past
    ones too; horizon 1 and a window above 1 is the paper's setting."""
    goal_states: int = 1
    """How many future states the goal consists of."""
    achieved: int = -1
    """Where in the flat input, from this entry on, stands what a goal is asked of (-1: nowhere). An
    MLP is then shown what is missing, goal minus achieved: which of several things to turn to is a
    comparison and a choice, which it hardly finds by itself."""
    film: bool = False
    """Whether the observation scales and shifts every block of an MLP, as in Diffusion Policy's
    U-Net, beside being an input of the first layer. Which of several answers a noisy chunk leans to
    is a product of both, its component along a direction that the observation gives, and sums and
    one-dimensional nonlinearities hardly form it."""
    order: str = "paper"
    """Tokens of the transformer: "paper" is [sigma, goals, s_1, a_1, s_2, ...]; "prefix" is [goals,
    states, sigma, actions], of which the first two are computed once for all denoising steps."""

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.kind not in KINDS:
            raise ValueError(f"network.kind: got {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.order not in ORDERS:
            raise ValueError(
                f"network.order: got {self.order!r}, expected one of {', '.join(ORDERS)}"
            )
        for name in ("horizon", "window", "goal_states", "width", "blocks", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"network.{name}: got {getattr(self, name)}, expected at least 1")
        if self.goal_size % self.goal_states:
            raise ValueError(
                f"network.goal_states: got {self.goal_states}, "
                f"expected a divisor of the goal's {self.goal_size} entries"
            )
        last = self.observation_size - self.goal_state_size
        if not -1 <= self.achieved <= max(last, -1):
            raise ValueError(
                f"network.achieved: got {self.achieved}, expected -1 or at most {last}, "
                "so that a goal state fits before the goal"
            )
        if self.kind != "mlp" and self.film:
            raise ValueError(f"network.film: got true, expected false for a {self.kind}")
        if self.kind != "mlp" and self.width % self.heads:
            raise ValueError(
                f"network.heads: got {self.heads}, expected a divisor of the width {self.width}"
            )

    @property
    def observation_size(self) -> int:
        """Entries of the flat input that are not the goal."""
        return self.input_size - self.goal_size

    @property
    def goal_state_size(self) -> int:
        """Entries of one of the states that make up a goal."""
        return self.goal_size // self.goal_states

    @property
    def rows(self) -> int:
        """Actions the network denoises together, R = W - 1 + H; the last H are the chunk."""
        return self.window - 1 + self.horizon

    @property
    def one_row(self) -> bool:
        """Whether a sample is one row of every matrix product; transformers have a row a token."""
        return self.kind == "mlp"

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
        """Raw (..., D) to normalised."""
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

    def forward(self, x: Tensor, level: Tensor, more: Tensor | None = None) -> Tensor:
        """x (N, W), level (N or 1, W / 8); `more` (N, 2 W) is added to scale and shift."""
        film = self.film(level)
        scale, shift = (film if more is None else film + more).chunk(2, dim=-1)
        hidden = nn.functional.silu(self.up(self.norm(x)) * (1 + scale) + shift)
        output: Tensor = x + self.down(hidden)
        return output


class ResidualMLP(nn.Module):
    """The noise network as an MLP over (noisy chunk, observation, noise level): fast to train on a
    CPU core.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        chunk_size = settings.rows * settings.action_size
        states = settings.window * settings.observation_size + settings.goal_size
        if settings.achieved >= 0:
            states += 2 * settings.goal_size
        self.level = nn.Sequential(
            nn.Linear(1, width // 8), nn.SiLU(), nn.Linear(width // 8, width // 8)
        )
        self.input = nn.Linear(chunk_size + states, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, chunk_size)
        self.film: nn.Sequential | None = None
        if settings.film:
            last = nn.Linear(width, 2 * width * settings.blocks)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.film = nn.Sequential(
                nn.Linear(states, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
            )

    def encode(self, observation: Tensor) -> tuple[Tensor, list[Tensor]]:
        """From (N, D) or (N, W, D): the observation's share of the first layer, (N, width), and of
        every block's scale and shift, (N, 2 width) each, if it has any.
        """
        settings = self.settings
        newest = observation[:, -1] if observation.dim() == 3 else observation
        # The goal is asked for now: that of older observations does not count.
        goal = newest[:, settings.observation_size :]
        if observation.dim() == 3:
            states = observation[:, :, : settings.observation_size].flatten(1)
            observation = torch.cat([states, goal], dim=1)
        if settings.achieved >= 0:
            end = settings.achieved + settings.goal_state_size
            achieved = newest[:, settings.achieved : end]
            missing = torch.tanh(2.0 * (goal - achieved.repeat(1, settings.goal_states)))
            observation = torch.cat([observation, missing, missing.square()], dim=1)
        chunk_size = self.output.out_features
        first = nn.functional.linear(
            observation, self.input.weight[:, chunk_size:], self.input.bias
        )
        if self.film is None:
            return first, []
        return first, list(self.film(observation).chunk(len(self.blocks), dim=-1))

    def features(self, x: Tensor, c_noise: Tensor, context: tuple[Tensor, list[Tensor]]) -> Tensor:
        """The last hidden layer (N, width)."""
        chunk = x.flatten(1)
        level = self.level(c_noise[:, None])
        first, films = context
        hidden = first + nn.functional.linear(chunk, self.input.weight[:, : chunk.shape[1]])
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, level, films[i] if films else None)
        normed: Tensor = self.norm(hidden)
        return normed

    def forward(self, x: Tensor, c_noise: Tensor, context: tuple[Tensor, list[Tensor]]) -> Tensor:
        """x (N, R, A), c_noise (N or 1,), context from `encode`; returns F (N, R, A)."""
        output: Tensor = self.output(self.features(x, c_noise, context))
        return output.reshape(-1, self.settings.rows, self.settings.action_size)
