"""Policy bundles: a folder with the graph, a manifest that says what it is, and a stored check.

A bundle is ``manifest.json``, ``policy.onnx`` and ``check.npz``, and ``weights.npz`` where the
network may be exported anew, with another sampler, or trained further. Loading trusts none of it:
the hash of each file is verified before onnxruntime sees a byte, the manifest has to agree with the
robot and the graph, and the graph has to reproduce the stored output of the network it was made
from. Anything else raises ``BundleError`` and the robot does not start.

The graph has the inputs ``observation`` (N, D), or (N, W, D) for a policy that looks at W
observations, and ``noise`` (N, *noise_shape), unit normal, and the output ``actions`` (N, H, A),
all float32 with a free N. Normalisation and the sampler's loop are inside. Two more inputs may be
left out, for their default is 0: ``previous`` (N, H, A), the actions of the chunk in execution from
the new chunk's first step on, and ``weight`` (N, H) in 0..1, how far the new chunk is held to them.

A bundle may hold a second graph, ``residual.onnx``, that corrects every action of a chunk just
before it is executed (ResiP): inputs ``observation`` (N, D), the newest, and ``base_action``
(N, A), output ``action`` (N, A), which differs from the base's by at most the manifest's bound.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_configs.strict import Problems, read_json
from policies.check import BundleError, Check, read_check, reproduce
from policies.graph import open_graph, open_residual
from policies.manifest import (
    CHECK,
    GRAPH,
    OPTIONAL_FILES,
    RESIDUAL,
    WEIGHTS,
    Evaluation,
    Manifest,
    Residual,
    SamplerValue,
    expected_noise_shape,
    read_manifest,
)
from policies.spec import Spec

ZOO = Path(__file__).parent / "zoo"
MANIFEST = "manifest.json"
# Files that may lie in a bundle without a hash in its manifest.
UNLISTED = {MANIFEST, "README.md"}

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A verified bundle.

    Attributes:
        folder: where it lies.
        manifest: what it says of itself.
        check: the stored check.
        session: the onnxruntime session of the graph.
        residual_session: that of the residual's, None in a bundle without one.
    """

    folder: Path
    manifest: Manifest
    check: Check
    session: Any
    residual_session: Any = None

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def spec(self) -> Spec:
        """The policy's inputs and outputs."""
        return self.manifest.spec

    @property
    def horizon(self) -> int:
        """Actions per chunk, H."""
        return self.manifest.horizon

    @property
    def execute_steps(self) -> int:
        """Actions of a chunk to execute before the next one is due."""
        return self.manifest.execute_steps

    @property
    def rate_hz(self) -> float:
        """Policy steps per second."""
        return self.manifest.spec.rate_hz

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Rows and columns of one chunk's noise; (H, A) for most samplers."""
        return self.manifest.noise_shape

    @property
    def window(self) -> int:
        """Observations that the policy looks at, W."""
        return self.manifest.window

    @property
    def continues(self) -> bool:
        """Whether a chunk can be made to continue the one in execution."""
        return bool(self.session.get_overridable_initializers())

    def run(
        self,
        observation: Float32Array,
        noise: Float32Array,
        previous: Float32Array | None = None,
        weight: Float32Array | None = None,
    ) -> Float32Array:
        """Runs the graph as it is; ``policies.runtime.Policy`` checks what goes in and out."""
        feed = {"observation": observation, "noise": noise}
        if previous is not None and weight is not None:
            feed |= {"previous": previous, "weight": weight}
        actions: Float32Array = self.session.run(["actions"], feed)[0]
        return actions

    @property
    def residual(self) -> Residual | None:
        """What the manifest says of the residual, if there is one."""
        return self.manifest.residual

    def run_residual(self, observation: Float32Array, base_action: Float32Array) -> Float32Array:
        """Runs the residual's graph as it is: (N, D) and (N, A) to refined actions (N, A)."""
        feed = {"observation": observation, "base_action": base_action}
        action: Float32Array = self.residual_session.run(["action"], feed)[0]
        return action


def bundle_folder(name_or_path: str | Path) -> Path:
    """Returns the folder of a bundle of the zoo by its name, or a path as it is."""
    path = Path(name_or_path)
    return ZOO / path if isinstance(name_or_path, str) and len(path.parts) == 1 else path


def check_task(bundle: Bundle, option: str, task: str, spec: Spec) -> None:
    """Raises ValueError, naming `option`, unless the policy is for `task` and its `spec`."""
    if bundle.manifest.task != task:
        raise ValueError(
            f"{option}: got a policy for {bundle.manifest.task}, expected one for {task}, "
            f"which {bundle.name} is not"
        )
    if bundle.spec != spec:
        raise ValueError(
            f"{option}: got {bundle.name}, whose observations and actions are not those of "
            f"{task}, expected a policy trained on data of this version"
        )


def load_bundle(name_or_path: str | Path, *, hardware_hash: str | None) -> Bundle:
    """Reads and verifies a bundle.

    Args:
        name_or_path: name of a bundle of the zoo, such as ``"peg_beso"``, or the folder's path.
        hardware_hash: ``HardwareConfig.hash`` of the robot that will run it; None where no robot
            will, as when its speed is measured.

    Raises:
        BundleError: anything is not as the manifest says, or the policy is for another robot.
    """
    folder = bundle_folder(name_or_path)
    root, problems = read_json(folder / MANIFEST, f"{folder.name}/{MANIFEST}", BundleError)
    manifest = read_manifest(root)
    problems.raise_if_any(BundleError)
    if hardware_hash is not None and manifest.hardware_hash != hardware_hash:
        expected = f"{hardware_hash!r}, the hash of this robot's hardware config"
        problems.add("hardware_hash", repr(manifest.hardware_hash), expected)
        problems.raise_if_any(BundleError)
    contents = _read_verified(folder, manifest)
    check = read_check(contents[CHECK], f"{folder.name}/{CHECK}", manifest)
    problems = Problems(f"{folder.name}/{GRAPH}")
    session = open_graph(contents[GRAPH], manifest, problems)
    problems.raise_if_any(BundleError)
    residual_session = None
    if manifest.residual is not None:
        problems = Problems(f"{folder.name}/{RESIDUAL}")
        residual_session = open_residual(contents[RESIDUAL], manifest, problems)
        problems.raise_if_any(BundleError)
    bundle = Bundle(folder, manifest, check, session, residual_session)
    run_residual = bundle.run_residual if manifest.residual is not None else None
    reproduce(check, manifest, folder.name, bundle.run, run_residual)
    return bundle


def write_bundle(
    folder: Path,
    graph: bytes,
    check: Check,
    *,
    name: str,
    task: str,
    method: str,
    spec: Spec,
    hardware_hash: str,
    horizon: int,
    execute_steps: int,
    sampler: Mapping[str, SamplerValue] | None,
    data_sha256: str,
    seeds: Mapping[str, int],
    commit: str,
    commands: Sequence[str],
    evaluated: Sequence[Evaluation] = (),
    window: int = 1,
    precision: str = "fp32",
    weights: bytes | None = None,
    residual: tuple[bytes, Residual] | None = None,
) -> Bundle:
    """Writes a bundle and loads it again, so that one that would be refused is never left as good.

    Args:
        folder: where to write; made if missing, its bundle replaced.
        graph: the serialised ONNX model; its metadata has under ``sampler`` the settings that are
            baked in, as JSON.
        check: inputs like the training data's and the exported network's own output on them.
        name: the bundle's name, such as ``peg_beso``.
        task: the task it was trained for, such as ``peg_insert``.
        method: how it was trained, such as ``beso``.
        spec: its inputs and outputs.
        hardware_hash: ``HardwareConfig.hash`` of the robot of its data.
        horizon: actions per chunk.
        execute_steps: actions to execute per chunk.
        sampler: name, schedule, steps, sigma_min, sigma_max, noise_scale, cfg_lambda; None for a
            policy that samples nothing.
        data_sha256: hash of the training data.
        seeds: every seed used, by what it was used for.
        commit: the commit of the code that made it, or ``unknown``.
        commands: the commands that made it, in order.
        evaluated: what was measured; ``record_evaluation`` adds more.
        window: observations that the policy looks at.
        precision: fp32 or int8, of the graph's matrices.
        weights: content of ``weights.npz``; see training.export.
        residual: the graph that corrects each action, and what is said of it.

    Raises:
        BundleError: the bundle would not load.
    """
    contents = {GRAPH: graph, CHECK: check.to_bytes()}
    if weights is not None:
        contents[WEIGHTS] = weights
    if residual is not None:
        contents[RESIDUAL] = residual[0]
    manifest = {
        "name": name,
        "task": task,
        "method": method,
        "spec": spec.to_dict(),
        "hardware_hash": hardware_hash,
        "rate_hz": spec.rate_hz,
        "horizon": horizon,
        "execute_steps": execute_steps,
        "sampler": None if sampler is None else dict(sampler),
        "window": window,
        "precision": precision,
        "residual": None if residual is None else residual[1].to_dict(),
        "noise_shape": list(expected_noise_shape(sampler, horizon, window, spec.action_size)),
        "data_sha256": data_sha256,
        "seeds": dict(seeds),
        "commit": commit,
        "commands": list(commands),
        "evaluated": [evaluation.to_dict() for evaluation in evaluated],
        "files": {file: _sha256(content) for file, content in contents.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        _replace(folder / file, content)
    for file in OPTIONAL_FILES:
        if file not in contents:
            (folder / file).unlink(missing_ok=True)
    _write_manifest(folder, manifest)
    return load_bundle(folder, hardware_hash=hardware_hash)


def record_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Adds a measured success to the manifest, in place of one at the same level and clearance.

    Raises:
        BundleError: the manifest is not valid, before or after.
    """
    root, problems = read_json(folder / MANIFEST, f"{folder.name}/{MANIFEST}", BundleError)
    manifest = read_manifest(root)
    problems.raise_if_any(BundleError)
    kept = [
        other.to_dict()
        for other in manifest.evaluated
        if (other.level, other.clearance_mm) != (evaluation.level, evaluation.clearance_mm)
    ]
    _write_manifest(folder, {**root.values, "evaluated": [*kept, evaluation.to_dict()]})


def _write_manifest(folder: Path, manifest: Mapping[str, object]) -> None:
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    _replace(folder / MANIFEST, text.encode())


def _replace(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_verified(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Reads each listed file once and checks its hash; what is used later are these very bytes."""
    contents: dict[str, bytes] = {}
    problems = Problems(folder.name)
    for file, expected in manifest.files.items():
        try:
            contents[file] = (folder / file).read_bytes()
        except OSError as reason:
            problems.add(file, f"no readable file ({reason.strerror})", "the file of the manifest")
            continue
        found = _sha256(contents[file])
        if found != expected:
            problems.add(file, f"SHA-256 {found}", f"{expected} of the manifest")
    for path in sorted(folder.iterdir()):
        if path.name not in manifest.files and path.name not in UNLISTED:
            problems.add(path.name, "a file that the manifest does not list", "no such file")
    problems.raise_if_any(BundleError)
    return contents
