"""The residual policy and the arithmetic of its two trainers, each against its definition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from policies.residual.export import export_residual
from policies.residual.network import ResidualPolicy, ResidualSettings
from training.dataset import Demonstrations
from training.residual_env import Setting
from training.train_residual import Args as PPOArgs
from training.train_residual import annealed, generalised_advantages
from training.train_residual_td import Args, Buffer, Ensemble, demonstrations

D, A = 5, 3


def fitted(**settings: Any) -> ResidualPolicy:
    """A policy with statistics and weights that are not those of the start."""
    torch.manual_seed(0)
    policy = ResidualPolicy(ResidualSettings(D, A, width=16, **settings))
    policy.normaliser.fit(3.0 + 2.0 * torch.randn(200, D), torch.randn(200, A) * 0.01)
    return policy


def shaken(policy: ResidualPolicy, scale: float) -> ResidualPolicy:
    with torch.no_grad():
        for parameter in policy.actor.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return policy


def test_it_starts_as_the_base() -> None:
    base = torch.randn(7, A)
    torch.testing.assert_close(fitted()(torch.randn(7, D), base), base, rtol=0, atol=0)


@pytest.mark.parametrize("squash", [False, True])
def test_the_correction_keeps_its_bound(squash: bool) -> None:
    """However large the weights and inputs, a tenth of two standard deviations is never passed."""
    policy, base = shaken(fitted(squash=squash), 10.0), torch.randn(50, A)
    correction = policy(1e4 * torch.randn(50, D), base) - base
    expected = 0.1 * torch.tensor([0.02] * A)
    assert (correction.abs() <= policy.bound + 1e-7).all()
    assert correction.abs().max() > 0.9 * policy.bound.min()
    torch.testing.assert_close(policy.bound, expected, rtol=0.2, atol=0.0)


def test_blind_to_the_base_it_adds_the_same_to_any() -> None:
    policy, seen = shaken(fitted(sees_base=False), 0.3), torch.randn(4, D)
    first, second = torch.randn(4, A), torch.randn(4, A)
    torch.testing.assert_close(policy(seen, first) - first, policy(seen, second) - second)


def test_without_a_base_its_actions_do_not_depend_on_it() -> None:
    policy, seen = shaken(fitted(sees_base=False, base_gain=0.0, scale=2.0), 0.3), torch.randn(4, D)
    first, second = policy(seen, torch.randn(4, A)), policy(seen, torch.randn(4, A))
    torch.testing.assert_close(first, second)


def test_the_graph_computes_what_the_network_does() -> None:
    policy = shaken(fitted(), 0.3)
    session = onnxruntime.InferenceSession(export_residual(policy))
    for size in (1, 9):
        seen, base = torch.randn(size, D) * 4.0, torch.randn(size, A)
        feed = {"observation": seen.numpy(), "base_action": base.numpy()}
        with torch.no_grad():
            expected = policy(seen, base).numpy()
        np.testing.assert_allclose(session.run(["action"], feed)[0], expected, atol=1e-6)


def test_advantages_are_the_sum_they_are_defined_by() -> None:
    """Against the plain double sum of discounted temporal differences, cut at episodes' ends."""
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 2))
    dones = (rng.random((6, 2)) < 0.3).astype(float)
    following, gamma, decay = rng.normal(size=2), 0.9, 0.8
    nexts = np.concatenate([values[1:], following[None]])
    delta = rewards + gamma * nexts * (1 - dones) - values
    expected = np.zeros((6, 2))
    for t in range(6):
        weight = np.ones(2)
        for k in range(t, 6):
            expected[t] += weight * delta[k]
            weight *= gamma * decay * (1 - dones[k])
    tensors = [torch.from_numpy(x) for x in (rewards, values, dones, following)]
    found = generalised_advantages(*tensors, gamma, decay)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("anneal_from", "left"), [(1.0, [1, 1, 1, 1]), (0.5, [1, 1, 0.5, 0]), (0.0, [1, 0.5, 0.25, 0])]
)
def test_learning_rates_fall_to_nothing(anneal_from: float, left: list[float]) -> None:
    args = PPOArgs(steps=1000, anneal_from=anneal_from)
    assert [annealed(args, steps) for steps in (0, 500, 750, 1100)] == left


def test_the_ensemble_is_many_critics_side_by_side() -> None:
    torch.manual_seed(1)
    ensemble, seen, residual = Ensemble(3, D, A, 8), torch.randn(4, D), torch.randn(4, A)
    for e in range(3):
        x = torch.cat([seen, residual], dim=-1)
        for i, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
            x = x @ weight[e] + bias[e]
            if i < 2:
                x = torch.relu(torch.layer_norm(x, x.shape[-1:]))
        torch.testing.assert_close(ensemble(seen, residual)[e], x[:, 0])


def test_the_buffer_forgets_the_oldest() -> None:
    buffer = Buffer(4, 1, 1)
    for k in range(3):
        rows = torch.full((2, 1), float(k))
        buffer.add(rows, rows, rows, rows, rows)
    assert len(buffer) == 4
    assert sorted(buffer.columns[0].flatten().tolist()) == [1.0, 1.0, 2.0, 2.0]


def test_demonstrations_become_transitions_of_n_steps() -> None:
    """Returns, discounts and what follows, counted by hand; no stretch with a disturbance."""
    policy = fitted()
    spec = SimpleNamespace(input_size=D, action_size=A)
    length, base_action = 6, 0.5
    rng = np.random.default_rng(2)
    observation = rng.normal(size=(2 * length, D)).astype(np.float32)
    action = np.full((2 * length, A), base_action, np.float32) + np.float32(0.5) * np.float32(0.002)
    disturbed = np.zeros(2 * length, bool)
    disturbed[length + 4] = True
    data = Demonstrations(
        observation, action, disturbed, np.repeat([0, 1], length), np.array([0, 1]),
        np.array([length] * 2), np.ones(2, bool), spec, "peg_insert", {},  # type: ignore[arg-type]
    )  # fmt: skip
    base: Any = SimpleNamespace(infer=lambda seen, rng: np.full((len(seen), 8, A), base_action))
    base.infer = lambda seen, rng: np.full((len(seen), 8, A), base_action, np.float32)
    args = Args(n_step=3, gamma=0.9)
    buffer = demonstrations(data, base, policy, args)
    # Rows 2, 3 and 4 of the second episode reach over its disturbed step.
    assert len(buffer) == 2 * length - 3
    features, residual, returned, discount, following = (c.numpy() for c in buffer.columns)
    with torch.no_grad():
        every = policy.features(
            torch.from_numpy(observation), torch.full((2 * length, A), base_action)
        ).numpy()
    np.testing.assert_allclose(features[:length], every[:length], atol=1e-6)
    np.testing.assert_allclose(returned[:length, 0], [0, 0, 0, 0.81, 0.9, 1.0], atol=1e-6)
    np.testing.assert_allclose(discount[:length, 0], [0.729] * 3 + [0.0] * 3, atol=1e-6)
    np.testing.assert_allclose(following[:3], every[3:6], atol=1e-6)
    expected = (0.001 / policy.bound).clamp(-1, 1).numpy()
    np.testing.assert_allclose(residual, np.tile(expected, (len(buffer), 1)), rtol=1e-3)


def test_settings_are_read_or_refused() -> None:
    assert Setting.parse("high:0.2") == Setting("high", 0.2)
    assert Setting.parse("med:0.5:45") == Setting("med", 0.5, 45.0)
    assert str(Setting("med", 0.5)) == str(Setting("med", 0.5, 45.0)) == "med:0.5"
    for text in ("med", "med:", "med:wide", "med:0.5:", "med:0.5:45:1"):
        with pytest.raises(ValueError, match=r"--settings: got '.*', expected level:clearance"):
            Setting.parse(text)
