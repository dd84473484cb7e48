"""What an MLP is shown of its goal: how much of it is missing."""

from __future__ import annotations

import pytest
import torch

from policies.beso.network import NetworkSettings, ResidualMLP
from policies.features import INSERTION_SPEC
from policies.spec import Spec
from sim.bullet.block_push import BLOCK_PUSH_SPEC
from sim.kitchen import JOINTS, KITCHEN_SPEC
from sim.tasks.play_parts import PLAY_SPEC
from training.inputs import achieved_entry


def network(goal_states: int = 1, window: int = 1) -> ResidualMLP:
    torch.manual_seed(0)
    size = 5 + 2 * goal_states
    settings = NetworkSettings(
        "mlp", size, 2 * goal_states, 1, 1, 16, 1, 1, window, goal_states, achieved=3
    )
    return ResidualMLP(settings)


def first_layer(net: ResidualMLP, observation: torch.Tensor) -> torch.Tensor:
    """What the observation adds to the first layer, (N, width)."""
    return net.encode(observation)[0]


def only_missing(net: ResidualMLP) -> None:
    """Leaves of the first layer only what it reads of the difference."""
    count = 2 * net.settings.goal_size
    with torch.no_grad():
        net.input.weight[:, :-count] = 0.0


def test_what_is_missing_is_goal_minus_achieved() -> None:
    net = network()
    only_missing(net)
    there = torch.tensor([[9.0, 8.0, 7.0, 0.4, -1.1, 0.4, -1.1]])
    torch.testing.assert_close(first_layer(net, there)[0], net.input.bias)
    shifted = there + torch.tensor([1.0, 1.0, 1.0, 2.0, -3.0, 2.0, -3.0])
    torch.testing.assert_close(first_layer(net, shifted), first_layer(net, there))
    elsewhere = there + torch.tensor([0, 0, 0, 0, 0, 0.3, 0])
    assert (first_layer(net, elsewhere) - first_layer(net, there)).abs().max() > 1e-3


def test_every_goal_state_is_compared_with_the_newest_observation() -> None:
    net = network(goal_states=2, window=3)
    only_missing(net)
    rows = torch.randn(1, 3, 9)
    rows[:, -1, 3:5] = torch.tensor([0.4, -1.1])
    rows[:, -1, 5:] = torch.tensor([0.4, -1.1, 0.4, -1.1])
    torch.testing.assert_close(first_layer(net, rows)[0], net.input.bias)


def test_the_entry_is_found_by_the_fields_names() -> None:
    assert achieved_entry(BLOCK_PUSH_SPEC) == 0
    assert achieved_entry(KITCHEN_SPEC) == JOINTS
    entry = achieved_entry(PLAY_SPEC)
    names = [field.name for field in PLAY_SPEC.observation]
    before = sum(f.size for f in PLAY_SPEC.observation[: names.index("observation.state.parts")])
    assert entry == before
    assert achieved_entry(INSERTION_SPEC) == -1
    other = Spec(PLAY_SPEC.observation[:1], PLAY_SPEC.goal, PLAY_SPEC.action, PLAY_SPEC.rate_hz)
    assert achieved_entry(other) == -1


def test_an_entry_beyond_the_observation_is_refused() -> None:
    with pytest.raises(ValueError, match="network.achieved: got 4, expected -1 or at most 3"):
        NetworkSettings("mlp", 7, 2, 1, 1, achieved=4)
