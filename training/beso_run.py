"""What a run of training.train_beso leaves behind, and how it is read again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import torch

from policies.beso.baselines import make_policy
from policies.beso.diffusion import SamplerSettings
from policies.beso.network import NetworkSettings
from policies.beso.policy import ChunkPolicy
from training.dataset import Demonstrations


def action_errors(data: Demonstrations, error: torch.Tensor) -> dict[str, float]:
    """Root mean square error of each action component from errors (N, A), in mm, deg and mm."""
    rms = error.double().square().mean(dim=0).sqrt().tolist()
    units = [
        unit for field in data.spec.action for unit in _component_units(field.unit, field.size)
    ]
    names = [name for field in data.spec.action for name in (field.names or range(field.size))]
    factor = {"m": (1e3, "mm"), "rad": (180 / math.pi, "deg")}
    errors = {}
    for name, unit, value in zip(names, units, rms, strict=True):
        scale, shown = factor.get(unit, (1.0, unit))
        errors[f"{name}_{shown}"] = round(scale * value, 4)
    return errors


def _component_units(unit: str, size: int) -> list[str]:
    """One unit per component: "m,rad,m" over seven components is three, three and one."""
    parts = unit.split(",")
    if len(parts) == 1:
        return parts * size
    if len(parts) == 3 and size == 7:
        return [parts[0]] * 3 + [parts[1]] * 3 + [parts[2]]
    return ["1"] * size


def read_commands(run: Path) -> list[str]:
    """The training commands that led to a run, oldest first."""
    commands: list[str] = read_config(run)["commands"]
    return commands


def read_config(run: Path) -> dict[str, Any]:
    """The settings of a run, as they were written when it began."""
    config: dict[str, Any] = json.loads((run / "config.json").read_text())
    return config


def read_policy(run: Path) -> tuple[ChunkPolicy, dict[str, Any]]:
    """The averaged weights of a run's folder as a policy on the CPU, and the run's config.

    Raises:
        ValueError: the folder holds no finished checkpoint.
    """
    try:
        config = read_config(run)
        saved = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{run}: got no readable run ({error}), expected config.json and last.pt"
        ) from error
    policy = make_policy(config["method"], NetworkSettings(**config["network"]))
    policy.load_state_dict(saved["averaged"])
    policy.sampler = SamplerSettings(**config["sampler"])
    config["trained_steps"] = saved["step"]
    return policy.eval(), config


def check_same_network(
    option: str, settings: NetworkSettings, origin: dict[str, Any], may_grow: bool = False
) -> None:
    """Raises ValueError, naming `option` and what differs, unless the weights of a run whose
    network was `origin` fit. An MLP that `may_grow` may have more blocks than that.
    """
    theirs = NetworkSettings(**origin).to_dict()
    different = {k: (v, theirs[k]) for k, v in settings.to_dict().items() if v != theirs[k]}
    if may_grow and settings.kind == "mlp" and settings.blocks > theirs["blocks"]:
        different.pop("blocks")
    if different:
        ours = ", ".join(f"{k} {a}" for k, (a, _) in different.items())
        expected = ", ".join(f"{k} {b}" for k, (_, b) in different.items())
        raise ValueError(f"{option}: got a network with {ours}, expected its own, with {expected}")


def start_weights(policy: torch.nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Loads the weights of a network that may have fewer blocks. A new block adds nothing until it
    is trained, and what belongs to blocks in one matrix is laid out block after block, so the
    function stays the same.
    """
    own = policy.state_dict()
    for key, value in saved.items():
        own[key][tuple(slice(n) for n in value.shape)] = value
    policy.load_state_dict(own)


def plot(metrics: list[dict[str, Any]], path: Path) -> None:
    """Draws losses and rollout success over steps."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt  # after the backend is chosen

    figure, axes = plt.subplots(figsize=(7, 4))
    steps = [m["step"] for m in metrics]
    axes.semilogy(steps, [m["loss"] for m in metrics], label="training loss")
    axes.semilogy(steps, [m["validation_loss"] for m in metrics], label="held-out loss")
    axes.set_xlabel("gradient step")
    axes.set_ylabel("denoising loss")
    rolled = [m for m in metrics if "rollout_success" in m]
    if rolled:
        right = axes.twinx()
        right.plot(
            [m["step"] for m in rolled],
            [m["rollout_success"] for m in rolled],
            "k.-",
            label="success",
        )
        right.set_ylim(0, 1)
        right.set_ylabel("rollout success")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
