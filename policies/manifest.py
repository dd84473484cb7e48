"""The manifest of a policy bundle: its keys, their types, and what has to agree among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hardware_configs.strict import Node
from policies.spec import Spec, SpecError

SHA256 = r"[0-9a-f]{64}"
NAME = r"[a-z][a-z0-9_]*"
COMMIT = r"[0-9a-f]{7,40}|unknown"

SamplerValue = str | int | float
PRECISIONS = ("fp32", "int8")
# Files of a bundle beside its manifest.
GRAPH, RESIDUAL, CHECK, WEIGHTS = "policy.onnx", "residual.onnx", "check.npz", "weights.npz"
FILES, OPTIONAL_FILES = (GRAPH, CHECK), (WEIGHTS, RESIDUAL)


@dataclass(frozen=True)
class Evaluation:
    """One measured success rate.

    Attributes:
        level: randomisation level: low, med or high.
        clearance_mm: clearance a side; None for a task without one.
        episodes: episodes run.
        successes: episodes that succeeded.
        ci95: Wilson's 95 % interval of the success rate.
    """

    level: str
    clearance_mm: float | None
    episodes: int
    successes: int
    ci95: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the evaluation in JSON's types."""
        return {
            "level": self.level,
            "clearance_mm": self.clearance_mm,
            "episodes": self.episodes,
            "successes": self.successes,
            "success_rate": self.successes / self.episodes,
            "ci95": list(self.ci95),
        }


@dataclass(frozen=True)
class Residual:
    """What is said of the graph that corrects each action.

    Attributes:
        scale: bound of a correction in normalised actions.
        bound: largest correction of each action component, in the action's units.
    """

    scale: float
    bound: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in JSON's types."""
        return {"scale": self.scale, "bound": list(self.bound)}


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself; see ``policies.bundle.write_bundle`` for each entry."""

    name: str
    task: str
    method: str
    spec: Spec
    hardware_hash: str
    horizon: int
    execute_steps: int
    window: int
    precision: str
    sampler: Mapping[str, SamplerValue] | None
    noise_shape: tuple[int, int]
    data_sha256: str
    seeds: Mapping[str, int]
    commit: str
    commands: tuple[str, ...]
    evaluated: tuple[Evaluation, ...]
    files: Mapping[str, str]
    residual: Residual | None = None

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """(D,), or (W, D) with a window above 1."""
        size = self.spec.input_size
        return (size,) if self.window == 1 else (self.window, size)


def read_manifest(root: Node) -> Manifest:
    """Reads a manifest from its root; what is wrong is recorded in the node's problems."""
    spec = _read_spec(root)
    horizon, window = root.whole("horizon", 1), root.whole("window", 1)
    sampler = _read_sampler(root)
    noise_shape = expected_noise_shape(sampler, horizon, window, spec.action_size)
    manifest = Manifest(
        name=root.text("name", NAME, "a lower-case name"),
        task=root.text("task", NAME, "a lower-case name"),
        method=root.text("method", NAME, "a lower-case name"),
        spec=spec,
        hardware_hash=root.text("hardware_hash", SHA256, "a SHA-256 in hex"),
        horizon=horizon,
        execute_steps=root.whole("execute_steps", 1),
        window=window,
        precision=root.choice("precision", PRECISIONS),
        sampler=sampler,
        noise_shape=noise_shape,
        data_sha256=root.text("data_sha256", SHA256, "a SHA-256 in hex"),
        seeds=_read_seeds(root),
        commit=root.text("commit", COMMIT, "a commit in hex or unknown"),
        commands=root.texts("commands"),
        evaluated=_read_evaluated(root),
        files=_read_files(root),
        residual=_read_residual(root, spec.action_size),
    )
    rate_hz = root.number("rate_hz", above=0)
    shape = root.wholes("noise_shape", 1)
    root.finish()
    if not root.problems.lines:
        if manifest.execute_steps > horizon:
            root.wrong("execute_steps", f"at most the horizon {horizon}")
        if rate_hz != spec.rate_hz:
            root.wrong("rate_hz", f"{spec.rate_hz:g}, the rate of the spec")
        if (RESIDUAL in manifest.files) != (manifest.residual is not None):
            got, expected = "a hash", "none without a residual"
            if manifest.residual is not None:
                got, expected = "nothing", "a hash, as there is a residual"
            root.problems.add(f"files.{RESIDUAL}", got, expected)
        if shape != noise_shape:
            root.wrong("noise_shape", f"{list(noise_shape)} by sampler, window and horizon")
    return manifest


def expected_noise_shape(
    sampler: Mapping[str, SamplerValue] | None, horizon: int, window: int, action_size: int
) -> tuple[int, int]:
    """Rows and columns of the noise of one chunk: an array of window - 1 + horizon actions for the
    start, and with an ancestral sampler one for each step but the last.
    """
    ancestral = sampler is not None and sampler["name"] == "euler_ancestral"
    draws = int(sampler["steps"]) if sampler is not None and ancestral else 1
    return draws * (window - 1 + horizon), action_size


def _read_spec(root: Node) -> Spec:
    node = root.node("spec")
    if node.is_mapping:
        try:
            return Spec.from_dict(node.values, f"{root.problems.file}:spec")
        except SpecError as problems:
            root.problems.lines.extend(str(problems).split("\n"))
    # Something to go on reading with; the recorded problem keeps it from being used.
    return _PLACEHOLDER


_PLACEHOLDER = Spec.from_dict(
    {
        key: [{"name": f"{key}.none", "shape": [1], "unit": "1", "frame": "none", "names": []}]
        for key in ("observation", "goal", "action")
    }
    | {"rate_hz": 1.0}
)


def _read_sampler(root: Node) -> Mapping[str, SamplerValue] | None:
    if root.is_null("sampler"):
        return None
    node = root.node("sampler")
    sampler: dict[str, SamplerValue] = {
        "name": node.text("name", NAME, "a lower-case name"),
        "schedule": node.text("schedule", NAME, "a lower-case name"),
        "steps": node.whole("steps", 1),
        "sigma_min": node.number("sigma_min", above=0),
        "sigma_max": node.number("sigma_max", above=0),
        "noise_scale": node.number("noise_scale", at_least=0),
        "cfg_lambda": node.number("cfg_lambda", at_least=0),
    }
    node.finish()
    if float(sampler["sigma_min"]) >= float(sampler["sigma_max"]):
        node.wrong("sigma_max", f"more than sigma_min {sampler['sigma_min']}")
    return MappingProxyType(sampler)


def _read_residual(root: Node, action_size: int) -> Residual | None:
    if not root.has("residual") or root.is_null("residual"):
        return None
    node = root.node("residual")
    residual = Residual(node.number("scale", above=0), node.numbers("bound", action_size))
    node.finish()
    if min(residual.bound, default=0.0) <= 0.0:
        node.wrong("bound", "largest corrections above 0")
    return residual


def _read_seeds(root: Node) -> Mapping[str, int]:
    node = root.node("seeds")
    seeds = {str(key): node.whole(key, 0) for key in list(node.values)}
    return MappingProxyType(seeds)


def _read_evaluated(root: Node) -> tuple[Evaluation, ...]:
    evaluated: list[Evaluation] = []
    for node in root.nodes("evaluated"):
        low, high = node.numbers("ci95", 2)
        evaluation = Evaluation(
            level=node.choice("level", ("low", "med", "high")),
            clearance_mm=None
            if node.is_null("clearance_mm")
            else node.number("clearance_mm", above=0),
            episodes=node.whole("episodes", 1),
            successes=node.whole("successes", 0),
            ci95=(low, high),
        )
        rate = node.number("success_rate", at_least=0)
        node.finish()
        expected = evaluation.successes / evaluation.episodes
        if evaluation.successes > evaluation.episodes:
            node.wrong("successes", f"at most the episodes {evaluation.episodes}")
        elif abs(rate - expected) > 1e-4:
            node.wrong("success_rate", f"{expected:.4f}, successes over episodes")
        elif rate + 1e-9 < low or rate - 1e-9 > high or low < 0 or high > 1:
            node.wrong("ci95", f"an interval within 0 and 1 around {expected:.4f}")
        evaluated.append(evaluation)
    return tuple(evaluated)


def _read_files(root: Node) -> Mapping[str, str]:
    node = root.node("files")
    listed = FILES + tuple(file for file in OPTIONAL_FILES if node.has(file))
    hashes = {file: node.text(file, SHA256, "a SHA-256 in hex") for file in listed}
    node.finish()
    return MappingProxyType(hashes)
