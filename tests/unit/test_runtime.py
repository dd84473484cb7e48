"""The runtime: what it answers, what it refuses, and how long it takes to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import ACTION_SIZE, HORIZON, SPEC, answer, graph, write

from policies.runtime import Policy, PolicyError


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """A linear policy."""
    policy = Policy(write(tmp_path / "tiny"))
    policy.warm_up()
    return policy


@pytest.mark.parametrize("count", [1, 5])
def test_answers_batches_of_any_size_unclipped(policy: Policy, count: int) -> None:
    rng = np.random.default_rng(0)
    observation = 1e3 * rng.standard_normal((count, SPEC.input_size))
    noise = rng.standard_normal((count, HORIZON, ACTION_SIZE))
    actions = policy.infer(observation, noise)
    assert actions.shape == (count, HORIZON, ACTION_SIZE)
    assert actions.dtype == np.float32
    expected = answer(observation.astype(np.float32), noise.astype(np.float32))
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-2)


def test_draws_the_noise_from_the_given_generator(policy: Policy) -> None:
    observation = np.zeros((2, SPEC.input_size))
    first = policy.infer(observation, rng=np.random.default_rng(7))
    again = policy.infer(observation, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(
    ("observation", "noise", "message"),
    [
        (np.zeros(SPEC.input_size), None, r"observation: got shape \(6,\), expected \(N, 6\)"),
        (np.zeros((2, 5)), None, r"observation: got shape \(2, 5\), expected \(N, 6\)"),
        (np.zeros((2, 6)), None, r"noise: got neither noise nor rng"),
        (np.zeros((2, 6)), np.zeros((1, 4, 3)), r"noise: got shape \(1, 4, 3\), expected \(2, 4"),
        (np.full((1, 6), np.nan), np.zeros((1, 4, 3)), r"observation: got a value that is not"),
        (np.zeros((1, 6)), np.full((1, 4, 3), np.inf), r"noise: got a value that is not finite"),
    ],
)
def test_refuses_bad_inputs(
    policy: Policy, observation: np.ndarray, noise: np.ndarray | None, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        policy.infer(observation, noise)


def test_refuses_to_hand_out_what_is_not_finite(policy: Policy) -> None:
    huge = np.full((1, SPEC.input_size), 3e38)
    with pytest.raises(PolicyError, match="actions: got a value that is not finite"):
        policy.infer(huge, np.zeros((1, HORIZON, ACTION_SIZE)))


def test_import_loads_neither_a_runtime_nor_torch() -> None:
    code = (
        "import sys; import policies.runtime;"
        "print([m for m in ('onnxruntime', 'onnx', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_graph_runs_on_one_thread(tmp_path: Path) -> None:
    session = write(tmp_path / "tiny", graph()).session
    assert session.get_session_options().intra_op_num_threads == 1
