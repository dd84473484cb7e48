"""What a run leaves behind: which networks its weights fit, and how a network grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from policies.beso.network import NetworkSettings
from policies.beso.policy import ScorePolicy
from training.beso_run import check_same_network, start_weights

SETTINGS = NetworkSettings("mlp", 6, 2, 3, 4, width=32, blocks=2, film=True)


def test_a_network_with_more_blocks_begins_as_the_one_it_grew_from() -> None:
    torch.manual_seed(0)
    small, large = ScorePolicy(SETTINGS), ScorePolicy(replace(SETTINGS, blocks=5))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    start_weights(large, small.state_dict())
    observation, noise = torch.randn(9, 6), torch.randn(9, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(large(observation, noise), small(observation, noise))
    # The new blocks learn from the first step on, though they add nothing yet.
    level, target = torch.rand(9) + 0.1, torch.randn(9, 4, 3)
    large.loss(observation, target, level, noise).mean().backward()
    assert large.network.blocks[4].down.weight.grad.abs().max() > 0


def test_only_more_blocks_are_room_to_grow() -> None:
    origin = SETTINGS.to_dict()
    check_same_network("--start-from", SETTINGS, origin)
    check_same_network("--start-from", replace(SETTINGS, blocks=3), origin, may_grow=True)
    for changed, allowed, message in (
        ({"blocks": 3}, False, "--resume: got a network with blocks 3, expected its own, with"),
        ({"blocks": 1}, True, "got a network with blocks 1, expected its own, with blocks 2"),
        ({"width": 64, "blocks": 3}, True, "got a network with width 64, expected its own"),
    ):
        with pytest.raises(ValueError, match=message):
            check_same_network("--resume", replace(SETTINGS, **changed), origin, allowed)
    deeper = replace(SETTINGS, kind="transformer", film=False, blocks=3)
    shallow = replace(deeper, blocks=2).to_dict()
    with pytest.raises(ValueError, match="got a network with blocks 3"):
        check_same_network("--start-from", deeper, shallow, may_grow=True)
