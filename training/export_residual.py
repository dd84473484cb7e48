"""Turns a run of a residual policy's trainer into a bundle: the base's graph and the residual's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from hardware_configs import load as load_config
from policies.bundle import Bundle, Check, load_bundle, write_bundle
from policies.manifest import GRAPH, Residual
from policies.residual.export import export_residual
from policies.residual.network import ResidualPolicy, ResidualSettings

METHODS = ("resip", "resfit")


def is_residual_run(folder: Path) -> bool:
    """Whether a run's folder is of `training.train_residual` or `train_residual_td`."""
    try:
        return json.loads((folder / "config.json").read_text())["method"] in METHODS
    except (OSError, ValueError, KeyError, TypeError):
        return False


def export_residual_run(folder: Path, target: Path, command: str, commit: str) -> Bundle:
    """Writes a bundle with the graph of the run's base, as it is, and that of its residual.

    Args:
        folder: the run's.
        target: the bundle's.
        command: that asked for it, for the manifest.
        commit: that it was exported from.

    Raises:
        ValueError: no checkpoint, another base than the run had, or a run that cannot be served.
    """
    config = json.loads((folder / "config.json").read_text())
    try:
        saved = torch.load(folder / "last.pt", map_location="cpu", weights_only=False)
    except OSError as error:
        raise ValueError(
            f"{folder}: got no readable checkpoint ({error}), expected last.pt"
        ) from None
    if config["per_step"] or config["base_gain"] != 1.0:
        raise ValueError(
            f"{folder}/config.json: got per_step {config['per_step']} and base_gain "
            f"{config['base_gain']:g}, expected false and 1: other runs are for comparison alone"
        )
    base = load_bundle(config["base"], hardware_hash=load_config("panda").hash)
    manifest = base.manifest
    if manifest.files[GRAPH] != config["base_sha256"]:
        raise ValueError(
            f"{base.folder}/{GRAPH}: got SHA-256 {manifest.files[GRAPH]}, "
            f"expected {config['base_sha256']}, the base of {folder}"
        )
    policy = ResidualPolicy(ResidualSettings(**config["network"]))
    policy.load_state_dict(saved["kept"]["policy"])
    policy.eval()
    base_action = np.ascontiguousarray(base.check.actions[:, 0])
    with torch.no_grad():
        refined = policy(torch.from_numpy(base.check.newest), torch.from_numpy(base_action))
    check = base.check
    return write_bundle(
        target,
        (base.folder / GRAPH).read_bytes(),
        Check(check.observation, check.noise, check.actions, base_action, refined.numpy()),
        name=target.name,
        task=manifest.task,
        method=config["method"],
        spec=manifest.spec,
        hardware_hash=manifest.hardware_hash,
        horizon=manifest.horizon,
        execute_steps=manifest.execute_steps,
        window=manifest.window,
        precision=manifest.precision,
        sampler=manifest.sampler,
        data_sha256=manifest.data_sha256,
        seeds=dict(manifest.seeds) | {"residual": config["seed"]},
        commit=commit,
        commands=[*manifest.commands, *config["commands"], command],
        residual=(
            export_residual(policy),
            Residual(policy.settings.scale, tuple(policy.bound.tolist())),
        ),
    )
