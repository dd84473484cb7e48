"""The paper's noise network: a causal transformer over noise level, goals, states and actions.

BESO (Reuss et al. 2023) reads the tokens

    sigma, goal_1 .. goal_G, s_1, a_1, ..., s_W, a_W, a_{W+1} .. a_{W+H-1}

where the last H - 1 are those of a chunk longer than the paper's one action. Each token attends to
itself and to those before it; the rows of the actions are read out. With order "prefix" it is

    goal_1 .. goal_G, s_1 .. s_W, sigma, a_1 .. a_{W+H-1}

so that under the same causal rule goals and states depend neither on the noise level nor on the
actions: their keys and values are computed once for all denoising steps, exactly. The network is
then another one (an action sees every state of the window, a state sees no action) and has to be
trained as such.

Attention does not care in which order tokens lie in memory, only who may attend to whom. They lie
here in the second order always, so that those to compute anew at each step and the rows to read out
are the last ones; a mask says which order it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from policies.beso.network import NetworkSettings

# onnxruntime's fp32 kernel for AVX-512 multiplies twelve rows, or up to six, in one pass over the
# weights; seven to eleven take two.
PASS_ROWS = 12
# More would cost larger batches, which fill their passes anyhow, more than a sixth of their time.
MOST_IDLE = 2

# Keys and values of tokens in one layer, each (N, T, width).
KeysValues = tuple[Tensor, Tensor]


@dataclass
class Context:
    """What a sampler's evaluations of the network share.

    The first evaluation computes goals and states along with its own tokens and leaves their keys
    and values here: one pass over the weights does both, where computing them beforehand would
    take one more, and reading the weights is what a batch of one waits for.

    Attributes:
        prefix: embedded goals and states (N, G + W, width), behind idle tokens if there are any.
        kept: keys and values of the prefix in every layer; empty before the first evaluation, and
            always with order "paper", whose goals and states depend on the noise level.
    """

    prefix: Tensor
    kept: list[KeysValues] = field(default_factory=list)


class CausalBlock(nn.Module):
    """Pre-norm decoder layer: masked self-attention, then a GELU MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = gelu_mlp(width)

    def forward(
        self,
        x: Tensor,
        count: int,
        mask: Tensor,
        kept: KeysValues | None = None,
        rows: int | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The layer's output, and all keys and values that it attended to.

        Args:
            x: tokens (N * T, width): a matrix product and its bias are one operation of the
                exported graph if the tensor has two dimensions, and two if it has three.
            count: tokens of a sample, T.
            mask: (T or rows, P + T), 0 where a token may attend and -inf where not.
            kept: keys and values (N, P, width) of earlier tokens.
            rows: how many of the last tokens to return, (N * rows, width); all when left out. The
                others give only their keys and values.
        """
        width = x.shape[-1]
        normed = self.norm_attention(x)
        if rows is None:
            joined = self.query_key_value(normed).view(-1, count, 3 * width)
            query, key, value = joined.chunk(3, dim=-1)
        else:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            x, few = (part.view(-1, count, width)[:, -rows:].flatten(0, 1) for part in (x, normed))
            query = nn.functional.linear(few, weight[:width], bias[:width]).view(-1, rows, width)
            joined = nn.functional.linear(normed, weight[width:], bias[width:])
            key, value = joined.view(-1, count, 2 * width).chunk(2, dim=-1)
        if kept is not None:
            key, value = torch.cat([kept[0], key], dim=1), torch.cat([kept[1], value], dim=1)
        attended = attend(query, key, value, mask, self.heads)
        x = x + self.project(attended.view(-1, width))
        output: Tensor = x + self.mlp(self.norm_mlp(x))
        return output, (key, value)


def gelu_mlp(width: int) -> nn.Sequential:
    """The MLP of a transformer layer."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def initialise(network: nn.Module, *positions: nn.Parameter) -> None:
    """Draws the weights of every linear layer, then learned positions, from N(0, 0.02); no bias."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for position in positions:
        nn.init.normal_(position, std=0.02)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """Multi-head attention of query (N, T, width) to key and value (N, S, width).

    Args:
        query: (N, T, width).
        key: (N, S, width).
        value: (N, S, width).
        mask: (T, S), added to the scores; None where everyone may attend to everyone.
        heads: number of heads.

    Returns:
        (N, T, width).
    """
    if torch.onnx.is_in_onnx_export():
        # The standard operator, which splits the heads itself: some seven operators fewer a layer.
        output: Tensor = torch.onnx.ops.attention(
            query, key, value, mask, q_num_heads=heads, kv_num_heads=heads
        )[0]
        return output
    query, key, value = (
        part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (query, key, value)
    )
    if torch.is_grad_enabled():
        # Written out: torch's fused backward is made for long sequences and takes most of a
        # training step for a dozen tokens.
        score = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        share = (score if mask is None else score + mask).softmax(dim=-1)
        attended = share.to(value.dtype) @ value
    else:
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attended.transpose(1, 2).flatten(2)


def idle_tokens(count: int) -> int:
    """How many tokens that mean nothing to serve along with `count` of them.

    With them a batch of one fills its last pass over the weights: a product with twelve rows takes
    three quarters of the time of one with eleven. A kernel with six rows a pass (AVX2) needs as
    many passes with as without them.
    """
    missing = -count % PASS_ROWS
    return missing if missing <= MOST_IDLE else 0


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
        self.goal_size = settings.goal_state_size
        if self.goals and self.goal_size != settings.observation_size:
            self.goal = nn.Linear(self.goal_size, width)
        self.action = nn.Linear(settings.action_size, width)
        self.position = nn.Parameter(torch.zeros(self.goals + settings.rows, width))
        self.blocks = nn.ModuleList(
            CausalBlock(width, settings.heads) for _ in range(settings.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, settings.action_size)
        initialise(self, self.position)
        self.idle = idle_tokens(self.goals + settings.window + 1 + settings.rows)
        self.mask: Tensor
        self.register_buffer("mask", self._mask(), persistent=False)

    def _mask(self) -> Tensor:
        """(T, T) for tokens as they lie in memory: idle ones, goals, states, sigma, actions. No one
        sees an idle token.
        """
        window, rows = self.settings.window, self.settings.rows
        # The place of each token in the sequence of the module's text.
        if self.settings.order == "paper":
            level, goal = torch.zeros(1), 1 + torch.arange(self.goals)
            state = 1 + self.goals + 2 * torch.arange(window)
            late = 1 + self.goals + 2 * window + torch.arange(rows - window)
            action = torch.cat([state + 1, late])
        else:
            goal, state = torch.arange(self.goals), self.goals + torch.arange(window)
            level = torch.full((1,), self.goals + window)
            action = self.goals + window + 1 + torch.arange(rows)
        place = torch.cat([goal, state, level, action])
        hidden = place[None, :] > place[:, None]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        mask = nn.functional.pad(mask, (self.idle, 0), value=float("-inf"))
        return nn.functional.pad(mask, (0, 0, self.idle, 0))

    def encode(self, observation: Tensor) -> Context:
        """Embeds goals and states for the evaluations to come.

        Args:
            observation: normalised (N, D), or (N, W, D) with a window above 1; the goal is that of
                the newest row.
        """
        if observation.dim() == 2:
            observation = observation[:, None]
        split = self.settings.observation_size
        states = observation[:, :, :split]
        position = self.position[: self.goals + self.settings.window]
        if not self.goals:
            prefix = self.state(states)
        else:
            goals = observation[:, -1, split:].reshape(-1, self.goals, self.goal_size)
            if self.goal is None:
                prefix = self.state(torch.cat([goals, states], dim=1))
            else:
                prefix = torch.cat([self.goal(goals), self.state(states)], dim=1)
        prefix = prefix + position
        if torch.onnx.is_in_onnx_export() and self.idle:
            prefix = nn.functional.pad(prefix, (0, 0, self.idle, 0))
        return Context(prefix)

    def forward(self, x: Tensor, c_noise: Tensor, context: Context) -> Tensor:
        """x (N, R, A), c_noise (N or 1,), context from `encode`; returns F (N, R, A)."""
        rows = self.settings.rows
        actions = self.action(x) + self.position[self.goals :]
        level = self.level(c_noise[:, None])[:, None].expand(x.shape[0], -1, -1)
        tokens = torch.cat([level, actions], dim=1)
        kept: list[KeysValues | None] = [*context.kept]
        if not kept:
            tokens = torch.cat([context.prefix, tokens], dim=1)
            kept = [None] * len(self.blocks)
        count, seen = tokens.shape[1], context.prefix.shape[1] + 1 + rows
        hidden = tokens.flatten(0, 1)
        for i, block in enumerate(self.blocks):
            wanted = rows if i == len(self.blocks) - 1 else None
            mask = self.mask[-(wanted or count) :, -seen:]
            hidden, (key, value) = block(hidden, count, mask, kept[i], wanted)
            if self.settings.order == "prefix" and kept[i] is None:
                size = context.prefix.shape[1]
                context.kept.append((key[:, :size], value[:, :size]))
        output: Tensor = self.output(self.norm(hidden))
        return output.view(-1, rows, self.settings.action_size)
