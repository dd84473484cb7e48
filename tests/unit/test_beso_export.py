"""The exported graph against torch, and what normalisation and goals do inside the policy."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from policies.beso.baselines import make_policy
from policies.beso.diffusion import SamplerSettings
from policies.beso.export import export_onnx
from policies.beso.network import SIGMA_DATA, NetworkSettings, Normaliser
from policies.beso.policy import ChunkPolicy, ScorePolicy
from policies.beso.quantise import quantise

INPUT, GOAL, ACTION, HORIZON = 11, 3, 4, 5
Arrays = dict[str, np.ndarray]


def random_policy(
    kind: str, sampler: SamplerSettings | None = None, method: str = "beso", **shape: object
) -> ChunkPolicy:
    """Small, with every weight random: a fresh network's zero layers would hide errors."""
    torch.manual_seed(0)
    sizes = {"width": 32, "blocks": 2, "heads": 2, "horizon": HORIZON} | shape
    settings = NetworkSettings(kind, INPUT, GOAL, ACTION, **sizes)  # type: ignore[arg-type]
    policy = make_policy(method, settings)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    policy.fit(2.0 + 3.0 * torch.randn(500, INPUT), 0.3 + 0.5 * torch.randn(500, ACTION))
    policy.sampler = sampler or SamplerSettings()
    return policy.eval()


def random_inputs(policy: ChunkPolicy, batch: int) -> Arrays:
    generator = np.random.default_rng(batch)
    window = policy.settings.window
    seen = (INPUT,) if window == 1 else (window, INPUT)
    observation = 2.0 + 3.0 * generator.standard_normal((batch, *seen))
    noise = generator.standard_normal((batch, *policy.noise_shape))
    return {"observation": observation.astype("f4"), "noise": noise.astype("f4")}


def run_torch(policy: ChunkPolicy, feed: Arrays) -> np.ndarray:
    with torch.no_grad():
        actions: np.ndarray = policy(*(torch.from_numpy(part) for part in feed.values())).numpy()
    return actions


def exported(policy: ChunkPolicy, folder: Path) -> bytes:
    path = folder / "policy.onnx"
    export_onnx(policy, path)
    return path.read_bytes()


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "policy",
    [
        random_policy("mlp"),
        random_policy(
            "mlp", SamplerSettings(name="heun", schedule="karras", steps=2, noise_scale=0.3)
        ),
        random_policy("mlp", SamplerSettings(name="dpmpp_2m", schedule="linear", cfg_lambda=1.5)),
        random_policy("mlp", SamplerSettings(name="euler_ancestral"), window=2),
        random_policy("mlp", SamplerSettings(cfg_lambda=1.5), film=True),
        random_policy("transformer", SamplerSettings(steps=1, cfg_lambda=2.0)),
        random_policy("transformer", window=3, horizon=1, goal_states=3),
        random_policy("transformer", window=3, horizon=2, goal_states=3),
        random_policy("transformer", window=3, horizon=2, goal_states=3, order="prefix"),
        random_policy("transformer", window=3, order="prefix"),
        random_policy("transformer", SamplerSettings(cfg_lambda=1.5), window=2, order="prefix"),
        random_policy("mlp", method="bc"),
        random_policy("decoder", SamplerSettings(cfg_lambda=1.5), window=2, goal_states=3),
    ],
)
def test_graph_agrees_with_torch_at_any_batch(policy: ChunkPolicy, tmp_path: Path) -> None:
    session = open_session(exported(policy, tmp_path))
    for batch in (1, 2, 7):
        feed = random_inputs(policy, batch)
        expected = run_torch(policy, feed)
        (found,) = session.run(["actions"], feed)
        assert found.shape == (batch, policy.settings.horizon, ACTION)
        assert np.abs(found - expected).max() <= 1e-5
    stored = json.loads(session.get_modelmeta().custom_metadata_map["sampler"])
    assert stored == (policy.sampler.to_dict() if isinstance(policy, ScorePolicy) else None)


def large_policy(order: str) -> ChunkPolicy:
    """Wide enough that its matrices are quantised, with the weights of a fresh network."""
    torch.manual_seed(1)
    shape = {"horizon": 1, "width": 192, "blocks": 2, "heads": 4, "window": 4}
    settings = NetworkSettings("transformer", INPUT, GOAL, ACTION, order=order, **shape)  # type: ignore[arg-type]
    return make_policy("beso", settings).eval()


@pytest.mark.parametrize("order", ["paper", "prefix"])
def test_quantised_graph_stays_near_the_exact_one(order: str, tmp_path: Path) -> None:
    policy = large_policy(order)
    exact = exported(policy, tmp_path)
    rounded = quantise(exact, blockwise=False)
    assert len(rounded) < 0.4 * len(exact)
    model = onnx.load_from_string(rounded)
    products = [node.op_type for node in model.graph.node].count("MatMulInteger")
    # Four a layer; the last one computes its queries apart.
    assert products == 3 * (4 * policy.settings.blocks + 1)
    assert {node.domain for node in model.graph.node} == {""}, "standard operators only"
    session = open_session(rounded)
    stored = json.loads(session.get_modelmeta().custom_metadata_map["sampler"])
    assert stored == policy.sampler.to_dict()
    for batch in (1, 2, 64):
        feed = random_inputs(policy, batch)
        expected = run_torch(policy, feed)
        (found,) = session.run(["actions"], feed)
        # A batch shares the scale of its activations: the larger it is, the coarser.
        assert np.abs(found - expected).mean() < 0.05 * expected.std()
        previous = expected + 1.0
        weight = np.ones(expected.shape[:2], dtype=np.float32)
        (held,) = session.run(["actions"], feed | {"previous": previous, "weight": weight})
        np.testing.assert_allclose(held, previous, atol=1e-4)


def test_no_pair_of_products_overflows_16_bits(tmp_path: Path) -> None:
    model = onnx.load_from_string(quantise(exported(large_policy("paper"), tmp_path), False))
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    matrices = [array.astype(int) for array in weights if array.dtype == np.int8 and array.ndim > 1]
    assert matrices
    for matrix in matrices:
        pairs = np.abs(matrix[0::2]) + np.abs(matrix[1::2])
        assert 255 * int(pairs.max()) <= np.iinfo(np.int16).max


def test_rounding_by_block_is_nearer_and_leaves_rows_to_themselves(tmp_path: Path) -> None:
    policy = random_policy("mlp", width=256)
    exact = exported(policy, tmp_path)
    by_block, by_column = quantise(exact, blockwise=True), quantise(exact, blockwise=False)
    assert len(by_block) < 0.4 * len(exact)
    products = [node.op_type for node in onnx.load_from_string(by_block).graph.node]
    assert products.count("MatMulNBits") == 3 * 2 * policy.settings.blocks, "two a block, each step"
    feed = random_inputs(policy, 64)
    expected = run_torch(policy, feed)
    session, other = open_session(by_block), open_session(by_column)
    (found,), (coarser,) = session.run(["actions"], feed), other.run(["actions"], feed)
    assert np.abs(found - expected).mean() < 0.02 * expected.std()
    assert np.abs(found - expected).mean() < 0.5 * np.abs(coarser - expected).mean()
    alone = [session.run(["actions"], {k: v[i : i + 1] for k, v in feed.items()}) for i in range(8)]
    np.testing.assert_allclose(np.concatenate([a for (a,) in alone]), found[:8], atol=1e-4)
    stored = json.loads(session.get_modelmeta().custom_metadata_map["sampler"])
    assert stored == policy.sampler.to_dict()


@pytest.mark.parametrize("precision", ["fp32", "by column", "by block"])
def test_graph_says_nothing_of_the_machine_that_made_it(precision: str, tmp_path: Path) -> None:
    graph = exported(random_policy("mlp", width=256), tmp_path)
    content = graph if precision == "fp32" else quantise(graph, precision == "by block")
    for name in (Path(__file__).parents[2], tmp_path, tempfile.gettempdir() + os.sep):
        assert str(name).encode() not in content


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


@pytest.mark.parametrize("kind", ["mlp", "transformer", "decoder"])
def test_guidance_zero_ignores_the_goal_and_one_follows_it(kind: str) -> None:
    policy = random_policy(kind, SamplerSettings(cfg_lambda=0.0))
    feed = random_inputs(policy, 6)
    other = feed | {"observation": feed["observation"].copy()}
    other["observation"][:, INPUT - GOAL :] += 1.0
    np.testing.assert_allclose(run_torch(policy, feed), run_torch(policy, other))
    policy.sampler = SamplerSettings(cfg_lambda=1.0)
    assert np.abs(run_torch(policy, feed) - run_torch(policy, other)).max() > 1e-3


def test_goals_are_dropped_whole_and_per_sample() -> None:
    policy = random_policy("mlp")
    observation = torch.ones(3, INPUT)
    dropped = policy.drop_goal(observation, torch.tensor([0.0, 1.0, 0.0]))
    assert dropped[1, INPUT - GOAL :].abs().max() == 0.0
    assert torch.equal(dropped[[0, 2]], observation[[0, 2]])
    assert torch.equal(dropped[:, : INPUT - GOAL], observation[:, : INPUT - GOAL])


def test_what_modulates_a_fresh_network_changes_nothing_and_then_learns() -> None:
    settings = NetworkSettings("mlp", INPUT, GOAL, ACTION, HORIZON, film=True)
    torch.manual_seed(0)
    policy = make_policy("beso", settings)
    plain = make_policy("beso", replace(settings, film=False))
    kept = {k: v for k, v in policy.state_dict().items() if not k.startswith("network.film.")}
    plain.load_state_dict(kept)
    feed = random_inputs(policy, 4)
    for model in (policy, plain):
        torch.nn.init.ones_(model.network.blocks[0].down.weight)
    np.testing.assert_array_equal(run_torch(policy, feed), run_torch(plain, feed))
    policy(*(torch.from_numpy(part) for part in feed.values())).square().sum().backward()
    assert policy.network.film[-1].weight.grad.abs().sum() > 0.0
    with pytest.raises(ValueError, match=r"network\.film: got true, expected false for a decoder"):
        replace(settings, kind="decoder")


def test_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="network.kind: got 'rnn', expected"):
        NetworkSettings("rnn", INPUT, GOAL, ACTION, HORIZON)
