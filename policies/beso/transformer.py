"""The paper's noise network: a causal transformer over noise level, goals, states and actions.

BESO (Reuss et al. 2023) reads the tokens

    sigma, goal_1 .. goal_G, s_1, a_1, ..., s_W, a_W, a_{W+1} .. a_{W+H-1}

where the last H - 1 are those of a chunk longer than the paper's one action. Each token attends to
itself and to those before it; the rows of the actions are read out. With order "prefix" it is

    goal_1 .. goal_G, s_1 .. s_W, sigma, a_1 .. a_{W+H-1}

so that under the same causal rule goals and states depend neither on the noise level nor on the
actions: `encode` computes their keys and values once for all denoising steps, exactly. The network
is then another one (an action sees every state of the window, a state sees no action) and has to be
trained as such.

Attention does not care in which order tokens lie in memory, only who may attend to whom. They lie
here as prefix, actions, sigma, so that the rows to read out are one slice, whatever the order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from policies.beso.network import NetworkSettings

# Keys and values of the tokens that are computed once, each (N, P, width), for every layer.
Cache = tuple[Tensor, Tensor]


class CausalBlock(nn.Module):
    """Pre-norm decoder layer: masked self-attention, then a GELU MLP of four times the width."""

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

    def keys_values(self, x: Tensor) -> Cache:
        """Keys and values (N, T, width) of tokens x (N, T, width) whose rows nobody reads."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        width = x.shape[-1]
        both = nn.functional.linear(self.norm_attention(x), weight[width:], bias[width:])
        key, value = both.chunk(2, dim=-1)
        return key, value

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, rows: int | None = None
    ) -> tuple[Tensor, Cache]:
        """The layer's output, and the keys and values it attended to, those of `cache` first.

        Args:
            x: tokens (N, T, width).
            mask: (T or rows, P + T), 0 where a token may attend and -inf where not; None for all.
            cache: keys and values (N, P, width) of earlier tokens.
            rows: how many of the first tokens to return, (N, rows, width); all when left out. The
                others give only their keys and values.
        """
        if rows is None or rows == x.shape[1]:
            query, key, value = self.query_key_value(self.norm_attention(x)).chunk(3, dim=-1)
        else:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            width = x.shape[-1]
            normed, x = self.norm_attention(x), x[:, :rows]
            query = nn.functional.linear(normed[:, :rows], weight[:width], bias[:width])
            both = nn.functional.linear(normed, weight[width:], bias[width:])
            key, value = both.chunk(2, dim=-1)
        if cache is not None:
            key = torch.cat([cache[0], key], dim=1)
            value = torch.cat([cache[1], value], dim=1)
        x = x + self.project(attend(query, key, value, mask, self.heads))
        output: Tensor = x + self.mlp(self.norm_mlp(x))
        return output, (key, value)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Multi-head attention over tensors (N, T, width); returns (N, T of query, width)."""
    if torch.onnx.is_in_onnx_export():
        # The standard operator, which splits the heads itself: five operators fewer a layer.
        attended: Tensor = torch.onnx.ops.attention(
            query, key, value, mask, q_num_heads=heads, kv_num_heads=heads
        )[0]
        return attended
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


class CausalTransformer(nn.Module):
    """BESO's noise network; see the module's text.

    One linear layer embeds states and goals alike where a goal consists of whole states, as in the
    paper; otherwise each has its own. Positions are learned: one for each goal, and one for each
    time step, which a state and its action share. The sigma token has none.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.goals = settings.goal_states if settings.goal_size else 0
        self.level = nn.Linear(1, width)
        self.state = nn.Linear(settings.observation_size, width)
        self.goal: nn.Linear | None = None
        if self.goals and settings.goal_size != self.goals * settings.observation_size:
            self.goal = nn.Linear(settings.goal_size // self.goals, width)
        self.action = nn.Linear(settings.action_size, width)
        self.position = nn.Parameter(torch.zeros(self.goals + settings.rows, width))
        self.blocks = nn.ModuleList(
            CausalBlock(width, settings.heads) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, settings.action_size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.02)
        self.mask: Tensor
        self.register_buffer("mask", self._mask(), persistent=False)

    def _mask(self) -> Tensor:
        """(T, T) for tokens as they lie in memory: goals, states, actions, sigma."""
        window, rows = self.settings.window, self.settings.rows
        # The place of each token in the sequence of the module's text.
        if self.settings.order == "paper":
            goal = torch.arange(self.goals) + 1
            state = 1 + self.goals + 2 * torch.arange(window)
            late = 1 + self.goals + 2 * window + torch.arange(rows - window)
            action, level = torch.cat([state + 1, late]), torch.zeros(1)
        else:
            goal = torch.arange(self.goals)
            state = self.goals + torch.arange(window)
            level = torch.full((1,), self.goals + window)
            action = self.goals + window + 1 + torch.arange(rows)
        place = torch.cat([goal, state, action, level])
        return torch.zeros(len(place), len(place)).masked_fill(
            place[None, :] > place[:, None], float("-inf")
        )

    def encode(self, observation: Tensor) -> tuple[Tensor, ...]:
        """What does not depend on actions and noise level.

        Args:
            observation: normalised (N, D), or (N, W, D) with a window above 1; the goal is that of
                the newest row.

        Returns:
            Embedded goals and states (N, G + W, width) for order "paper"; for "prefix" their keys
            and values, one after the other, of every layer.
        """
        if observation.dim() == 2:
            observation = observation[:, None]
        split = self.settings.observation_size
        states = observation[:, :, :split]
        position = self.position[: self.goals + self.settings.window]
        if not self.goals:
            tokens = self.state(states) + position
        else:
            goals = observation[:, -1, split:].unflatten(-1, (self.goals, -1))
            if self.goal is None:
                tokens = self.state(torch.cat([goals, states], dim=1)) + position
            else:
                tokens = torch.cat([self.goal(goals), self.state(states)], dim=1) + position
        if self.settings.order == "paper":
            return (tokens,)
        size = tokens.shape[1]
        caches: list[Tensor] = []
        for block in self.blocks[:-1]:
            tokens, cache = block(tokens, self.mask[:size, :size])
            caches += cache
        return (*caches, *self.blocks[-1].keys_values(tokens))

    def forward(self, x: Tensor, c_noise: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """x (N, R, A), c_noise (N or 1,), context from `encode`; returns F (N, R, A)."""
        rows = self.settings.rows
        actions = self.action(x) + self.position[self.goals :]
        level = self.level(c_noise[:, None])[:, None].expand(x.shape[0], -1, -1)
        last = len(self.blocks) - 1
        if self.settings.order == "paper":
            # Actions first: theirs are the rows that the last layer returns.
            (prefix,) = context
            hidden = torch.cat([actions, level, prefix], dim=1)
            mask = self.mask.roll((-prefix.shape[1],) * 2, (0, 1))
        else:
            hidden = torch.cat([actions, level], dim=1)
            mask = self.mask[-rows - 1 :]
        for i, block in enumerate(self.blocks):
            cache = None
            if self.settings.order == "prefix":
                cache = (context[2 * i], context[2 * i + 1])
            if i < last:
                hidden, _ = block(hidden, mask, cache)
            else:
                hidden, _ = block(hidden, mask[:rows], cache, rows)
        output: Tensor = self.output(self.norm(hidden))
        return output
