"""Bundles with a residual: what loads, what is refused, and that no correction passes its bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_bundle import drop, edit_manifest, error_of, put, replace_file
from tiny_bundle import (
    ACTION_SIZE,
    BOUND,
    HARDWARE_HASH,
    SPEC,
    refine,
    residual_graph,
    write,
    write_refined,
)

from policies.bundle import BundleError, load_bundle
from policies.manifest import CHECK, RESIDUAL
from policies.runtime import Policy, PolicyError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid refined bundle."""
    path = tmp_path / "tiny_linear"
    write_refined(path)
    return path


def test_refined_bundle_corrects_within_its_bound(folder: Path) -> None:
    policy = Policy(load_bundle(folder, hardware_hash=HARDWARE_HASH))
    policy.warm_up()
    rng = np.random.default_rng(1)
    observation = 0.02 * rng.standard_normal((50, SPEC.input_size))
    base = rng.standard_normal((50, ACTION_SIZE))
    expected = refine(observation, base)
    np.testing.assert_allclose(policy.refine(observation, base), expected, atol=1e-6)
    assert (np.abs(expected - base) < np.array(BOUND) - 1e-6).any()
    far = policy.refine(1e6 * observation, base)
    assert (np.abs(far - base) <= np.array(BOUND) + 1e-6).all()


def test_runtime_insists_on_the_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(load_bundle(folder, hardware_hash=HARDWARE_HASH))
    monkeypatch.setattr(
        "policies.bundle.Bundle.run_residual", lambda self, seen, base: base + np.float32(5.0)
    )
    refined = policy.refine(np.zeros((1, SPEC.input_size)), np.zeros((1, ACTION_SIZE)))
    np.testing.assert_allclose(refined, [BOUND], atol=1e-7)


@pytest.mark.parametrize(
    ("observation", "base", "message"),
    [
        (np.zeros((2, 5)), np.zeros((2, 3)), r"observation: got shape \(2, 5\), expected \(2, 6"),
        (np.zeros((2, 6)), np.zeros((1, 3)), r"base_action: got shape \(1, 3\), expected \(2, 3"),
        (np.zeros(6), np.zeros((1, 3)), r"observation: got shape \(6,\)"),
        (np.full((1, 6), np.nan), np.zeros((1, 3)), "observation: got a value that is not finite"),
        (np.zeros((1, 6)), np.full((1, 3), np.inf), "base_action: got a value that is not finite"),
    ],
)
def test_bad_inputs_are_refused(
    folder: Path, observation: np.ndarray, base: np.ndarray, message: str
) -> None:
    policy = Policy(load_bundle(folder, hardware_hash=HARDWARE_HASH))
    with pytest.raises(PolicyError, match=message):
        policy.refine(observation, base)


def test_a_bundle_without_residual_refuses_to_refine(tmp_path: Path) -> None:
    policy = Policy(write(tmp_path / "tiny"))
    assert not policy.refines
    with pytest.raises(PolicyError, match="got no residual"):
        policy.refine(np.zeros((1, SPEC.input_size)), np.zeros((1, ACTION_SIZE)))


def test_a_residual_past_its_bound_is_not_written(tmp_path: Path) -> None:
    wide = residual_graph((0.01, 0.02, 3.0))
    with pytest.raises(
        BundleError, match=r"residual\.onnx:action: got a correction of \d\S* times"
    ):
        write_refined(tmp_path / "wide", wide, near=1e-3)


def test_spoilt_residuals_are_refused(folder: Path) -> None:
    good = (folder / RESIDUAL).read_bytes()
    for content, message in (
        (good[:100], "residual.onnx: got a graph that onnxruntime refuses"),
        (residual_graph(name="base"), "inputs: got base, observation, expected base_action, obs"),
        (residual_graph((0.001, 0.001, 0.001)), "away from the stored output of check.npz"),
    ):
        replace_file(folder, RESIDUAL, content)
        assert message in error_of(folder)
    (folder / RESIDUAL).unlink()
    assert "residual.onnx: got no readable file" in error_of(folder)


def test_manifest_and_files_have_to_agree(folder: Path) -> None:
    edit_manifest(folder, put([0.01, 0.0, 0.03], "residual", "bound"))
    assert "residual.bound: got [0.01, 0.0, 0.03], expected largest corr" in error_of(folder)
    edit_manifest(folder, put([0.01], "residual", "bound"))
    assert "residual.bound: got [0.01], expected a list of 3 finite" in error_of(folder)
    edit_manifest(folder, put(None, "residual"))
    assert "files.residual.onnx: got a hash, expected none" in error_of(folder)
    edit_manifest(folder, put({"scale": 0.1, "bound": list(BOUND)}, "residual"))
    edit_manifest(folder, drop("files", RESIDUAL))
    assert "files.residual.onnx: got nothing, expected a hash" in error_of(folder)


def test_check_of_a_residual_is_needed(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / CHECK) as stored:
        arrays = {key: stored[key] for key in stored.files if key != "refined"}
    np.savez(tmp_path / "other.npz", **arrays)
    replace_file(folder, CHECK, (tmp_path / "other.npz").read_bytes())
    assert "got arrays actions, base_action, noise, observation, expected" in error_of(folder)


def test_writing_again_without_a_residual_takes_it_away(folder: Path) -> None:
    bundle = write(folder)
    assert bundle.residual is None and not (folder / RESIDUAL).exists()
