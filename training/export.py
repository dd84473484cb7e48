"""Turns a training run into a policy bundle: one ONNX graph with the sampler inside, and its
manifest.

    python -m training.export --run build/runs/peg_beso --bundle peg_beso

The sampler's settings may be chosen anew here; they do not touch the weights. A new bundle has no
evaluation yet: `python -m training.evaluate --record` adds what it measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from policies.beso.diffusion import SamplerSettings
from policies.beso.export import export_onnx
from policies.beso.network import NetworkSettings, ScorePolicy
from policies.bundle import Check, bundle_folder, write_bundle
from policies.spec import Spec
from training.dataset import commands, concatenate, load
from training.evaluate import current_commit


@dataclass(frozen=True)
class Args:
    """Turns a training run into a policy bundle."""

    run: Path
    """Folder of the training run, with config.json and last.pt."""
    bundle: str
    """Name of a bundle in the zoo, or a folder's path."""
    execute_steps: int | None = None
    """Actions of a chunk to execute before the next is due; the run's own when left out."""

    # Sampler: the run's own where left out
    sampler: str | None = None
    """ddim, euler, heun or dpmpp_2m."""
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


def load_policy(run: Path) -> tuple[ScorePolicy, dict[str, object]]:
    """The averaged weights of a run as a policy on the CPU, and the run's config.

    Raises:
        ValueError: the folder holds no finished checkpoint.
    """
    try:
        config = json.loads((run / "config.json").read_text())
        saved = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{run}: got no readable run ({error}), expected config.json and last.pt"
        ) from error
    policy = ScorePolicy(NetworkSettings(**config["network"]))
    policy.load_state_dict(saved["averaged"])
    policy.sampler = SamplerSettings(**config["sampler"])
    config["trained_steps"] = saved["step"]
    return policy.eval(), config


def main(args: Args) -> None:
    """Exports, checks and writes the bundle."""
    torch.set_num_threads(1)
    policy, config = load_policy(args.run)
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
    policy.sampler = SamplerSettings(**(policy.sampler.to_dict() | chosen))
    data = concatenate([load(Path(path)) for path in config["data"]])
    if data.sha256 != config["data_sha256"]:
        raise ValueError(
            f"{config['data']}:sha256: got {data.sha256}, "
            f"expected {config['data_sha256']} of the run"
        )

    rng = np.random.default_rng(0)
    rows = rng.choice(len(data.observation), CHECK_ROWS, replace=False)
    shape = (CHECK_ROWS, policy.settings.horizon, policy.settings.action_size)
    observation, noise = data.observation[rows], rng.standard_normal(shape, dtype=np.float32)
    with torch.no_grad():
        actions = policy(torch.from_numpy(observation), torch.from_numpy(noise)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "policy.onnx"
        export_onnx(policy, graph)
        content = graph.read_bytes()

    target = bundle_folder(args.bundle)
    bundle = write_bundle(
        target,
        content,
        Check(observation, noise, actions),
        name=target.name,
        task=str(config["task"]),
        method="bc" if policy.is_regression else "beso",
        spec=Spec.from_dict(config["spec"]),
        hardware_hash=str(data.generator["hardware_hash"]),
        horizon=policy.settings.horizon,
        execute_steps=args.execute_steps or config["execute_steps"],
        sampler=None if policy.is_regression else policy.sampler.to_dict(),
        data_sha256=data.sha256,
        seeds={
            "training": config["seed"],
            "data_first": int(data.seed.min()),
            "data_last": int(data.seed.max()),
        },
        commit=current_commit(),
        commands=[
            *commands(data),
            *config["commands"],
            "python -m training.export " + " ".join(sys.argv[1:]),
        ],
    )
    print(
        f"{bundle.folder}: {len(content) / 1e6:.1f} MB, "
        f"{config['trained_steps']} training steps, loads and checks"
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except ValueError as error:
        sys.exit(f"error: {error}")
