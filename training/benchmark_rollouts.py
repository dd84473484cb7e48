"""How much of the physics' own speed is left to who trains: training.benchmark rollouts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardware_configs import load as load_config
from policies.bundle import load_bundle
from policies.residual.network import ResidualPolicy, ResidualSettings
from policies.runtime import Policy
from sim.tasks.cell_batch import STATE
from training.evaluate import current_commit
from training.progress import Progress
from training.residual_env import ResidualEnv, Setting

# What a mechanism may change between two steps.
MECHANISM = ("qpos", "qvel", "eq_active")


@dataclass(frozen=True)
class Rollouts:
    """Steps per second of a residual's training environment next to its bare physics."""

    task: str = "peg_insert"
    """Task of the cell."""
    base: str = "peg_beso"
    """Base: a bundle of the zoo, or a folder's path."""
    settings: tuple[str, ...] = ("med:0.5",)
    """Kinds of episodes, level:clearance in mm."""
    num_envs: int = 64
    """Simulations stepped together."""
    threads: int = 1
    """Physics threads."""
    steps: int = 60
    """Policy steps of every simulation; each is done twice, with everything and bare."""
    report: Path | None = None
    """JSON file to write."""


class Tape:
    """Notes what a batch's servos were told, and tells it again to the physics alone.

    What a mechanism changes between two steps is noted with it, see sim.fixtures.fixture.Mechanism.

    Args:
        cells: a sim.tasks.cell_batch.CellBatch.
    """

    def __init__(self, cells: Any) -> None:
        self._batch = cells.batch
        self._step: Callable[..., None] = cells.batch.step
        self._ctrl = cells.batch.bind("ctrl")
        self._state = [cells.batch.bind(name) for name in STATE]
        self._changed = [cells.batch.bind(name) for name in MECHANISM]
        self._told: list[tuple[list[np.ndarray], int]] = []
        cells.batch = self

    def __getattr__(self, name: str) -> Any:
        """Whatever else the batch can do."""
        return getattr(self._batch, name)

    def step(self, nstep: int) -> None:
        """A step of the physics, noted."""
        self._told.append(([array.copy() for array in (self._ctrl, *self._changed)], nstep))
        self._step(nstep=nstep)

    def begin(self) -> list[np.ndarray]:
        """Forgets what was noted; the state at which it begins."""
        self._told.clear()
        return [array.copy() for array in self._state]

    def replay(self, begun: list[np.ndarray]) -> float:
        """Seconds that the same steps take from the same state; the state stays as it is now."""
        now = [array.copy() for array in self._state]
        self._set(begun)
        took_s = 0.0
        for values, nstep in self._told:
            for array, value in zip((self._ctrl, *self._changed), values, strict=True):
                array[:] = value
            started = time.perf_counter()
            self._step(nstep=nstep)
            took_s += time.perf_counter() - started
        self._set(now)
        return took_s

    def _set(self, values: list[np.ndarray]) -> None:
        for array, value in zip(self._state, values, strict=True):
            array[:] = value
        self._batch.forward(np.arange(len(self._ctrl)))


def rollouts(args: Rollouts) -> None:
    """Steps everything and then the physics alone, in turn, and prints both speeds.

    Raises:
        ValueError: a setting is not valid.
    """
    for name in ("steps", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: got {getattr(args, name)}, expected at least 1")
    torch.set_num_threads(1)
    base = Policy(load_bundle(args.base, hardware_hash=load_config("panda").hash))
    kinds = [Setting.parse(text) for text in args.settings]
    env = ResidualEnv(args.task, kinds, args.num_envs, base, 0, nthread=args.threads)
    tapes = [Tape(cells) for cells in env.batches]
    residual = ResidualPolicy(ResidualSettings(env.spec.input_size, env.spec.action_size))
    observation, base_action = env.reset()
    everything_s, bare_s = np.zeros(args.steps), np.zeros(args.steps)
    progress = Progress(args.steps)
    for k in range(args.steps):
        begun = [tape.begin() for tape in tapes]
        started = time.perf_counter()
        with torch.no_grad():
            seen = torch.from_numpy(observation), torch.from_numpy(base_action)
            step = env.step(residual(*seen).numpy())
        everything_s[k] = time.perf_counter() - started
        bare_s[k] = sum(tape.replay(at) for tape, at in zip(tapes, begun, strict=True))
        observation, base_action = step.observation, step.base_action
        progress.show(k + 1, "policy steps")
    measured = {
        "policy_steps_per_s": round(args.num_envs / float(everything_s.mean()), 1),
        "bare_physics_per_s": round(args.num_envs / float(bare_s.mean()), 1),
        "share": round(float(bare_s.sum() / everything_s.sum()), 3),
    }
    print(
        f"{args.task}, {args.num_envs} simulations, {args.threads} threads: "
        f"{measured['policy_steps_per_s']:.0f} policy steps a second with policy, controller and "
        f"readings, {measured['bare_physics_per_s']:.0f} of bare physics: {measured['share']:.0%}"
    )
    if args.report:
        settings = {key: str(v) if isinstance(v, Path) else v for key, v in asdict(args).items()}
        args.report.parent.mkdir(parents=True, exist_ok=True)
        content = {**measured, "settings": settings, "commit": current_commit()}
        args.report.write_text(json.dumps(content, indent=2) + "\n")
