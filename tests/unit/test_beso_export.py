"""The exported graph against torch, and what normalisation and goals do inside the policy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from policies.beso.diffusion import SamplerSettings
from policies.beso.export import export_onnx
from policies.beso.network import SIGMA_DATA, NetworkSettings, Normaliser, ScorePolicy

INPUT, GOAL, ACTION, HORIZON = 11, 3, 4, 5


def random_policy(kind: str, sampler: SamplerSettings | None = None) -> ScorePolicy:
    """Small, with every weight random: a fresh network's zero layers would hide errors."""
    torch.manual_seed(0)
    settings = NetworkSettings(kind, INPUT, GOAL, ACTION, HORIZON, width=32, blocks=2, heads=2)
    policy = ScorePolicy(settings)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    policy.normaliser.fit(2.0 + 3.0 * torch.randn(500, INPUT), 0.3 + 0.5 * torch.randn(500, ACTION))
    policy.sampler = sampler or SamplerSettings()
    return policy.eval()


def random_inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return (
        2.0 + 3.0 * torch.randn(batch, INPUT, generator=generator),
        torch.randn(batch, HORIZON, ACTION, generator=generator),
    )


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [
        ("mlp", SamplerSettings()),
        ("mlp", SamplerSettings(name="heun", schedule="karras", steps=2, noise_scale=0.3)),
        ("mlp", SamplerSettings(name="dpmpp_2m", schedule="linear", cfg_lambda=1.5)),
        ("transformer", SamplerSettings(steps=1, cfg_lambda=2.0)),
        ("bc", None),
    ],
)
def test_graph_agrees_with_torch_at_any_batch(
    kind: str, sampler: SamplerSettings | None, tmp_path: Path
) -> None:
    policy = random_policy(kind, sampler)
    path = tmp_path / "policy.onnx"
    export_onnx(policy, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        observation, noise = random_inputs(batch)
        with torch.no_grad():
            expected = policy(observation, noise).numpy()
        feed = {"observation": observation.numpy(), "noise": noise.numpy()}
        (found,) = session.run(["actions"], feed)
        assert found.shape == (batch, HORIZON, ACTION)
        assert np.abs(found - expected).max() <= 1e-5
    stored = json.loads(session.get_modelmeta().custom_metadata_map["sampler"])
    assert stored == (None if kind == "bc" else policy.sampler.to_dict())


def test_graph_says_nothing_of_the_machine_that_made_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    export_onnx(random_policy("bc"), path)
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_normalised_actions_have_the_spread_the_preconditioning_assumes() -> None:
    normaliser = Normaliser(2, 3)
    action = torch.randn(1000, 3) * torch.tensor([1e-3, 5.0, 0.0]) + 2.0
    normaliser.fit(torch.zeros(1000, 2), action)
    normalised = normaliser.action(action)
    torch.testing.assert_close(normalised.std(dim=0)[:2], torch.full((2,), SIGMA_DATA))
    assert normalised[:, 2].abs().max() < 1e-5, "a constant dimension stays constant"
    torch.testing.assert_close(normaliser.raw_action(normalised), action)


def test_observations_are_bounded_after_normalisation() -> None:
    normaliser = Normaliser(1, 1)
    normaliser.fit(torch.randn(1000, 1), torch.randn(1000, 1))
    assert float(normaliser.observation(torch.tensor([[1e9]]))) == Normaliser.limit


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_guidance_zero_ignores_the_goal_and_one_follows_it(kind: str) -> None:
    policy = random_policy(kind, SamplerSettings(cfg_lambda=0.0))
    observation, noise = random_inputs(6)
    other = observation.clone()
    other[:, INPUT - GOAL :] += 1.0
    with torch.no_grad():
        torch.testing.assert_close(policy(observation, noise), policy(other, noise))
        policy.sampler = SamplerSettings(cfg_lambda=1.0)
        assert (policy(observation, noise) - policy(other, noise)).abs().max() > 1e-3


def test_goals_are_dropped_whole_and_per_sample() -> None:
    policy = random_policy("mlp")
    observation = torch.ones(3, INPUT)
    dropped = policy.drop_goal(observation, torch.tensor([0.0, 1.0, 0.0]))
    assert dropped[1, INPUT - GOAL :].abs().max() == 0.0
    assert torch.equal(dropped[[0, 2]], observation[[0, 2]])
    assert torch.equal(dropped[:, : INPUT - GOAL], observation[:, : INPUT - GOAL])


def test_transformer_is_causal_over_the_chunk() -> None:
    policy = random_policy("transformer")
    observation, noise = random_inputs(2)
    changed = noise.clone()
    changed[:, 3:] += 1.0
    level = torch.zeros(1)
    with torch.no_grad():
        first = policy.network(noise, level, observation)
        second = policy.network(changed, level, observation)
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert (first[:, 3:] - second[:, 3:]).abs().max() > 1e-3


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="network.kind: got 'rnn', expected"):
        ScorePolicy(NetworkSettings("rnn", INPUT, GOAL, ACTION, HORIZON))
