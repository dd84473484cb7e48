"""Bundles: a valid one loads, every spoilt one is refused with a message that says why."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import (
    HARDWARE_HASH,
    HORIZON,
    MANIFEST,
    SAMPLER,
    SPEC,
    check,
    graph,
    write,
)

from policies.bundle import (
    CHECK,
    GRAPH,
    ZOO,
    BundleError,
    Check,
    bundle_folder,
    check_task,
    load_bundle,
    record_evaluation,
    write_bundle,
)
from policies.manifest import Evaluation
from policies.spec import Spec

Spoil = Callable[[dict[str, Any]], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a valid bundle."""
    path = tmp_path / "tiny_linear"
    write(path)
    return path


def error_of(folder: Path, hardware_hash: str = HARDWARE_HASH) -> str:
    with pytest.raises(BundleError) as error:
        load_bundle(folder, hardware_hash=hardware_hash)
    return str(error.value)


def edit_manifest(folder: Path, spoil: Spoil) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    spoil(manifest)
    path.write_text(json.dumps(manifest))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file and its hash, so that what comes after the hashes is reached."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: digest}))


def test_written_bundle_loads_with_what_was_written(folder: Path) -> None:
    bundle = load_bundle(folder, hardware_hash=HARDWARE_HASH)
    assert bundle.name == "tiny_linear"
    assert bundle.spec == SPEC
    assert bundle.noise_shape == (HORIZON, SPEC.action_size)
    assert (bundle.horizon, bundle.execute_steps, bundle.rate_hz) == (HORIZON, 2, 10.0)
    assert dict(bundle.manifest.sampler or {}) == SAMPLER
    assert dict(bundle.manifest.seeds) == MANIFEST["seeds"]
    np.testing.assert_array_equal(bundle.check.actions, check().actions)


def test_policy_that_samples_nothing_has_no_sampler(tmp_path: Path) -> None:
    manifest = MANIFEST | {"sampler": None}
    bundle = write_bundle(tmp_path / "bc", graph(sampler=None), check(), **manifest)
    assert bundle.manifest.sampler is None


def test_names_are_looked_up_in_the_zoo_and_paths_are_not(tmp_path: Path) -> None:
    assert bundle_folder("peg_beso") == ZOO / "peg_beso"
    assert bundle_folder(tmp_path) == tmp_path
    assert bundle_folder("./peg_beso/x") == Path("peg_beso/x")


def test_recorded_evaluation_replaces_the_one_at_the_same_setting(folder: Path) -> None:
    record_evaluation(folder, Evaluation("med", 0.5, 10, 5, (0.24, 0.76)))
    record_evaluation(folder, Evaluation("low", 0.5, 10, 9, (0.6, 0.98)))
    record_evaluation(folder, Evaluation("med", 0.5, 200, 180, (0.85, 0.93)))
    evaluated = load_bundle(folder, hardware_hash=HARDWARE_HASH).manifest.evaluated
    assert [(e.level, e.episodes, e.successes) for e in evaluated] == [
        ("low", 10, 9),
        ("med", 200, 180),
    ]


def drop(*keys: str) -> Spoil:
    def spoil(manifest: dict[str, Any]) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        del manifest[keys[-1]]

    return spoil


def put(value: Any, *keys: str | int) -> Spoil:
    def spoil(manifest: Any) -> None:
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return spoil


EVALUATION = Evaluation("med", 0.5, 10, 5, (0.24, 0.76)).to_dict()

BAD_MANIFESTS: list[tuple[str, Spoil, str]] = [
    ("missing key", drop("task"), "task: got nothing, expected a lower-case name"),
    ("missing rate", drop("rate_hz"), "rate_hz: got nothing, expected a finite number above 0"),
    (
        "missing sampler key",
        drop("sampler", "steps"),
        "sampler.steps: got nothing, expected a whole",
    ),
    ("unknown key", put(1, "colour"), "colour: got an unknown key, expected one of commands, "),
    ("text for a number", put("4", "horizon"), "horizon: got '4', expected a whole number"),
    ("bool for a number", put(True, "rate_hz"), "rate_hz: got True, expected a finite number"),
    (
        "too many steps",
        put(5, "execute_steps"),
        "execute_steps: got 5, expected at most the horizon",
    ),
    ("rate not the spec's", put(20.0, "rate_hz"), "rate_hz: got 20.0, expected 10"),
    ("noise shape", put([4, 4], "noise_shape"), r"noise_shape: got [4, 4], expected [4, 3]"),
    ("wrong horizon", put(8, "horizon"), "noise_shape: got [4, 3], expected [8, 3]"),
    ("short hash", put("ab", "data_sha256"), "data_sha256: got 'ab', expected a SHA-256"),
    ("sigma order", put(2.0, "sampler", "sigma_min"), "sampler.sigma_max: got 1.0, expected more"),
    ("fractional seed", put(0.5, "seeds", "train"), "seeds.train: got 0.5, expected a whole"),
    ("commands", put("make", "commands"), "commands: got 'make', expected a list of texts"),
    ("unknown file", put("c" * 64, "files", "a.onnx"), "files.a.onnx: got an unknown key"),
    ("unlisted graph", drop("files", GRAPH), "files.policy.onnx: got nothing, expected a SHA-256"),
    ("spec not a mapping", put(3, "spec"), "spec: got 3, expected a mapping"),
    (
        "spec field",
        put([0], "spec", "action", 0, "shape"),
        "manifest.json:spec:action[0].shape: got [0], expected a list of whole numbers",
    ),
    (
        "successes",
        put([EVALUATION | {"successes": 11}], "evaluated"),
        "evaluated[0].successes: got 11, expected at most the episodes 10",
    ),
    (
        "rate of successes",
        put([EVALUATION | {"success_rate": 0.9}], "evaluated"),
        "evaluated[0].success_rate: got 0.9, expected 0.5000",
    ),
    (
        "interval",
        put([EVALUATION | {"ci95": [0.6, 0.7]}], "evaluated"),
        "evaluated[0].ci95: got [0.6, 0.7], expected an interval within 0 and 1",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "message"), [row[1:] for row in BAD_MANIFESTS], ids=[row[0] for row in BAD_MANIFESTS]
)
def test_bad_manifest_is_refused(folder: Path, spoil: Spoil, message: str) -> None:
    edit_manifest(folder, spoil)
    error = error_of(folder)
    assert message in error
    assert all(line.startswith("tiny_linear/manifest.json:") for line in error.split("\n"))


def test_every_problem_of_a_manifest_is_named_at_once(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest.update(horizon="4", name=None, extra=0))
    keys = [line.split(":")[1] for line in error_of(folder).split("\n")]
    assert sorted(keys) == ["extra", "horizon", "name"]


def test_manifest_that_is_no_json_or_repeats_a_key_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    assert "tiny_linear/manifest.json: got no JSON" in error_of(folder)
    path.write_text(text.replace("{", '{"name": "other",', 1))
    assert "manifest.json:name: got the key again, expected it once" in error_of(folder)
    path.unlink()
    assert "tiny_linear/manifest.json: got no such file, expected a JSON file" in error_of(folder)


def test_a_policy_is_for_one_task_and_its_spec(folder: Path) -> None:
    bundle = load_bundle(folder, hardware_hash=HARDWARE_HASH)
    task, spec = bundle.manifest.task, bundle.spec
    check_task(bundle, "--bundle", task, spec)
    with pytest.raises(ValueError, match=f"--base: got a policy for {task}, expected one for tea"):
        check_task(bundle, "--base", "tea", spec)
    other = replace(spec, rate_hz=spec.rate_hz + 1.0)
    with pytest.raises(ValueError, match="--bundle: got .* are not those of"):
        check_task(bundle, "--bundle", task, other)


def test_foreign_hardware_hash_is_refused(folder: Path) -> None:
    error = error_of(folder, hardware_hash="f" * 64)
    assert f"manifest.json:hardware_hash: got '{HARDWARE_HASH}', expected '{'f' * 64}'" in error


def test_corrupt_file_is_refused_before_the_runtime_sees_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("onnxruntime must not see unverified bytes")

    monkeypatch.setattr("policies.bundle.open_graph", refuse)
    for name in (GRAPH, CHECK):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        assert re.search(rf"tiny_linear:{name}: got SHA-256 \w+, expected \w+ of", error_of(folder))
        (folder / name).write_bytes(content[:100])
        assert f"tiny_linear:{name}: got SHA-256" in error_of(folder)
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", [GRAPH, CHECK])
def test_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"tiny_linear:{name}: got no readable file" in error_of(folder)


def test_unlisted_file_is_refused(folder: Path) -> None:
    (folder / "README.md").write_text("A linear policy.")
    load_bundle(folder, hardware_hash=HARDWARE_HASH)
    (folder / "old.onnx").write_bytes(b"")
    assert "tiny_linear:old.onnx: got a file that the manifest does not list" in error_of(folder)


OTHER_SAMPLER = SAMPLER | {"noise_scale": 1.0}
BAD_GRAPHS: list[tuple[str, bytes, str]] = [
    ("truncated", graph()[:200], "got a graph that onnxruntime refuses"),
    ("not onnx", b"not a graph", "got a graph that onnxruntime refuses"),
    (
        "extra input",
        graph(extra_input="mask"),
        "inputs: got mask, noise, observation, expected noise, observation",
    ),
    ("other output", graph(output="chunk"), "outputs: got chunk, expected actions"),
    (
        "wrong horizon",
        graph(horizon=8),
        "inputs.noise: got shape ('N', 8, 3), expected shape (N, 4, 3) of the manifest",
    ),
    (
        "wrong spec",
        graph(input_size=7),
        "inputs.observation: got shape ('N', 7), expected shape (N, 6) of the manifest",
    ),
    ("fixed batch", graph(batch=1), "inputs.noise: got a fixed batch of 1, expected a free batch"),
    ("doubles", graph(element=11), "inputs.noise: got tensor(double), expected tensor(float)"),
    ("other sampler", graph(sampler=OTHER_SAMPLER), 'metadata.sampler: got {"cfg_lambda": 1.0'),
    ("no sampler", graph(metadata=False), "metadata.sampler: got nothing, expected {"),
    ("not finite", graph(last="Log"), "actions: got a value that is not finite"),
    ("other numbers", graph(last="Neg"), "away from the stored output of check.npz"),
]


@pytest.mark.parametrize(
    ("model", "message"), [row[1:] for row in BAD_GRAPHS], ids=[row[0] for row in BAD_GRAPHS]
)
def test_bad_graph_is_refused_though_its_hash_is_right(
    folder: Path, model: bytes, message: str
) -> None:
    replace_file(folder, GRAPH, model)
    error = error_of(folder)
    assert error.startswith("tiny_linear/policy.onnx:")
    assert message in error


def test_graph_that_fails_to_run_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("policies.bundle.Bundle.run", fail)
    assert "policy.onnx: got a failing run on the check input (out of memory)" in error_of(folder)


def test_bad_check_is_refused(folder: Path, tmp_path: Path) -> None:
    good = check()
    spoilt = {
        "arrays actions, observation, expected actions, noise, observation": {"noise": None},
        "check.npz:actions: got type float64, expected float32": {
            "actions": good.actions.astype(float)
        },
        "check.npz:actions: got shape (1, 4, 3), expected shape (N, 4, 3)": {
            "actions": good.actions[:1]
        },
        "check.npz:observation: got a value that is not finite": {
            "observation": np.full_like(good.observation, np.nan)
        },
    }
    for message, change in spoilt.items():
        arrays = {"observation": good.observation, "noise": good.noise, "actions": good.actions}
        arrays = {key: value for key, value in {**arrays, **change}.items() if value is not None}
        np.savez(tmp_path / "other.npz", **arrays)
        replace_file(folder, CHECK, (tmp_path / "other.npz").read_bytes())
        assert message in error_of(folder)
    replace_file(folder, CHECK, b"no archive")
    assert "check.npz: got no readable arrays" in error_of(folder)


def test_writer_refuses_what_would_not_load(tmp_path: Path) -> None:
    right = check()
    wrong = Check(right.observation, right.noise, right.actions + np.float32(1e-3))
    with pytest.raises(BundleError, match=r"got 0\.001\d* away from the stored output"):
        write(tmp_path / "a", stored=wrong)
    other = Spec(SPEC.observation, (), SPEC.action, SPEC.rate_hz)
    with pytest.raises(BundleError, match=r"observation: got shape"):
        write_bundle(tmp_path / "b", graph(), right, **(MANIFEST | {"spec": other}))
