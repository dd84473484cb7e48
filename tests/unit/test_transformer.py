"""The causal transformer against a plain one that is written out token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policies.beso.diffusion import SamplerSettings
from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy
from policies.beso.transformer import CausalTransformer, Context, idle_tokens

KITCHEN = NetworkSettings(
    "transformer", 90, 60, 9, 1, width=360, blocks=6, heads=6, window=4, goal_states=2
)
BLOCK_PUSH = NetworkSettings(
    "transformer", 20, 10, 2, 1, width=240, blocks=4, heads=12, window=5, goal_states=1
)
SMALL = NetworkSettings("transformer", 9, 6, 2, 1, width=24, blocks=3, heads=3, goal_states=2)
# Windows, chunks, goals that are whole states, goals that are not, and none.
SHAPES = [
    replace(SMALL, window=4),
    replace(SMALL, window=3, horizon=4),
    replace(SMALL, window=2, horizon=2, goal_size=4, goal_states=1),
    replace(SMALL, horizon=5, goal_size=0, goal_states=1),
    SMALL,
]


def make(settings: NetworkSettings) -> CausalTransformer:
    """Every weight random and large: fresh zeros and small numbers would hide errors."""
    torch.manual_seed(0)
    network = CausalTransformer(settings).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


def inputs(settings: NetworkSettings, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Observation, actions and ln(sigma) / 4 of each sample."""
    generator = torch.Generator().manual_seed(1)
    shape = (settings.window,) if settings.window > 1 else ()
    return (
        torch.randn(batch, *shape, settings.input_size, generator=generator).double(),
        torch.randn(batch, settings.rows, settings.action_size, generator=generator).double(),
        torch.randn(batch, generator=generator).double(),
    )


def reference(network: CausalTransformer, observation: Tensor, x: Tensor, level: Tensor) -> Tensor:
    """F of one sample: tokens one by one in the sequence's order, attention query by query."""
    settings, position = network.settings, network.position
    rows = observation.reshape(-1, settings.input_size)
    size, goals = settings.observation_size, settings.goal_states if settings.goal_size else 0
    embed_goal = network.state if settings.goal_size == goals * size else network.goal
    asked = rows[-1, size:].reshape(goals, -1) if goals else []
    goal = [embed_goal(g) + position[i] for i, g in enumerate(asked)]
    state = [network.state(row[:size]) + position[goals + i] for i, row in enumerate(rows)]
    action = [network.action(a) + position[goals + i] for i, a in enumerate(x)]
    sigma = [network.level(level[None])]
    if settings.order == "prefix":
        sequence = goal + state + sigma + action
        read = list(range(len(goal + state) + 1, len(sequence)))
    else:
        sequence, read = sigma + goal, []
        for i in range(len(action)):
            sequence += [state[i]] if i < len(state) else []
            read.append(len(sequence))
            sequence.append(action[i])

    width, heads = settings.width, settings.heads
    for block in network.blocks:
        keys: list[Tensor] = []
        values: list[Tensor] = []
        following = []
        for token in sequence:
            query, key, value = block.query_key_value(block.norm_attention(token)).split(width)
            keys.append(key)
            values.append(value)
            attended = []
            for part in torch.arange(width).chunk(heads):
                scores = torch.stack([query[part] @ k[part] for k in keys])
                share = (scores / math.sqrt(width / heads)).softmax(dim=0)
                attended.append(sum(s * v[part] for s, v in zip(share, values, strict=True)))
            token = token + block.project(torch.cat(attended))
            following.append(token + block.mlp(block.norm_mlp(token)))
        sequence = following
    return torch.stack([network.output(network.norm(sequence[i])) for i in read])


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("order", ["paper", "prefix"])
def test_agrees_with_the_plain_network(settings: NetworkSettings, order: str) -> None:
    network = make(replace(settings, order=order))
    observation, x, level = inputs(settings)
    found = network(x, level, network.encode(observation))
    expected = [reference(network, *sample) for sample in zip(observation, x, level, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("settings", SHAPES)
def test_what_is_kept_from_the_first_evaluation_changes_nothing(settings: NetworkSettings) -> None:
    network = make(replace(settings, order="prefix"))
    observation, x, level = inputs(settings)
    context = network.encode(observation)
    network(x, level, context)
    assert [len(context.kept), len(context.kept[0])] == [settings.blocks, 2]
    for shift in (0.5, -2.0):
        again = network(x + shift, level - shift, context)
        afresh = network(x + shift, level - shift, network.encode(observation))
        torch.testing.assert_close(again, afresh)


def test_the_papers_order_keeps_nothing() -> None:
    network = make(SMALL)
    observation, x, level = inputs(SMALL)
    context = network.encode(observation)
    assert isinstance(context, Context)
    network(x, level, context)
    assert context.kept == []


@pytest.mark.parametrize("order", ["paper", "prefix"])
def test_an_action_sees_nothing_of_later_ones(order: str) -> None:
    settings = replace(SMALL, window=3, horizon=4, order=order)
    network = make(settings)
    observation, x, level = inputs(settings)
    before = network(x, level, network.encode(observation))
    for row in range(settings.rows):
        changed = x.clone()
        changed[:, row] += 1.0
        differs = (network(changed, level, network.encode(observation)) - before).abs().amax((0, 2))
        assert differs[:row].tolist() == [0.0] * row
        assert bool((differs[row:] > 1e-3).all())


@pytest.mark.parametrize(("order", "first_affected"), [("paper", 1), ("prefix", 0)])
def test_who_sees_the_second_state(order: str, first_affected: int) -> None:
    settings = replace(SMALL, window=3, order=order)
    network = make(settings)
    observation, x, level = inputs(settings)
    changed = observation.clone()
    changed[:, 1, : settings.observation_size] += 1.0
    after = network(x, level, network.encode(changed))
    differs = (after - network(x, level, network.encode(observation))).abs().amax((0, 2)) > 1e-3
    assert differs.tolist() == [i >= first_affected for i in range(settings.rows)]


def test_the_goal_is_that_of_the_newest_row() -> None:
    settings = replace(SMALL, window=3)
    network = make(settings)
    observation, x, level = inputs(settings)
    before = network(x, level, network.encode(observation))
    for row, matters in ((0, False), (1, False), (2, True)):
        changed = observation.clone()
        changed[:, row, settings.observation_size :] += 1.0
        after = network(x, level, network.encode(changed))
        assert bool((after - before).abs().max() > 1e-3) == matters


def test_a_state_and_its_action_share_a_position() -> None:
    # One position per goal and per time step, none for sigma.
    assert CausalTransformer(KITCHEN).position.shape == (2 + 4, 360)
    assert CausalTransformer(SHAPES[1]).position.shape == (2 + 3 + 4 - 1, 24)


@pytest.mark.parametrize(("settings", "millions"), [(KITCHEN, 9.38), (BLOCK_PUSH, 2.78)])
def test_has_the_papers_size(settings: NetworkSettings, millions: float) -> None:
    network = CausalTransformer(settings)
    assert network.goal is None, "states and goals share their linear layer"
    size = sum(parameter.numel() for parameter in network.parameters())
    assert size / 1e6 == pytest.approx(millions, rel=0.01)


def test_every_weight_learns() -> None:
    settings = replace(SMALL, window=3, horizon=2, order="prefix")
    torch.manual_seed(0)
    policy = ScorePolicy(settings)
    observation, action, level = (tensor.float() for tensor in inputs(settings, batch=8))
    sigma = policy.draw_level(torch.rand_like(level))
    policy.loss(observation, action, sigma, torch.randn_like(action)).mean().backward()
    idle = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize("order", ["paper", "prefix"])
def test_guidance_evaluates_both_branches_in_one_batch(order: str) -> None:
    settings = replace(SMALL, window=3, order=order)
    policy = ScorePolicy(settings)
    policy.network = make(settings).float()
    policy.sampler = SamplerSettings(cfg_lambda=2.0)
    observation, noise, _ = (tensor.float() for tensor in inputs(settings))
    blind = policy.drop_goal(observation, torch.ones(len(observation)))
    x, sigma = 0.7 * noise, 0.7
    guided = policy.denoiser(observation)(x, sigma)
    policy.sampler = SamplerSettings()
    conditional = policy.denoiser(observation)(x, sigma)
    unconditional = policy.denoiser(blind)(x, sigma)
    torch.testing.assert_close(guided, 2.0 * conditional - unconditional, rtol=1e-4, atol=1e-5)


def test_idle_tokens_fill_a_pass_that_would_be_two() -> None:
    counts = (5, 9, 10, 11, 12, 13, 22, 23)
    assert [idle_tokens(count) for count in counts] == [0, 0, 2, 1, 0, 0, 2, 1]
    network = CausalTransformer(KITCHEN)
    assert network.idle == 1
    seen = network.encode(torch.zeros(1, 4, 90)).prefix.shape[1]
    assert seen == 6, "two goals and four states: idle tokens are the exported graph's"
