"""Turns a training run into a policy bundle: one ONNX graph with the sampler inside, and its
manifest.

    python -m training.export --run build/runs/peg_beso --bundle peg_beso
    python -m training.export --run policies/zoo/peg_beso --bundle build/bundles/try --steps 5

A bundle keeps its weights, so it can stand for the run that it came from. The sampler's settings
may be chosen anew here; they do not touch the weights. A run of a residual becomes a bundle with
its base's graph, as it is, and the residual's. A new bundle has no evaluation yet: `python
-m training.evaluate --record` adds what it measured.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from policies.beso.baselines import DDPMPolicy, make_policy
from policies.beso.diffusion import SamplerSettings
from policies.beso.export import export_onnx
from policies.beso.network import NetworkSettings
from policies.beso.policy import ChunkPolicy, ScorePolicy
from policies.bundle import MANIFEST, Check, bundle_folder, write_bundle
from policies.graph import make_session
from policies.manifest import CHECK, WEIGHTS
from policies.spec import Spec
from training.beso_run import read_policy
from training.dataset import commands, concatenate, load
from training.evaluate import current_commit
from training.export_residual import export_residual_run, is_residual_run


@dataclass(frozen=True)
class Args:
    """Turns a training run into a policy bundle."""

    run: Path
    """Folder of the training run, with config.json and last.pt; or of a bundle with weights."""
    bundle: str
    """Name of a bundle in the zoo, or a folder's path."""
    execute_steps: int | None = None
    """Actions of a chunk to execute before the next is due; the run's own when left out."""
    precision: Literal["fp32", "int8"] = "fp32"
    """Precision of the graph's matrices. int8 is faster; measure its success."""

    # Sampler: the run's own where left out
    sampler: str | None = None
    """ddim, euler, euler_ancestral, heun or dpmpp_2m."""
    schedule: str | None = None
    """exponential, linear or karras."""
    steps: int | None = None
    """Denoising steps."""
    sigma_min: float | None = None
    """Noise level of the last step."""
    sigma_max: float | None = None
    """Noise level of the first step."""
    noise_scale: float | None = None
    """Scale of the starting noise: 0 for precision, 1 for samples of the whole distribution."""
    cfg_lambda: float | None = None
    """Strength of classifier-free guidance; 1 is none."""


CHECK_ROWS = 8


@dataclass(frozen=True)
class Run:
    """A trained policy and what a bundle says of where it came from.

    Attributes:
        policy: averaged weights, the run's own sampler.
        origin: task, method, spec, hardware_hash, execute_steps, data_sha256, seeds and commands of
            the manifest.
        observation: (8, D) or (8, W, D) inputs like those of the training data, for the check.
        sigma_max: largest noise level the network was trained on, as far as is known; infinite
            where none is.
    """

    policy: ChunkPolicy
    origin: dict[str, Any]
    observation: np.ndarray
    sigma_max: float


def load_run(folder: Path) -> Run:
    """Reads a run's folder, or a bundle's that keeps its weights.

    Raises:
        ValueError: the folder holds neither, or the data are not those of the run.
    """
    return _load_bundle(folder) if (folder / MANIFEST).exists() else _load_run(folder)


def _load_run(folder: Path) -> Run:
    policy, config = read_policy(folder)
    data = concatenate([load(Path(path)) for path in config["data"]])
    if data.sha256 != config["data_sha256"]:
        raise ValueError(
            f"{config['data']}:sha256: got {data.sha256}, "
            f"expected {config['data_sha256']} of the run"
        )
    rows = np.random.default_rng(0).choice(len(data.observation), CHECK_ROWS, replace=False)
    seen = data.observation[data.history(policy.settings.window)[rows]]
    origin = {
        "task": str(config["task"]),
        "method": policy.method,
        "spec": Spec.from_dict(config["spec"]),
        "hardware_hash": str(data.generator["hardware_hash"]),
        "execute_steps": config["execute_steps"],
        "data_sha256": data.sha256,
        "seeds": {
            "training": config["seed"],
            "data_first": int(data.seed.min()),
            "data_last": int(data.seed.max()),
        },
        "commands": [*commands(data), *config["commands"]],
    }
    observation = seen[:, 0] if policy.settings.window == 1 else seen
    return Run(policy, origin, observation, config["sigma_max"])


def _load_bundle(folder: Path) -> Run:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        with np.load(folder / CHECK, allow_pickle=False) as check:
            observation = check["observation"]
        with np.load(folder / WEIGHTS, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        settings = json.loads(str(arrays.pop("settings")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{folder}: got no readable bundle with weights ({error}), "
            f"expected {MANIFEST}, {CHECK} and {WEIGHTS}"
        ) from error
    policy = make_policy(manifest["method"], NetworkSettings(**settings))
    policy.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    sigma_max = math.inf
    if manifest["sampler"] is not None:
        policy.sampler = SamplerSettings(**manifest["sampler"])
        sigma_max = policy.sampler.sigma_max
    kept = ("task", "method", "hardware_hash", "execute_steps", "data_sha256", "seeds", "commands")
    origin = {key: manifest[key] for key in kept} | {"spec": Spec.from_dict(manifest["spec"])}
    return Run(policy.eval(), origin, observation, sigma_max)


def pack_weights(policy: ChunkPolicy) -> bytes:
    """Weights, statistics and the network's settings as the content of a bundle's weights.npz."""
    arrays = {name: value.numpy() for name, value in policy.state_dict().items()}
    buffer = io.BytesIO()
    settings = np.array(json.dumps(policy.settings.to_dict()))
    np.savez_compressed(buffer, settings=settings, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def main(args: Args) -> None:
    """Exports, checks and writes the bundle."""
    torch.set_num_threads(1)
    target = bundle_folder(args.bundle)
    command = "python -m training.export " + " ".join(sys.argv[1:])
    if is_residual_run(args.run):
        if args != Args(args.run, args.bundle):
            raise ValueError(
                f"{args.run}: got settings of a new graph, expected none: "
                "a residual is exported with its base's graph as it is"
            )
        refined = export_residual_run(args.run, target, command, current_commit())
        print(f"{refined.folder}: base and residual, loads and checks")
        return
    run = load_run(args.run)
    policy = run.policy
    if isinstance(policy, DDPMPolicy):
        raise ValueError(
            f"{args.run}:method: got ddpm, expected beso, bc or gmm; its 100 steps are measured in "
            "torch, by training.sweep"
        )
    chosen = {
        "name": args.sampler,
        "schedule": args.schedule,
        "steps": args.steps,
        "sigma_min": args.sigma_min,
        "sigma_max": args.sigma_max,
        "noise_scale": args.noise_scale,
        "cfg_lambda": args.cfg_lambda,
    }
    chosen = {key: value for key, value in chosen.items() if value is not None}
    policy.sampler = SamplerSettings(**(asdict(policy.sampler) | chosen))
    if isinstance(policy, ScorePolicy):
        policy.sampler.check_trained("--sigma-max", run.sigma_max)

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "policy.onnx"
        export_onnx(policy, graph)
        content = graph.read_bytes()
    observation = run.observation
    noise = np.random.default_rng(0).standard_normal(
        (len(observation), *policy.noise_shape), dtype=np.float32
    )
    if args.precision == "int8":
        from policies.beso.quantise import quantise  # its tools are slow to import

        content = quantise(content, blockwise=policy.settings.one_row)
        session = make_session(content)
        actions = session.run(["actions"], {"observation": observation, "noise": noise})[0]
    else:
        with torch.no_grad():
            actions = policy(torch.from_numpy(observation), torch.from_numpy(noise)).numpy()

    bundle = write_bundle(
        target,
        content,
        Check(observation, noise, actions),
        name=target.name,
        horizon=policy.settings.horizon,
        window=policy.settings.window,
        precision=args.precision,
        sampler=policy.sampler.to_dict() if isinstance(policy, ScorePolicy) else None,
        commit=current_commit(),
        weights=pack_weights(policy),
        **run.origin
        | {
            "execute_steps": args.execute_steps or run.origin["execute_steps"],
            "commands": [*run.origin["commands"], command],
        },
    )
    print(f"{bundle.folder}: {len(content) / 1e6:.1f} MB, loads and checks")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
