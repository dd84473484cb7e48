"""Diffusion Policy's noise network: a transformer decoder over a chunk of actions.

Chi et al. 2023, "Diffusion Policy", section III and appendix: the noisy actions are the decoder's
tokens, causal among themselves; every layer also attends to a memory of the noise level and the
observations, each put through a two-layer MLP. Width 256, 8 layers and 4 heads over two
observations and ten rows, of which eight actions are executed, is the published network for
low-dimensional observations, 9 M parameters. Their goal-conditioned variants put goals into the
observations; here a goal state is one more entry of the memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from policies.beso.network import NetworkSettings
from policies.beso.transformer import attend, gelu_mlp, initialise

# Noise levels reach the network as c_noise, of order 1; the sinusoids are made for steps 0 to 99.
LEVEL_SCALE = 100.0


class DecoderBlock(nn.Module):
    """Pre-norm decoder layer: self-attention, attention to a memory, GELU MLP of four times the
    width; torch's nn.TransformerDecoderLayer in a form that keeps the batch free when exported.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project_self = nn.Linear(width, width)
        self.norm_memory = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project_memory = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = gelu_mlp(width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """x (N, T, width), memory (N, S, width), mask (T, T) of who among x may attend to whom."""
        query, key, value = self.query_key_value(self.norm_self(x)).chunk(3, dim=-1)
        x = x + self.project_self(attend(query, key, value, mask, self.heads))
        query = self.query(self.norm_memory(x))
        key, value = self.key_value(memory).chunk(2, dim=-1)
        x = x + self.project_memory(attend(query, key, value, None, self.heads))
        output: Tensor = x + self.mlp(self.norm_mlp(x))
        return output


class CrossDecoder(nn.Module):
    """The noise network as a decoder; see the module's text. Its dropout is left out.

    A state attends to nothing and is looked at by all actions, so that `encode` may be called once
    for all denoising steps; Diffusion Policy as published computes it anew at each.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.goals = settings.goal_states if settings.goal_size else 0
        self.action = nn.Linear(settings.action_size, width)
        self.state = nn.Linear(settings.observation_size, width)
        self.goal = nn.Linear(settings.goal_state_size, width) if self.goals else None
        self.position = nn.Parameter(torch.zeros(settings.rows, width))
        self.memory_position = nn.Parameter(torch.zeros(1 + self.goals + settings.window, width))
        self.memory = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width)
        )
        self.blocks = nn.ModuleList(
            DecoderBlock(width, settings.heads) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, settings.action_size)
        initialise(self, self.position, self.memory_position)
        half = width // 2
        self.frequency: Tensor
        self.register_buffer(
            "frequency", torch.exp(-math.log(1e4) * torch.arange(half) / half), persistent=False
        )
        self.mask: Tensor
        causal = nn.Transformer.generate_square_subsequent_mask(settings.rows)
        self.register_buffer("mask", causal, persistent=False)

    def encode(self, observation: Tensor) -> Tensor:
        """The memory's entries of goals and states (N, G + W, width), from normalised (N, D), or
        (N, W, D) with a window above 1; the goal is that of the newest row.
        """
        if observation.dim() == 2:
            observation = observation[:, None]
        split = self.settings.observation_size
        entries = self.state(observation[:, :, :split])
        if self.goal is not None:
            goals = observation[:, -1, split:].reshape(-1, self.goals, self.goal.in_features)
            entries = torch.cat([self.goal(goals), entries], dim=1)
        memory: Tensor = self.memory(entries + self.memory_position[1:])
        return memory

    def forward(self, x: Tensor, c_noise: Tensor, context: Tensor) -> Tensor:
        """x (N, R, A), c_noise (N or 1,), context from `encode`; returns F (N, R, A)."""
        phase = LEVEL_SCALE * c_noise[:, None] * self.frequency
        level = torch.cat([phase.sin(), phase.cos()], dim=1) + self.memory_position[0]
        level = self.memory(level)[:, None].expand(x.shape[0], -1, -1)
        memory = torch.cat([level, context], dim=1)
        tokens: Tensor = self.action(x) + self.position
        for block in self.blocks:
            tokens = block(tokens, memory, self.mask)
        output: Tensor = self.output(self.norm(tokens))
        return output
