"""The residual policy of ResiP (Ankile et al. 2024, From Imitation to Refinement).

A frozen base policy gives the action; an MLP that sees the newest observation and that action adds
a correction to it, in normalised action space: `base + scale * clip(residual, -1, 1)`. The last
layer starts at zero, so that what is trained starts as the base.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from policies.beso.network import Normaliser


@dataclass(frozen=True)
class ResidualSettings:
    """Shape of a residual policy; enough to rebuild it before loading weights.

    Attributes:
        input_size: length of the flat observation, goal included.
        action_size: length of one action.
        width: units of each of the two hidden layers.
        scale: largest correction, in normalised action space, where an action's standard deviation
            is 0.5.
        sees_base: whether the network is shown the base's action.
        squash: whether a tanh bounds the residual, as a gradient through the action needs; the clip
            then does nothing.
        base_gain: share of the base's normalised action that is executed; only 1 can be served, 0
            is for comparison: reinforcement learning from scratch.
    """

    input_size: int
    action_size: int
    width: int = 256
    scale: float = 0.1
    sees_base: bool = True
    squash: bool = False
    base_gain: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)


def mlp(sizes: tuple[int, ...], layer_norm: bool = False) -> nn.Sequential:
    """ReLU layers, orthogonal weights of gain sqrt 2 as in PPO's usual form (Huang et al. 2022)."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        linear = nn.Linear(before, after)
        nn.init.orthogonal_(linear.weight, math.sqrt(2.0))
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if i < len(sizes) - 2:
            if layer_norm:
                layers.append(nn.LayerNorm(after))
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class ResidualPolicy(nn.Module):
    """Newest observation and base action in, refined action out, all in physical units.

    Attributes:
        settings: its shape.
        normaliser: statistics of observations and of base actions.
        actor: normalised observation and base action to the residual, before it is clipped.
    """

    def __init__(self, settings: ResidualSettings) -> None:
        super().__init__()
        self.settings = settings
        self.normaliser = Normaliser(settings.input_size, settings.action_size)
        sizes = (self.features_size, settings.width, settings.width, settings.action_size)
        self.actor = mlp(sizes)
        for parameter in self.actor[-1].parameters():
            nn.init.zeros_(parameter)

    @property
    def features_size(self) -> int:
        """Length of what actor and critic see."""
        settings = self.settings
        return settings.input_size + settings.action_size * settings.sees_base

    @property
    def bound(self) -> Tensor:
        """Largest correction of each action component (A,), physical units."""
        return self.settings.scale * self.normaliser.action_scale

    def features(self, observation: Tensor, base_action: Tensor) -> Tensor:
        """What actor and critic see, (N, F), from raw (N, D) and (N, A)."""
        # Far fewer standard deviations than the base allows: as in the paper, +- 3.
        seen = self.normaliser.observation(observation).clamp(-3.0, 3.0)
        if not self.settings.sees_base:
            return seen
        return torch.cat([seen, self.normaliser.action(base_action)], dim=-1)

    def residual(self, observation: Tensor, base_action: Tensor) -> Tensor:
        """What is added, before it is clipped and scaled, (N, A)."""
        return self.act(self.features(observation, base_action))

    def act(self, features: Tensor) -> Tensor:
        """Residual (N, A) from what `features` gave (N, F)."""
        raw: Tensor = self.actor(features)
        return raw.tanh() if self.settings.squash else raw

    def apply_residual(self, base_action: Tensor, residual: Tensor) -> Tensor:
        """Raw base action (N, A) and residual (N, A), clipped here, to the refined action."""
        correction = self.bound * residual.clamp(-1.0, 1.0)
        if self.settings.base_gain == 1.0:
            return base_action + correction
        scaled = self.settings.base_gain * self.normaliser.action(base_action)
        return self.normaliser.raw_action(scaled) + correction

    def forward(self, observation: Tensor, base_action: Tensor) -> Tensor:
        """Raw observation (N, D) and base action (N, A) to the refined action (N, A)."""
        return self.apply_residual(base_action, self.residual(observation, base_action))
