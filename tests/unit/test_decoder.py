"""Diffusion Policy's network: who sees whom, its published size, and that all of it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from policies.beso.decoder import CrossDecoder, DecoderBlock
from policies.beso.network import NetworkSettings

SMALL = NetworkSettings(
    "decoder", 9, 4, 2, horizon=3, width=24, blocks=3, heads=3, window=2, goal_states=2
)


def make() -> CrossDecoder:
    torch.manual_seed(0)
    network = CrossDecoder(SMALL).double().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Observation (3, 2, 9), actions (3, 4, 2) and noise levels (3,)."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((3, SMALL.window, SMALL.input_size), (3, SMALL.rows, SMALL.action_size), (3,))
    observation, x, level = (torch.randn(*s, generator=generator).double() for s in shapes)
    return observation, x, level


def affected(changed: str, entry: tuple[int | slice, ...]) -> list[bool]:
    """Which rows of the output change where one entry of an input does."""
    network, (observation, x, level) = make(), inputs()
    before = network(x, level, network.encode(observation))
    given = {"observation": observation, "x": x, "level": level}
    given[changed][(slice(None), *entry)] += 1.0
    after = network(given["x"], given["level"], network.encode(given["observation"]))
    changes: list[bool] = ((after - before).abs().amax(dim=(0, 2)) > 1e-6).tolist()
    return changes


@pytest.mark.parametrize(
    ("changed", "entry", "expected"),
    [
        ("x", (0, 0), [True, True, True, True]),
        ("x", (2, 1), [False, False, True, True]),
        ("level", (), [True] * 4),
        # States, old and new, and both goal states of the newest row; not the goal of an older one.
        ("observation", (0, 0), [True] * 4),
        ("observation", (1, 4), [True] * 4),
        ("observation", (1, 5), [True] * 4),
        ("observation", (1, 8), [True] * 4),
        ("observation", (0, 8), [False] * 4),
    ],
)
def test_who_sees_whom(changed: str, entry: tuple[int, ...], expected: list[bool]) -> None:
    assert affected(changed, entry) == expected


def test_a_layer_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours = DecoderBlock(24, 3).double()
    theirs = torch.nn.TransformerDecoderLayer(
        24, 3, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    attention, cross = theirs.self_attn, theirs.multihead_attn
    modules = {
        "norm_self": theirs.norm1,
        "project_self": attention.out_proj,
        "norm_memory": theirs.norm2,
        "project_memory": cross.out_proj,
        "norm_mlp": theirs.norm3,
        "mlp.0": theirs.linear1,
        "mlp.2": theirs.linear2,
    }
    weights = {f"{k}.{n}": p for k, m in modules.items() for n, p in m.named_parameters()}
    for part, source in (("weight", cross.in_proj_weight), ("bias", cross.in_proj_bias)):
        weights[f"query.{part}"], weights[f"key_value.{part}"] = source[:24], source[24:]
    weights["query_key_value.weight"] = attention.in_proj_weight
    weights["query_key_value.bias"] = attention.in_proj_bias
    ours.load_state_dict(weights)
    x, memory = torch.randn(2, 5, 24).double(), torch.randn(2, 3, 24).double()
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5).double()
    torch.testing.assert_close(ours(x, memory, mask), theirs(x, memory, mask))
    with torch.no_grad():  # Attention is computed otherwise while training.
        torch.testing.assert_close(ours(x, memory, mask), theirs(x, memory, mask))


def test_has_the_published_size() -> None:
    # The kitchen of its appendix: states of 60 numbers, actions of 9.
    settings = NetworkSettings(
        "decoder", 60, 0, 9, horizon=9, width=256, blocks=8, heads=4, window=2
    )
    millions = sum(p.numel() for p in CrossDecoder(settings).parameters()) / 1e6
    assert round(millions, 1) == 9.0


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    network = CrossDecoder(SMALL)
    observation, x, level = (tensor.float() for tensor in inputs())
    network(x, level, network.encode(observation)).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
